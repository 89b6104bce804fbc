//! Table `api_keys`: hashes of API keys, looked up by the keys' prefix. The keys themselves are never stored.

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

/// `last_used_at` is informational: it is not worth a write per request.
const USE_RECORDED_EVERY: Duration = Duration::minutes(1);

/// An API key as lists show it.
#[derive(Clone, Debug)]
pub struct ApiKeyRow {
    /// The key's id.
    pub id: KeyId,
    /// The name given at creation. Several keys of a project may have the same name.
    pub name: String,
    /// The first characters of the key, which identify it in lists.
    pub prefix: String,
    /// A subset of `read`, `write` and `admin`.
    pub scopes: Vec<String>,
    /// When the key was created.
    pub created_at: OffsetDateTime,
    /// When the key was last used, precise to a minute or so; `None` if it was never used.
    pub last_used_at: Option<OffsetDateTime>,
}

/// The key that a request was authenticated with, and what it allows.
#[derive(Clone, Debug)]
pub struct KeyHolder {
    /// The key's id.
    pub key: KeyId,
    /// The key's name.
    pub name: String,
    /// The only project that the key gives access to.
    pub project: ProjectId,
    /// A subset of `read`, `write` and `admin`.
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

/// Looks up a key before its project is known, with the data plane's role. `None` if the key is unknown.
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

/// Stores the hash of a new key.
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

/// Keys created after `after`, oldest first, at most `limit`.
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

/// The key with this id; `None` if the project has no such key.
pub async fn by_id(tx: &Tx, project: &ProjectId, id: KeyId) -> Result<Option<ApiKeyRow>> {
    let sql = "SELECT id, name, prefix, scopes, created_at, last_used_at FROM api_keys
               WHERE project_id = $1 AND id = $2";
    let row = tx.query_opt(sql, &[&project.as_str(), &id.as_uuid()]).await?;
    row.as_ref().map(ApiKeyRow::from_row).transpose()
}

/// Keys with this id or name; more than one if several have the name.
pub async fn by_reference(tx: &Tx, project: &ProjectId, text: &str) -> Result<Vec<ApiKeyRow>> {
    let sql = "SELECT id, name, prefix, scopes, created_at, last_used_at FROM api_keys
               WHERE project_id = $1 AND (id::text = $2 OR name = $2) ORDER BY created_at, id";
    let rows = tx.query(sql, &[&project.as_str(), &text]).await?;
    rows.iter().map(ApiKeyRow::from_row).collect()
}

/// The number of keys of each of these projects. In a transaction of [`crate::Store::jobs`].
pub async fn counts(tx: &Tx, projects: &[&str]) -> Result<HashMap<ProjectId, u32>> {
    let sql = "SELECT project_id, keys FROM api_key_counts($1)";
    let rows = tx.query(sql, &[&projects]).await?;
    let one = |row: &Row| Ok((parsed(row, "project_id")?, count(row, "keys")?));
    rows.iter().map(one).collect()
}

/// Marks a key as created by a login of `user`, and deletes all but the newest `kept` of that user's keys.
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

/// The keys of the project with the scope admin, and whether a login created each. Locked, so that two deletions see each
/// other.
pub async fn lock_admins(tx: &Tx, project: &ProjectId) -> Result<Vec<(KeyId, bool)>> {
    let sql = "SELECT id, user_id IS NOT NULL AS by_login FROM api_keys
               WHERE project_id = $1 AND 'admin' = ANY (scopes) ORDER BY id FOR UPDATE";
    let rows = tx.query(sql, &[&project.as_str()]).await?;
    let one = |row: &Row| Ok((KeyId::from_uuid(column(row, "id")?), column(row, "by_login")?));
    rows.iter().map(one).collect()
}

/// Deletes a key. False if the project has no such key.
pub async fn delete(tx: &Tx, project: &ProjectId, id: KeyId) -> Result<bool> {
    let sql = "DELETE FROM api_keys WHERE project_id = $1 AND id = $2";
    Ok(tx.execute(sql, &[&project.as_str(), &id.as_uuid()]).await? == 1)
}
