//! Tables `deployments` and `deployment_targets`. Only the holder of a target's lease works on it.

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
    /// The progress of a deployment.
    DeploymentStatus {
        /// Some targets are unfinished.
        Running = "running",
        /// Every target is done or skipped.
        Completed = "completed",
        /// Every target has ended, and at least one failed.
        Failed = "failed",
    }
}

words! {
    /// The progress of one tenant database in a deployment.
    TargetStatus {
        /// Not started.
        Pending = "pending",
        /// A worker holds its lease.
        Running = "running",
        /// The last attempt failed in a way that may pass; the next one is scheduled.
        Retrying = "retrying",
        /// The database has the version.
        Done = "done",
        /// Nothing was to be done, or the database is going to be deleted.
        Skipped = "skipped",
        /// The last attempt failed permanently; a user may retry it.
        Failed = "failed",
    }
}

/// A deployment with the counts of its targets.
#[derive(Clone, Debug)]
pub struct DeploymentRow {
    /// The deployment's id.
    pub id: JobId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// The blueprint that is deployed.
    pub blueprint: BlueprintName,
    /// The blueprint's workspace.
    pub workspace: WorkspaceId,
    /// The version that is deployed.
    pub version: u32,
    /// The versions that the targets had at the start.
    pub from_versions: Vec<u32>,
    /// Its progress.
    pub status: DeploymentStatus,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was started: at its creation.
    pub started_at: Option<OffsetDateTime>,
    /// When the last target ended; `None` while it runs.
    pub completed_at: Option<OffsetDateTime>,
    /// How many targets it has.
    pub targets: u32,
    /// How many of them are done or skipped.
    pub completed: u32,
    /// How many of them have failed.
    pub failed: u32,
}

/// One tenant database in a deployment.
#[derive(Clone, Debug)]
pub struct TargetRow {
    /// The tenant.
    pub tenant: TenantName,
    /// The tenant's database.
    pub database: DatabaseId,
    /// Its progress.
    pub status: TargetStatus,
    /// The version it had at the start.
    pub from: u32,
    /// The version it is to have.
    pub to: u32,
    /// How many changes were applied.
    pub changes_done: u32,
    /// How many changes are to be applied.
    pub changes_total: u32,
    /// Whether the database differs from the version after the deployment; `None` if that was not compared.
    pub drift: Option<bool>,
    /// How many attempts were started.
    pub attempts: u32,
    /// The SQLSTATE of the last attempt's error.
    pub sqlstate: Option<String>,
    /// The message of the last attempt's error.
    pub message: Option<String>,
    /// The statement that failed.
    pub statement: Option<String>,
    /// The time from the start of the first attempt to the end of the last; `None` before the end of the first.
    pub duration: Option<Duration>,
}

/// A target that this process holds the lease of.
#[derive(Clone, Debug)]
pub struct ClaimedTarget {
    /// The deployment.
    pub job: JobId,
    /// The blueprint's workspace.
    pub workspace: WorkspaceId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// The tenant database to change.
    pub database: DatabaseId,
    /// The version it is to have.
    pub version: u32,
    /// How many attempts were started, including this one.
    pub attempts: u32,
    /// The token of the lease; every write of the attempt is conditional on it.
    pub lease: Uuid,
}

/// A target of a deployment that is being created.
#[derive(Clone, Debug)]
pub struct NewTarget {
    /// The tenant.
    pub tenant: TenantName,
    /// The tenant's database.
    pub database: DatabaseId,
    /// The server it is on.
    pub server: ServerName,
    /// `Pending`, or the final status if nothing is to be done.
    pub status: TargetStatus,
    /// The version it has.
    pub from: u32,
    /// How many of the changes it has already.
    pub changes_done: u32,
    /// How many changes the way to the version has.
    pub changes_total: u32,
}

/// The result of an attempt.
#[derive(Clone, Debug)]
pub struct TargetEnd<'a> {
    /// The target's new status.
    pub status: TargetStatus,
    /// How many changes have been applied so far.
    pub changes_done: u32,
    /// Whether the database differs from the version; `None` if that was not compared.
    pub drift: Option<bool>,
    /// The SQLSTATE of the error.
    pub sqlstate: Option<&'a str>,
    /// The message of the error.
    pub message: Option<&'a str>,
    /// The statement that failed.
    pub statement: Option<&'a str>,
    /// How long to wait before the next attempt, if the status is `Retrying`.
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

/// A deployment to be created.
#[derive(Clone, Debug)]
pub struct NewDeployment<'a> {
    /// Its id.
    pub id: &'a JobId,
    /// The project it belongs to.
    pub project: &'a ProjectId,
    /// The blueprint to deploy.
    pub blueprint: &'a BlueprintName,
    /// The blueprint's workspace.
    pub workspace: WorkspaceId,
    /// The version to deploy.
    pub version: u32,
    /// The versions that the targets have.
    pub from_versions: &'a [u32],
    /// Who requested it: the name of a user or of an API key.
    pub author: &'a str,
    /// Whether it is for every tenant. A tenant that is restored later is then brought to the version too.
    pub all_tenants: bool,
}

/// Stores a deployment with all its targets.
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

/// The deployment with this id; `None` if the project has no such deployment.
pub async fn by_id(tx: &Tx, project: &ProjectId, id: &JobId) -> Result<Option<DeploymentRow>, StoreError> {
    let rest = "WHERE p.project_id = $1 AND p.id = $2";
    Ok(jobs(tx, rest, &[&project.as_str(), &id.as_str()]).await?.pop())
}

/// A position in the list of deployments: when one was created, and its id.
pub type DeploymentPosition = (OffsetDateTime, JobId);

/// Deployments before `after`, newest first, at most `limit`; of one tenant, or of all.
pub async fn list(
    tx: &Tx,
    project: &ProjectId,
    tenant: Option<&TenantName>,
    after: Option<&DeploymentPosition>,
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

/// The targets of a deployment, by tenant.
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

/// Targets that changed since the change with number `after`, in the order of these numbers, each in its current state.
pub async fn news(tx: &Tx, job: &JobId, after: i64) -> Result<Vec<(i64, TargetRow)>, StoreError> {
    let sql = format!("{TARGETS} WHERE deployment_id = $1 AND news > $2 ORDER BY news");
    let rows = tx.query(&sql, &[&job.as_str(), &after]).await?;
    rows.iter()
        .map(|row| Ok((column(row, "news")?, TargetRow::from_row(row)?)))
        .collect()
}

/// A request for targets to work on.
#[derive(Clone, Copy, Debug)]
pub struct TargetClaim {
    /// The maximum number of targets to claim now.
    pub limit: i64,
    /// The maximum number of targets of the server that all processes together work on at a time.
    pub at_once: i64,
    /// How long the lease of each target is.
    pub lease: Duration,
    /// The id of the process.
    pub holder: Uuid,
}

/// Claims targets of a server: those that are due, and those whose lease has expired. A database with another target in
/// progress is left out: one deployment at a time.
pub async fn claim(tx: &Tx, server: &ServerName, claim: &TargetClaim) -> Result<Vec<ClaimedTarget>, StoreError> {
    // Claims are serialized per server, so that all processes together stay within the limit.
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

/// Servers that have targets due now.
pub async fn busy_servers(tx: &Tx) -> Result<Vec<ServerName>, StoreError> {
    let sql = "SELECT DISTINCT server FROM deployment_targets
               WHERE (status IN ('pending', 'retrying') AND not_before <= now()) OR (status = 'running' AND lease_until < now())";
    let rows = tx.query(sql, &[]).await?;
    rows.iter().map(|row| parsed(row, "server")).collect()
}

/// Extends the lease of a target. False if the lease is lost: another process works on the target.
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

/// Records the result of an attempt and gives up the lease. False if the lease was lost; then nothing is written.
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

/// Postpones all due targets of a server that has run out of connections, memory or disk space.
pub async fn pause_server(tx: &Tx, server: &ServerName, pause: Duration) -> Result<(), StoreError> {
    let sql = "UPDATE deployment_targets SET not_before = greatest(not_before, now() + $2 * interval '1 second')
               WHERE server = $1 AND status IN ('pending', 'retrying')";
    tx.execute(sql, &[&server.as_str(), &pause.as_secs_f64()]).await?;
    Ok(())
}

/// Ends deployments that have no unfinished target. Returns how many.
pub async fn complete(tx: &Tx) -> Result<u64, StoreError> {
    let sql = "UPDATE deployments p
                  SET status = CASE WHEN EXISTS (SELECT FROM deployment_targets WHERE deployment_id = p.id AND status = 'failed')
                                    THEN 'failed' ELSE 'completed' END,
                      completed_at = now()
                WHERE p.status = 'running'
                  AND NOT EXISTS (SELECT FROM deployment_targets WHERE deployment_id = p.id AND status IN ('pending', 'running', 'retrying'))";
    tx.execute(sql, &[]).await
}

/// Makes the failed targets of a finished deployment pending and the deployment running again. Returns how many
/// targets.
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

/// Skips the unfinished targets of a database that is going to be deleted.
pub async fn skip_database(tx: &Tx, database: DatabaseId) -> Result<(), StoreError> {
    let sql =
        "UPDATE deployment_targets SET status = 'skipped', lease_owner = NULL, lease_holder = NULL, lease_until = NULL
               WHERE database_id = $1 AND status IN ('pending', 'running', 'retrying')";
    tx.execute(sql, &[&database.as_uuid()]).await?;
    Ok(())
}

/// A tenant that is not at the version that was last deployed to all tenants.
#[derive(Clone, Debug)]
pub struct Late {
    /// The project it belongs to.
    pub project: ProjectId,
    /// The tenant.
    pub tenant: TenantName,
    /// The blueprint's workspace.
    pub workspace: WorkspaceId,
    /// The version it is to have.
    pub version: u32,
}

/// Tenants that have no target in the newest deployment to all tenants, by project, workspace and version. A tenant
/// whose target failed is not included: its owner decides about a retry.
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
