//! Tables `drift_checks` and `workspace_drift_checks`: the last comparison of each tenant database with its version,
//! and of each workspace with its changes; and which databases a user requested a comparison of.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tdb_names::{BlueprintName, DatabaseId, ProjectId, ServerName, TenantName, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::row::{column, count, number, parsed, total};
use crate::tx::Tx;

/// One object that differs from the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The object's identity.
    pub object: String,
    /// The definition in the version; `None` if the version does not have the object.
    pub expected: Option<String>,
    /// The definition in the database; `None` if the database does not have the object.
    pub found: Option<String>,
}

/// A comparison that showed differences, or that failed.
#[derive(Clone, Debug)]
pub struct CheckRow {
    /// The tenant.
    pub tenant: TenantName,
    /// The blueprint of the compared database.
    pub blueprint: BlueprintName,
    /// The version it was compared with.
    pub version: u32,
    /// When the comparison began.
    pub checked_at: OffsetDateTime,
    /// The differences, or why the database could not be compared.
    pub found: Result<Vec<Difference>, String>,
}

/// The differences of a workspace that no change accounts for.
#[derive(Clone, Debug)]
pub struct WorkspaceCheckRow {
    /// The workspace's blueprint.
    pub blueprint: BlueprintName,
    /// The objects that differ.
    pub differences: Vec<Difference>,
}

/// How many databases of a report have been compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckProgress {
    /// Databases to compare: those of tenants that are not deleted and not in a deployment.
    pub databases: u32,
    /// Of these, those not compared since they got their version, or since a comparison was requested.
    pub pending: u32,
    /// When the oldest comparison in the report was made.
    pub oldest: Option<OffsetDateTime>,
}

/// Deleted tenants are not compared. What a tenant lacks while a deployment runs is reported by the deployment.
const SETTLED: &str = "d.status = 'ready' AND t.status IN ('ready', 'suspended') AND d.version IS NOT NULL
    AND NOT EXISTS (SELECT FROM deployment_targets g WHERE g.database_id = d.id AND g.to_version > d.version
                       AND g.status IN ('pending', 'running', 'retrying', 'failed'))";
const FROM: &str = "FROM tenant_databases d JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant
    LEFT JOIN drift_checks c ON c.database_id = d.id";
/// A comparison with another version does not count.
const CURRENT: &str = "c.version IS NOT DISTINCT FROM d.version";

/// Comparisons that showed differences or failed, by blueprint and tenant, of one blueprint or of all; and the
/// progress.
pub async fn report(
    tx: &Tx,
    project: &ProjectId,
    blueprint: Option<&BlueprintName>,
) -> Result<(Vec<CheckRow>, CheckProgress), StoreError> {
    let blueprint = blueprint.map(BlueprintName::as_str);
    let mine = format!("{FROM} WHERE d.project_id = $1 AND ($2::text IS NULL OR d.blueprint = $2) AND {SETTLED}");
    // Before the rows: a comparison that is stored between the two statements must not count as done and be missing.
    let sql = format!(
        "SELECT count(*) AS databases, count(*) FILTER (WHERE NOT {CURRENT} OR d.drift_asked_at IS NOT NULL) AS pending,
                min(c.checked_at) FILTER (WHERE {CURRENT}) AS oldest {mine}"
    );
    let row = tx.query_one(&sql, &[&project.as_str(), &blueprint]).await?;
    let progress = CheckProgress {
        databases: total(&row, "databases")?,
        pending: total(&row, "pending")?,
        oldest: column(&row, "oldest")?,
    };
    let sql = format!(
        "SELECT d.tenant, d.blueprint, c.version, c.checked_at, c.differences, c.error {mine} AND {CURRENT}
            AND (c.error IS NOT NULL OR c.differences <> '[]') ORDER BY d.blueprint, d.tenant"
    );
    let rows = tx.query(&sql, &[&project.as_str(), &blueprint]).await?;
    let found = rows.iter().map(check).collect::<Result<Vec<_>, _>>()?;
    Ok((found, progress))
}

fn check(row: &Row) -> Result<CheckRow, StoreError> {
    let error: Option<String> = column(row, "error")?;
    Ok(CheckRow {
        tenant: parsed(row, "tenant")?,
        blueprint: parsed(row, "blueprint")?,
        version: count(row, "version")?,
        checked_at: column(row, "checked_at")?,
        found: match error {
            Some(error) => Err(error),
            None => Ok(differences(row)?),
        },
    })
}

fn differences(row: &Row) -> Result<Vec<Difference>, StoreError> {
    let differences: Option<serde_json::Value> = column(row, "differences")?;
    serde_json::from_value(differences.unwrap_or_default()).map_err(|_| StoreError::corrupt("differences"))
}

/// Comparisons of workspaces that showed differences, by name, of one blueprint or of all; and how many requested ones
/// are pending.
pub async fn workspaces(
    tx: &Tx,
    project: &ProjectId,
    blueprint: Option<&BlueprintName>,
) -> Result<(Vec<WorkspaceCheckRow>, u32), StoreError> {
    let blueprint = blueprint.map(BlueprintName::as_str);
    let sql = "SELECT count(*) AS n FROM workspaces WHERE project_id = $1 AND ($2::text IS NULL OR blueprint = $2)
                  AND status = 'ready' AND drift_asked_at IS NOT NULL";
    let row = tx.query_one(sql, &[&project.as_str(), &blueprint]).await?;
    let pending = total(&row, "n")?;
    let sql = "SELECT w.blueprint, c.differences FROM workspaces w JOIN workspace_drift_checks c ON c.workspace_id = w.id
                WHERE w.project_id = $1 AND ($2::text IS NULL OR w.blueprint = $2) AND w.status = 'ready' AND c.differences <> '[]'
                ORDER BY w.blueprint COLLATE \"C\"";
    let rows = tx.query(sql, &[&project.as_str(), &blueprint]).await?;
    let found = |row: &Row| {
        Ok(WorkspaceCheckRow {
            blueprint: parsed(row, "blueprint")?,
            differences: differences(row)?,
        })
    };
    let found = rows.iter().map(found).collect::<Result<Vec<_>, StoreError>>()?;
    Ok((found, pending))
}

/// Requests comparisons of the databases of one blueprint, or of all, and of their workspaces. Returns the number of
/// tenant databases.
pub async fn ask(tx: &Tx, project: &ProjectId, blueprint: Option<&BlueprintName>) -> Result<u32, StoreError> {
    let sql = format!(
        "UPDATE tenant_databases a SET drift_asked_at = now()
           FROM (SELECT d.id {FROM} WHERE d.project_id = $1 AND ($2::text IS NULL OR d.blueprint = $2) AND {SETTLED}) AS s
          WHERE a.id = s.id"
    );
    let blueprint = blueprint.map(BlueprintName::as_str);
    let asked = tx.execute(&sql, &[&project.as_str(), &blueprint]).await?;
    let sql = "UPDATE workspaces SET drift_asked_at = now()
                WHERE project_id = $1 AND ($2::text IS NULL OR blueprint = $2) AND status = 'ready'";
    tx.execute(sql, &[&project.as_str(), &blueprint]).await?;
    Ok(u32::try_from(asked).unwrap_or(u32::MAX))
}

/// Which databases to compare.
#[derive(Clone, Copy, Debug)]
pub enum Due {
    /// Those that a user requested.
    Asked,
    /// Those not compared at their version yet, and those last compared this long ago or longer.
    Since(Duration),
}

/// Tenant databases that are due, the longest waiting first, at most `limit` per server.
pub async fn due(tx: &Tx, due: Due, limit: i64) -> Result<Vec<(ServerName, DatabaseId)>, StoreError> {
    let (when, seconds) = match due {
        Due::Asked => ("d.drift_asked_at IS NOT NULL AND $2::float8 = 0".to_owned(), 0.0),
        Due::Since(age) => (
            format!("(NOT {CURRENT} OR c.checked_at < now() - $2::float8 * interval '1 second')"),
            age.as_secs_f64(),
        ),
    };
    let sql = format!(
        "SELECT server, id FROM (
             SELECT p.server, d.id, row_number() OVER (
                        PARTITION BY p.server ORDER BY d.drift_asked_at, c.checked_at NULLS FIRST) AS place
             {FROM} JOIN physical_databases p ON p.tenant_database_id = d.id AND p.part = 'serving'
             WHERE {when} AND {SETTLED}) AS waiting
          WHERE place <= $1 ORDER BY server, place"
    );
    let rows = tx.query(&sql, &[&limit, &seconds]).await?;
    rows.iter()
        .map(|row| Ok((parsed(row, "server")?, DatabaseId::from_uuid(column(row, "id")?))))
        .collect()
}

/// Workspaces that are due, the longest waiting first, at most `limit` per server.
pub async fn due_workspaces(tx: &Tx, due: Due, limit: i64) -> Result<Vec<(ServerName, WorkspaceId)>, StoreError> {
    let (when, seconds) = match due {
        Due::Asked => ("w.drift_asked_at IS NOT NULL AND $2::float8 = 0", 0.0),
        Due::Since(age) => (
            "coalesce(c.checked_at < now() - $2::float8 * interval '1 second', true)",
            age.as_secs_f64(),
        ),
    };
    let sql = format!(
        "SELECT server, id FROM (
             SELECT p.server, w.id, row_number() OVER (
                        PARTITION BY p.server ORDER BY w.drift_asked_at, c.checked_at NULLS FIRST) AS place
               FROM workspaces w JOIN physical_databases p ON p.workspace_id = w.id AND p.part = 'serving'
                    LEFT JOIN workspace_drift_checks c ON c.workspace_id = w.id
              WHERE {when} AND w.status = 'ready') AS waiting
          WHERE place <= $1 ORDER BY server, place"
    );
    let rows = tx.query(&sql, &[&limit, &seconds]).await?;
    rows.iter()
        .map(|row| Ok((parsed(row, "server")?, WorkspaceId::from_uuid(column(row, "id")?))))
        .collect()
}

/// Like [`record`], for a workspace. `None` if it could not be compared: the stored differences are kept.
pub async fn record_workspace(
    tx: &Tx,
    workspace: WorkspaceId,
    found: Option<&[Difference]>,
    ago: Duration,
) -> Result<(), StoreError> {
    let (id, ago) = (workspace.as_uuid(), ago.as_secs_f64());
    if let Some(found) = found {
        let found = serde_json::to_value(found).map_err(|_| StoreError::corrupt("differences"))?;
        let sql = "INSERT INTO workspace_drift_checks (workspace_id, project_id, checked_at, differences)
                   SELECT id, project_id, now() - $2 * interval '1 second', $3 FROM workspaces WHERE id = $1
                   ON CONFLICT (workspace_id) DO UPDATE SET checked_at = EXCLUDED.checked_at, differences = EXCLUDED.differences";
        tx.execute(sql, &[&id, &ago, &found]).await?;
    }
    let answered = "UPDATE workspaces SET drift_asked_at = NULL
                     WHERE id = $1 AND drift_asked_at <= now() - $2 * interval '1 second'";
    tx.execute(answered, &[&id, &ago]).await?;
    Ok(())
}

/// Stores a comparison that began `ago`. Does nothing if the database has another version now. A request made since it
/// began stays pending.
pub async fn record(
    tx: &Tx,
    database: DatabaseId,
    version: u32,
    found: &Result<Vec<Difference>, String>,
    ago: Duration,
) -> Result<(), StoreError> {
    let differences = match found {
        Ok(differences) => Some(serde_json::to_value(differences).map_err(|_| StoreError::corrupt("differences"))?),
        Err(_) => None,
    };
    let error = found.as_ref().err();
    let sql =
        "INSERT INTO drift_checks (database_id, project_id, workspace_id, version, checked_at, differences, error)
               SELECT d.id, d.project_id, d.workspace_id, d.version, now() - $3 * interval '1 second', $4, $5
                 FROM tenant_databases d WHERE d.id = $1 AND d.version = $2
               ON CONFLICT (database_id) DO UPDATE SET version = EXCLUDED.version, checked_at = EXCLUDED.checked_at,
                   differences = EXCLUDED.differences, error = EXCLUDED.error";
    let (id, ago) = (database.as_uuid(), ago.as_secs_f64());
    tx.execute(sql, &[&id, &number(version)?, &ago, &differences, &error])
        .await?;
    let answered = "UPDATE tenant_databases SET drift_asked_at = NULL
                     WHERE id = $1 AND drift_asked_at <= now() - $2 * interval '1 second'";
    tx.execute(answered, &[&id, &ago]).await?;
    Ok(())
}
