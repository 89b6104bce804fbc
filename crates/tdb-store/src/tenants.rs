//! Tables `tenants` and `tenant_databases`. A tenant's status says whether clients may connect; that of a database,
//! whether it exists.

use std::time::Duration;

use tdb_names::{BlueprintName, DatabaseId, ProjectId, TenantName, UserName, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::error::StoreError;
use crate::physical::{self, DatabaseKind, Physical, StepProgress};
use crate::row::{column, count, number, parsed, words};
use crate::tx::Tx;

words! {
    /// Whether clients may connect.
    TenantStatus {
        /// Clients may connect.
        Ready = "ready",
        /// Clients are refused; its databases are kept.
        Suspended = "suspended",
        /// Soft-deleted: clients are refused, and it can be restored.
        Deleted = "deleted",
        /// Its databases are being dropped; it cannot be restored.
        Deleting = "deleting",
    }
}

words! {
    /// Whether a tenant database exists.
    DatabaseStatus {
        /// It is being created.
        Provisioning = "provisioning",
        /// It exists.
        Ready = "ready",
        /// It is being dropped.
        Deleting = "deleting",
    }
}

words! {
    /// Whether the server accepts connections to a tenant database.
    DatabaseAccess {
        /// It accepts connections.
        Open = "open",
        /// It is being opened or closed, or that was interrupted.
        Changing = "changing",
        /// It refuses connections.
        Closed = "closed",
    }
}

/// The work that is left on a database `d` of a tenant `t`: it is being created or dropped, or has to be closed or opened.
pub(crate) const UNFINISHED: &str = "(d.status <> 'ready' OR t.status = 'deleting' \
                                      OR d.access <> CASE t.status WHEN 'deleted' THEN 'closed' ELSE 'open' END)";

/// A tenant.
#[derive(Clone, Debug)]
pub struct TenantRow {
    /// The tenant's name, unique within the project.
    pub name: TenantName,
    /// Whether clients may connect.
    pub status: TenantStatus,
    /// A label such as `production`, set at creation.
    pub environment: String,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// After this many failed attempts, the creation of a database is shown as an error. Attempts continue.
pub const ATTEMPTS_SHOWN_AS_ERROR: u32 = 3;

/// The database that a tenant has of a blueprint.
#[derive(Clone, Debug)]
pub struct TenantDatabaseRow {
    /// Its id.
    pub id: DatabaseId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// The tenant.
    pub tenant: TenantName,
    /// The blueprint it was created from.
    pub blueprint: BlueprintName,
    /// The blueprint's workspace.
    pub workspace: WorkspaceId,
    /// Whether it exists.
    pub status: DatabaseStatus,
    /// Whether the server accepts connections to it, if it exists.
    pub access: DatabaseAccess,
    /// The version that it has, or will have once it is created.
    pub version: Option<u32>,
    /// The version that was requested; `None` for the default.
    pub wanted_version: Option<u32>,
    /// The template that it is cloned from, once that is chosen.
    pub template: Option<Uuid>,
    /// The database and its roles.
    pub physical: Physical,
    /// How far its creation or deletion is.
    pub progress: StepProgress,
    /// When its creation was requested.
    pub created_at: OffsetDateTime,
}

/// A tenant database with the properties of its tenant that lists and deployments need.
#[derive(Clone, Debug)]
pub struct FleetRow {
    /// The database.
    pub database: TenantDatabaseRow,
    /// Whether the tenant's clients may connect.
    pub tenant_status: TenantStatus,
    /// Whether a deployment is currently running on it.
    pub migrating: bool,
}

impl TenantRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            name: parsed(row, "name")?,
            status: parsed(row, "status")?,
            environment: column(row, "environment")?,
            created_at: column(row, "created_at")?,
        })
    }
}

impl TenantDatabaseRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let optional = |name: &str| -> Result<Option<u32>, StoreError> {
            let value: Option<i32> = column(row, name)?;
            value.map(|_| count(row, name)).transpose()
        };
        Ok(Self {
            id: DatabaseId::from_uuid(column(row, "id")?),
            project: parsed(row, "project_id")?,
            tenant: parsed(row, "tenant")?,
            blueprint: parsed(row, "blueprint")?,
            workspace: WorkspaceId::from_uuid(column(row, "workspace_id")?),
            status: parsed(row, "status")?,
            access: parsed(row, "access")?,
            version: optional("version")?,
            wanted_version: optional("wanted_version")?,
            template: column(row, "template_id")?,
            physical: Physical::from_row(row)?,
            progress: StepProgress::from_row(row)?,
            created_at: column(row, "created_at")?,
        })
    }
}

/// Stores a tenant. False if the project has a tenant of this name.
pub async fn insert(tx: &Tx, project: &ProjectId, name: &TenantName, environment: &str) -> Result<bool, StoreError> {
    let sql = "INSERT INTO tenants (project_id, name, status, environment) VALUES ($1, $2, 'ready', $3)
               ON CONFLICT (project_id, name) DO NOTHING";
    Ok(tx
        .execute(sql, &[&project.as_str(), &name.as_str(), &environment])
        .await?
        == 1)
}

/// The tenant, locked until the end of the transaction, so that its databases and its status are changed by one
/// transaction at a time.
pub async fn lock(tx: &Tx, project: &ProjectId, name: &TenantName) -> Result<Option<TenantRow>, StoreError> {
    let sql =
        "SELECT name, status, environment, created_at FROM tenants WHERE project_id = $1 AND name = $2 FOR UPDATE";
    let row = tx.query_opt(sql, &[&project.as_str(), &name.as_str()]).await?;
    row.as_ref().map(TenantRow::from_row).transpose()
}

/// The tenant of this name, if the project has it.
pub async fn by_name(tx: &Tx, project: &ProjectId, name: &TenantName) -> Result<Option<TenantRow>, StoreError> {
    let sql = "SELECT name, status, environment, created_at FROM tenants WHERE project_id = $1 AND name = $2";
    let row = tx.query_opt(sql, &[&project.as_str(), &name.as_str()]).await?;
    row.as_ref().map(TenantRow::from_row).transpose()
}

/// Tenants after `after`, by name, at most `limit`.
pub async fn list(
    tx: &Tx,
    project: &ProjectId,
    after: Option<&TenantName>,
    limit: i64,
) -> Result<Vec<TenantRow>, StoreError> {
    let sql = "SELECT name, status, environment, created_at FROM tenants
               WHERE project_id = $1 AND ($2::text IS NULL OR name COLLATE \"C\" > $2) ORDER BY name COLLATE \"C\" LIMIT $3";
    let after = after.map(TenantName::as_str);
    let rows = tx.query(sql, &[&project.as_str(), &after, &limit]).await?;
    rows.iter().map(TenantRow::from_row).collect()
}

/// Changes the status if it is the expected one, along the allowed transitions: ready ⇄ suspended, both → deleted →
/// ready, all → deleting.
pub async fn change_status(
    tx: &Tx,
    project: &ProjectId,
    name: &TenantName,
    from: &[TenantStatus],
    to: TenantStatus,
) -> Result<bool, StoreError> {
    let from: Vec<&str> = from.iter().map(|status| status.as_str()).collect();
    let sql = "UPDATE tenants SET status = $4, deleted_at = CASE WHEN $4 = 'deleted' THEN now() END
               WHERE project_id = $1 AND name = $2 AND status = ANY ($3)";
    let changed = tx
        .execute(sql, &[&project.as_str(), &name.as_str(), &from, &to.as_str()])
        .await?;
    Ok(changed == 1)
}

/// Removes the row of a tenant that is being deleted.
pub async fn delete(tx: &Tx, project: &ProjectId, name: &TenantName) -> Result<(), StoreError> {
    let sql = "DELETE FROM tenants WHERE project_id = $1 AND name = $2 AND status = 'deleting'";
    tx.execute(sql, &[&project.as_str(), &name.as_str()]).await?;
    Ok(())
}

/// Tenants that are being deleted and have no databases left.
pub async fn deleting(tx: &Tx) -> Result<Vec<(ProjectId, TenantName)>, StoreError> {
    let sql = "SELECT project_id, name FROM tenants t WHERE status = 'deleting'
                  AND NOT EXISTS (SELECT FROM tenant_databases d WHERE d.project_id = t.project_id AND d.tenant = t.name)
                ORDER BY created_at LIMIT 100";
    let rows = tx.query(sql, &[]).await?;
    rows.iter()
        .map(|row| Ok((parsed(row, "project_id")?, parsed(row, "name")?)))
        .collect()
}

fn select_databases(rest: &str) -> String {
    format!(
        "SELECT d.id, d.project_id, d.tenant, d.blueprint, d.workspace_id, d.status, d.access, d.version, d.wanted_version, d.template_id,
                d.step, d.attempts, d.last_error, d.created_at, t.status AS tenant_status, {},
                EXISTS (SELECT FROM deployment_targets g WHERE g.database_id = d.id AND g.status = 'running') AS migrating
           FROM tenant_databases d JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant {} {rest}",
        physical::COLUMNS,
        physical::join(DatabaseKind::TenantDatabase, "d")
    )
}

async fn databases(tx: &Tx, rest: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<FleetRow>, StoreError> {
    let rows = tx.query(&select_databases(rest), parameters).await?;
    let row = |row: &Row| {
        Ok(FleetRow {
            database: TenantDatabaseRow::from_row(row)?,
            tenant_status: parsed(row, "tenant_status")?,
            migrating: column(row, "migrating")?,
        })
    };
    rows.iter().map(row).collect()
}

/// Stores the row of a database before the database is created. False if the tenant has one of this blueprint.
pub async fn insert_database(tx: &Tx, database: &NewDatabase<'_>) -> Result<bool, StoreError> {
    let sql =
        "INSERT INTO tenant_databases (id, project_id, tenant, blueprint, workspace_id, wanted_version, status, step)
               VALUES ($1, $2, $3, $4, $5, $6, 'provisioning', 'intent')
               ON CONFLICT (project_id, tenant, blueprint) DO NOTHING";
    let wanted = database.wanted_version.map(number).transpose()?;
    let parameters: [&(dyn ToSql + Sync); 6] = [
        &database.id.as_uuid(),
        &database.project.as_str(),
        &database.tenant.as_str(),
        &database.blueprint.as_str(),
        &database.workspace.as_uuid(),
        &wanted,
    ];
    if tx.execute(sql, &parameters).await? == 0 {
        return Ok(false);
    }
    let id = database.id.as_uuid();
    physical::insert(
        tx,
        database.project,
        DatabaseKind::TenantDatabase,
        id,
        database.physical,
    )
    .await?;
    Ok(true)
}

/// A tenant database to be created.
#[derive(Clone, Copy, Debug)]
pub struct NewDatabase<'a> {
    /// Its id.
    pub id: DatabaseId,
    /// The project it belongs to.
    pub project: &'a ProjectId,
    /// The tenant.
    pub tenant: &'a TenantName,
    /// The blueprint to create it from.
    pub blueprint: &'a BlueprintName,
    /// The blueprint's workspace.
    pub workspace: WorkspaceId,
    /// The version that was requested; `None` for the default.
    pub wanted_version: Option<u32>,
    /// Its planned server and roles.
    pub physical: &'a Physical,
}

/// The tenant database with this id.
pub async fn database(tx: &Tx, id: DatabaseId) -> Result<Option<FleetRow>, StoreError> {
    Ok(databases(tx, "WHERE d.id = $1", &[&id.as_uuid()]).await?.pop())
}

/// All databases of a tenant.
pub async fn of_tenant(tx: &Tx, project: &ProjectId, tenant: &TenantName) -> Result<Vec<FleetRow>, StoreError> {
    let rest = "WHERE d.project_id = $1 AND d.tenant = $2 ORDER BY d.blueprint";
    databases(tx, rest, &[&project.as_str(), &tenant.as_str()]).await
}

/// All databases of these tenants.
pub async fn of_tenants(tx: &Tx, project: &ProjectId, tenants: &[String]) -> Result<Vec<FleetRow>, StoreError> {
    let rest = "WHERE d.project_id = $1 AND d.tenant = ANY ($2) ORDER BY d.tenant, d.blueprint";
    databases(tx, rest, &[&project.as_str(), &tenants]).await
}

/// The tenant databases of a blueprint, in every state, by tenant.
pub async fn of_blueprint(
    tx: &Tx,
    project: &ProjectId,
    blueprint: &BlueprintName,
) -> Result<Vec<FleetRow>, StoreError> {
    let rest = "WHERE d.project_id = $1 AND d.blueprint = $2 ORDER BY d.tenant";
    databases(tx, rest, &[&project.as_str(), &blueprint.as_str()]).await
}

/// Tenants that are not deleted, each with the versions of its databases of these blueprints, by tenant.
pub async fn deployed_to(
    tx: &Tx,
    workspaces: &[WorkspaceId],
) -> Result<Vec<(WorkspaceId, TenantName, u32)>, StoreError> {
    let ids: Vec<Uuid> = workspaces.iter().map(|id| id.as_uuid()).collect();
    let sql = "SELECT d.workspace_id, d.tenant, coalesce(d.version, 1) AS version FROM tenant_databases d
                 JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant
                WHERE d.workspace_id = ANY ($1) AND d.status = 'ready' AND t.status IN ('ready', 'suspended')
                ORDER BY d.tenant COLLATE \"C\"";
    let rows = tx.query(sql, &[&ids]).await?;
    let one = |row: &Row| {
        let workspace = WorkspaceId::from_uuid(column(row, "workspace_id")?);
        Ok((workspace, parsed(row, "tenant")?, count(row, "version")?))
    };
    rows.iter().map(one).collect()
}

/// Databases with unfinished work that no process works on.
pub async fn unfinished(tx: &Tx) -> Result<Vec<FleetRow>, StoreError> {
    let rest = format!(
        "WHERE {UNFINISHED} AND d.not_before <= now()
           AND NOT EXISTS (SELECT FROM leases l WHERE l.name = 'database:' || d.id AND l.lease_until > now())
         ORDER BY d.created_at LIMIT 200"
    );
    databases(tx, &rest, &[]).await
}

/// Leaves the existing databases of a tenant to the caller: workers do not close or open them for `pause`.
pub async fn defer(tx: &Tx, project: &ProjectId, tenant: &TenantName, pause: Duration) -> Result<(), StoreError> {
    let sql = "UPDATE tenant_databases SET not_before = now() + $3 * interval '1 second'
                WHERE project_id = $1 AND tenant = $2 AND status = 'ready'";
    tx.execute(sql, &[&project.as_str(), &tenant.as_str(), &pause.as_secs_f64()])
        .await?;
    Ok(())
}

/// Records that a database is going to be closed or opened, or that it is.
pub async fn set_access(tx: &Tx, id: DatabaseId, access: DatabaseAccess) -> Result<(), StoreError> {
    let sql = match access {
        DatabaseAccess::Changing => "UPDATE tenant_databases SET access = $2 WHERE id = $1 AND status = 'ready'",
        DatabaseAccess::Open | DatabaseAccess::Closed => {
            "UPDATE tenant_databases SET access = $2, attempts = 0, last_error = NULL WHERE id = $1 AND status = 'ready'"
        }
    };
    tx.execute(sql, &[&id.as_uuid(), &access.as_str()]).await?;
    Ok(())
}

/// Sets the template that a database is cloned from, and with it the version. False if it is not being created any
/// more.
pub async fn choose_template(tx: &Tx, id: DatabaseId, template: Uuid, version: u32) -> Result<bool, StoreError> {
    let sql = "UPDATE tenant_databases SET template_id = $2, version = $3
               WHERE id = $1 AND status = 'provisioning'
                 AND EXISTS (SELECT FROM templates WHERE id = $2 AND status = 'published' FOR SHARE)";
    Ok(tx.execute(sql, &[&id.as_uuid(), &template, &number(version)?]).await? == 1)
}

/// Moves a spare to a tenant database that is being created, under the tenant database's future name. The spare's row
/// loses its database and is deleted.
pub async fn take_over(tx: &Tx, id: DatabaseId, spare: Uuid, name: &str) -> Result<(), StoreError> {
    physical::give_to_tenant(tx, spare, id.as_uuid(), name).await?;
    crate::templates::delete(tx, spare).await?;
    tx.execute(
        "UPDATE tenant_databases SET step = 'adopted' WHERE id = $1",
        &[&id.as_uuid()],
    )
    .await?;
    Ok(())
}

/// Records why a tenant gets another version than the current schema, for the response to its creation.
pub async fn set_warning(tx: &Tx, id: DatabaseId, warning: &str) -> Result<(), StoreError> {
    let sql = "UPDATE tenant_databases SET warning = $2 WHERE id = $1";
    tx.execute(sql, &[&id.as_uuid(), &warning]).await?;
    Ok(())
}

/// The warnings of these databases, in the order of `ids`.
pub async fn warnings(tx: &Tx, ids: &[DatabaseId]) -> Result<Vec<String>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    let sql = "SELECT d.warning FROM unnest($1::uuid[]) WITH ORDINALITY AS asked(id, n) JOIN tenant_databases d ON d.id = asked.id
                WHERE d.warning IS NOT NULL ORDER BY asked.n";
    let rows = tx.query(sql, &[&ids]).await?;
    rows.iter().map(|row| column(row, "warning")).collect()
}

/// Ends the creation of a database. False if it was not being created.
pub async fn set_ready(tx: &Tx, id: DatabaseId) -> Result<bool, StoreError> {
    let sql = "UPDATE tenant_databases SET status = 'ready', step = 'ready', attempts = 0, last_error = NULL, template_id = NULL
               WHERE id = $1 AND status = 'provisioning'";
    Ok(tx.execute(sql, &[&id.as_uuid()]).await? == 1)
}

/// Marks all databases of a tenant to be dropped.
pub async fn set_deleting(tx: &Tx, project: &ProjectId, tenant: &TenantName) -> Result<(), StoreError> {
    let sql = "UPDATE tenant_databases SET status = 'deleting', step = 'deleting', attempts = 0, last_error = NULL, not_before = now()
               WHERE project_id = $1 AND tenant = $2";
    tx.execute(sql, &[&project.as_str(), &tenant.as_str()]).await?;
    Ok(())
}

/// Records the version that a database has.
pub async fn set_version(tx: &Tx, id: DatabaseId, version: u32) -> Result<(), StoreError> {
    let sql = "UPDATE tenant_databases SET version = $2 WHERE id = $1";
    tx.execute(sql, &[&id.as_uuid(), &number(version)?]).await?;
    Ok(())
}

/// Deletes the row of a database that no longer exists.
pub async fn delete_database(tx: &Tx, id: DatabaseId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM tenant_databases WHERE id = $1", &[&id.as_uuid()])
        .await?;
    Ok(())
}

/// The user name of each tenant's oldest credential.
pub async fn users(
    tx: &Tx,
    project: &ProjectId,
    tenants: &[String],
) -> Result<Vec<(TenantName, UserName)>, StoreError> {
    let sql = "SELECT DISTINCT ON (tenant) tenant, user_name FROM credentials
               WHERE project_id = $1 AND tenant = ANY ($2) ORDER BY tenant, created_at, id";
    let rows = tx.query(sql, &[&project.as_str(), &tenants]).await?;
    rows.iter()
        .map(|row| Ok((parsed(row, "tenant")?, parsed(row, "user_name")?)))
        .collect()
}
