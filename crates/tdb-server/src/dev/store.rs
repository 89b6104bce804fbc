//! The database of the metadata store and its owner in the private PostgreSQL. The owner is not a superuser, so that the
//! store has the same rights in `dev` as in production. All SQL is constant.

use std::time::Duration;

use anyhow::{Context, Result};
use secrecy::{ExposeSecret, SecretString};
use tdb_auth::{ITERATIONS_RANDOM_SECRET, ScramVerifier};
use tokio_postgres::{Client, Config, NoTls};

use super::postgres::ADMINISTRATOR;

const OWNER: &str = "cp_owner";
const DATABASE: &str = "tdb_control";
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Creates the role and the database if they are missing, and sets the owner's password. Returns the store's URL.
pub(crate) async fn provision(port: u16, administrator: &SecretString, owner: &SecretString) -> Result<SecretString> {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user(ADMINISTRATOR)
        .password(administrator.expose_secret());
    config
        .dbname("postgres")
        .connect_timeout(CONNECT_TIME_MAX)
        .application_name("tenantsdb dev");
    let (client, connection) = config
        .connect(NoTls)
        .await
        .context("cannot log in to the private PostgreSQL")?;
    let connection = tokio::spawn(connection);
    let made = make(&client, owner).await;
    drop(client);
    connection
        .await?
        .context("the connection to the private PostgreSQL was lost")?;
    made?;
    Ok(format!(
        "postgresql://{OWNER}:{}@127.0.0.1:{port}/{DATABASE}?sslmode=disable",
        owner.expose_secret()
    )
    .into())
}

async fn make(client: &Client, owner: &SecretString) -> Result<()> {
    // A verifier contains no characters that must be quoted in SQL, and keeps the password out of the server's log.
    let verifier = ScramVerifier::derive(owner, ITERATIONS_RANDOM_SECRET)?;
    let found = client
        .query_opt("SELECT FROM pg_catalog.pg_roles WHERE rolname = 'cp_owner'", &[])
        .await?;
    let verb = if found.is_some() { "ALTER" } else { "CREATE" };
    let role = format!("{verb} ROLE cp_owner LOGIN CREATEROLE NOSUPERUSER NOCREATEDB PASSWORD '{verifier}'");
    client
        .batch_execute(&role)
        .await
        .context("cannot create the role cp_owner")?;
    let found = client
        .query_opt("SELECT FROM pg_catalog.pg_database WHERE datname = 'tdb_control'", &[])
        .await?;
    if found.is_none() {
        let create = "CREATE DATABASE tdb_control OWNER cp_owner";
        client
            .batch_execute(create)
            .await
            .context("cannot create the database tdb_control")?;
    }
    client
        .batch_execute("REVOKE ALL ON DATABASE tdb_control FROM PUBLIC")
        .await?;
    Ok(())
}
