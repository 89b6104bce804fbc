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
    })
}

/// Declares a role. Returns nothing if the project has declared it before.
pub async fn insert(tx: &Tx, project: &ProjectId, name: &RoleName) -> Result<Option<DeclaredRoleRow>, StoreError> {
    let sql = "INSERT INTO declared_roles (project_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING name, created_at";
    let row = tx.query_opt(sql, &[&project.as_str(), &name.as_str()]).await?;
    row.as_ref().map(from_row).transpose()
}

/// The declared role with this name.
pub async fn by_name(tx: &Tx, project: &ProjectId, name: &RoleName) -> Result<Option<DeclaredRoleRow>, StoreError> {
    let sql = "SELECT name, created_at FROM declared_roles WHERE project_id = $1 AND name = $2";
    let row = tx.query_opt(sql, &[&project.as_str(), &name.as_str()]).await?;
    row.as_ref().map(from_row).transpose()
}

/// By name: those after `after`, at most `limit`.
pub async fn list(
    tx: &Tx,
    project: &ProjectId,
    after: Option<&RoleName>,
    limit: i64,
) -> Result<Vec<DeclaredRoleRow>, StoreError> {
    let sql = "SELECT name, created_at FROM declared_roles
                WHERE project_id = $1 AND ($2::text IS NULL OR name COLLATE \"C\" > $2) ORDER BY name COLLATE \"C\" LIMIT $3";
    let after = after.map(RoleName::as_str);
    let rows = tx.query(sql, &[&project.as_str(), &after, &limit]).await?;
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
