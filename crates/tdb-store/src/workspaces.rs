//! Table `workspaces`: one row per workspace incarnation. Its blueprint has no row of its own: it is the workspace seen
//! from the tenants' side.

use std::collections::BTreeMap;

use tdb_names::{BlueprintName, ProjectId, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::physical::{self, Holder, Physical, Progress, Step};
use crate::row::{column, parsed, words};
use crate::tx::Tx;

words! {
    WorkspaceStatus { Provisioning = "provisioning", Ready = "ready", Deleting = "deleting" }
}

#[derive(Clone, Debug)]
pub struct WorkspaceRow {
    pub id: WorkspaceId,
    pub project: ProjectId,
    pub blueprint: BlueprintName,
    pub status: WorkspaceStatus,
    pub physical: Physical,
    pub progress: Progress,
    pub created_at: OffsetDateTime,
}

impl WorkspaceRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: WorkspaceId::from_uuid(column(row, "id")?),
            project: parsed(row, "project_id")?,
            blueprint: parsed(row, "blueprint")?,
            status: parsed(row, "status")?,
            physical: Physical::from_row(row)?,
            progress: Progress::from_row(row)?,
            created_at: column(row, "created_at")?,
        })
    }
}

fn select(rest: &str) -> String {
    format!(
        "SELECT w.id, w.project_id, w.blueprint, w.status, w.step, w.attempts, w.last_error, w.created_at, {}
           FROM workspaces w {} {rest}",
        physical::COLUMNS,
        physical::join(Holder::Workspace, "w")
    )
}

async fn one(
    tx: &Tx,
    rest: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Option<WorkspaceRow>, StoreError> {
    let row = tx.query_opt(&select(rest), parameters).await?;
    row.as_ref().map(WorkspaceRow::from_row).transpose()
}

/// The intent: a row in state `provisioning`. False where the project has a workspace of this name.
pub async fn insert(
    tx: &Tx,
    id: WorkspaceId,
    project: &ProjectId,
    blueprint: &BlueprintName,
    physical: &Physical,
) -> Result<bool, StoreError> {
    let sql =
        "INSERT INTO workspaces (id, project_id, blueprint, status, step) VALUES ($1, $2, $3, 'provisioning', 'intent')
               ON CONFLICT (project_id, blueprint) DO NOTHING";
    let inserted = tx
        .execute(sql, &[&id.as_uuid(), &project.as_str(), &blueprint.as_str()])
        .await?;
    if inserted == 0 {
        return Ok(false);
    }
    physical::insert(tx, project, Holder::Workspace, id.as_uuid(), physical).await?;
    Ok(true)
}

pub async fn by_name(tx: &Tx, project: &ProjectId, name: &BlueprintName) -> Result<Option<WorkspaceRow>, StoreError> {
    one(
        tx,
        "WHERE w.project_id = $1 AND w.blueprint = $2",
        &[&project.as_str(), &name.as_str()],
    )
    .await
}

/// As [`by_name`], held against deletion to the end of the transaction: for whoever adds a row that refers to it.
pub async fn by_name_held(
    tx: &Tx,
    project: &ProjectId,
    name: &BlueprintName,
) -> Result<Option<WorkspaceRow>, StoreError> {
    let rest = "WHERE w.project_id = $1 AND w.blueprint = $2 FOR KEY SHARE OF w";
    one(tx, rest, &[&project.as_str(), &name.as_str()]).await
}

pub async fn by_id(tx: &Tx, id: WorkspaceId) -> Result<Option<WorkspaceRow>, StoreError> {
    one(tx, "WHERE w.id = $1", &[&id.as_uuid()]).await
}

/// The row, locked to the end of the transaction: one drainer at a time, and no deletion meanwhile. Rows that refer to it
/// may be added.
pub async fn lock(tx: &Tx, id: WorkspaceId) -> Result<Option<WorkspaceRow>, StoreError> {
    one(tx, "WHERE w.id = $1 FOR NO KEY UPDATE OF w", &[&id.as_uuid()]).await
}

/// As [`lock`], and nobody adds a row that refers to it.
pub async fn lock_for_deletion(tx: &Tx, id: WorkspaceId) -> Result<Option<WorkspaceRow>, StoreError> {
    one(tx, "WHERE w.id = $1 FOR UPDATE OF w", &[&id.as_uuid()]).await
}

/// By name, at most `limit`.
pub async fn list(tx: &Tx, project: &ProjectId, limit: i64) -> Result<Vec<WorkspaceRow>, StoreError> {
    let rest = "WHERE w.project_id = $1 ORDER BY w.blueprint LIMIT $2";
    let rows = tx.query(&select(rest), &[&project.as_str(), &limit]).await?;
    rows.iter().map(WorkspaceRow::from_row).collect()
}

/// Compare and set along the one path: provisioning → ready → deleting, and provisioning → deleting.
pub async fn change_status(
    tx: &Tx,
    id: WorkspaceId,
    from: &[WorkspaceStatus],
    to: WorkspaceStatus,
    step: Step,
) -> Result<bool, StoreError> {
    let from: Vec<&str> = from.iter().map(|status| status.as_str()).collect();
    let sql = "UPDATE workspaces SET status = $3, step = $4, attempts = 0, last_error = NULL, not_before = now()
               WHERE id = $1 AND status = ANY ($2)";
    Ok(tx
        .execute(sql, &[&id.as_uuid(), &from, &to.as_str(), &step.as_str()])
        .await?
        == 1)
}

/// Creations and deletions that nobody finished.
pub async fn unfinished(tx: &Tx) -> Result<Vec<WorkspaceRow>, StoreError> {
    let rest = "WHERE w.status <> 'ready' AND w.not_before <= now() ORDER BY w.created_at LIMIT 100";
    let rows = tx.query(&select(rest), &[]).await?;
    rows.iter().map(WorkspaceRow::from_row).collect()
}

pub async fn ready(tx: &Tx) -> Result<Vec<WorkspaceRow>, StoreError> {
    let rows = tx
        .query(
            &select("WHERE w.status = 'ready' ORDER BY w.created_at LIMIT 10000"),
            &[],
        )
        .await?;
    rows.iter().map(WorkspaceRow::from_row).collect()
}

/// The row and, by its foreign keys, its changes, versions and sessions.
pub async fn delete(tx: &Tx, id: WorkspaceId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM workspaces WHERE id = $1", &[&id.as_uuid()])
        .await?;
    Ok(())
}

/// What sessions of the owner began with when that was last captured.
pub async fn session_settings(tx: &Tx, id: WorkspaceId) -> Result<BTreeMap<String, String>, StoreError> {
    let sql = "SELECT session_settings FROM workspaces WHERE id = $1";
    let row = tx.query_one(sql, &[&id.as_uuid()]).await?;
    serde_json::from_value(column(&row, "session_settings")?).map_err(|_| StoreError::corrupt("session_settings"))
}

pub async fn set_session_settings(
    tx: &Tx,
    id: WorkspaceId,
    settings: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    let json = serde_json::to_value(settings).map_err(|_| StoreError::corrupt("session_settings"))?;
    let sql = "UPDATE workspaces SET session_settings = $2 WHERE id = $1";
    tx.execute(sql, &[&id.as_uuid(), &json]).await?;
    Ok(())
}
