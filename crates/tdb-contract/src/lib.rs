//! What the data plane asks of the outside: who a user is, where a database is, and that captured changes be drained.
//! It names no SQL of the metadata store, no HTTP and no deployment; those who answer live elsewhere.

mod change;
mod route;
mod sink;

pub use change::{Change, ChangeFeed, Epoch};
pub use route::{ClientLimit, Credential, Login, Place, PostgresPlace, Rights, Route, RouteKind, RouteState, Scope};
pub use sink::{ChangeSink, DataStatements, Drained, Prepared, Repair, SessionStart, WorkspaceText};

use async_trait::async_trait;
use tdb_names::{DatabaseName, ProjectId, UserName};

/// The source of routes could not be asked; what is already known may be used for a configured time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is unavailable: {reason}")]
pub struct Unavailable {
    /// For the log, never for a client.
    pub reason: String,
}

/// Answers from the metadata store. Every method may be called from any runtime; dropping a future is safe.
#[async_trait]
pub trait RouteSource: Send + Sync + 'static {
    /// The credential of a user name, `None` if there is none. Expired and revoked ones are none.
    async fn credential(&self, user: &UserName) -> Result<Option<Credential>, Unavailable>;

    /// Where a database of this project is, in the role that `rights` call for; `None` if there is none.
    /// The credential's scope is the caller's to check.
    async fn route(
        &self,
        project: &ProjectId,
        database: &DatabaseName,
        rights: Rights,
    ) -> Result<Option<Route>, Unavailable>;

    /// What changed from now on. A caller that (re)subscribes forgets everything it had cached, after this returned.
    async fn subscribe(&self) -> Result<ChangeFeed, Unavailable>;

    /// The caller acts on everything up to `epoch`: no cache holds older facts and sessions that had to end have ended.
    async fn acknowledge(&self, epoch: Epoch) -> Result<(), Unavailable>;
}
