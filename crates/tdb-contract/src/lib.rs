//! The interface between the proxy and the control plane: looking up credentials and routes, following their changes, and
//! draining captured DDL. It contains no SQL, no HTTP and no deployment logic; the implementations are in other crates.

mod change;
mod route;
mod sink;

pub use change::{Epoch, RouteChange, RouteChangeFeed};
pub use route::{
    Credential, Login, Place, PoolMode, PostgresPlace, Rights, Route, RouteKind, RouteState, Scope, TenantLimits,
};
pub use sink::{ChangeSink, DataStatements, Drained, Prepared, Repair, SessionStart, WorkspaceText};

use async_trait::async_trait;
use tdb_names::{DatabaseName, ProjectId, UserName};

/// The request could not be answered. Cached routes and credentials may still be used for a configured time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is unavailable: {reason}")]
pub struct Unavailable {
    /// Why, for the log. It must not be sent to clients.
    pub reason: String,
}

/// Looks up routes and credentials in the metadata store. Every method may be called from any runtime and is cancel safe.
#[async_trait]
pub trait RouteSource: Send + Sync + 'static {
    /// The credential of a user name; `None` if there is none, or if it has expired or was revoked.
    async fn credential(&self, user: &UserName) -> Result<Option<Credential>, Unavailable>;

    /// The route to a database of this project, with the role for `rights`; `None` if the project has no such database.
    /// The caller checks that the credential's scope covers the database.
    async fn route(
        &self,
        project: &ProjectId,
        database: &DatabaseName,
        rights: Rights,
    ) -> Result<Option<Route>, Unavailable>;

    /// Subscribes to all changes from now on. The caller empties its caches after this returns, because changes before the
    /// subscription are not reported.
    async fn subscribe(&self) -> Result<RouteChangeFeed, Unavailable>;

    /// Reports that the caller has applied all changes up to `epoch`: stale cache entries are dropped and the sessions that
    /// had to end have ended.
    async fn acknowledge(&self, epoch: Epoch) -> Result<(), Unavailable>;
}
