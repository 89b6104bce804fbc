//! Table `declared_roles`: roles without login that a project's schemas may name.

use tdb_names::{BlueprintName, ProjectId, RoleName, ServerName, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::row::{column, count, parsed};
use crate::tx::Tx;

/// A role that a project has declared.
#[derive(Clone, Debug)]
pub struct DeclaredRoleRow {
    /// What the role is called on every server of the project.
    pub name: RoleName,
    /// When it was declared.
    pub created_at: OffsetDateTime,
    /// Why it is not as declared: a sentence for each server on which it is not.
    pub faults: Vec<String>,
}

/// Why a declared role is not as declared on a server.
#[derive(Clone, Debug)]
pub struct RoleFault {
    /// The declared role.
    pub role: String,
    /// A sentence that names the server.
    pub fault: String,
}

/// A database of a project and its owner, as error messages name them.
#[derive(Clone, Debug)]
pub struct OwnedDatabase {
    /// Where it is.
    pub server: ServerName,
    /// Its object identifier on that server.
    pub oid: u32,
    /// The blueprint it is a database of.
    pub blueprint: BlueprintName,
    /// The tenant it belongs to; none for workspaces and templates.
    pub tenant: Option<String>,
}

/// A role that an owner role is to be a member of.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The declared role.
    pub role: String,
    /// The role that owns the database.
    pub owner: String,
}

fn from_row(row: &Row) -> Result<DeclaredRoleRow, StoreError> {
    Ok(DeclaredRoleRow {
        name: parsed(row, "name")?,
        created_at: column(row, "created_at")?,
        faults: column(row, "faults")?,
    })
}

const COLUMNS: &str = "name, created_at, ARRAY(SELECT f.fault FROM declared_role_faults f
    WHERE f.project_id = declared_roles.project_id AND f.name = declared_roles.name ORDER BY f.server) AS faults";

/// Declares a role; false if the project has declared it before.
pub async fn insert(tx: &Tx, project: &ProjectId, name: &RoleName) -> Result<bool, StoreError> {
    let sql = "INSERT INTO declared_roles (project_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    Ok(tx.execute(sql, &[&project.as_str(), &name.as_str()]).await? == 1)
}

/// The declared role with this name.
pub async fn by_name(tx: &Tx, project: &ProjectId, name: &RoleName) -> Result<Option<DeclaredRoleRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM declared_roles WHERE project_id = $1 AND name = $2");
    let row = tx.query_opt(&sql, &[&project.as_str(), &name.as_str()]).await?;
    row.as_ref().map(from_row).transpose()
}

/// By name: those after `after`, at most `limit`.
pub async fn list(
    tx: &Tx,
    project: &ProjectId,
    after: Option<&RoleName>,
    limit: i64,
) -> Result<Vec<DeclaredRoleRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM declared_roles
          WHERE project_id = $1 AND ($2::text IS NULL OR name COLLATE \"C\" > $2) ORDER BY name COLLATE \"C\" LIMIT $3"
    );
    let after = after.map(RoleName::as_str);
    let rows = tx.query(&sql, &[&project.as_str(), &after, &limit]).await?;
    rows.iter().map(from_row).collect()
}

/// The names alone.
pub async fn names(tx: &Tx, project: &ProjectId) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT name FROM declared_roles WHERE project_id = $1 ORDER BY name";
    let rows = tx.query(sql, &[&project.as_str()]).await?;
    rows.iter().map(|row| column(row, "name")).collect()
}

/// Of the workspace's project.
pub async fn names_of_workspace(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT r.name FROM declared_roles r JOIN workspaces w ON w.project_id = r.project_id WHERE w.id = $1";
    let rows = tx.query(sql, &[&workspace.as_uuid()]).await?;
    rows.iter().map(|row| column(row, "name")).collect()
}

/// Removes the declaration; false if there was none. The role stays on the servers until the sweep drops it.
pub async fn delete(tx: &Tx, project: &ProjectId, name: &RoleName) -> Result<bool, StoreError> {
    let sql = "DELETE FROM declared_roles WHERE project_id = $1 AND name = $2";
    Ok(tx.execute(sql, &[&project.as_str(), &name.as_str()]).await? == 1)
}

/// Changes of the project that name the role and are, or may be, replayed: at most `limit`.
pub async fn changes_naming(
    tx: &Tx,
    project: &ProjectId,
    name: &RoleName,
    limit: i64,
) -> Result<Vec<(BlueprintName, u32)>, StoreError> {
    let sql = "SELECT w.blueprint, c.id FROM changes c JOIN workspaces w ON w.id = c.workspace_id
                WHERE c.project_id = $1 AND c.state = 'pending' AND c.body->'roles' ? $2
                ORDER BY w.blueprint, c.id LIMIT $3";
    let rows = tx.query(sql, &[&project.as_str(), &name.as_str(), &limit]).await?;
    rows.iter()
        .map(|row| Ok((parsed(row, "blueprint")?, count(row, "id")?)))
        .collect()
}

/// Servers on which the project has databases, or is about to.
pub async fn servers(tx: &Tx, project: &ProjectId) -> Result<Vec<ServerName>, StoreError> {
    let sql = "SELECT DISTINCT server FROM physical_databases WHERE project_id = $1 ORDER BY server";
    let rows = tx.query(sql, &[&project.as_str()]).await?;
    rows.iter().map(|row| parsed(row, "server")).collect()
}

/// All databases of the project that were created, those of deleted tenants and of templates too. Not builds: what they
/// replay is in changes.
pub async fn places(tx: &Tx, project: &ProjectId) -> Result<Vec<OwnedDatabase>, StoreError> {
    let sql = "SELECT p.server, g.oid, coalesce(w.blueprint, d.blueprint, v.blueprint) AS blueprint, d.tenant
                 FROM physical_databases p JOIN postgres_databases g ON g.id = p.id AND g.oid IS NOT NULL
                 LEFT JOIN workspaces w ON w.id = p.workspace_id
                 LEFT JOIN tenant_databases d ON d.id = p.tenant_database_id
                 LEFT JOIN templates t ON t.id = p.template_id LEFT JOIN workspaces v ON v.id = t.workspace_id
                WHERE p.project_id = $1 AND (t.id IS NULL OR t.status IN ('publishing', 'published'))
                ORDER BY p.server, blueprint, d.tenant NULLS FIRST";
    let rows = tx.query(sql, &[&project.as_str()]).await?;
    let place = |row: &Row| {
        Ok(OwnedDatabase {
            server: parsed(row, "server")?,
            oid: u32::try_from(column::<i64>(row, "oid")?).map_err(|_| StoreError::corrupt("oid"))?,
            blueprint: parsed(row, "blueprint")?,
            tenant: column(row, "tenant")?,
        })
    };
    rows.iter().map(place).collect()
}

/// Every membership that a server is to have, of all projects.
pub async fn memberships(tx: &Tx, server: &ServerName) -> Result<Vec<Membership>, StoreError> {
    let sql = "SELECT r.name, g.owner_role
                 FROM declared_roles r JOIN physical_databases p ON p.project_id = r.project_id AND p.server = $1
                 JOIN postgres_databases g ON g.id = p.id ORDER BY r.name, g.owner_role";
    let rows = tx.query(sql, &[&server.as_str()]).await?;
    let membership = |row: &Row| {
        Ok(Membership {
            role: column(row, "name")?,
            owner: column(row, "owner_role")?,
        })
    };
    rows.iter().map(membership).collect()
}

/// Replaces the faults of all declared roles on a server.
pub async fn replace_faults(tx: &Tx, server: &ServerName, faults: &[RoleFault]) -> Result<(), StoreError> {
    let roles: Vec<&str> = faults.iter().map(|one| one.role.as_str()).collect();
    let sql = "DELETE FROM declared_role_faults f WHERE server = $1 AND (NOT name = ANY ($2)
                  OR NOT EXISTS (SELECT FROM physical_databases p WHERE p.project_id = f.project_id AND p.server = $1))";
    tx.execute(sql, &[&server.as_str(), &roles]).await?;
    record_faults(tx, None, server, faults).await
}

/// Records faults for each project, or for one, that declares the role and has databases on the server.
pub async fn record_faults(
    tx: &Tx,
    project: Option<&ProjectId>,
    server: &ServerName,
    faults: &[RoleFault],
) -> Result<(), StoreError> {
    let (roles, texts): (Vec<&str>, Vec<&str>) =
        faults.iter().map(|one| (one.role.as_str(), one.fault.as_str())).unzip();
    let sql = "INSERT INTO declared_role_faults (project_id, name, server, fault)
               SELECT r.project_id, r.name, $2, f.fault FROM unnest($3::text[], $4::text[]) AS f(name, fault)
                 JOIN declared_roles r ON r.name = f.name AND ($1::text IS NULL OR r.project_id = $1)
                WHERE EXISTS (SELECT FROM physical_databases p WHERE p.project_id = r.project_id AND p.server = $2)
               ON CONFLICT (project_id, name, server) DO UPDATE SET fault = EXCLUDED.fault
                WHERE declared_role_faults.fault <> EXCLUDED.fault";
    let project = project.map(ProjectId::as_str);
    tx.execute(sql, &[&project, &server.as_str(), &roles, &texts]).await?;
    Ok(())
}
