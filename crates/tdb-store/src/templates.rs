//! Table `templates`: builds (databases in which changes are replayed), the templates that they become, and spares:
//! clones of templates, ready to become a tenant's database or the next build.

use std::time::Duration;

use tdb_names::{ProjectId, ServerName, WorkspaceId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::Store;
use crate::error::StoreError;
use crate::physical::{self, DatabaseKind, Physical, StepProgress};
use crate::row::{column, count, number, numbers, parsed, words};
use crate::tx::Tx;

words! {
    /// What a template database is used for.
    TemplateStatus {
        /// A build: changes are replayed in it.
        Building = "building",
        /// A build that has its version and is being closed. It cannot become a build again.
        Publishing = "publishing",
        /// A template that tenant databases are cloned from.
        Published = "published",
        /// A clone of the template of its version. It can be used once its step is `adopted`.
        Spare = "spare",
        /// It is going to be dropped.
        Dropping = "dropping",
    }
}

/// A build, template or spare.
#[derive(Clone, Debug)]
pub struct TemplateRow {
    /// Its id.
    pub id: Uuid,
    /// The project it belongs to.
    pub project: ProjectId,
    /// The workspace whose schema it has.
    pub workspace: WorkspaceId,
    /// `None` for a build; the version of a spare is that of its template.
    pub version: Option<u32>,
    /// What it is used for.
    pub status: TemplateStatus,
    /// The changes that a build contains, or was about to contain when it was last worked on.
    pub change_ids: Vec<u32>,
    /// The database and its roles.
    pub physical: Physical,
    /// How far its creation or deletion is.
    pub progress: StepProgress,
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
            progress: StepProgress::from_row(row)?,
        })
    }
}

fn columns() -> String {
    format!(
        "t.id, t.project_id, t.workspace_id, t.version, t.status, t.change_ids, t.step, t.attempts, t.last_error, {}",
        physical::COLUMNS
    )
}

fn select(rest: &str) -> String {
    let join = physical::join(DatabaseKind::Template, "t");
    format!("SELECT {} FROM templates t {join} {rest}", columns())
}

/// Of a template `t` with the physical database `p`: whether a newer one of its workspace is published on its server.
const IS_OLD: &str = "EXISTS (SELECT FROM templates n JOIN physical_databases q ON q.template_id = n.id
                               WHERE n.workspace_id = t.workspace_id AND q.server = p.server AND n.status = 'published'
                                 AND n.version > t.version)";

/// Spares of a version that can be used, oldest first.
const SPARE: &str =
    "WHERE t.workspace_id = $1 AND p.server = $2 AND t.version = $3 AND t.status = 'spare' AND t.step = 'adopted'
                       AND NOT EXISTS (SELECT FROM database_roles r WHERE r.database_id = t.id AND r.readers = 'old')
                     ORDER BY t.created_at";

/// Stores the row of a build, or of a spare of a version, before its database is created.
pub async fn insert(
    tx: &Tx,
    id: Uuid,
    project: &ProjectId,
    workspace: WorkspaceId,
    physical: &Physical,
    spare_of: Option<u32>,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO templates (id, project_id, workspace_id, status, version, step) VALUES ($1, $2, $3, $4, $5, 'intent')";
    let status = spare_of.map_or(TemplateStatus::Building, |_| TemplateStatus::Spare);
    let version = spare_of.map(number).transpose()?;
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&id, &project.as_str(), &workspace.as_uuid(), &status.as_str(), &version];
    tx.execute(sql, &parameters).await?;
    physical::insert(tx, project, DatabaseKind::Template, id, physical).await
}

/// The build, template or spare with this id.
pub async fn by_id(tx: &Tx, id: Uuid) -> Result<Option<TemplateRow>, StoreError> {
    let row = tx.query_opt(&select("WHERE t.id = $1"), &[&id]).await?;
    row.as_ref().map(TemplateRow::from_row).transpose()
}

/// The published template of a version on a server.
pub async fn published(
    tx: &Tx,
    workspace: WorkspaceId,
    server: &ServerName,
    version: u32,
) -> Result<Option<TemplateRow>, StoreError> {
    let rest = "WHERE t.workspace_id = $1 AND p.server = $2 AND t.version = $3 AND t.status = 'published' LIMIT 1";
    let row = tx
        .query_opt(
            &select(rest),
            &[&workspace.as_uuid(), &server.as_str(), &number(version)?],
        )
        .await?;
    row.as_ref().map(TemplateRow::from_row).transpose()
}

/// All builds, templates and spares of a workspace.
pub async fn of_workspace(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<TemplateRow>, StoreError> {
    let rows = tx
        .query(
            &select("WHERE t.workspace_id = $1 ORDER BY t.created_at"),
            &[&workspace.as_uuid()],
        )
        .await?;
    rows.iter().map(TemplateRow::from_row).collect()
}

/// Unfinished builds, templates and spares that no process works on: to be finished or dropped.
pub async fn unfinished(tx: &Tx) -> Result<Vec<TemplateRow>, StoreError> {
    let rest = "WHERE t.status <> 'published' AND NOT (t.status IN ('building', 'spare') AND t.step = 'adopted')
                  AND t.not_before <= now()
                  AND NOT EXISTS (SELECT FROM leases l
                                   WHERE l.name = 'builds:' || t.workspace_id || ':' || p.server AND l.lease_until > now())
                ORDER BY t.created_at LIMIT 100";
    let rows = tx.query(&select(rest), &[]).await?;
    rows.iter().map(TemplateRow::from_row).collect()
}

/// Gives the build its version and starts closing it. False if it is not a build any more.
pub async fn begin_publishing(tx: &Tx, id: Uuid, version: u32) -> Result<bool, StoreError> {
    let sql = "UPDATE templates SET status = 'publishing', step = 'replayed', version = $2 WHERE id = $1 AND status = 'building'";
    Ok(tx.execute(sql, &[&id, &number(version)?]).await? == 1)
}

/// Records which changes a build contains, for the process that continues it.
pub async fn record_changes(tx: &Tx, id: Uuid, change_ids: &[u32]) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE templates SET change_ids = $2 WHERE id = $1",
        &[&id, &numbers(change_ids)?],
    )
    .await?;
    Ok(())
}

/// Publishes a template. For `grace` it cannot be retired, so that the tenant database it was built for can refer to it
/// first.
pub async fn set_published(tx: &Tx, id: Uuid, grace: Duration) -> Result<bool, StoreError> {
    let sql = "UPDATE templates SET status = 'published', step = 'published', attempts = 0, last_error = NULL,
                      not_before = now() + $2 * interval '1 second'
               WHERE id = $1 AND status = 'publishing'";
    Ok(tx.execute(sql, &[&id, &grace.as_secs_f64()]).await? == 1)
}

/// Starts dropping published templates that are neither in use nor the newest of their workspace and server, spares of
/// such versions, and spares whose roles an older program created.
pub async fn retire_old(tx: &Tx) -> Result<u64, StoreError> {
    let spares = format!(
        "UPDATE templates t SET status = 'dropping', step = 'retired', not_before = now() FROM physical_databases p
          WHERE p.template_id = t.id AND t.status = 'spare' AND t.step = 'adopted'
            AND ({IS_OLD} OR EXISTS (SELECT FROM database_roles r WHERE r.database_id = t.id AND r.readers = 'old'))"
    );
    tx.execute(&spares, &[]).await?;
    let sql = format!(
        "UPDATE templates t SET status = 'dropping', step = 'retired', not_before = now() FROM physical_databases p
          WHERE p.template_id = t.id AND t.status = 'published' AND t.not_before <= now() AND {IS_OLD}
            AND NOT EXISTS (SELECT FROM tenant_databases d WHERE d.template_id = t.id AND d.status = 'provisioning')
            AND NOT EXISTS (SELECT FROM deployments e WHERE e.workspace_id = t.workspace_id AND e.version = t.version
                               AND e.status = 'running')"
    );
    tx.execute(&sql, &[]).await
}

/// Starts dropping everything on a server that is not in use. Returns what is left to drop.
pub async fn retire_of_server(tx: &Tx, server: &ServerName) -> Result<Vec<(Uuid, WorkspaceId)>, StoreError> {
    let sql =
        "UPDATE templates t SET status = 'dropping', step = 'retired', not_before = now() FROM physical_databases p
                WHERE p.template_id = t.id AND p.server = $1 AND t.status <> 'dropping'";
    tx.execute(sql, &[&server.as_str()]).await?;
    let left = "SELECT t.id, t.workspace_id FROM templates t JOIN physical_databases p ON p.template_id = t.id WHERE p.server = $1";
    let rows = tx.query(left, &[&server.as_str()]).await?;
    let ids = |row: &Row| Ok((column(row, "id")?, WorkspaceId::from_uuid(column(row, "workspace_id")?)));
    rows.iter().map(ids).collect()
}

/// Starts dropping a row, unless another process changed or took it since `seen` was read.
pub async fn begin_dropping(tx: &Tx, seen: &TemplateRow) -> Result<bool, StoreError> {
    let sql =
        "UPDATE templates SET status = 'dropping', not_before = now() WHERE id = $1 AND status = $2 AND step = $3";
    let parameters: [&(dyn ToSql + Sync); 3] = [&seen.id, &seen.status.as_str(), &seen.progress.step.as_str()];
    Ok(tx.execute(sql, &parameters).await? == 1)
}

/// How the number of spares of a template follows from the tenants created on its server during the last day.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// The maximum number of spares per template.
    pub stock_max: u32,
    /// One spare is kept for this many tenants of the last day.
    pub tenants_per_spare: u32,
    /// One spare is kept for each tenant but the first that was created within this time: more are likely to follow.
    pub burst: Duration,
}

impl Demand {
    /// The parameters of the query that [`worth`] builds.
    fn parameters(&self) -> [i64; 3] {
        let burst = i64::try_from(self.burst.as_secs()).unwrap_or(i64::MAX);
        [i64::from(self.stock_max), i64::from(self.tenants_per_spare), burst]
    }
}

/// The common table expression `worth`: for the newest template of each workspace and server, how many spares it has
/// and how many it should have.
fn worth() -> String {
    format!(
        "WITH worth AS (
             SELECT t.id, t.workspace_id, t.version, p.server,
                    (SELECT count(*) FROM templates s JOIN physical_databases q ON q.template_id = s.id
                      WHERE s.workspace_id = t.workspace_id AND q.server = p.server AND s.status = 'spare'
                        AND s.version = t.version) AS kept,
                    CASE WHEN w.status = 'ready' AND v.status = 'active'
                         THEN least($1::bigint, greatest(made.burst - 1, made.day / $2::bigint)) ELSE 0 END AS spares
               FROM templates t JOIN physical_databases p ON p.template_id = t.id
                    JOIN workspaces w ON w.id = t.workspace_id JOIN servers v ON v.name = p.server,
                    LATERAL (SELECT count(*) AS day, count(*) FILTER (WHERE d.created_at > now() - $3::bigint * interval '1 second') AS burst
                               FROM tenant_databases d JOIN physical_databases q ON q.tenant_database_id = d.id
                              WHERE d.workspace_id = t.workspace_id AND q.server = p.server
                                AND d.created_at > now() - interval '1 day') AS made
              WHERE t.status = 'published' AND NOT {IS_OLD})"
    )
}

/// The newest templates with fewer spares than they should have, each with the number of missing spares.
pub async fn short_of_spares(tx: &Tx, demand: &Demand) -> Result<Vec<(TemplateRow, u32)>, StoreError> {
    let sql = format!(
        "{} SELECT {}, worth.spares - worth.kept AS missing
              FROM worth JOIN templates t ON t.id = worth.id {} WHERE worth.spares > worth.kept",
        worth(),
        columns(),
        physical::join(DatabaseKind::Template, "t")
    );
    let [max, per_spare, burst] = &demand.parameters();
    let rows = tx.query(&sql, &[max, per_spare, burst]).await?;
    let row = |row: &Row| Ok((TemplateRow::from_row(row)?, crate::row::total(row, "missing")?));
    rows.iter().map(row).collect()
}

/// Starts dropping spares beyond the number that their template should have, the newest first. Returns how many.
pub async fn retire_surplus(tx: &Tx, demand: &Demand) -> Result<u64, StoreError> {
    let sql = format!(
        "{} UPDATE templates t SET status = 'dropping', step = 'retired', not_before = now()
              FROM worth, LATERAL (
                   SELECT s.id, row_number() OVER (ORDER BY s.created_at) AS place
                     FROM templates s JOIN physical_databases q ON q.template_id = s.id
                    WHERE s.workspace_id = worth.workspace_id AND q.server = worth.server AND s.version = worth.version
                      AND s.status = 'spare' AND s.step = 'adopted') AS ranked
             WHERE t.id = ranked.id AND ranked.place > worth.spares AND t.status = 'spare'",
        worth()
    );
    let [max, per_spare, burst] = &demand.parameters();
    tx.execute(&sql, &[max, per_spare, burst]).await
}

/// The oldest spare that is free. A single statement outside of any transaction.
pub async fn any_spare(
    store: &Store,
    workspace: WorkspaceId,
    server: &ServerName,
    version: u32,
) -> Result<Option<TemplateRow>, StoreError> {
    let sql = select(&format!("{SPARE} LIMIT 1"));
    let parameters: [&(dyn ToSql + Sync); 3] = [&workspace.as_uuid(), &server.as_str(), &number(version)?];
    let rows = store.ask_as_jobs(&sql, &parameters).await?;
    rows.first().map(TemplateRow::from_row).transpose()
}

/// Locks a spare until the end of the transaction, in which [`crate::tenants::take_over`] moves it to a tenant. False
/// if another process took it since it was read.
pub async fn take_spare(tx: &Tx, spare: &TemplateRow) -> Result<bool, StoreError> {
    let sql = "SELECT FROM templates WHERE id = $1 AND status = 'spare' AND step = 'adopted' FOR UPDATE";
    Ok(tx.query_opt(sql, &[&spare.id]).await?.is_some())
}

/// Turns a spare into the next build.
pub async fn build_from_spare(
    tx: &Tx,
    workspace: WorkspaceId,
    server: &ServerName,
    version: u32,
) -> Result<Option<TemplateRow>, StoreError> {
    let rest = format!("{SPARE} LIMIT 1 FOR UPDATE OF t SKIP LOCKED");
    let parameters: [&(dyn ToSql + Sync); 3] = [&workspace.as_uuid(), &server.as_str(), &number(version)?];
    let Some(row) = tx.query_opt(&select(&rest), &parameters).await? else {
        return Ok(None);
    };
    let spare = TemplateRow::from_row(&row)?;
    let sql = "UPDATE templates SET status = 'building', version = NULL WHERE id = $1";
    tx.execute(sql, &[&spare.id]).await?;
    Ok(Some(TemplateRow {
        status: TemplateStatus::Building,
        version: None,
        ..spare
    }))
}

/// All rows on a server whose database exists and is not being dropped.
pub async fn made_on(tx: &Tx, server: &ServerName) -> Result<Vec<TemplateRow>, StoreError> {
    let rest = "WHERE p.server = $1 AND g.oid IS NOT NULL AND t.status <> 'dropping'";
    let rows = tx.query(&select(rest), &[&server.as_str()]).await?;
    rows.iter().map(TemplateRow::from_row).collect()
}

/// Deletes the row of a database that no longer exists, unless another process changed or took it since `seen` was
/// read.
pub async fn forget(tx: &Tx, seen: &TemplateRow) -> Result<bool, StoreError> {
    let sql = "DELETE FROM templates WHERE id = $1 AND status = $2 AND step = $3";
    let parameters: [&(dyn ToSql + Sync); 3] = [&seen.id, &seen.status.as_str(), &seen.progress.step.as_str()];
    Ok(tx.execute(sql, &parameters).await? == 1)
}

/// Deletes a row. Its database must be gone.
pub async fn delete(tx: &Tx, id: Uuid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM templates WHERE id = $1", &[&id]).await?;
    Ok(())
}
