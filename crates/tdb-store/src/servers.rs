//! Table `servers`: the database servers of the installation. They belong to no project, so writing them and reading
//! their administrators takes a transaction of [`crate::Store::jobs`].

use secrecy::SecretString;
use serde_json::Value;
use tdb_names::{BlueprintName, ProjectId, ServerEndpoint, ServerName};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::Store;
use crate::error::{Result, StoreError};
use crate::row::{column, parsed, words};
use crate::tx::Tx;

words! {
    ServerStatus {
        Active = "active",
        /// Takes no new databases.
        Draining = "draining",
    }
}

#[derive(Clone, Debug)]
pub struct ServerRow {
    pub endpoint: ServerEndpoint,
    /// Physical names there tell nothing about tenants.
    pub opaque_names: bool,
    pub status: ServerStatus,
    /// `server_version_num`; none before the first contact.
    pub version: Option<i32>,
    /// What else the last contact found.
    pub facts: Value,
    pub created_at: OffsetDateTime,
    /// When some process last had an answer from it.
    pub answered_at: Option<OffsetDateTime>,
}

/// How to log in to a server as its administrator.
#[derive(Clone, Debug)]
pub struct Administrator {
    pub endpoint: ServerEndpoint,
    pub user: String,
    pub secret: SecretString,
    pub opaque_names: bool,
}

/// Which record of a server something was read from; another one after each registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(Vec<u8>);

const COLUMNS: &str = "name, host, port, tls, opaque_names, status, version, facts, created_at, answered_at";

impl ServerRow {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            endpoint: endpoint(row, "name")?,
            opaque_names: column(row, "opaque_names")?,
            status: parsed(row, "status")?,
            version: column(row, "version")?,
            facts: column(row, "facts")?,
            created_at: column(row, "created_at")?,
            answered_at: column(row, "answered_at")?,
        })
    }
}

/// A server's address from the columns `host, port, tls` and one with its name.
pub(crate) fn endpoint(row: &Row, name: &str) -> Result<ServerEndpoint> {
    Ok(ServerEndpoint {
        name: parsed(row, name)?,
        host: column(row, "host")?,
        port: u16::try_from(column::<i32>(row, "port")?).map_err(|_| StoreError::corrupt("port"))?,
        tls: parsed(row, "tls")?,
    })
}

/// Records a server, or how to reach it from now on.
pub async fn upsert(tx: &Tx, store: &Store, server: &Administrator) -> Result<Revision> {
    let otherwise = "DO UPDATE SET host = EXCLUDED.host, port = EXCLUDED.port, tls = EXCLUDED.tls,
                     admin_user = EXCLUDED.admin_user, admin_secret = EXCLUDED.admin_secret, opaque_names = EXCLUDED.opaque_names";
    let (_, revision) = write(tx, store, server, otherwise).await?;
    Ok(revision)
}

/// Records a new server; none where there is one of this name.
pub async fn insert(tx: &Tx, store: &Store, server: &Administrator) -> Result<Option<Revision>> {
    let (written, revision) = write(tx, store, server, "DO NOTHING").await?;
    Ok((written == 1).then_some(revision))
}

async fn write(tx: &Tx, store: &Store, server: &Administrator, otherwise: &str) -> Result<(u64, Revision)> {
    let ServerEndpoint { name, host, port, tls } = &server.endpoint;
    let sealed = store.master_key().seal(&context(name), &server.secret)?;
    let sql = format!(
        "INSERT INTO servers (name, host, port, tls, admin_user, admin_secret, opaque_names)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) {otherwise}"
    );
    let (port, tls) = (i32::from(*port), tls.to_string());
    let written = tx
        .execute(
            &sql,
            &[
                &name.as_str(),
                &host,
                &port,
                &tls,
                &server.user,
                &sealed,
                &server.opaque_names,
            ],
        )
        .await?;
    // No two sealed texts are equal, and each record has one of its own.
    Ok((written, Revision(sealed)))
}

/// What a contact found.
pub async fn record_facts(tx: &Tx, name: &ServerName, version: i32, facts: &Value) -> Result<()> {
    let sql = "UPDATE servers SET version = $2, facts = $3, answered_at = now() WHERE name = $1";
    tx.execute(sql, &[&name.as_str(), &version, facts]).await?;
    Ok(())
}

/// The server answered just now; written every few seconds at most. A single statement outside of any transaction.
pub async fn record_answer(store: &Store, name: &ServerName) -> Result<()> {
    let sql = "UPDATE servers SET answered_at = now()
               WHERE name = $1 AND coalesce(answered_at < now() - interval '3 seconds', true)";
    store.ask_as_jobs(sql, &[&name.as_str()]).await.map(drop)
}

/// Every server's name.
pub async fn names(tx: &Tx) -> Result<Vec<ServerName>> {
    let rows = tx.query("SELECT name FROM servers ORDER BY name", &[]).await?;
    rows.iter().map(|row| parsed(row, "name")).collect()
}

/// By name: those after `after`, at most `limit`; without their administrators.
pub async fn list(tx: &Tx, after: Option<&ServerName>, limit: i64) -> Result<Vec<ServerRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM servers WHERE $1::text IS NULL OR name COLLATE \"C\" > $1 ORDER BY name COLLATE \"C\" LIMIT $2"
    );
    let rows = tx.query(&sql, &[&after.map(ServerName::as_str), &limit]).await?;
    rows.iter().map(ServerRow::from_row).collect()
}

pub async fn by_name(tx: &Tx, name: &ServerName) -> Result<Option<ServerRow>> {
    let row = tx
        .query_opt(
            &format!("SELECT {COLUMNS} FROM servers WHERE name = $1"),
            &[&name.as_str()],
        )
        .await?;
    row.as_ref().map(ServerRow::from_row).transpose()
}

/// The active server with the fewest workspaces and tenant databases (builds, templates and spares follow those), of those
/// that answer where there is one; for a blueprint that exists, of its workspace's major version, so that fingerprints can
/// be compared.
pub async fn emptiest(tx: &Tx, project: &ProjectId, blueprint: &BlueprintName) -> Result<Option<ServerName>> {
    let sql = "SELECT s.name FROM servers s
               WHERE s.status = 'active' AND NOT EXISTS (
                   SELECT FROM workspaces w JOIN physical_databases p ON p.workspace_id = w.id JOIN servers o ON o.name = p.server
                   WHERE w.project_id = $1 AND w.blueprint = $2 AND o.version / 10000 <> s.version / 10000)
               ORDER BY coalesce(s.answered_at < now() - interval '10 seconds', false),
                        (SELECT count(*) FROM physical_databases p WHERE p.server = s.name AND p.template_id IS NULL), s.name LIMIT 1";
    let row = tx.query_opt(sql, &[&project.as_str(), &blueprint.as_str()]).await?;
    row.as_ref().map(|row| parsed(row, "name")).transpose()
}

/// No new databases there from now on. False where it is unknown.
pub async fn drain(tx: &Tx, name: &ServerName) -> Result<bool> {
    let sql = "UPDATE servers SET status = 'draining' WHERE name = $1";
    Ok(tx.execute(sql, &[&name.as_str()]).await? == 1)
}

/// Undoes [`drain`]. False where it is unknown.
pub async fn resume(tx: &Tx, name: &ServerName) -> Result<bool> {
    let sql = "UPDATE servers SET status = 'active' WHERE name = $1";
    Ok(tx.execute(sql, &[&name.as_str()]).await? == 1)
}

/// How to log in to a server, where its record is not the one that is known already.
#[derive(Clone, Debug)]
pub enum Looked {
    Gone,
    Same,
    Other(Revision, Administrator),
}

/// A single statement outside of any transaction.
pub async fn look(store: &Store, name: &ServerName, known: Option<&Revision>) -> Result<Looked> {
    let rows = store.ask_as_jobs(ADMINISTRATOR, &[&name.as_str()]).await?;
    let Some(row) = rows.first() else {
        return Ok(Looked::Gone);
    };
    let revision = Revision(column(row, "admin_secret")?);
    if known == Some(&revision) {
        return Ok(Looked::Same);
    }
    Ok(Looked::Other(revision, opened(row, store, name)?))
}

const ADMINISTRATOR: &str =
    "SELECT name, host, port, tls, opaque_names, admin_user, admin_secret FROM servers WHERE name = $1";

/// With the secret opened.
pub async fn administrator(tx: &Tx, store: &Store, name: &ServerName) -> Result<Option<Administrator>> {
    let row = tx.query_opt(ADMINISTRATOR, &[&name.as_str()]).await?;
    row.map(|row| opened(&row, store, name)).transpose()
}

fn opened(row: &Row, store: &Store, name: &ServerName) -> Result<Administrator> {
    let sealed: &[u8] = column(row, "admin_secret")?;
    Ok(Administrator {
        endpoint: endpoint(row, "name")?,
        user: column(row, "admin_user")?,
        secret: store.master_key().open(&context(name), sealed)?,
        opaque_names: column(row, "opaque_names")?,
    })
}

/// Which extensions the administrator makes there for developers.
pub async fn set_extensions(tx: &Tx, name: &ServerName, extensions: &[String]) -> Result<()> {
    let sql = "UPDATE servers SET extensions = $2 WHERE name = $1";
    tx.execute(sql, &[&name.as_str(), &extensions]).await?;
    Ok(())
}

pub async fn extensions(tx: &Tx, name: &ServerName) -> Result<Vec<String>> {
    let row = tx
        .query_opt("SELECT extensions FROM servers WHERE name = $1", &[&name.as_str()])
        .await?;
    let found = row.map(|row| column(&row, "extensions")).transpose()?;
    Ok(found.unwrap_or_default())
}

/// False where it is unknown; a conflict while something is on it.
pub async fn delete(tx: &Tx, name: &ServerName) -> Result<bool> {
    Ok(tx
        .execute("DELETE FROM servers WHERE name = $1", &[&name.as_str()])
        .await?
        == 1)
}

fn context(name: &ServerName) -> String {
    format!("server:{name}")
}
