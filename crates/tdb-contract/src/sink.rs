//! Requests of the proxy to the control plane: record who uses a workspace's session, drain a workspace's journal, and
//! check a role whose login a database server refused.

use std::net::IpAddr;

use async_trait::async_trait;
use tdb_names::{CredentialId, ServerName, WorkspaceId};

use crate::{RouteKind, Unavailable};

/// Moves captured DDL from the journals of workspaces to the change log. Callable from any runtime.
#[async_trait]
pub trait ChangeSink: Send + Sync + 'static {
    /// Records that a workspace session has started, so that changes captured from `server_pid` can be attributed to the
    /// session's credential.
    async fn session_started(&self, session: SessionStart) -> Result<(), Unavailable>;

    /// Copies all rows that are visible in the workspace's journal to the change log. `data` is stored with the change
    /// that was committed by the same transaction. Dropping the future discards the answer but does not stop the drain.
    async fn drain(&self, workspace: WorkspaceId, data: Option<DataStatements>) -> Result<Drained, Unavailable>;

    /// Checks a database's role after its server refused the login, and restores the role's password and settings if a
    /// client changed them.
    async fn login_refused(&self, database: RouteKind) -> Result<Repair, Unavailable>;

    /// Prepares a text that may contain `CREATE EXTENSION`, before it is sent: the administrator creates the extensions that
    /// the developer may not create. A cancelled call may have created some of them.
    async fn prepare(&self, text: WorkspaceText) -> Result<Prepared, Unavailable>;
}

/// The result of [`ChangeSink::login_refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The role was restored; the login can be tried again.
    Done,
    /// The role was unchanged, or it could not be restored now. A retry would fail again.
    NotNeeded,
}

/// A workspace session that has started, and the client that uses it.
#[derive(Clone, Debug)]
pub struct SessionStart {
    /// The workspace that the session is connected to.
    pub workspace: WorkspaceId,
    /// The server that holds the workspace's database.
    pub server: ServerName,
    /// The server process that runs the session (BackendKeyData).
    pub server_pid: i32,
    /// The credential that the client logged in with.
    pub credential: CredentialId,
    /// The client's address.
    pub client: IpAddr,
    /// The startup parameter `application_name`; empty if the client sent none.
    pub application_name: String,
}

/// Data statements of a transaction that also ran DDL, sent in messages without DDL. The journal records only messages
/// that contain DDL, so the proxy reports these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataStatements {
    /// The server process that ran the statements.
    pub server_pid: i32,
    /// The text of each statement, or its command tag if the text is not known.
    pub statements: Vec<String>,
}

/// The result of a drain. The proxy sends it to the developer's session as notices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The number of changes added to the change log.
    pub changes: u32,
    /// Sentences for the developer: changes that cannot be replayed, with the reason, and data statements that are not
    /// part of a change.
    pub warnings: Vec<String>,
}

/// A text that a read-write session of a workspace is about to send.
#[derive(Clone, Debug)]
pub struct WorkspaceText {
    /// The workspace of the session.
    pub workspace: WorkspaceId,
    /// The server process that will run the text.
    pub server_pid: i32,
    /// One or more SQL statements.
    pub text: String,
}

/// The result of [`ChangeSink::prepare`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The text to send instead; `None`: the text as it is.
    pub text: Option<String>,
    /// Sentences for the developer: which extensions could not be created, and why.
    pub warnings: Vec<String>,
}
