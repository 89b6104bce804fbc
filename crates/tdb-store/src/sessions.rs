//! Table `workspace_sessions`: who speaks in which server process, so that a journal row has an author.

use std::net::IpAddr;
use time::OffsetDateTime;

use tdb_names::{CredentialId, KeyId, WorkspaceId};

use crate::error::StoreError;
use crate::tx::Tx;

/// With what somebody got in.
#[derive(Clone, Copy, Debug)]
pub enum Speaker {
    Credential(CredentialId),
    /// Through the API.
    Key(KeyId),
}

#[derive(Clone, Debug)]
pub struct SessionRow {
    pub workspace: WorkspaceId,
    pub server: String,
    pub server_pid: i32,
    /// When the server process began, by the server's clock; none where it was gone already.
    pub backend_start: Option<OffsetDateTime>,
    pub speaker: Speaker,
    /// None for the API's own.
    pub client: Option<IpAddr>,
    pub application_name: String,
}

/// When the newest recorded session of a server process began: the process may have ended since.
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

/// Records a session; a pid that the server used before gets its newest holder.
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

/// Forgets sessions older than what a journal can still name.
pub async fn forget_old(tx: &Tx, days: i32) -> Result<u64, StoreError> {
    let sql = "DELETE FROM workspace_sessions WHERE started_at < now() - make_interval(days => $1)";
    tx.execute(sql, &[&days]).await
}
