//! Sessions of the administrator on the private PostgreSQL, for the operations that TenantsDB is compared with.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Config, NoTls};

use crate::pgbench::Endpoint;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);

/// A session that stays open, used from blocking code.
pub(crate) struct Session {
    client: Client,
    runtime: Runtime,
}

impl Session {
    pub(crate) fn open(endpoint: &Endpoint) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(connect(endpoint))?;
        Ok(Self { client, runtime })
    }

    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        self.wait(self.client.batch_execute(sql))
            .with_context(|| sql.to_owned())
    }

    /// The first column of each row.
    pub(crate) fn column(&self, sql: &str) -> Result<Vec<String>> {
        let rows = self.wait(self.client.query(sql, &[])).with_context(|| sql.to_owned())?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// Connects. Must be called on a Tokio runtime; the session ends when the client is dropped.
pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Client> {
    let mut config = Config::new();
    config
        .host(&endpoint.host)
        .port(endpoint.port)
        .user(&endpoint.user)
        .password(&endpoint.password)
        .dbname(&endpoint.database)
        .connect_timeout(CONNECT_TIME_MAX);
    let (client, connection) = config
        .connect(NoTls)
        .await
        .with_context(|| format!("log in to {}", endpoint.database))?;
    tokio::spawn(connection);
    Ok(client)
}
