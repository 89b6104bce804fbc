//! Table `templates`: builds (databases in which changes are replayed) and the templates they become.

use std::time::Duration;

use tdb_names::{ProjectId, ServerName, WorkspaceId};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::StoreError;
use crate::physical::{self, Physical, Progress};
use crate::row::{column, count, number, numbers, parsed, words};
use crate::tx::Tx;

words! {
    TemplateStatus {
        /// Changes are replayed in it.
        Building = "building",
        /// It has its version and is being closed; from here on it only goes forward.
        Publishing = "publishing",
        Published = "published",
        Dropping = "dropping",
    }
}

#[derive(Clone, Debug)]
pub struct TemplateRow {
    pub id: Uuid,
    pub project: ProjectId,
    pub workspace: WorkspaceId,
    /// None while it is a build.
    pub version: Option<u32>,
    pub status: TemplateStatus,
    /// What a build holds, or was about to hold when it was last worked on.
    pub change_ids: Vec<u32>,
    pub physical: Physical,
    pub progress: Progress,
}

impl TemplateRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let version: Option<i32> = column(row, "version")?;
        Ok(Self {
            id: column(row, "id")?,
            project: parsed(row, "project_id")?,
            workspace: WorkspaceId::from_uuid(column(row, "workspace_id")?),
            version: version.map(|_| count(row, "version")).transpose()?,
            status: parsed(row, "status")?,
            change_ids: crate::row::counts(row, "change_ids")?,
            physical: Physical::from_row(row)?,
            progress: Progress::from_row(row)?,
        })
    }
}

fn select(rest: &str) -> String {
    let columns = physical::COLUMNS;
    format!(
        "SELECT id, project_id, workspace_id, version, status, change_ids, step, attempts, last_error, {columns} FROM templates {rest}"
    )
}

/// A build's intent.
pub async fn insert(
    tx: &Tx,
    id: Uuid,
    project: &ProjectId,
    workspace: WorkspaceId,
    physical: &Physical,
) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO templates (id, project_id, workspace_id, status, step, {})
         VALUES ($1, $2, $3, 'building', 'intent', $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        physical::COLUMNS
    );
    let roles = &physical.roles;
    tx.execute(
        &sql,
        &[
            &id,
            &project.as_str(),
            &workspace.as_uuid(),
            &physical.server.as_str(),
            &physical.database,
            &physical.oid.map(i64::from),
            &roles.owner.name,
            &roles.owner.sealed,
            &roles.deployer.name,
            &roles.deployer.sealed,
            &roles.readonly.name,
            &roles.readonly.sealed,
        ],
    )
    .await?;
    Ok(())
}

pub async fn by_id(tx: &Tx, id: Uuid) -> Result<Option<TemplateRow>, StoreError> {
    let row = tx.query_opt(&select("WHERE id = $1"), &[&id]).await?;
    row.as_ref().map(TemplateRow::from_row).transpose()
}

/// The template of a version on a server, if it is published.
pub async fn published(
    tx: &Tx,
    workspace: WorkspaceId,
    server: &ServerName,
    version: u32,
) -> Result<Option<TemplateRow>, StoreError> {
    let rest = "WHERE workspace_id = $1 AND server = $2 AND version = $3 AND status = 'published' LIMIT 1";
    let row = tx
        .query_opt(
            &select(rest),
            &[&workspace.as_uuid(), &server.as_str(), &number(version)?],
        )
        .await?;
    row.as_ref().map(TemplateRow::from_row).transpose()
}

pub async fn of_workspace(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<TemplateRow>, StoreError> {
    let rows = tx
        .query(
            &select("WHERE workspace_id = $1 ORDER BY created_at"),
            &[&workspace.as_uuid()],
        )
        .await?;
    rows.iter().map(TemplateRow::from_row).collect()
}

/// Builds and templates that are not published: to be finished or dropped.
pub async fn unfinished(tx: &Tx) -> Result<Vec<TemplateRow>, StoreError> {
    let rest = "WHERE status <> 'published' AND not_before <= now() ORDER BY created_at LIMIT 100";
    let rows = tx.query(&select(rest), &[]).await?;
    rows.iter().map(TemplateRow::from_row).collect()
}

/// What the build now is; from here on it only goes forward.
pub async fn begin_publishing(tx: &Tx, id: Uuid, version: u32) -> Result<bool, StoreError> {
    let sql = "UPDATE templates SET status = 'publishing', step = 'replayed', version = $2 WHERE id = $1 AND status = 'building'";
    Ok(tx.execute(sql, &[&id, &number(version)?]).await? == 1)
}

/// Which changes a build holds, for the next one who goes on with it.
pub async fn record_changes(tx: &Tx, id: Uuid, change_ids: &[u32]) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE templates SET change_ids = $2 WHERE id = $1",
        &[&id, &numbers(change_ids)?],
    )
    .await?;
    Ok(())
}

/// It is a template from now on, and safe for `grace` from being retired: whoever had it made has yet to name it.
pub async fn set_published(tx: &Tx, id: Uuid, grace: Duration) -> Result<bool, StoreError> {
    let sql = "UPDATE templates SET status = 'published', step = 'published', attempts = 0, last_error = NULL,
                      not_before = now() + $2 * interval '1 second'
               WHERE id = $1 AND status = 'publishing'";
    Ok(tx.execute(sql, &[&id, &grace.as_secs_f64()]).await? == 1)
}

/// Published templates that are neither the newest of their workspace and server nor in use become `dropping`.
pub async fn retire_old(tx: &Tx) -> Result<u64, StoreError> {
    let sql = "UPDATE templates t SET status = 'dropping', step = 'retired', not_before = now()
                WHERE t.status = 'published' AND t.not_before <= now()
                  AND EXISTS (SELECT FROM templates n WHERE n.workspace_id = t.workspace_id AND n.server = t.server
                                 AND n.status = 'published' AND n.version > t.version)
                  AND NOT EXISTS (SELECT FROM tenant_databases d WHERE d.template_id = t.id AND d.status = 'provisioning')
                  AND NOT EXISTS (SELECT FROM deployments p WHERE p.workspace_id = t.workspace_id AND p.version = t.version
                                     AND p.status = 'running')";
    tx.execute(sql, &[]).await
}

pub async fn delete(tx: &Tx, id: Uuid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM templates WHERE id = $1", &[&id]).await?;
    Ok(())
}
