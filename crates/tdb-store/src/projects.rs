//! Table `projects`. An account groups the projects of one customer.

use tdb_auth::base32;
use tdb_names::ProjectId;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::credentials;
use crate::error::{Result, StoreError};
use crate::row::{column, parsed};
use crate::tx::Tx;

/// A project.
#[derive(Clone, Debug)]
pub struct ProjectRow {
    /// The project's id.
    pub id: ProjectId,
    /// The account it belongs to.
    pub account: Uuid,
    /// The name for display.
    pub name: String,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// The outcome of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectDeletion {
    /// The project was deleted.
    Deleted,
    /// It still has workspaces or tenants; soft-deleted tenants count.
    NotEmpty,
    /// There is no such project.
    Unknown,
}

impl ProjectRow {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: parsed(row, "project_id")?,
            account: column(row, "account")?,
            name: column(row, "name")?,
            created_at: column(row, "created_at")?,
        })
    }
}

/// Generates the id of a new project. Its first transaction must already be one of [`crate::Store::project`].
pub fn new_id() -> Result<ProjectId> {
    format!("prj_{}", base32(10)?)
        .parse()
        .map_err(|_| StoreError::corrupt("project_id"))
}

/// Stores a project. In a transaction of the same project.
pub async fn insert(tx: &Tx, id: &ProjectId, account: Uuid, name: &str) -> Result<ProjectRow> {
    let sql = "INSERT INTO projects (project_id, account, name) VALUES ($1, $2, $3) RETURNING project_id, account, name, created_at";
    ProjectRow::from_row(&tx.query_one(sql, &[&id.as_str(), &account, &name]).await?)
}

/// The project with this id, if the transaction can see it.
pub async fn by_id(tx: &Tx, id: &ProjectId) -> Result<Option<ProjectRow>> {
    let sql = "SELECT project_id, account, name, created_at FROM projects WHERE project_id = $1";
    let row = tx.query_opt(sql, &[&id.as_str()]).await?;
    row.as_ref().map(ProjectRow::from_row).transpose()
}

/// The projects of the account that `id` belongs to, `id` included, oldest first: those after `after`, at most `limit`.
/// In a transaction of [`crate::Store::jobs`].
pub async fn of_same_account(
    tx: &Tx,
    id: &ProjectId,
    after: Option<&(OffsetDateTime, ProjectId)>,
    limit: i64,
) -> Result<Vec<ProjectRow>> {
    let sql = "SELECT project_id, account, name, created_at FROM projects
               WHERE account = (SELECT account FROM projects WHERE project_id = $1)
                 AND ($2::timestamptz IS NULL OR (created_at, project_id COLLATE \"C\") > ($2, $3))
               ORDER BY created_at, project_id COLLATE \"C\" LIMIT $4";
    let (at, after) = (after.map(|(at, _)| *at), after.map(|(_, id)| id.as_str()));
    let rows = tx.query(sql, &[&id.as_str(), &at, &after, &limit]).await?;
    rows.iter().map(ProjectRow::from_row).collect()
}

/// Whether the installation has any project. In a transaction of [`crate::Store::jobs`].
pub async fn any(tx: &Tx) -> Result<bool> {
    Ok(tx.query_opt("SELECT 1 FROM projects LIMIT 1", &[]).await?.is_some())
}

/// Makes the account of the transaction's project the operator of the installation, if there is none yet.
pub async fn become_operator(tx: &Tx) -> Result<()> {
    tx.query("SELECT become_operator()", &[]).await?;
    Ok(())
}

/// Whether the transaction's project belongs to the operator's account.
pub async fn is_operator(tx: &Tx) -> Result<bool> {
    column(
        &tx.query_one("SELECT is_operator() AS operator", &[]).await?,
        "operator",
    )
}

/// Deletes a project with its keys and credentials. In a transaction of the same project.
pub async fn delete(tx: &Tx, id: &ProjectId) -> Result<ProjectDeletion> {
    let locked = "SELECT 1 FROM projects WHERE project_id = $1 FOR UPDATE";
    if tx.query_opt(locked, &[&id.as_str()]).await?.is_none() {
        return Ok(ProjectDeletion::Unknown);
    }
    let used =
        "SELECT 1 FROM workspaces WHERE project_id = $1 UNION ALL SELECT 1 FROM tenants WHERE project_id = $1 LIMIT 1";
    if tx.query_opt(used, &[&id.as_str()]).await?.is_some() {
        return Ok(ProjectDeletion::NotEmpty);
    }
    credentials::revoke_all(tx, id).await?;
    tx.execute("DELETE FROM projects WHERE project_id = $1", &[&id.as_str()])
        .await?;
    Ok(ProjectDeletion::Deleted)
}
