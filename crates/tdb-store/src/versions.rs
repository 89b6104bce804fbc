//! Tables `versions` and `version_facts`: which changes a version number stands for. A row is never changed.

use std::collections::BTreeMap;

use tdb_names::{ProjectId, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::row::{column, count, counts, number, numbers};
use crate::tx::Tx;

/// A version of a blueprint.
#[derive(Clone, Debug)]
pub struct VersionRow {
    /// Its number, from 1 within the workspace.
    pub number: u32,
    /// The numbers of its changes, in order.
    pub change_ids: Vec<u32>,
    /// A hash of its changes; a version with the same content is not created again.
    pub content_hash: Vec<u8>,
    /// Who created it: the name of a user or of an API key.
    pub author: String,
    /// How many statements its changes have.
    pub statements: u32,
    /// Whether replaying it was shown to give the workspace's schema.
    pub verified: bool,
    /// Why it could not be verified.
    pub reason: Option<String>,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// The hash of its newest stored list of facts, if any.
    pub fingerprint: Option<String>,
}

/// A version to be created. It gets the next number.
#[derive(Clone, Debug)]
pub struct NewVersion<'a> {
    /// The numbers of its changes, in order.
    pub change_ids: &'a [u32],
    /// A hash of its changes.
    pub content_hash: &'a [u8],
    /// Who creates it: the name of a user or of an API key.
    pub author: &'a str,
    /// How many statements its changes have.
    pub statements: u32,
    /// Whether replaying it was shown to give the workspace's schema.
    pub verified: bool,
    /// Why it could not be verified.
    pub reason: Option<&'a str>,
}

/// The facts that describe the schema of a version.
#[derive(Clone, Debug)]
pub struct FactsRow {
    /// The fingerprint: a hash of the facts.
    pub hash: String,
    /// The definition of each object, by its identity.
    pub facts: BTreeMap<String, String>,
}

const SELECT: &str = "SELECT number, change_ids, content_hash, author, statements, verified, reason, created_at,
    (SELECT f.hash FROM version_facts f WHERE f.workspace_id = versions.workspace_id AND f.version = versions.number
      ORDER BY f.pg_major DESC LIMIT 1) AS fingerprint FROM versions";

impl VersionRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            number: count(row, "number")?,
            change_ids: counts(row, "change_ids")?,
            content_hash: column(row, "content_hash")?,
            author: column(row, "author")?,
            statements: count(row, "statements")?,
            verified: column(row, "verified")?,
            reason: column(row, "reason")?,
            created_at: column(row, "created_at")?,
            fingerprint: column(row, "fingerprint")?,
        })
    }
}

/// Stores a version with the next number, or returns the existing one with the same content.
pub async fn insert(
    tx: &Tx,
    project: &ProjectId,
    workspace: WorkspaceId,
    version: &NewVersion<'_>,
) -> Result<VersionRow, StoreError> {
    let sql = "INSERT INTO versions (workspace_id, project_id, number, change_ids, content_hash, author, statements, verified, reason)
               SELECT $1, $2, coalesce((SELECT max(number) FROM versions WHERE workspace_id = $1), 0) + 1, $3, $4, $5, $6, $7, $8
               ON CONFLICT (workspace_id, content_hash) DO NOTHING";
    tx.execute(
        sql,
        &[
            &workspace.as_uuid(),
            &project.as_str(),
            &numbers(version.change_ids)?,
            &version.content_hash,
            &version.author,
            &number(version.statements)?,
            &version.verified,
            &version.reason,
        ],
    )
    .await?;
    let made = by_content(tx, workspace, version.content_hash).await?;
    made.ok_or_else(|| StoreError::corrupt("versions"))
}

/// The version with this content hash.
pub async fn by_content(tx: &Tx, workspace: WorkspaceId, hash: &[u8]) -> Result<Option<VersionRow>, StoreError> {
    let sql = format!("{SELECT} WHERE workspace_id = $1 AND content_hash = $2");
    let row = tx.query_opt(&sql, &[&workspace.as_uuid(), &hash]).await?;
    row.as_ref().map(VersionRow::from_row).transpose()
}

/// The version with this number.
pub async fn by_number(tx: &Tx, workspace: WorkspaceId, version: u32) -> Result<Option<VersionRow>, StoreError> {
    let sql = format!("{SELECT} WHERE workspace_id = $1 AND number = $2");
    let row = tx.query_opt(&sql, &[&workspace.as_uuid(), &number(version)?]).await?;
    row.as_ref().map(VersionRow::from_row).transpose()
}

/// Versions after number `after`, by number, at most `limit`.
pub async fn list(tx: &Tx, workspace: WorkspaceId, after: u32, limit: i64) -> Result<Vec<VersionRow>, StoreError> {
    let sql = format!("{SELECT} WHERE workspace_id = $1 AND number > $2 ORDER BY number LIMIT $3");
    let rows = tx.query(&sql, &[&workspace.as_uuid(), &number(after)?, &limit]).await?;
    rows.iter().map(VersionRow::from_row).collect()
}

/// The newest version.
pub async fn newest_row(tx: &Tx, workspace: WorkspaceId) -> Result<Option<VersionRow>, StoreError> {
    let sql = format!("{SELECT} WHERE workspace_id = $1 ORDER BY number DESC LIMIT 1");
    let row = tx.query_opt(&sql, &[&workspace.as_uuid()]).await?;
    row.as_ref().map(VersionRow::from_row).transpose()
}

/// The newest version's number.
pub async fn newest(tx: &Tx, workspace: WorkspaceId) -> Result<Option<u32>, StoreError> {
    let sql = "SELECT number FROM versions WHERE workspace_id = $1 ORDER BY number DESC LIMIT 1";
    let row = tx.query_opt(sql, &[&workspace.as_uuid()]).await?;
    row.map(|row| count(&row, "number")).transpose()
}

/// The newest version that a tenant has that is not deleted.
pub async fn newest_deployed(tx: &Tx, workspace: WorkspaceId) -> Result<Option<VersionRow>, StoreError> {
    let sql = format!(
        "{SELECT} WHERE workspace_id = $1 AND number = (
             SELECT max(d.version) FROM tenant_databases d JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant
              WHERE d.workspace_id = $1 AND d.status = 'ready' AND t.status IN ('ready', 'suspended'))"
    );
    let row = tx.query_opt(&sql, &[&workspace.as_uuid()]).await?;
    row.as_ref().map(VersionRow::from_row).transpose()
}

/// Stores the facts of a version for one major version of PostgreSQL. If there are some already, these are kept.
pub async fn store_facts(
    tx: &Tx,
    project: &ProjectId,
    workspace: WorkspaceId,
    version: u32,
    pg_major: u32,
    facts: &FactsRow,
) -> Result<(), StoreError> {
    let json = serde_json::to_value(&facts.facts).map_err(|_| StoreError::corrupt("facts"))?;
    let sql = "INSERT INTO version_facts (workspace_id, project_id, version, pg_major, hash, facts)
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    tx.execute(
        sql,
        &[
            &workspace.as_uuid(),
            &project.as_str(),
            &number(version)?,
            &number(pg_major)?,
            &facts.hash,
            &json,
        ],
    )
    .await?;
    Ok(())
}

/// The facts of a version for one major version of PostgreSQL.
pub async fn facts(
    tx: &Tx,
    workspace: WorkspaceId,
    version: u32,
    pg_major: u32,
) -> Result<Option<FactsRow>, StoreError> {
    let sql = "SELECT hash, facts FROM version_facts WHERE workspace_id = $1 AND version = $2 AND pg_major = $3";
    let row = tx
        .query_opt(sql, &[&workspace.as_uuid(), &number(version)?, &number(pg_major)?])
        .await?;
    let Some(row) = row else { return Ok(None) };
    let json: serde_json::Value = column(&row, "facts")?;
    let facts = serde_json::from_value(json).map_err(|_| StoreError::corrupt("facts"))?;
    Ok(Some(FactsRow {
        hash: column(&row, "hash")?,
        facts,
    }))
}

/// Only the fingerprint of a version.
pub async fn facts_hash(
    tx: &Tx,
    workspace: WorkspaceId,
    version: u32,
    pg_major: u32,
) -> Result<Option<String>, StoreError> {
    let sql = "SELECT hash FROM version_facts WHERE workspace_id = $1 AND version = $2 AND pg_major = $3";
    let row = tx
        .query_opt(sql, &[&workspace.as_uuid(), &number(version)?, &number(pg_major)?])
        .await?;
    row.map(|row| column(&row, "hash")).transpose()
}
