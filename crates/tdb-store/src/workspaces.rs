//! Table `workspaces`: one row per workspace; a workspace that is created again gets another row. Blueprints have no
//! table: a blueprint is a workspace as tenants see it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tdb_names::{BlueprintName, ProjectId, UserName, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::Store;
use crate::changes::HeadCounts;
use crate::error::StoreError;
use crate::physical::{self, DatabaseKind, Physical, Step, StepProgress};
use crate::row::{column, count, parsed, total, words};
use crate::tx::Tx;

words! {
    /// Whether a workspace exists.
    WorkspaceStatus {
        /// It is being created.
        Provisioning = "provisioning",
        /// Clients may connect.
        Ready = "ready",
        /// It is being dropped.
        Deleting = "deleting",
    }
}

/// A workspace.
#[derive(Clone, Debug)]
pub struct WorkspaceRow {
    /// Its id; a workspace that is created again under the same name gets another id.
    pub id: WorkspaceId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// The name that it shares with its blueprint.
    pub blueprint: BlueprintName,
    /// Whether it exists.
    pub status: WorkspaceStatus,
    /// The database and its roles.
    pub physical: Physical,
    /// How far its creation or deletion is.
    pub progress: StepProgress,
    /// When its creation was requested.
    pub created_at: OffsetDateTime,
    /// Everything committed before this time is in the change log. `None` before the first periodic drain.
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
            progress: StepProgress::from_row(row)?,
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
    let join = physical::join(DatabaseKind::Workspace, "w");
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

/// Stores the row of a workspace before its database is created, in state `provisioning`. False if the project has a
/// workspace of this name.
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
    physical::insert(tx, project, DatabaseKind::Workspace, id.as_uuid(), physical).await?;
    Ok(true)
}

/// The workspace of this name, if the project has it.
pub async fn by_name(tx: &Tx, project: &ProjectId, name: &BlueprintName) -> Result<Option<WorkspaceRow>, StoreError> {
    one(
        tx,
        "WHERE w.project_id = $1 AND w.blueprint = $2",
        &[&project.as_str(), &name.as_str()],
    )
    .await
}

/// Like [`by_name`], and protects the row from deletion until the end of the transaction, so that rows that refer to it
/// can be added.
pub async fn by_name_held(
    tx: &Tx,
    project: &ProjectId,
    name: &BlueprintName,
) -> Result<Option<WorkspaceRow>, StoreError> {
    let rest = "WHERE w.project_id = $1 AND w.blueprint = $2 FOR KEY SHARE OF w";
    one(tx, rest, &[&project.as_str(), &name.as_str()]).await
}

/// The workspace with this id.
pub async fn by_id(tx: &Tx, id: WorkspaceId) -> Result<Option<WorkspaceRow>, StoreError> {
    one(tx, "WHERE w.id = $1", &[&id.as_uuid()]).await
}

/// Like [`by_id`], and locks the row until the end of the transaction against other appends and deletion. Rows that
/// refer to it can be added.
pub async fn lock(tx: &Tx, id: WorkspaceId) -> Result<Option<WorkspaceRow>, StoreError> {
    one(tx, "WHERE w.id = $1 FOR NO KEY UPDATE OF w", &[&id.as_uuid()]).await
}

/// Like [`lock`], and also prevents rows that refer to it from being added.
pub async fn lock_for_deletion(tx: &Tx, id: WorkspaceId) -> Result<Option<WorkspaceRow>, StoreError> {
    one(tx, "WHERE w.id = $1 FOR UPDATE OF w", &[&id.as_uuid()]).await
}

/// Workspaces after `after`, by name, at most `limit`.
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

/// What lists show of a workspace and its blueprint besides the row itself.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The newest version; 0 if there is none.
    pub version: u32,
    /// The state of head in numbers.
    pub head: HeadCounts,
    /// How many changes of head some tenant database lacks, or all changes of head if there is no tenant database.
    /// Databases of deleted tenants do not count.
    pub undeployed: u32,
    /// The user name of the workspace's first credential.
    pub user: Option<UserName>,
}

/// The summaries of these workspaces.
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

/// Changes the status if it is the expected one: provisioning → ready → deleting, and provisioning → deleting.
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

/// Locks a ready workspace whose log is about to be appended to, and marks it as not built ahead. `None` if it is not
/// ready or does not exist.
pub async fn begin_append(tx: &Tx, id: WorkspaceId) -> Result<Option<ProjectId>, StoreError> {
    let sql = "UPDATE workspaces SET unbuilt_since = now() WHERE id = $1 AND status = 'ready' RETURNING project_id";
    let row = tx.query_opt(sql, &[&id.as_uuid()]).await?;
    row.map(|row| parsed(&row, "project_id")).transpose()
}

/// Takes workspaces whose last change is `quiet` ago and that were not built ahead since. The caller builds them.
pub async fn take_quiet(tx: &Tx, quiet: Duration) -> Result<Vec<WorkspaceRow>, StoreError> {
    let due = "SELECT id FROM workspaces WHERE status = 'ready' AND unbuilt_since < now() - $1 * interval '1 second'
                ORDER BY unbuilt_since LIMIT 100 FOR NO KEY UPDATE SKIP LOCKED";
    let sql = format!(
        "WITH due AS ({due}), w AS (UPDATE workspaces SET unbuilt_since = NULL WHERE id IN (SELECT id FROM due) RETURNING *)
         SELECT {} FROM w {}",
        columns(),
        physical::join(DatabaseKind::Workspace, "w")
    );
    let rows = tx.query(&sql, &[&quiet.as_secs_f64()]).await?;
    rows.iter().map(WorkspaceRow::from_row).collect()
}

/// Records that these workspaces were drained of everything committed until `ago`, at most every few seconds. A single
/// statement outside of any transaction.
pub async fn record_drained(store: &Store, workspaces: &[WorkspaceId], ago: Duration) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = workspaces.iter().map(|id| id.as_uuid()).collect();
    let sql = "UPDATE workspaces SET drained_at = now() - $2 * interval '1 second'
               WHERE id = ANY ($1) AND coalesce(drained_at < now() - interval '5 seconds', true)";
    store.ask_as_jobs(sql, &[&ids, &ago.as_secs_f64()]).await.map(drop)
}

/// Unfinished creations and deletions that no process works on.
pub async fn unfinished(tx: &Tx) -> Result<Vec<WorkspaceRow>, StoreError> {
    let rest = "WHERE w.status <> 'ready' AND w.not_before <= now()
                  AND NOT EXISTS (SELECT FROM leases l WHERE l.name = 'database:' || w.id AND l.lease_until > now())
                ORDER BY w.created_at LIMIT 100";
    let rows = tx.query(&select(rest), &[]).await?;
    rows.iter().map(WorkspaceRow::from_row).collect()
}

/// All ready workspaces, oldest first, at most 10,000.
pub async fn ready(tx: &Tx) -> Result<Vec<WorkspaceRow>, StoreError> {
    let rows = tx
        .query(
            &select("WHERE w.status = 'ready' ORDER BY w.created_at LIMIT 10000"),
            &[],
        )
        .await?;
    rows.iter().map(WorkspaceRow::from_row).collect()
}

/// Deletes the row and, by its foreign keys, its changes, versions and sessions.
pub async fn delete(tx: &Tx, id: WorkspaceId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM workspaces WHERE id = $1", &[&id.as_uuid()])
        .await?;
    Ok(())
}

/// The settings that the owner's sessions started with at the last capture. Empty if the workspace does not exist.
pub async fn session_settings(tx: &Tx, id: WorkspaceId) -> Result<BTreeMap<String, String>, StoreError> {
    let sql = "SELECT session_settings FROM workspaces WHERE id = $1";
    let Some(row) = tx.query_opt(sql, &[&id.as_uuid()]).await? else {
        return Ok(BTreeMap::new());
    };
    settings_of(&row)
}

/// Stores the settings that the owner's sessions start with.
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
