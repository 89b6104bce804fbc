//! Table `servers`: the database servers of the installation. They belong to no project, so writing them and reading
//! their administrators takes a transaction of [`crate::Store::jobs`].

use secrecy::SecretString;
use serde_json::Value;
use tdb_names::{ServerEndpoint, ServerName};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::Store;
use crate::error::{Result, StoreError};
use crate::row::{column, parsed};
use crate::tx::Tx;

#[derive(Clone, Debug)]
pub struct ServerRow {
    pub endpoint: ServerEndpoint,
    /// Physical names there tell nothing about tenants.
    pub opaque_names: bool,
    /// `server_version_num`; none before the first contact.
    pub version: Option<i32>,
    /// What else the last contact found.
    pub facts: Value,
    pub created_at: OffsetDateTime,
}

/// How to log in to a server as its administrator.
#[derive(Clone, Debug)]
pub struct Administrator {
    pub endpoint: ServerEndpoint,
    pub user: String,
    pub secret: SecretString,
    pub opaque_names: bool,
}

const COLUMNS: &str = "name, host, port, tls, opaque_names, version, facts, created_at";

impl ServerRow {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            endpoint: endpoint(row, "name")?,
            opaque_names: column(row, "opaque_names")?,
            version: column(row, "version")?,
            facts: column(row, "facts")?,
            created_at: column(row, "created_at")?,
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
pub async fn upsert(tx: &Tx, store: &Store, server: &Administrator) -> Result<()> {
    let ServerEndpoint { name, host, port, tls } = &server.endpoint;
    let sealed = store.master_key().seal(&context(name), &server.secret)?;
    let sql = "INSERT INTO servers (name, host, port, tls, admin_user, admin_secret, opaque_names)
               VALUES ($1, $2, $3, $4, $5, $6, $7)
               ON CONFLICT (name) DO UPDATE SET host = EXCLUDED.host, port = EXCLUDED.port, tls = EXCLUDED.tls,
                   admin_user = EXCLUDED.admin_user, admin_secret = EXCLUDED.admin_secret, opaque_names = EXCLUDED.opaque_names";
    let (port, tls) = (i32::from(*port), tls.to_string());
    tx.execute(
        sql,
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
    Ok(())
}

/// What a contact found.
pub async fn record_facts(tx: &Tx, name: &ServerName, version: i32, facts: &Value) -> Result<()> {
    let sql = "UPDATE servers SET version = $2, facts = $3 WHERE name = $1";
    tx.execute(sql, &[&name.as_str(), &version, facts]).await?;
    Ok(())
}

/// By name, at most `limit`; without their administrators.
pub async fn list(tx: &Tx, limit: i64) -> Result<Vec<ServerRow>> {
    let rows = tx
        .query(
            &format!("SELECT {COLUMNS} FROM servers ORDER BY name LIMIT $1"),
            &[&limit],
        )
        .await?;
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

/// With the secret opened.
pub async fn administrator(tx: &Tx, store: &Store, name: &ServerName) -> Result<Option<Administrator>> {
    let sql = "SELECT name, host, port, tls, opaque_names, admin_user, admin_secret FROM servers WHERE name = $1";
    let Some(row) = tx.query_opt(sql, &[&name.as_str()]).await? else {
        return Ok(None);
    };
    let sealed: &[u8] = column(&row, "admin_secret")?;
    Ok(Some(Administrator {
        endpoint: endpoint(&row, "name")?,
        user: column(&row, "admin_user")?,
        secret: store.master_key().open(&context(name), sealed)?,
        opaque_names: column(&row, "opaque_names")?,
    }))
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
