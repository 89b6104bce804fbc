//! What the proxy tells the control plane: who is speaking in a workspace, "drain the journal now", and that a server
//! refused a login of ours.

use std::net::IpAddr;

use async_trait::async_trait;
use tdb_names::{CredentialId, ServerName, WorkspaceId};

use crate::{RouteKind, Unavailable};

/// Takes captured changes out of a workspace's journal into the change log. Callable from any runtime.
#[async_trait]
pub trait ChangeSink: Send + Sync + 'static {
    /// A workspace session has begun; its author is known by the server's pid from now on.
    async fn session_started(&self, session: SessionStart) -> Result<(), Unavailable>;

    /// Copies everything visible in the workspace's journal into the change log; `data` is noted with the change that it
    /// was in one transaction with. Not cancel-sensitive: a caller that stops waiting loses the answer, not the work.
    async fn drain(&self, workspace: WorkspaceId, data: Option<DataStatements>) -> Result<Drained, Unavailable>;

    /// A server refused the login of a database's role: a client may have changed the role, which is then set again.
    async fn login_refused(&self, database: RouteKind) -> Result<Repair, Unavailable>;

    /// To be asked before a text is sent that may hold a `CREATE EXTENSION`: only a superuser may create some extensions,
    /// and the administrator creates them for a developer. Not cancel-sensitive, as [`ChangeSink::drain`].
    async fn prepare(&self, text: WorkspaceText) -> Result<Prepared, Unavailable>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The role is as it was set: try again.
    Done,
    /// It was as it was set, or cannot be set again now.
    NotNeeded,
}

#[derive(Clone, Debug)]
pub struct SessionStart {
    pub workspace: WorkspaceId,
    pub server: ServerName,
    /// The server process that runs the session (BackendKeyData).
    pub server_pid: i32,
    pub credential: CredentialId,
    pub client: IpAddr,
    pub application_name: String,
}

/// Statements of a transaction that changed data and were messages of their own: the journal, which sees the messages
/// that hold DDL, does not have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataStatements {
    /// The server process that ran them.
    pub server_pid: i32,
    /// Their text, or the tag of their answer where the text is not known.
    pub statements: Vec<String>,
}

/// What a drain brought; said to the developer as notices in their own session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Changes that entered the log.
    pub changes: u32,
    /// Sentences for the developer: a change that cannot be replayed and why, data statements that were left out.
    pub warnings: Vec<String>,
}

/// Text of a workspace session that may write.
#[derive(Clone, Debug)]
pub struct WorkspaceText {
    pub workspace: WorkspaceId,
    /// The server process that is to run it.
    pub server_pid: i32,
    pub text: String,
}

/// What has been done ahead of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// What is to be sent in its place; `None`: the text as it is.
    pub text: Option<String>,
    /// Sentences for the developer.
    pub warnings: Vec<String>,
}
