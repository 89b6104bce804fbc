//! Table `api_keys`: hashes of keys, found by the keys' prefix. A key itself is never here.

use std::collections::HashMap;

use tdb_auth::ApiKey;
use tdb_names::{KeyId, ProjectId};
use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::Store;
use crate::error::Result;
use crate::row::{column, count, parsed};
use crate::tx::Tx;

/// "Last used" is a hint for people, not worth a write per request.
const USE_RECORDED_EVERY: Duration = Duration::minutes(1);

#[derive(Clone, Debug)]
pub struct ApiKeyRow {
    pub id: KeyId,
    pub name: String,
    pub prefix: String,
    /// Of `read`, `write`, `admin`.
    pub scopes: Vec<String>,
    pub created_at: OffsetDateTime,
    pub last_used_at: Option<OffsetDateTime>,
}

/// Whose key it is and what it may do.
#[derive(Clone, Debug)]
pub struct KeyHolder {
    pub key: KeyId,
    pub name: String,
    pub project: ProjectId,
    pub scopes: Vec<String>,
}

impl ApiKeyRow {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: KeyId::from_uuid(column(row, "id")?),
            name: column(row, "name")?,
            prefix: column(row, "prefix")?,
            scopes: column(row, "scopes")?,
            created_at: column(row, "created_at")?,
            last_used_at: column(row, "last_used_at")?,
        })
    }
}

/// The holder of a key, before any project is known: asked as the data plane. None where the key is unknown.
pub async fn authenticate(store: &Store, key: &ApiKey) -> Result<Option<KeyHolder>> {
    let sql = "SELECT id, project_id, name, hash, scopes, last_used_at FROM key_by_prefix($1)";
    let hash = key.hash();
    for row in &store.ask(sql, &[&key.prefix()]).await? {
        if !hash.matches(column(row, "hash")?) {
            continue;
        }
        let key = KeyId::from_uuid(column(row, "id")?);
        let holder = KeyHolder {
            key,
            name: column(row, "name")?,
            project: parsed(row, "project_id")?,
            scopes: column(row, "scopes")?,
        };
        let last: Option<OffsetDateTime> = column(row, "last_used_at")?;
        if last.is_none_or(|at| at + USE_RECORDED_EVERY < OffsetDateTime::now_utc()) {
            record_use(store, &holder).await?;
        }
        return Ok(Some(holder));
    }
    Ok(None)
}

async fn record_use(store: &Store, holder: &KeyHolder) -> Result<()> {
    let tx = store.project(&holder.project).await?;
    let sql = "UPDATE api_keys SET last_used_at = now() WHERE id = $1";
    tx.execute(sql, &[&holder.key.as_uuid()]).await?;
    tx.commit().await
}

pub async fn insert(tx: &Tx, project: &ProjectId, name: &str, key: &ApiKey, scopes: &[&str]) -> Result<ApiKeyRow> {
    let sql = "INSERT INTO api_keys (id, project_id, name, prefix, hash, scopes) VALUES ($1, $2, $3, $4, $5, $6)
               RETURNING id, name, prefix, scopes, created_at, last_used_at";
    let hash = key.hash();
    let hash: &[u8] = hash.as_bytes();
    let row = tx
        .query_one(
            sql,
            &[&Uuid::new_v4(), &project.as_str(), &name, &key.prefix(), &hash, &scopes],
        )
        .await?;
    ApiKeyRow::from_row(&row)
}

/// Oldest first: those after `after`, at most `limit`.
pub async fn list(
    tx: &Tx,
    project: &ProjectId,
    after: Option<(OffsetDateTime, KeyId)>,
    limit: i64,
) -> Result<Vec<ApiKeyRow>> {
    let sql = "SELECT id, name, prefix, scopes, created_at, last_used_at FROM api_keys
               WHERE project_id = $1 AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3))
               ORDER BY created_at, id LIMIT $4";
    let (at, id) = (after.map(|(at, _)| at), after.map(|(_, id)| id.as_uuid()));
    let rows = tx.query(sql, &[&project.as_str(), &at, &id, &limit]).await?;
    rows.iter().map(ApiKeyRow::from_row).collect()
}

pub async fn by_id(tx: &Tx, project: &ProjectId, id: KeyId) -> Result<Option<ApiKeyRow>> {
    let sql = "SELECT id, name, prefix, scopes, created_at, last_used_at FROM api_keys
               WHERE project_id = $1 AND id = $2";
    let row = tx.query_opt(sql, &[&project.as_str(), &id.as_uuid()]).await?;
    row.as_ref().map(ApiKeyRow::from_row).transpose()
}

/// By id or name: more than one where several have the name.
pub async fn by_reference(tx: &Tx, project: &ProjectId, text: &str) -> Result<Vec<ApiKeyRow>> {
    let sql = "SELECT id, name, prefix, scopes, created_at, last_used_at FROM api_keys
               WHERE project_id = $1 AND (id::text = $2 OR name = $2) ORDER BY created_at, id";
    let rows = tx.query(sql, &[&project.as_str(), &text]).await?;
    rows.iter().map(ApiKeyRow::from_row).collect()
}

/// How many keys each of these projects has; in a transaction of [`crate::Store::jobs`].
pub async fn counts(tx: &Tx, projects: &[&str]) -> Result<HashMap<ProjectId, u32>> {
    let sql = "SELECT project_id, keys FROM api_key_counts($1)";
    let rows = tx.query(sql, &[&projects]).await?;
    let one = |row: &Row| Ok((parsed(row, "project_id")?, count(row, "keys")?));
    rows.iter().map(one).collect()
}

/// The key is a login's: the user keeps the newest `kept` of those.
pub async fn give_to_user(tx: &Tx, id: KeyId, user: Uuid, kept: i64) -> Result<()> {
    tx.execute(
        "UPDATE api_keys SET user_id = $2 WHERE id = $1",
        &[&id.as_uuid(), &user],
    )
    .await?;
    let old = "DELETE FROM api_keys WHERE user_id = $1 AND id NOT IN (
                   SELECT id FROM api_keys WHERE user_id = $1 ORDER BY created_at DESC, id LIMIT $2)";
    tx.execute(old, &[&user, &kept]).await?;
    Ok(())
}

/// False where the project has no such key.
pub async fn delete(tx: &Tx, project: &ProjectId, id: KeyId) -> Result<bool> {
    let sql = "DELETE FROM api_keys WHERE project_id = $1 AND id = $2";
    Ok(tx.execute(sql, &[&project.as_str(), &id.as_uuid()]).await? == 1)
}
