//! Tables `drift_checks` and `workspace_drift_checks`: what the last look at each tenant database found, against the version
//! that it had then, and what the last look at each workspace found, against its changes; and which databases somebody asked
//! to have looked at.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tdb_names::{BlueprintName, DatabaseId, ProjectId, ServerName, TenantName, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::row::{column, count, number, parsed, total};
use crate::tx::Tx;

/// One object that is not what the version says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub object: String,
    /// None: the version does not have it.
    pub expected: Option<String>,
    /// None: the tenant does not have it.
    pub found: Option<String>,
}

/// A look that found something, or that could not be taken.
#[derive(Clone, Debug)]
pub struct CheckRow {
    pub tenant: TenantName,
    pub blueprint: BlueprintName,
    pub version: u32,
    pub checked_at: OffsetDateTime,
    pub found: Result<Vec<Difference>, String>,
}

/// A look at a workspace that found what no change accounts for.
#[derive(Clone, Debug)]
pub struct WorkspaceCheckRow {
    pub blueprint: BlueprintName,
    pub differences: Vec<Difference>,
}

/// How far the looks at the databases of a report have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Databases that are looked at: of tenants that are not deleted and not between two versions.
    pub databases: u32,
    /// Of these: not looked at since they have their version, or since somebody asked.
    pub pending: u32,
    /// The oldest of the looks that count.
    pub oldest: Option<OffsetDateTime>,
}

/// Deleted tenants are left alone; what a tenant between two versions lacks is said by its deployment.
const SETTLED: &str = "d.status = 'ready' AND t.status IN ('ready', 'suspended') AND d.version IS NOT NULL
    AND NOT EXISTS (SELECT FROM deployment_targets g WHERE g.database_id = d.id AND g.to_version > d.version
                       AND g.status IN ('pending', 'running', 'retrying', 'failed'))";
const FROM: &str = "FROM tenant_databases d JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant
    LEFT JOIN drift_checks c ON c.database_id = d.id";
/// A look at another version says nothing about this one.
const CURRENT: &str = "c.version IS NOT DISTINCT FROM d.version";

/// Of one blueprint, or of all: looks that found something, by blueprint and tenant, and how far it is.
pub async fn report(
    tx: &Tx,
    project: &ProjectId,
    blueprint: Option<&BlueprintName>,
) -> Result<(Vec<CheckRow>, Progress), StoreError> {
    let blueprint = blueprint.map(BlueprintName::as_str);
    let mine = format!("{FROM} WHERE d.project_id = $1 AND ($2::text IS NULL OR d.blueprint = $2) AND {SETTLED}");
    let sql = format!(
        "SELECT d.tenant, d.blueprint, c.version, c.checked_at, c.differences, c.error {mine} AND {CURRENT}
            AND (c.error IS NOT NULL OR c.differences <> '[]') ORDER BY d.blueprint, d.tenant"
    );
    let rows = tx.query(&sql, &[&project.as_str(), &blueprint]).await?;
    let found = rows.iter().map(check).collect::<Result<Vec<_>, _>>()?;
    let sql = format!(
        "SELECT count(*) AS databases, count(*) FILTER (WHERE NOT {CURRENT} OR d.drift_asked_at IS NOT NULL) AS pending,
                min(c.checked_at) FILTER (WHERE {CURRENT}) AS oldest {mine}"
    );
    let row = tx.query_one(&sql, &[&project.as_str(), &blueprint]).await?;
    let progress = Progress {
        databases: total(&row, "databases")?,
        pending: total(&row, "pending")?,
        oldest: column(&row, "oldest")?,
    };
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

/// Of one blueprint's workspace, or of all: looks that found something, by name, and how many wait for one that was asked for.
pub async fn workspaces(
    tx: &Tx,
    project: &ProjectId,
    blueprint: Option<&BlueprintName>,
) -> Result<(Vec<WorkspaceCheckRow>, u32), StoreError> {
    let blueprint = blueprint.map(BlueprintName::as_str);
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
    let sql = "SELECT count(*) AS n FROM workspaces WHERE project_id = $1 AND ($2::text IS NULL OR blueprint = $2)
                  AND status = 'ready' AND drift_asked_at IS NOT NULL";
    let row = tx.query_one(sql, &[&project.as_str(), &blueprint]).await?;
    Ok((found, total(&row, "n")?))
}

/// Has the databases of one blueprint, or of all, looked at, and the workspace of each; gives how many tenants.
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

/// Which databases are due.
#[derive(Clone, Copy, Debug)]
pub enum Due {
    /// Those that somebody asked for.
    Asked,
    /// Those that have a version which nobody has looked at, and those whose look is so old.
    Since(Duration),
}

/// The ones that wait longest, at most `limit` per server.
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

/// Workspaces that are due, those that wait longest first, at most `limit` per server.
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

/// As [`record`], for a workspace. None: it could not be looked at, and what the look before found stays.
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

/// Stores what a look found that began `ago`; nothing where the database has another version by now. Who asked since then
/// still waits.
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
