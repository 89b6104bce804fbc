//! Tables `deployments` and `deployment_targets`. A target is worked on by whoever holds its lease.

use std::collections::HashMap;
use std::time::Duration;

use tdb_names::{BlueprintName, DatabaseId, JobId, ProjectId, ServerName, TenantName, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::error::StoreError;
use crate::row::{column, count, counts, number, numbers, parsed, total, words};
use crate::tx::Tx;

words! {
    DeploymentStatus { Running = "running", Completed = "completed", Failed = "failed" }
}

words! {
    TargetStatus {
        Pending = "pending",
        Running = "running",
        Retrying = "retrying",
        Done = "done",
        Skipped = "skipped",
        Failed = "failed",
    }
}

#[derive(Clone, Debug)]
pub struct DeploymentRow {
    pub id: JobId,
    pub project: ProjectId,
    pub blueprint: BlueprintName,
    pub workspace: WorkspaceId,
    pub version: u32,
    pub from_versions: Vec<u32>,
    pub status: DeploymentStatus,
    pub created_at: OffsetDateTime,
    pub started_at: Option<OffsetDateTime>,
    pub completed_at: Option<OffsetDateTime>,
    pub targets: u32,
    pub completed: u32,
    pub failed: u32,
}

#[derive(Clone, Debug)]
pub struct TargetRow {
    pub tenant: TenantName,
    pub database: DatabaseId,
    pub status: TargetStatus,
    pub from: u32,
    pub to: u32,
    pub changes_done: u32,
    pub changes_total: u32,
    pub drift: Option<bool>,
    pub attempts: u32,
    pub sqlstate: Option<String>,
    pub message: Option<String>,
    pub statement: Option<String>,
    pub duration: Option<Duration>,
}

/// A target to be worked on.
#[derive(Clone, Debug)]
pub struct ClaimedTarget {
    pub job: JobId,
    pub workspace: WorkspaceId,
    pub project: ProjectId,
    pub database: DatabaseId,
    pub version: u32,
    /// This one included.
    pub attempts: u32,
    pub lease: Uuid,
}

#[derive(Clone, Debug)]
pub struct NewTarget {
    pub tenant: TenantName,
    pub database: DatabaseId,
    pub server: ServerName,
    pub status: TargetStatus,
    pub from: u32,
    pub changes_done: u32,
    pub changes_total: u32,
}

/// How a target's attempt ended.
#[derive(Clone, Debug)]
pub struct TargetEnd<'a> {
    pub status: TargetStatus,
    pub changes_done: u32,
    pub drift: Option<bool>,
    pub sqlstate: Option<&'a str>,
    pub message: Option<&'a str>,
    pub statement: Option<&'a str>,
    /// For `retrying`: how long to leave it alone.
    pub pause: Duration,
}

impl DeploymentRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: parsed(row, "id")?,
            project: parsed(row, "project_id")?,
            blueprint: parsed(row, "blueprint")?,
            workspace: WorkspaceId::from_uuid(column(row, "workspace_id")?),
            version: count(row, "version")?,
            from_versions: counts(row, "from_versions")?,
            status: parsed(row, "status")?,
            created_at: column(row, "created_at")?,
            started_at: column(row, "started_at")?,
            completed_at: column(row, "completed_at")?,
            targets: total(row, "targets")?,
            completed: total(row, "completed")?,
            failed: total(row, "failed")?,
        })
    }
}

impl TargetRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let milliseconds: Option<i64> = column(row, "duration_ms")?;
        Ok(Self {
            tenant: parsed(row, "tenant")?,
            database: DatabaseId::from_uuid(column(row, "database_id")?),
            status: parsed(row, "status")?,
            from: count(row, "from_version")?,
            to: count(row, "to_version")?,
            changes_done: count(row, "changes_done")?,
            changes_total: count(row, "changes_total")?,
            drift: column(row, "drift")?,
            attempts: count(row, "attempts")?,
            sqlstate: column(row, "sqlstate")?,
            message: column(row, "message")?,
            statement: column(row, "statement")?,
            duration: milliseconds
                .and_then(|ms| u64::try_from(ms).ok())
                .map(Duration::from_millis),
        })
    }
}

fn select(rest: &str) -> String {
    format!(
        "SELECT p.id, p.project_id, p.blueprint, p.workspace_id, p.version, p.from_versions, p.status, p.created_at, p.started_at,
                p.completed_at, g.targets, g.completed, g.failed
           FROM deployments p CROSS JOIN LATERAL (
                SELECT count(*) AS targets, count(*) FILTER (WHERE status IN ('done', 'skipped')) AS completed,
                       count(*) FILTER (WHERE status = 'failed') AS failed
                  FROM deployment_targets WHERE deployment_id = p.id) AS g {rest}"
    )
}

async fn jobs(tx: &Tx, rest: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<DeploymentRow>, StoreError> {
    let rows = tx.query(&select(rest), parameters).await?;
    rows.iter().map(DeploymentRow::from_row).collect()
}

#[derive(Clone, Debug)]
pub struct NewDeployment<'a> {
    pub id: &'a JobId,
    pub project: &'a ProjectId,
    pub blueprint: &'a BlueprintName,
    pub workspace: WorkspaceId,
    pub version: u32,
    pub from_versions: &'a [u32],
    pub author: &'a str,
    /// Meant for every tenant: one that was not there catches up when it is.
    pub all_tenants: bool,
}

/// A job with all its targets.
pub async fn insert(tx: &Tx, job: &NewDeployment<'_>, targets: &[NewTarget]) -> Result<(), StoreError> {
    let sql = "INSERT INTO deployments (id, project_id, blueprint, workspace_id, version, from_versions, author, all_tenants, status, started_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'running', now())";
    tx.execute(
        sql,
        &[
            &job.id.as_str(),
            &job.project.as_str(),
            &job.blueprint.as_str(),
            &job.workspace.as_uuid(),
            &number(job.version)?,
            &numbers(job.from_versions)?,
            &job.author,
            &job.all_tenants,
        ],
    )
    .await?;
    let list: Result<Vec<serde_json::Value>, StoreError> = targets.iter().map(NewTarget::to_json).collect();
    let sql = "INSERT INTO deployment_targets (deployment_id, project_id, workspace_id, to_version, database_id, tenant, server, status,
                                               from_version, changes_done, changes_total)
               SELECT $1, $2, $3, $4, r.database_id, r.tenant, r.server, r.status, r.from_version, r.changes_done, r.changes_total
                 FROM jsonb_to_recordset($5) AS r(database_id uuid, tenant text, server text, status text, from_version int,
                                                  changes_done int, changes_total int)";
    tx.execute(
        sql,
        &[
            &job.id.as_str(),
            &job.project.as_str(),
            &job.workspace.as_uuid(),
            &number(job.version)?,
            &serde_json::Value::Array(list?),
        ],
    )
    .await?;
    Ok(())
}

impl NewTarget {
    fn to_json(&self) -> Result<serde_json::Value, StoreError> {
        Ok(serde_json::json!({
            "database_id": self.database.as_uuid(),
            "tenant": self.tenant.as_str(),
            "server": self.server.as_str(),
            "status": self.status.as_str(),
            "from_version": number(self.from)?,
            "changes_done": number(self.changes_done)?,
            "changes_total": number(self.changes_total)?,
        }))
    }
}

pub async fn by_id(tx: &Tx, project: &ProjectId, id: &JobId) -> Result<Option<DeploymentRow>, StoreError> {
    let rest = "WHERE p.project_id = $1 AND p.id = $2";
    Ok(jobs(tx, rest, &[&project.as_str(), &id.as_str()]).await?.pop())
}

/// When a deployment was made, and which it is: its place in a list.
pub type Place = (OffsetDateTime, JobId);

/// Newest first: those before `after`, at most `limit`; of one tenant, or all.
pub async fn list(
    tx: &Tx,
    project: &ProjectId,
    tenant: Option<&TenantName>,
    after: Option<&Place>,
    limit: i64,
) -> Result<Vec<DeploymentRow>, StoreError> {
    let rest = "WHERE p.project_id = $1
                  AND ($2::text IS NULL OR EXISTS (SELECT FROM deployment_targets x WHERE x.deployment_id = p.id AND x.tenant = $2))
                  AND ($3::timestamptz IS NULL OR (p.created_at, p.id) < ($3, $4))
                ORDER BY p.created_at DESC, p.id DESC LIMIT $5";
    let (at, id) = (after.map(|(at, _)| *at), after.map(|(_, id)| id.as_str()));
    let tenant = tenant.map(TenantName::as_str);
    jobs(tx, rest, &[&project.as_str(), &tenant, &at, &id, &limit]).await
}

const TARGETS: &str =
    "SELECT deployment_id, tenant, database_id, status, from_version, to_version, changes_done, changes_total, drift, attempts,
    sqlstate, message, statement, duration_ms, news FROM deployment_targets";

/// By tenant.
pub async fn targets(tx: &Tx, job: &JobId) -> Result<Vec<TargetRow>, StoreError> {
    let sql = format!("{TARGETS} WHERE deployment_id = $1 ORDER BY tenant");
    let rows = tx.query(&sql, &[&job.as_str()]).await?;
    rows.iter().map(TargetRow::from_row).collect()
}

/// A tenant's targets in these deployments.
pub async fn targets_of(
    tx: &Tx,
    tenant: &TenantName,
    jobs: &[JobId],
) -> Result<HashMap<JobId, Vec<TargetRow>>, StoreError> {
    let ids: Vec<&str> = jobs.iter().map(JobId::as_str).collect();
    let sql = format!("{TARGETS} WHERE tenant = $1 AND deployment_id = ANY ($2)");
    let mut found: HashMap<JobId, Vec<TargetRow>> = HashMap::new();
    for row in &tx.query(&sql, &[&tenant.as_str(), &ids]).await? {
        let job = parsed(row, "deployment_id")?;
        found.entry(job).or_default().push(TargetRow::from_row(row)?);
    }
    Ok(found)
}

/// Targets that changed after the one with this number, each as it is now, by number.
pub async fn news(tx: &Tx, job: &JobId, after: i64) -> Result<Vec<(i64, TargetRow)>, StoreError> {
    let sql = format!("{TARGETS} WHERE deployment_id = $1 AND news > $2 ORDER BY news");
    let rows = tx.query(&sql, &[&job.as_str(), &after]).await?;
    rows.iter()
        .map(|row| Ok((column(row, "news")?, TargetRow::from_row(row)?)))
        .collect()
}

/// Who claims targets, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Most targets taken now.
    pub limit: i64,
    /// Most targets of the server that are worked on at once, by all processes together.
    pub at_once: i64,
    pub lease: Duration,
    /// The process.
    pub holder: Uuid,
}

/// Takes targets of a server that nobody works on: due ones, and those whose worker's lease ran out. A database that
/// another target works on is left out: one deployment at a time.
pub async fn claim(tx: &Tx, server: &ServerName, claim: &Claim) -> Result<Vec<ClaimedTarget>, StoreError> {
    // Processes count one after the other, so that together they stay within the server's room.
    let lock = "SELECT FROM servers WHERE name = $1 FOR NO KEY UPDATE";
    tx.query(lock, &[&server.as_str()]).await?;
    let sql = "UPDATE deployment_targets g
                  SET status = 'running', attempts = g.attempts + 1, lease_owner = gen_random_uuid(), lease_holder = $4,
                      lease_until = now() + $3 * interval '1 second', started_at = coalesce(g.started_at, now())
                 FROM (SELECT deployment_id, database_id FROM deployment_targets d
                        WHERE server = $1 AND ((status IN ('pending', 'retrying') AND not_before <= now())
                                               OR (status = 'running' AND lease_until < now()))
                          AND NOT EXISTS (SELECT FROM deployment_targets o WHERE o.database_id = d.database_id
                                             AND o.deployment_id <> d.deployment_id AND o.status = 'running' AND o.lease_until >= now())
                        ORDER BY not_before, tenant
                        LIMIT greatest(0, least($2, $5 - (SELECT count(*) FROM deployment_targets
                                                           WHERE server = $1 AND status = 'running' AND lease_until >= now())))
                          FOR UPDATE SKIP LOCKED) AS due
                WHERE g.deployment_id = due.deployment_id AND g.database_id = due.database_id
            RETURNING g.deployment_id, g.workspace_id, g.project_id, g.database_id, g.to_version, g.attempts, g.lease_owner";
    let lease = claim.lease.as_secs_f64();
    let rows = tx
        .query(
            sql,
            &[&server.as_str(), &claim.limit, &lease, &claim.holder, &claim.at_once],
        )
        .await?;
    let claimed = |row: &Row| {
        Ok(ClaimedTarget {
            job: parsed(row, "deployment_id")?,
            workspace: WorkspaceId::from_uuid(column(row, "workspace_id")?),
            project: parsed(row, "project_id")?,
            database: DatabaseId::from_uuid(column(row, "database_id")?),
            version: count(row, "to_version")?,
            attempts: count(row, "attempts")?,
            lease: column(row, "lease_owner")?,
        })
    };
    rows.iter().map(claimed).collect()
}

/// Servers that have targets due.
pub async fn busy_servers(tx: &Tx) -> Result<Vec<ServerName>, StoreError> {
    let sql = "SELECT DISTINCT server FROM deployment_targets
               WHERE (status IN ('pending', 'retrying') AND not_before <= now()) OR (status = 'running' AND lease_until < now())";
    let rows = tx.query(sql, &[]).await?;
    rows.iter().map(|row| parsed(row, "server")).collect()
}

/// Holds on to a target. False: the lease is lost and somebody else works on it.
pub async fn heartbeat(
    tx: &Tx,
    target: &ClaimedTarget,
    lease: Duration,
    changes_done: Option<u32>,
) -> Result<bool, StoreError> {
    let sql = "UPDATE deployment_targets SET lease_until = now() + $4 * interval '1 second', changes_done = greatest(changes_done, $5)
               WHERE deployment_id = $1 AND database_id = $2 AND lease_owner = $3 AND status = 'running'";
    let done = changes_done.map(number).transpose()?;
    let held = tx
        .execute(
            sql,
            &[
                &target.job.as_str(),
                &target.database.as_uuid(),
                &target.lease,
                &lease.as_secs_f64(),
                &done,
            ],
        )
        .await?;
    Ok(held == 1)
}

/// Ends an attempt, if the lease is still held.
pub async fn end_attempt(tx: &Tx, target: &ClaimedTarget, end: &TargetEnd<'_>) -> Result<bool, StoreError> {
    let sql = "UPDATE deployment_targets
                  SET status = $4, changes_done = $5, drift = $6, sqlstate = $7, message = $8, statement = $9,
                      not_before = now() + $10 * interval '1 second', lease_owner = NULL, lease_holder = NULL, lease_until = NULL,
                      duration_ms = (extract(epoch FROM clock_timestamp() - started_at) * 1000)::bigint
                WHERE deployment_id = $1 AND database_id = $2 AND lease_owner = $3 AND status = 'running'";
    let ended = tx
        .execute(
            sql,
            &[
                &target.job.as_str(),
                &target.database.as_uuid(),
                &target.lease,
                &end.status.as_str(),
                &number(end.changes_done)?,
                &end.drift,
                &end.sqlstate,
                &end.message,
                &end.statement,
                &end.pause.as_secs_f64(),
            ],
        )
        .await?;
    Ok(ended == 1)
}

/// Postpones every due target of a server that is out of something.
pub async fn pause_server(tx: &Tx, server: &ServerName, pause: Duration) -> Result<(), StoreError> {
    let sql = "UPDATE deployment_targets SET not_before = greatest(not_before, now() + $2 * interval '1 second')
               WHERE server = $1 AND status IN ('pending', 'retrying')";
    tx.execute(sql, &[&server.as_str(), &pause.as_secs_f64()]).await?;
    Ok(())
}

/// Closes jobs that have no target left to work on.
pub async fn complete(tx: &Tx) -> Result<u64, StoreError> {
    let sql = "UPDATE deployments p
                  SET status = CASE WHEN EXISTS (SELECT FROM deployment_targets WHERE deployment_id = p.id AND status = 'failed')
                                    THEN 'failed' ELSE 'completed' END,
                      completed_at = now()
                WHERE p.status = 'running'
                  AND NOT EXISTS (SELECT FROM deployment_targets WHERE deployment_id = p.id AND status IN ('pending', 'running', 'retrying'))";
    tx.execute(sql, &[]).await
}

/// Failed targets of a finished job become pending; the job runs again. Gives how many.
pub async fn retry_failed(tx: &Tx, project: &ProjectId, job: &JobId) -> Result<u64, StoreError> {
    let sql = "UPDATE deployment_targets SET status = 'pending', attempts = 0, not_before = now(), started_at = NULL,
                      sqlstate = NULL, message = NULL, statement = NULL, duration_ms = NULL
               WHERE deployment_id = $1 AND project_id = $2 AND status = 'failed'";
    let again = tx.execute(sql, &[&job.as_str(), &project.as_str()]).await?;
    if again > 0 {
        let sql = "UPDATE deployments SET status = 'running', completed_at = NULL WHERE id = $1 AND project_id = $2";
        tx.execute(sql, &[&job.as_str(), &project.as_str()]).await?;
    }
    Ok(again)
}

/// Targets of databases that are to be deleted: nobody waits for them.
pub async fn skip_database(tx: &Tx, database: DatabaseId) -> Result<(), StoreError> {
    let sql =
        "UPDATE deployment_targets SET status = 'skipped', lease_owner = NULL, lease_holder = NULL, lease_until = NULL
               WHERE database_id = $1 AND status IN ('pending', 'running', 'retrying')";
    tx.execute(sql, &[&database.as_uuid()]).await?;
    Ok(())
}

/// A tenant that was not there when everybody was brought to a version.
#[derive(Clone, Debug)]
pub struct Late {
    pub project: ProjectId,
    pub tenant: TenantName,
    pub workspace: WorkspaceId,
    pub version: u32,
}

/// Tenants that the newest deployment to all tenants missed, by project, workspace and version; one that failed there is
/// for its owner to retry.
pub async fn late(tx: &Tx) -> Result<Vec<Late>, StoreError> {
    let sql = "SELECT d.project_id, d.tenant, d.workspace_id, p.version
                 FROM tenant_databases d JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant
                 JOIN LATERAL (SELECT version, created_at FROM deployments WHERE workspace_id = d.workspace_id AND all_tenants
                                ORDER BY created_at DESC LIMIT 1) AS p ON true
                WHERE d.status = 'ready' AND t.status IN ('ready', 'suspended') AND d.version < p.version AND d.created_at < p.created_at
                  AND NOT EXISTS (SELECT FROM deployment_targets g WHERE g.database_id = d.id AND g.to_version = p.version
                                     AND g.status <> 'skipped')
                ORDER BY d.project_id, d.workspace_id, p.version, d.tenant LIMIT 10000";
    let rows = tx.query(sql, &[]).await?;
    let late = |row: &Row| {
        Ok(Late {
            project: parsed(row, "project_id")?,
            tenant: parsed(row, "tenant")?,
            workspace: WorkspaceId::from_uuid(column(row, "workspace_id")?),
            version: count(row, "version")?,
        })
    };
    rows.iter().map(late).collect()
}
