//! Table `workspace_sessions`: which client is connected to which server process, from which journal rows get their
//! author.

use std::net::IpAddr;
use time::OffsetDateTime;

use tdb_names::{CredentialId, KeyId, WorkspaceId};

use crate::error::StoreError;
use crate::tx::Tx;

/// What a client authenticated with.
#[derive(Clone, Copy, Debug)]
pub enum Speaker {
    /// A credential, through the proxy.
    Credential(CredentialId),
    /// An API key, through the API.
    Key(KeyId),
}

/// A session in a workspace.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The name of the server.
    pub server: String,
    /// The id of the server process.
    pub server_pid: i32,
    /// When the server process started, by the server's clock; `None` if it had already ended.
    pub backend_start: Option<OffsetDateTime>,
    /// Who is connected.
    pub speaker: Speaker,
    /// The client's address; `None` for the API's own sessions.
    pub client: Option<IpAddr>,
    /// The client's `application_name`.
    pub application_name: String,
}

/// When the newest recorded session of a server process started. The process may have ended since.
pub async fn newest_start(
    tx: &Tx,
    workspace: WorkspaceId,
    server_pid: i32,
) -> Result<Option<OffsetDateTime>, StoreError> {
    let sql = "SELECT backend_start FROM workspace_sessions WHERE workspace_id = $1 AND server_pid = $2 ORDER BY id DESC LIMIT 1";
    let row = tx.query_opt(sql, &[&workspace.as_uuid(), &server_pid]).await?;
    match row {
        Some(row) => crate::row::column(&row, "backend_start"),
        None => Ok(None),
    }
}

/// Records a session. It replaces an older session of the same process id.
pub async fn insert(tx: &Tx, session: &SessionRow) -> Result<(), StoreError> {
    let sql = "INSERT INTO workspace_sessions (workspace_id, project_id, server, server_pid, backend_start, credential_id, key_id,
                                               client_address, application_name)
               VALUES ($1, (SELECT project_id FROM workspaces WHERE id = $1), $2, $3, $4, $5, $6, $7, $8)";
    let (credential, key) = match session.speaker {
        Speaker::Credential(id) => (Some(id.as_uuid()), None),
        Speaker::Key(id) => (None, Some(id.as_uuid())),
    };
    tx.execute(
        sql,
        &[
            &session.workspace.as_uuid(),
            &session.server,
            &session.server_pid,
            &session.backend_start,
            &credential,
            &key,
            &session.client.map(|address| address.to_string()),
            &session.application_name,
        ],
    )
    .await?;
    Ok(())
}

/// Deletes sessions older than any row that a journal can still contain, and returns their number.
pub async fn forget_old(tx: &Tx, days: i32) -> Result<u64, StoreError> {
    let sql = "DELETE FROM workspace_sessions WHERE started_at < now() - make_interval(days => $1)";
    tx.execute(sql, &[&days]).await
}
