//! Table `workspace_sessions`: who speaks in which server process, so that a journal row has an author.

use std::net::IpAddr;
use time::OffsetDateTime;

use tdb_names::{CredentialId, WorkspaceId};

use crate::error::StoreError;
use crate::row::column;
use crate::tx::Tx;

#[derive(Clone, Debug)]
pub struct SessionRow {
    pub workspace: WorkspaceId,
    pub server: String,
    pub server_pid: i32,
    /// When the server process began, by the server's clock; none where it was gone already.
    pub backend_start: Option<OffsetDateTime>,
    pub credential: CredentialId,
    pub client: IpAddr,
    pub application_name: String,
}

/// Records a session; a pid that the server used before gets its newest holder.
pub async fn insert(tx: &Tx, session: &SessionRow) -> Result<(), StoreError> {
    let sql = "INSERT INTO workspace_sessions (workspace_id, project_id, server, server_pid, backend_start, credential_id, client_address,
                                               application_name)
               VALUES ($1, (SELECT project_id FROM workspaces WHERE id = $1), $2, $3, $4, $5, $6, $7)";
    tx.execute(
        sql,
        &[
            &session.workspace.as_uuid(),
            &session.server,
            &session.server_pid,
            &session.backend_start,
            &session.credential.as_uuid(),
            &session.client.to_string(),
            &session.application_name,
        ],
    )
    .await?;
    Ok(())
}

/// The user name of whoever held a server process; `started` is the process's begin by the journal.
pub async fn author(
    tx: &Tx,
    workspace: WorkspaceId,
    pid: i32,
    started: OffsetDateTime,
) -> Result<Option<String>, StoreError> {
    let sql = "SELECT coalesce(c.user_name, 'credential:' || s.credential_id) AS author
               FROM workspace_sessions s LEFT JOIN credentials c ON c.id = s.credential_id
               WHERE s.workspace_id = $1 AND s.server_pid = $2 AND s.backend_start = $3
               ORDER BY s.id DESC LIMIT 1";
    let row = tx.query_opt(sql, &[&workspace.as_uuid(), &pid, &started]).await?;
    row.map(|row| column(&row, "author")).transpose()
}

/// Forgets sessions older than what a journal can still name.
pub async fn forget_old(tx: &Tx, days: i32) -> Result<u64, StoreError> {
    let sql = "DELETE FROM workspace_sessions WHERE started_at < now() - make_interval(days => $1)";
    tx.execute(sql, &[&days]).await
}
