//! Table `database_roles`: what the read-only role of each database may read, and whether clients have changed its
//! roles.

use std::collections::HashMap;
use std::time::Duration;

use tdb_names::{ProjectId, ServerName};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::error::StoreError;
use crate::physical::{self, DatabaseKind, Physical};
use crate::row::{column, count, parsed, words};
use crate::tx::Tx;

words! {
    /// What the read-only role of a database may read.
    Readers {
        /// Everything on the server, by `pg_read_all_data`, which older programs granted. It is to be revoked.
        Old = "old",
        /// Nothing: no read-only credential covers the database, or none did so yet.
        None = "none",
        /// The tables of the role's database.
        Admitted = "admitted",
    }
}

/// The roles of one database, and what is to be done about them.
#[derive(Clone, Debug)]
pub struct DatabaseRoles {
    /// The id of the workspace, tenant database or template.
    pub id: Uuid,
    /// The project it belongs to.
    pub project: ProjectId,
    /// Where the database is, and its roles' names.
    pub physical: Physical,
    /// What the read-only role may read now.
    pub readers: Readers,
    /// Whether a read-only credential covers the database.
    pub wanted: bool,
    /// Whether clients or the control plane log in to the database now.
    pub there: bool,
    /// How many attempts to grant access failed since the last success.
    pub attempts: u32,
    /// The last deviation from the roles' intended settings that was seen and not yet repaired.
    pub fault: Option<String>,
}

const READ_ONLY: &str =
    "SELECT FROM credentials c WHERE c.rights = 'ro' AND (c.expires_at IS NULL OR c.expires_at > now())";

fn select(rest: &str) -> String {
    let columns = physical::COLUMNS;
    let [tenant_database, workspace, template] = [
        (DatabaseKind::TenantDatabase, "d"),
        (DatabaseKind::Workspace, "w"),
        (DatabaseKind::Template, "b"),
    ]
    .map(|(kind, alias)| physical::join(kind, alias));
    format!(
        "SELECT x.*, coalesce(r.readers, 'none') AS readers, coalesce(r.attempts, 0) AS attempts, r.fault FROM (
             SELECT d.id, d.project_id, {columns},
                    EXISTS ({READ_ONLY} AND c.project_id = d.project_id
                               AND (c.scope = 'project' OR c.scope = 'tenant' AND c.tenant = d.tenant)) AS wanted,
                    d.status = 'ready' AND t.status IN ('ready', 'suspended') AS there
               FROM tenant_databases d JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant {tenant_database}
             UNION ALL
             SELECT w.id, w.project_id, {columns},
                    EXISTS ({READ_ONLY} AND c.project_id = w.project_id
                               AND (c.scope = 'project' OR c.scope = 'workspace' AND c.blueprint = w.blueprint)),
                    w.status = 'ready'
               FROM workspaces w {workspace}
             UNION ALL
             SELECT b.id, b.project_id, {columns}, false, b.status IN ('building', 'spare') AND b.step = 'adopted'
               FROM templates b {template}) AS x
           LEFT JOIN database_roles r ON r.database_id = x.id {rest}"
    )
}

impl DatabaseRoles {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: column(row, "id")?,
            project: parsed(row, "project_id")?,
            physical: Physical::from_row(row)?,
            readers: parsed(row, "readers")?,
            wanted: column(row, "wanted")?,
            there: column(row, "there")?,
            attempts: count(row, "attempts")?,
            fault: column(row, "fault")?,
        })
    }

    /// What the read-only role should be able to read, if that differs from the current state.
    pub fn due(&self) -> Option<Readers> {
        match (self.readers, self.wanted) {
            (Readers::Admitted, _) | (Readers::None, false) => None,
            (Readers::Old, false) => Some(Readers::None),
            (Readers::Old | Readers::None, true) => Some(Readers::Admitted),
        }
    }
}

async fn rows(tx: &Tx, rest: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<DatabaseRoles>, StoreError> {
    let rows = tx.query(&select(rest), parameters).await?;
    rows.iter().map(DatabaseRoles::from_row).collect()
}

/// Databases whose grants are to be changed now, of one project or of all, at most `limit`.
pub async fn due(tx: &Tx, project: Option<&ProjectId>, limit: i64) -> Result<Vec<DatabaseRoles>, StoreError> {
    let rest = "WHERE ($1::text IS NULL OR x.project_id = $1) AND x.there
                  AND (r.readers = 'old' AND NOT EXISTS (SELECT FROM templates b WHERE b.id = x.id) OR x.wanted AND r.readers IS DISTINCT FROM 'admitted')
                  AND coalesce(r.not_before <= now(), true)
                ORDER BY r.not_before NULLS FIRST LIMIT $2";
    rows(tx, rest, &[&project.map(ProjectId::as_str), &limit]).await
}

/// The roles of the workspace, tenant database or template with this id.
pub async fn by_id(tx: &Tx, id: Uuid) -> Result<Option<DatabaseRoles>, StoreError> {
    Ok(rows(tx, "WHERE x.id = $1", &[&id]).await?.pop())
}

/// The roles of all databases of a server that are in use.
pub async fn on_server(tx: &Tx, server: &ServerName) -> Result<Vec<DatabaseRoles>, StoreError> {
    rows(tx, "WHERE x.server = $1 AND x.there", &[&server.as_str()]).await
}

/// Records what the read-only role may read from now on, and resets the count of failures.
pub async fn record_readers(tx: &Tx, of: &DatabaseRoles, readers: Readers) -> Result<(), StoreError> {
    let sql = "INSERT INTO database_roles (database_id, project_id, readers) VALUES ($1, $2, $3)
               ON CONFLICT (database_id) DO UPDATE SET readers = $3, attempts = 0, not_before = now()";
    tx.execute(sql, &[&of.id, &of.project.as_str(), &readers.as_str()])
        .await?;
    Ok(())
}

/// Records a failed attempt to grant access. The next one is made after `pause`.
pub async fn record_failure(tx: &Tx, of: &DatabaseRoles, pause: Duration) -> Result<(), StoreError> {
    let sql = "INSERT INTO database_roles AS r (database_id, project_id, attempts, not_before)
               VALUES ($1, $2, 1, now() + $3 * interval '1 second')
               ON CONFLICT (database_id) DO UPDATE SET attempts = r.attempts + 1, not_before = EXCLUDED.not_before";
    tx.execute(sql, &[&of.id, &of.project.as_str(), &pause.as_secs_f64()])
        .await?;
    Ok(())
}

/// Records that the roles differ from their intended settings.
pub async fn record_fault(tx: &Tx, of: &DatabaseRoles, fault: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO database_roles AS r (database_id, project_id, fault, fault_since) VALUES ($1, $2, $3, now())
               ON CONFLICT (database_id) DO UPDATE SET fault = $3, fault_since = coalesce(r.fault_since, now())";
    tx.execute(sql, &[&of.id, &of.project.as_str(), &fault]).await?;
    Ok(())
}

/// Records that the roles were repaired.
pub async fn record_repair(tx: &Tx, id: Uuid) -> Result<(), StoreError> {
    let sql = "UPDATE database_roles SET fault = NULL, fault_since = NULL, repairs = repairs + 1, repaired_at = now()
               WHERE database_id = $1 AND fault IS NOT NULL";
    tx.execute(sql, &[&id]).await?;
    Ok(())
}

/// The unrepaired faults of a project, by the database's id.
pub async fn faults(tx: &Tx, project: &ProjectId) -> Result<HashMap<Uuid, String>, StoreError> {
    let sql = "SELECT database_id, fault FROM database_roles WHERE project_id = $1 AND fault IS NOT NULL";
    let rows = tx.query(sql, &[&project.as_str()]).await?;
    rows.iter()
        .map(|row| Ok((column(row, "database_id")?, column(row, "fault")?)))
        .collect()
}

/// Deletes rows of databases that no longer exist.
pub async fn forget_gone(tx: &Tx) -> Result<(), StoreError> {
    let sql = "DELETE FROM database_roles r
                WHERE NOT EXISTS (SELECT FROM workspaces w WHERE w.id = r.database_id)
                  AND NOT EXISTS (SELECT FROM tenant_databases d WHERE d.id = r.database_id)
                  AND NOT EXISTS (SELECT FROM templates b WHERE b.id = r.database_id)";
    tx.execute(sql, &[]).await?;
    Ok(())
}
