//! Table `workspaces`: one row per workspace incarnation. Its blueprint has no row of its own: it is the workspace seen
//! from the tenants' side.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tdb_names::{BlueprintName, ProjectId, UserName, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::Store;
use crate::changes::HeadCounts;
use crate::error::StoreError;
use crate::physical::{self, Holder, Physical, Progress, Step};
use crate::row::{column, count, parsed, total, words};
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
    /// What was committed before this is in the change log. None: not drained on the timer yet.
    pub drained_at: Option<OffsetDateTime>,
    /// What sessions began with when that was captured last.
    pub session_settings: BTreeMap<String, String>,
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
            drained_at: column(row, "drained_at")?,
            session_settings: settings_of(row)?,
        })
    }
}

fn settings_of(row: &Row) -> Result<BTreeMap<String, String>, StoreError> {
    serde_json::from_value(column(row, "session_settings")?).map_err(|_| StoreError::corrupt("session_settings"))
}

fn columns() -> String {
    format!(
        "w.id, w.project_id, w.blueprint, w.status, w.step, w.attempts, w.last_error, w.created_at, w.drained_at, w.session_settings, {}",
        physical::COLUMNS
    )
}

fn select(rest: &str) -> String {
    let join = physical::join(Holder::Workspace, "w");
    format!("SELECT {} FROM workspaces w {join} {rest}", columns())
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

/// The row, locked to the end of the transaction: one appender at a time, and no deletion meanwhile. Rows that refer to it
/// may be added.
pub async fn lock(tx: &Tx, id: WorkspaceId) -> Result<Option<WorkspaceRow>, StoreError> {
    one(tx, "WHERE w.id = $1 FOR NO KEY UPDATE OF w", &[&id.as_uuid()]).await
}

/// As [`lock`], and nobody adds a row that refers to it.
pub async fn lock_for_deletion(tx: &Tx, id: WorkspaceId) -> Result<Option<WorkspaceRow>, StoreError> {
    one(tx, "WHERE w.id = $1 FOR UPDATE OF w", &[&id.as_uuid()]).await
}

/// By name: those after `after`, at most `limit`.
pub async fn list(
    tx: &Tx,
    project: &ProjectId,
    after: Option<&BlueprintName>,
    limit: i64,
) -> Result<Vec<WorkspaceRow>, StoreError> {
    let rest = "WHERE w.project_id = $1 AND ($2::text IS NULL OR w.blueprint COLLATE \"C\" > $2)
                ORDER BY w.blueprint COLLATE \"C\" LIMIT $3";
    let after = after.map(BlueprintName::as_str);
    let rows = tx.query(&select(rest), &[&project.as_str(), &after, &limit]).await?;
    rows.iter().map(WorkspaceRow::from_row).collect()
}

/// What a list shows of a workspace and its blueprint, besides the row itself.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The newest one.
    pub version: u32,
    pub head: HeadCounts,
    /// Changes of head that a tenant database lacks whose tenant is not deleted; all of head while there is none.
    pub undeployed: u32,
    /// Of the workspace's first credential.
    pub user: Option<UserName>,
}

/// Of these workspaces, whatever their order.
pub async fn summaries(tx: &Tx, workspaces: &[WorkspaceId]) -> Result<HashMap<WorkspaceId, Summary>, StoreError> {
    let ids: Vec<Uuid> = workspaces.iter().map(|id| id.as_uuid()).collect();
    let sql = "WITH fleet AS (
                    SELECT DISTINCT d.workspace_id, d.version FROM tenant_databases d
                      JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant
                     WHERE d.workspace_id = ANY ($1) AND d.status = 'ready' AND t.status IN ('ready', 'suspended')),
                sizes AS (SELECT workspace_id, count(*) AS n FROM fleet GROUP BY workspace_id),
                held AS (
                    SELECT f.workspace_id, c.id, count(*) AS n FROM fleet f
                      JOIN versions v ON v.workspace_id = f.workspace_id AND v.number = f.version, unnest(v.change_ids) AS c(id)
                     GROUP BY f.workspace_id, c.id),
                head AS (
                    SELECT c.workspace_id, count(*) AS changes, sum(jsonb_array_length(c.statements)) AS statements,
                           count(*) FILTER (WHERE c.state = 'broken') AS broken,
                           count(*) FILTER (WHERE s.n IS NULL OR h.n IS DISTINCT FROM s.n) AS undeployed
                      FROM changes c LEFT JOIN sizes s ON s.workspace_id = c.workspace_id
                      LEFT JOIN held h ON h.workspace_id = c.workspace_id AND h.id = c.id
                     WHERE c.workspace_id = ANY ($1) AND c.state IN ('pending', 'broken')
                     GROUP BY c.workspace_id)
               SELECT w.id, coalesce((SELECT max(v.number) FROM versions v WHERE v.workspace_id = w.id), 1) AS version,
                      coalesce(head.changes, 0) AS changes, coalesce(head.statements, 0) AS statements,
                      coalesce(head.broken, 0) AS broken, coalesce(head.undeployed, 0) AS undeployed,
                      (SELECT c.user_name FROM credentials c WHERE c.project_id = w.project_id AND c.blueprint = w.blueprint
                        ORDER BY c.created_at, c.id LIMIT 1) AS user_name
                 FROM workspaces w LEFT JOIN head ON head.workspace_id = w.id WHERE w.id = ANY ($1)";
    let rows = tx.query(sql, &[&ids]).await?;
    let summary = |row: &Row| {
        let user: Option<&str> = column(row, "user_name")?;
        let summary = Summary {
            version: count(row, "version")?,
            head: HeadCounts {
                changes: total(row, "changes")?,
                statements: total(row, "statements")?,
                broken: total(row, "broken")?,
            },
            undeployed: total(row, "undeployed")?,
            user: user.map(|_| parsed(row, "user_name")).transpose()?,
        };
        Ok((WorkspaceId::from_uuid(column(row, "id")?), summary))
    };
    rows.iter().map(summary).collect()
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

/// Holds a ready workspace for changes that are about to be appended, and notes that nobody has built them ahead. None:
/// it is not ready, or gone.
pub async fn begin_append(tx: &Tx, id: WorkspaceId) -> Result<Option<ProjectId>, StoreError> {
    let sql = "UPDATE workspaces SET unbuilt_since = now() WHERE id = $1 AND status = 'ready' RETURNING project_id";
    let row = tx.query_opt(sql, &[&id.as_uuid()]).await?;
    row.map(|row| parsed(&row, "project_id")).transpose()
}

/// Takes workspaces that were changed and then left alone for `quiet`: whoever takes one builds it ahead.
pub async fn take_quiet(tx: &Tx, quiet: Duration) -> Result<Vec<WorkspaceRow>, StoreError> {
    let due = "SELECT id FROM workspaces WHERE status = 'ready' AND unbuilt_since < now() - $1 * interval '1 second'
                ORDER BY unbuilt_since LIMIT 100 FOR NO KEY UPDATE SKIP LOCKED";
    let sql = format!(
        "WITH due AS ({due}), w AS (UPDATE workspaces SET unbuilt_since = NULL WHERE id IN (SELECT id FROM due) RETURNING *)
         SELECT {} FROM w {}",
        columns(),
        physical::join(Holder::Workspace, "w")
    );
    let rows = tx.query(&sql, &[&quiet.as_secs_f64()]).await?;
    rows.iter().map(WorkspaceRow::from_row).collect()
}

/// These were drained of all that was committed until `ago`; written every few seconds at most. A single statement outside
/// of any transaction.
pub async fn record_drained(store: &Store, workspaces: &[WorkspaceId], ago: Duration) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = workspaces.iter().map(|id| id.as_uuid()).collect();
    let sql = "UPDATE workspaces SET drained_at = now() - $2 * interval '1 second'
               WHERE id = ANY ($1) AND coalesce(drained_at < now() - interval '5 seconds', true)";
    store.ask_as_jobs(sql, &[&ids, &ago.as_secs_f64()]).await.map(drop)
}

/// Creations and deletions that nobody finished and nobody is at.
pub async fn unfinished(tx: &Tx) -> Result<Vec<WorkspaceRow>, StoreError> {
    let rest = "WHERE w.status <> 'ready' AND w.not_before <= now()
                  AND NOT EXISTS (SELECT FROM leases l WHERE l.name = 'database:' || w.id AND l.lease_until > now())
                ORDER BY w.created_at LIMIT 100";
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

/// What sessions of the owner began with when that was last captured; nothing of a workspace that is gone.
pub async fn session_settings(tx: &Tx, id: WorkspaceId) -> Result<BTreeMap<String, String>, StoreError> {
    let sql = "SELECT session_settings FROM workspaces WHERE id = $1";
    let Some(row) = tx.query_opt(sql, &[&id.as_uuid()]).await? else {
        return Ok(BTreeMap::new());
    };
    settings_of(&row)
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
