//! Table `servers`: the database servers of the installation. They belong to no project, so writing them and reading
//! their administrators' secrets requires a transaction of [`crate::Store::jobs`].

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
    /// Whether new databases are placed on a server.
    ServerStatus {
        /// New databases may be placed on it.
        Active = "active",
        /// It gets no new databases.
        Draining = "draining",
    }
}

/// A server, without its administrator's secret.
#[derive(Clone, Debug)]
pub struct ServerRow {
    /// How to connect to it.
    pub endpoint: ServerEndpoint,
    /// Whether names of databases and roles on it must not contain tenants' names.
    pub opaque_names: bool,
    /// Whether new databases are placed on it.
    pub status: ServerStatus,
    /// Its `server_version_num`; `None` before the first connection.
    pub version: Option<i32>,
    /// Other properties of the server at the last connection.
    pub facts: Value,
    /// When it was registered.
    pub created_at: OffsetDateTime,
    /// When a process last received a reply from it.
    pub answered_at: Option<OffsetDateTime>,
    /// Since when it has not replied; `None` while it does.
    pub silent_since: Option<OffsetDateTime>,
}

/// How to log in to a server as administrator.
#[derive(Clone, Debug)]
pub struct Administrator {
    /// How to connect to it.
    pub endpoint: ServerEndpoint,
    /// The administrator's role.
    pub user: String,
    /// Its password.
    pub secret: SecretString,
    /// Whether names of databases and roles on it must not contain tenants' names.
    pub opaque_names: bool,
}

/// Identifies one registration of a server; each registration gets another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(Vec<u8>);

/// Since when a server has not replied; NULL while it does. Servers are pinged every two seconds.
const SILENT_SINCE: &str = "CASE WHEN answered_at < now() - interval '10 seconds' THEN answered_at END";

fn select(rest: &str) -> String {
    format!(
        "SELECT name, host, port, tls, opaque_names, status, version, facts, created_at, answered_at,
                {SILENT_SINCE} AS silent_since FROM servers {rest}"
    )
}

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
            silent_since: column(row, "silent_since")?,
        })
    }
}

/// Reads a server's address from the columns `host, port, tls` and one with its name.
pub(crate) fn endpoint(row: &Row, name: &str) -> Result<ServerEndpoint> {
    Ok(ServerEndpoint {
        name: parsed(row, name)?,
        host: column(row, "host")?,
        port: u16::try_from(column::<i32>(row, "port")?).map_err(|_| StoreError::corrupt("port"))?,
        tls: parsed(row, "tls")?,
    })
}

/// Registers a server, or replaces how to connect to it.
pub async fn upsert(tx: &Tx, store: &Store, server: &Administrator) -> Result<Revision> {
    let otherwise = "DO UPDATE SET host = EXCLUDED.host, port = EXCLUDED.port, tls = EXCLUDED.tls,
                     admin_user = EXCLUDED.admin_user, admin_secret = EXCLUDED.admin_secret, opaque_names = EXCLUDED.opaque_names";
    let (_, revision) = write(tx, store, server, otherwise).await?;
    Ok(revision)
}

/// Registers a new server; `None` if there is one of this name.
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
    // Encrypting gives a different text each time, so the sealed secret identifies the registration.
    Ok((written, Revision(sealed)))
}

/// How a registered server is the same as one that is to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Twin {
    /// They have the same host name and port.
    Address(ServerName),
    /// They have the same system identifier.
    Identifier(ServerName),
}

/// The registered server that is the same as this one under another name; `None` if there is none. Until the end of the
/// transaction, no other server is registered.
pub async fn twin(tx: &Tx, endpoint: &ServerEndpoint, system_identifier: &str) -> Result<Option<Twin>> {
    tx.execute("LOCK TABLE servers IN SHARE ROW EXCLUSIVE MODE", &[])
        .await?;
    let sql = "SELECT name, lower(host) = lower($2) AND port = $3 AS same_address FROM servers
                WHERE name <> $1 AND (lower(host) = lower($2) AND port = $3 OR facts->>'system_identifier' = $4)
                ORDER BY same_address DESC, name LIMIT 1";
    let (name, port) = (endpoint.name.as_str(), i32::from(endpoint.port));
    let row = tx
        .query_opt(sql, &[&name, &endpoint.host, &port, &system_identifier])
        .await?;
    let twin = |row: Row| {
        let name = parsed(&row, "name")?;
        Ok(if column(&row, "same_address")? {
            Twin::Address(name)
        } else {
            Twin::Identifier(name)
        })
    };
    row.map(twin).transpose()
}

/// Records what a connection to the server has shown.
pub async fn record_facts(tx: &Tx, name: &ServerName, version: i32, facts: &Value) -> Result<()> {
    let sql = "UPDATE servers SET version = $2, facts = $3, answered_at = now() WHERE name = $1";
    tx.execute(sql, &[&name.as_str(), &version, facts]).await?;
    Ok(())
}

/// Records that the server replied just now, at most every few seconds. A single statement outside of any transaction.
pub async fn record_answer(store: &Store, name: &ServerName) -> Result<()> {
    let sql = "UPDATE servers SET answered_at = now()
               WHERE name = $1 AND coalesce(answered_at < now() - interval '3 seconds', true)";
    store.ask_as_jobs(sql, &[&name.as_str()]).await.map(drop)
}

/// The names of all servers.
pub async fn names(tx: &Tx) -> Result<Vec<ServerName>> {
    let rows = tx.query("SELECT name FROM servers ORDER BY name", &[]).await?;
    rows.iter().map(|row| parsed(row, "name")).collect()
}

/// Servers after `after`, by name, at most `limit`.
pub async fn list(tx: &Tx, after: Option<&ServerName>, limit: i64) -> Result<Vec<ServerRow>> {
    let sql = select("WHERE $1::text IS NULL OR name COLLATE \"C\" > $1 ORDER BY name COLLATE \"C\" LIMIT $2");
    let rows = tx.query(&sql, &[&after.map(ServerName::as_str), &limit]).await?;
    rows.iter().map(ServerRow::from_row).collect()
}

/// The server of this name, if it is registered.
pub async fn by_name(tx: &Tx, name: &ServerName) -> Result<Option<ServerRow>> {
    let row = tx.query_opt(&select("WHERE name = $1"), &[&name.as_str()]).await?;
    row.as_ref().map(ServerRow::from_row).transpose()
}

/// The active servers, those with the fewest workspaces and tenant databases first, and those that do not reply last.
/// (Builds, templates and spares are placed where those are.) For an existing blueprint, only servers of its workspace's
/// major version count, so that fingerprints can be compared.
pub async fn emptiest(tx: &Tx, project: &ProjectId, blueprint: &BlueprintName) -> Result<Vec<ServerName>> {
    let sql = format!(
        "SELECT s.name FROM servers s
               WHERE s.status = 'active' AND NOT EXISTS (
                   SELECT FROM workspaces w JOIN physical_databases p ON p.workspace_id = w.id JOIN servers o ON o.name = p.server
                   WHERE w.project_id = $1 AND w.blueprint = $2 AND o.version / 10000 <> s.version / 10000)
               ORDER BY ({SILENT_SINCE}) IS NOT NULL,
                        (SELECT count(*) FROM physical_databases p WHERE p.server = s.name AND p.template_id IS NULL), s.name"
    );
    let rows = tx.query(&sql, &[&project.as_str(), &blueprint.as_str()]).await?;
    rows.iter().map(|row| parsed(row, "name")).collect()
}

/// Stops placing new databases on a server. False if it is not registered.
pub async fn drain(tx: &Tx, name: &ServerName) -> Result<bool> {
    let sql = "UPDATE servers SET status = 'draining' WHERE name = $1";
    Ok(tx.execute(sql, &[&name.as_str()]).await? == 1)
}

/// Undoes [`drain`]. False if the server is not registered.
pub async fn resume(tx: &Tx, name: &ServerName) -> Result<bool> {
    let sql = "UPDATE servers SET status = 'active' WHERE name = $1";
    Ok(tx.execute(sql, &[&name.as_str()]).await? == 1)
}

/// How to log in to a server, compared with a cached registration.
#[derive(Clone, Debug)]
pub enum Looked {
    /// The server is not registered.
    Gone,
    /// The cached registration is current.
    Same,
    /// The server was registered again; the current registration.
    Other(Revision, Administrator),
}

/// Reads how to log in to a server, unless `known` is current. A single statement outside of any transaction.
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

/// How to log in to a server, with the secret decrypted; `None` if it is not registered.
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

/// Sets which extensions the administrator creates on this server for developers.
pub async fn set_extensions(tx: &Tx, name: &ServerName, extensions: &[String]) -> Result<()> {
    let sql = "UPDATE servers SET extensions = $2 WHERE name = $1";
    tx.execute(sql, &[&name.as_str(), &extensions]).await?;
    Ok(())
}

/// The extensions that the administrator creates on this server for developers.
pub async fn extensions(tx: &Tx, name: &ServerName) -> Result<Vec<String>> {
    let row = tx
        .query_opt("SELECT extensions FROM servers WHERE name = $1", &[&name.as_str()])
        .await?;
    let found = row.map(|row| column(&row, "extensions")).transpose()?;
    Ok(found.unwrap_or_default())
}

/// Removes a server. False if it is not registered; [`StoreError::Conflict`] while databases are on it.
pub async fn delete(tx: &Tx, name: &ServerName) -> Result<bool> {
    Ok(tx
        .execute("DELETE FROM servers WHERE name = $1", &[&name.as_str()])
        .await?
        == 1)
}

fn context(name: &ServerName) -> String {
    format!("server:{name}")
}
