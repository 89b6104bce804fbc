//! Table `templates`: builds (databases in which changes are replayed), the templates they become, and spare clones of
//! those, which wait for a tenant or the next build to take them.

use std::time::Duration;

use tdb_names::{ProjectId, ServerName, WorkspaceId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::error::StoreError;
use crate::physical::{self, Physical, Progress};
use crate::row::{column, count, number, numbers, parsed, words};
use crate::tx::Tx;

words! {
    TemplateStatus {
        /// Changes are replayed in it.
        Building = "building",
        /// It has its version and is being closed; from here on it only goes forward.
        Publishing = "publishing",
        Published = "published",
        /// A clone of the template of its version, of its step "adopted" on ready to be somebody's.
        Spare = "spare",
        Dropping = "dropping",
    }
}

#[derive(Clone, Debug)]
pub struct TemplateRow {
    pub id: Uuid,
    pub project: ProjectId,
    pub workspace: WorkspaceId,
    /// None while it is a build; a spare's is its template's.
    pub version: Option<u32>,
    pub status: TemplateStatus,
    /// What a build holds, or was about to hold when it was last worked on.
    pub change_ids: Vec<u32>,
    pub physical: Physical,
    pub progress: Progress,
}

impl TemplateRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let version: Option<i32> = column(row, "version")?;
        Ok(Self {
            id: column(row, "id")?,
            project: parsed(row, "project_id")?,
            workspace: WorkspaceId::from_uuid(column(row, "workspace_id")?),
            version: version.map(|_| count(row, "version")).transpose()?,
            status: parsed(row, "status")?,
            change_ids: crate::row::counts(row, "change_ids")?,
            physical: Physical::from_row(row)?,
            progress: Progress::from_row(row)?,
        })
    }
}

/// Each with `qualifier` before it.
fn columns(qualifier: &str) -> String {
    let own = "id, project_id, workspace_id, version, status, change_ids, step, attempts, last_error";
    let own: Vec<String> = own.split(", ").map(|name| format!("{qualifier}{name}")).collect();
    format!("{}, {}", own.join(", "), physical::columns_of(qualifier))
}

fn select(rest: &str) -> String {
    format!("SELECT {} FROM templates {rest}", columns(""))
}

/// The intent of a build, or of a spare of a version.
pub async fn insert(
    tx: &Tx,
    id: Uuid,
    project: &ProjectId,
    workspace: WorkspaceId,
    physical: &Physical,
    spare_of: Option<u32>,
) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO templates (id, project_id, workspace_id, status, version, step, {})
         VALUES ($1, $2, $3, $4, $5, 'intent', $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        physical::COLUMNS
    );
    let status = spare_of.map_or(TemplateStatus::Building, |_| TemplateStatus::Spare);
    let version = spare_of.map(number).transpose()?;
    let roles = &physical.roles;
    tx.execute(
        &sql,
        &[
            &id,
            &project.as_str(),
            &workspace.as_uuid(),
            &status.as_str(),
            &version,
            &physical.server.as_str(),
            &physical.database,
            &physical.oid.map(i64::from),
            &roles.owner.name,
            &roles.owner.sealed,
            &roles.deployer.name,
            &roles.deployer.sealed,
            &roles.readonly.name,
            &roles.readonly.sealed,
        ],
    )
    .await?;
    Ok(())
}

pub async fn by_id(tx: &Tx, id: Uuid) -> Result<Option<TemplateRow>, StoreError> {
    let row = tx.query_opt(&select("WHERE id = $1"), &[&id]).await?;
    row.as_ref().map(TemplateRow::from_row).transpose()
}

/// The template of a version on a server, if it is published.
pub async fn published(
    tx: &Tx,
    workspace: WorkspaceId,
    server: &ServerName,
    version: u32,
) -> Result<Option<TemplateRow>, StoreError> {
    let rest = "WHERE workspace_id = $1 AND server = $2 AND version = $3 AND status = 'published' LIMIT 1";
    let row = tx
        .query_opt(
            &select(rest),
            &[&workspace.as_uuid(), &server.as_str(), &number(version)?],
        )
        .await?;
    row.as_ref().map(TemplateRow::from_row).transpose()
}

pub async fn of_workspace(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<TemplateRow>, StoreError> {
    let rows = tx
        .query(
            &select("WHERE workspace_id = $1 ORDER BY created_at"),
            &[&workspace.as_uuid()],
        )
        .await?;
    rows.iter().map(TemplateRow::from_row).collect()
}

/// Builds, templates and spares that are not as they are to be: to be finished or dropped.
pub async fn unfinished(tx: &Tx) -> Result<Vec<TemplateRow>, StoreError> {
    let rest = "WHERE status <> 'published' AND NOT (status IN ('building', 'spare') AND step = 'adopted') AND not_before <= now()
                ORDER BY created_at LIMIT 100";
    let rows = tx.query(&select(rest), &[]).await?;
    rows.iter().map(TemplateRow::from_row).collect()
}

/// What the build now is; from here on it only goes forward.
pub async fn begin_publishing(tx: &Tx, id: Uuid, version: u32) -> Result<bool, StoreError> {
    let sql = "UPDATE templates SET status = 'publishing', step = 'replayed', version = $2 WHERE id = $1 AND status = 'building'";
    Ok(tx.execute(sql, &[&id, &number(version)?]).await? == 1)
}

/// Which changes a build holds, for the next one who goes on with it.
pub async fn record_changes(tx: &Tx, id: Uuid, change_ids: &[u32]) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE templates SET change_ids = $2 WHERE id = $1",
        &[&id, &numbers(change_ids)?],
    )
    .await?;
    Ok(())
}

/// It is a template from now on, and safe for `grace` from being retired: whoever had it made has yet to name it.
pub async fn set_published(tx: &Tx, id: Uuid, grace: Duration) -> Result<bool, StoreError> {
    let sql = "UPDATE templates SET status = 'published', step = 'published', attempts = 0, last_error = NULL,
                      not_before = now() + $2 * interval '1 second'
               WHERE id = $1 AND status = 'publishing'";
    Ok(tx.execute(sql, &[&id, &grace.as_secs_f64()]).await? == 1)
}

/// Published templates that are neither the newest of their workspace and server nor in use become `dropping`; so do
/// spares of such versions.
pub async fn retire_old(tx: &Tx) -> Result<u64, StoreError> {
    let spares = "UPDATE templates t SET status = 'dropping', step = 'retired', not_before = now()
                   WHERE t.status = 'spare' AND t.step = 'adopted'
                     AND EXISTS (SELECT FROM templates n WHERE n.workspace_id = t.workspace_id AND n.server = t.server
                                    AND n.status = 'published' AND n.version > t.version)";
    tx.execute(spares, &[]).await?;
    let sql = "UPDATE templates t SET status = 'dropping', step = 'retired', not_before = now()
                WHERE t.status = 'published' AND t.not_before <= now()
                  AND EXISTS (SELECT FROM templates n WHERE n.workspace_id = t.workspace_id AND n.server = t.server
                                 AND n.status = 'published' AND n.version > t.version)
                  AND NOT EXISTS (SELECT FROM tenant_databases d WHERE d.template_id = t.id AND d.status = 'provisioning')
                  AND NOT EXISTS (SELECT FROM deployments p WHERE p.workspace_id = t.workspace_id AND p.version = t.version
                                     AND p.status = 'running')";
    tx.execute(sql, &[]).await
}

/// Everything of a server that nobody uses any longer is to be dropped; gives what is left to drop.
pub async fn retire_of_server(tx: &Tx, server: &ServerName) -> Result<Vec<(Uuid, WorkspaceId)>, StoreError> {
    let sql = "UPDATE templates SET status = 'dropping', step = 'retired', not_before = now()
                WHERE server = $1 AND status <> 'dropping'";
    tx.execute(sql, &[&server.as_str()]).await?;
    let left = "SELECT id, workspace_id FROM templates WHERE server = $1";
    let rows = tx.query(left, &[&server.as_str()]).await?;
    let ids = |row: &Row| Ok((column(row, "id")?, WorkspaceId::from_uuid(column(row, "workspace_id")?)));
    rows.iter().map(ids).collect()
}

/// What is to be dropped, unless somebody moved it on or took it since `seen` was read.
pub async fn begin_dropping(tx: &Tx, seen: &TemplateRow) -> Result<bool, StoreError> {
    let sql =
        "UPDATE templates SET status = 'dropping', not_before = now() WHERE id = $1 AND status = $2 AND step = $3";
    let parameters: [&(dyn ToSql + Sync); 3] = [&seen.id, &seen.status.as_str(), &seen.progress.step];
    Ok(tx.execute(sql, &parameters).await? == 1)
}

/// How many spares a template is worth.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// At most.
    pub stock_max: u32,
    /// Tenants made within this time count; one alone is no demand.
    pub day: Duration,
    /// How many tenants of a day are worth a spare.
    pub tenants_per_spare: u32,
    /// Within it each tenant is worth one.
    pub burst: Duration,
}

/// Newest templates with fewer spares than `demand` says, and how many are missing.
pub async fn short_of_spares(tx: &Tx, demand: &Demand) -> Result<Vec<(TemplateRow, u32)>, StoreError> {
    let sql = format!(
        "{WORTH} SELECT {}, worth.spares - worth.kept AS missing FROM worth JOIN templates t USING (id) WHERE worth.spares > worth.kept",
        columns("t.")
    );
    let [max, per_spare, day, burst] = &demand.parameters();
    let rows = tx.query(&sql, &[max, per_spare, day, burst]).await?;
    let row = |row: &Row| Ok((TemplateRow::from_row(row)?, crate::row::total(row, "missing")?));
    rows.iter().map(row).collect()
}

/// Spares that `demand` is no longer worth become `dropping`, the newest first.
pub async fn retire_idle_spares(tx: &Tx, demand: &Demand) -> Result<u64, StoreError> {
    let sql = format!(
        "{WORTH} UPDATE templates s SET status = 'dropping', step = 'retired', not_before = now()
           WHERE s.id IN (SELECT ranked.id FROM worth,
                            LATERAL (SELECT s.id, row_number() OVER (ORDER BY s.created_at) AS place FROM templates s
                                      WHERE s.workspace_id = worth.workspace_id AND s.server = worth.server
                                        AND s.version = worth.version AND s.status = 'spare' AND s.step = 'adopted') AS ranked
                           WHERE ranked.place > worth.spares)
             AND s.status = 'spare'"
    );
    let [max, per_spare, day, burst] = &demand.parameters();
    tx.execute(&sql, &[max, per_spare, day, burst]).await
}

impl Demand {
    /// As [`WORTH`] takes them; times in seconds.
    fn parameters(&self) -> [f64; 4] {
        let (max, per_spare) = (f64::from(self.stock_max), f64::from(self.tenants_per_spare));
        [max, per_spare, self.day.as_secs_f64(), self.burst.as_secs_f64()]
    }
}

/// Of the newest template of each workspace and server: how many spares it has, and how many it is worth.
const WORTH: &str = "WITH worth AS (
    SELECT t.id, t.workspace_id, t.server, t.version,
           (SELECT count(*) FROM templates s WHERE s.workspace_id = t.workspace_id AND s.server = t.server
               AND s.status = 'spare' AND s.version = t.version) AS kept,
           CASE WHEN w.status = 'ready' AND v.status = 'active'
                THEN least($1::float8, greatest(0, made.burst - 1, ceil((made.day - 1) / $2::float8)))::bigint ELSE 0 END AS spares
      FROM templates t JOIN workspaces w ON w.id = t.workspace_id JOIN servers v ON v.name = t.server,
           LATERAL (SELECT count(*) AS day, count(*) FILTER (WHERE d.created_at > now() - $4 * interval '1 second') AS burst
                      FROM tenant_databases d
                     WHERE d.workspace_id = t.workspace_id AND d.server = t.server
                       AND d.created_at > now() - $3 * interval '1 second') AS made
     WHERE t.status = 'published'
       AND NOT EXISTS (SELECT FROM templates n WHERE n.workspace_id = t.workspace_id AND n.server = t.server
                          AND n.status = 'published' AND n.version > t.version))";

/// A spare for a tenant: it is nobody's template any more, and its row is gone.
pub async fn take_spare(
    tx: &Tx,
    workspace: WorkspaceId,
    server: &ServerName,
    version: u32,
) -> Result<Option<TemplateRow>, StoreError> {
    let sql = format!("DELETE FROM templates WHERE id = ({SPARE}) RETURNING {}", columns(""));
    one_spare(tx, &sql, workspace, server, version).await
}

/// A spare for the next build.
pub async fn build_from_spare(
    tx: &Tx,
    workspace: WorkspaceId,
    server: &ServerName,
    version: u32,
) -> Result<Option<TemplateRow>, StoreError> {
    let sql = format!(
        "UPDATE templates SET status = 'building', version = NULL WHERE id = ({SPARE}) RETURNING {}",
        columns("")
    );
    one_spare(tx, &sql, workspace, server, version).await
}

const SPARE: &str = "SELECT id FROM templates WHERE workspace_id = $1 AND server = $2 AND version = $3 AND status = 'spare' AND step = 'adopted'
                      ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED";

async fn one_spare(
    tx: &Tx,
    sql: &str,
    workspace: WorkspaceId,
    server: &ServerName,
    version: u32,
) -> Result<Option<TemplateRow>, StoreError> {
    let parameters: [&(dyn ToSql + Sync); 3] = [&workspace.as_uuid(), &server.as_str(), &number(version)?];
    let row = tx.query_opt(sql, &parameters).await?;
    row.as_ref().map(TemplateRow::from_row).transpose()
}

/// All whose database was recorded as made and is not being dropped.
pub async fn made_on(tx: &Tx, server: &ServerName) -> Result<Vec<TemplateRow>, StoreError> {
    let rest = "WHERE server = $1 AND database_oid IS NOT NULL AND status <> 'dropping'";
    let rows = tx.query(&select(rest), &[&server.as_str()]).await?;
    rows.iter().map(TemplateRow::from_row).collect()
}

/// Removes the row of a database that is gone, unless somebody moved it on or took it since `seen` was read.
pub async fn forget(tx: &Tx, seen: &TemplateRow) -> Result<bool, StoreError> {
    let sql = "DELETE FROM templates WHERE id = $1 AND status = $2 AND step = $3";
    let parameters: [&(dyn ToSql + Sync); 3] = [&seen.id, &seen.status.as_str(), &seen.progress.step];
    Ok(tx.execute(sql, &parameters).await? == 1)
}

pub async fn delete(tx: &Tx, id: Uuid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM templates WHERE id = $1", &[&id]).await?;
    Ok(())
}
