//! Settings of workspaces (column `workspaces.settings`), and whether the tenants' databases have them yet.

use std::time::Duration;

use serde_json::{Value, json};
use tdb_names::{DatabaseId, ServerName, TenantName, WorkspaceId};
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::physical::{self, Physical};
use crate::row::{column, count, parsed, total, words};
use crate::tx::Tx;

words! {
    /// Whether a tenant's own role may change its schema.
    TenantDdl {
        /// The owner role may change the schema.
        Allow = "allow",
        /// Only deployments change the schema.
        Deny = "deny",
    }
}

words! {
    /// Which version a new tenant gets if the request names none.
    NewTenants {
        /// The current schema of the workspace.
        Head = "head",
        /// The newest version that a tenant has.
        Deployed = "deployed",
    }
}

/// The settings of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether tenants may change their schema.
    pub tenant_ddl: TenantDdl,
    /// Which version new tenants get.
    pub new_tenants: NewTenants,
}

/// A tenant database that the caller has claimed, to apply the setting to it.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The database and its roles.
    pub physical: Physical,
    /// The setting to apply.
    pub wanted: TenantDdl,
    /// How many attempts were started since the last success, including this one.
    pub attempts: u32,
}

/// A tenant whose database does not have the setting yet.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The tenant.
    pub tenant: TenantName,
    /// How many attempts were started since the last success.
    pub attempts: u32,
    /// The last attempt's error.
    pub error: Option<String>,
}

/// The default settings.
const TENANT_DDL: &str = "coalesce(w.settings->>'tenant_ddl', 'allow')";
const NEW_TENANTS: &str = "coalesce(w.settings->>'new_tenants', 'head')";
/// Restricts to tenants that are not deleted: a deleted one gets the setting when it is restored.
const THERE: &str = "d.status = 'ready' AND t.status IN ('ready', 'suspended')";

/// The settings of a workspace; `None` if it does not exist.
pub async fn of(tx: &Tx, workspace: WorkspaceId) -> Result<Option<Settings>, StoreError> {
    let sql =
        format!("SELECT {TENANT_DDL} AS tenant_ddl, {NEW_TENANTS} AS new_tenants FROM workspaces w WHERE id = $1");
    let row = tx.query_opt(&sql, &[&workspace.as_uuid()]).await?;
    row.map(|row| {
        Ok(Settings {
            tenant_ddl: parsed(&row, "tenant_ddl")?,
            new_tenants: parsed(&row, "new_tenants")?,
        })
    })
    .transpose()
}

/// Changes the settings that are given. Tenant databases that differ become due.
pub async fn change(
    tx: &Tx,
    workspace: WorkspaceId,
    tenant_ddl: Option<TenantDdl>,
    new_tenants: Option<NewTenants>,
) -> Result<(), StoreError> {
    let mut given = serde_json::Map::new();
    given.extend(tenant_ddl.map(|word| ("tenant_ddl".to_owned(), json!(word.as_str()))));
    given.extend(new_tenants.map(|word| ("new_tenants".to_owned(), json!(word.as_str()))));
    let sql = "UPDATE workspaces SET settings = settings || $2 WHERE id = $1";
    tx.execute(sql, &[&workspace.as_uuid(), &Value::Object(given)]).await?;
    Ok(())
}

/// Tenant databases to apply the setting to now, of one workspace or of all, at most `limit` per server.
pub async fn due(
    tx: &Tx,
    workspace: Option<WorkspaceId>,
    limit: i64,
) -> Result<Vec<(ServerName, DatabaseId)>, StoreError> {
    let sql = format!(
        "SELECT server, id FROM (
             SELECT p.server, d.id, row_number() OVER (PARTITION BY p.server ORDER BY d.tenant_ddl_not_before, d.tenant) AS place
               FROM tenant_databases d JOIN workspaces w ON w.id = d.workspace_id
               JOIN physical_databases p ON p.tenant_database_id = d.id AND p.part = 'serving'
               JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant
              WHERE ($1::uuid IS NULL OR w.id = $1) AND {THERE} AND d.tenant_ddl IS DISTINCT FROM {TENANT_DDL}
                AND d.tenant_ddl_not_before <= now()) AS due
          WHERE place <= $2 ORDER BY server, place"
    );
    let rows = tx.query(&sql, &[&workspace.map(|id| id.as_uuid()), &limit]).await?;
    rows.iter()
        .map(|row| Ok((parsed(row, "server")?, DatabaseId::from_uuid(column(row, "id")?))))
        .collect()
}

/// Claims a tenant database for `lease`. Its setting counts as unknown until a result is recorded. `None` if it has the
/// setting already, or if another process has claimed it.
pub async fn claim(tx: &Tx, id: DatabaseId, lease: Duration) -> Result<Option<Claimed>, StoreError> {
    let sql = format!(
        "UPDATE tenant_databases d SET tenant_ddl = NULL, tenant_ddl_attempts = tenant_ddl_attempts + 1,
                                       tenant_ddl_not_before = now() + $2 * interval '1 second'
           FROM workspaces w, physical_databases p, postgres_databases g
          WHERE d.id = $1 AND w.id = d.workspace_id AND p.tenant_database_id = d.id AND p.part = 'serving' AND g.id = p.id AND d.tenant_ddl IS DISTINCT FROM {TENANT_DDL} AND d.tenant_ddl_not_before <= now()
      RETURNING {TENANT_DDL} AS wanted, d.tenant_ddl_attempts, {}",
        physical::COLUMNS
    );
    let row = tx.query_opt(&sql, &[&id.as_uuid(), &lease.as_secs_f64()]).await?;
    row.map(|row| {
        Ok(Claimed {
            physical: Physical::from_row(&row)?,
            wanted: parsed(&row, "wanted")?,
            attempts: count(&row, "tenant_ddl_attempts")?,
        })
    })
    .transpose()
}

/// The setting that a database is to have, if it does not have it; in every state of its tenant.
pub async fn lacking(tx: &Tx, id: DatabaseId) -> Result<Option<TenantDdl>, StoreError> {
    let sql = format!(
        "SELECT {TENANT_DDL} AS wanted FROM tenant_databases d JOIN workspaces w ON w.id = d.workspace_id
          WHERE d.id = $1 AND d.tenant_ddl IS DISTINCT FROM {TENANT_DDL}"
    );
    let row = tx.query_opt(&sql, &[&id.as_uuid()]).await?;
    row.map(|row| parsed(&row, "wanted")).transpose()
}

/// Records that a claimed database has the setting. If the workspace's setting changed meanwhile, the database is due
/// again. Does nothing if another attempt has claimed it since.
pub async fn record_claimed(tx: &Tx, id: DatabaseId, claimed: &Claimed) -> Result<(), StoreError> {
    let sql = "UPDATE tenant_databases SET tenant_ddl = $2, tenant_ddl_attempts = 0, tenant_ddl_error = NULL,
                      tenant_ddl_not_before = now() WHERE id = $1 AND tenant_ddl IS NULL AND tenant_ddl_attempts = $3";
    let attempts = crate::row::number(claimed.attempts)?;
    tx.execute(sql, &[&id.as_uuid(), &claimed.wanted.as_str(), &attempts])
        .await?;
    Ok(())
}

/// Records the setting of a database that no client can connect to.
pub async fn record(tx: &Tx, id: DatabaseId, has: TenantDdl) -> Result<(), StoreError> {
    let sql = "UPDATE tenant_databases SET tenant_ddl = $2, tenant_ddl_attempts = 0, tenant_ddl_error = NULL,
                      tenant_ddl_not_before = now() WHERE id = $1";
    tx.execute(sql, &[&id.as_uuid(), &has.as_str()]).await?;
    Ok(())
}

/// Records a failed attempt. The next one is made after `pause`.
pub async fn record_failure(tx: &Tx, id: DatabaseId, error: &str, pause: Duration) -> Result<(), StoreError> {
    let sql =
        "UPDATE tenant_databases SET tenant_ddl_error = $2, tenant_ddl_not_before = now() + $3 * interval '1 second'
               WHERE id = $1";
    tx.execute(sql, &[&id.as_uuid(), &error, &pause.as_secs_f64()]).await?;
    Ok(())
}

/// The number of a workspace's tenants, and of those that do not have the setting yet; of the latter, at most `limit`,
/// by name.
pub async fn waiting(tx: &Tx, workspace: WorkspaceId, limit: i64) -> Result<(Counts, Vec<Waiting>), StoreError> {
    let from = format!(
        "FROM tenant_databases d JOIN workspaces w ON w.id = d.workspace_id
           JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant WHERE w.id = $1 AND {THERE}"
    );
    let sql = format!(
        "SELECT count(*) AS tenants, count(*) FILTER (WHERE d.tenant_ddl IS DISTINCT FROM {TENANT_DDL}) AS waiting {from}"
    );
    let row = tx.query_one(&sql, &[&workspace.as_uuid()]).await?;
    let counts = Counts {
        tenants: total(&row, "tenants")?,
        waiting: total(&row, "waiting")?,
    };
    let sql = format!(
        "SELECT d.tenant, d.tenant_ddl_attempts, d.tenant_ddl_error {from} AND d.tenant_ddl IS DISTINCT FROM {TENANT_DDL}
          ORDER BY d.tenant LIMIT $2"
    );
    let rows = tx.query(&sql, &[&workspace.as_uuid(), &limit]).await?;
    let one = |row: &Row| {
        Ok(Waiting {
            tenant: parsed(row, "tenant")?,
            attempts: count(row, "tenant_ddl_attempts")?,
            error: column(row, "tenant_ddl_error")?,
        })
    };
    Ok((counts, rows.iter().map(one).collect::<Result<_, StoreError>>()?))
}

/// How many tenants have a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All tenants that are not deleted.
    pub tenants: u32,
    /// Those that do not have the setting yet.
    pub waiting: u32,
}
