//! A connection that closes when it is dropped. Every statement has a deadline.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tdb_auth::ClientTls;
use tdb_names::{ServerEndpoint, TlsMode};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::config::SslMode;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::postgres::error::EngineError;

/// How long to wait for a server process to end after it was terminated or its client disconnected.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(10);
const LEAVE_POLL: Duration = Duration::from_millis(2);
/// The deadline of statements that do not wait for locks of clients.
pub(crate) const STATEMENT_TIME_MAX: Duration = Duration::from_secs(30);

/// Where and how to connect.
pub(crate) struct ConnectOptions<'a> {
    pub endpoint: &'a ServerEndpoint,
    pub tls: &'a ClientTls,
    pub database: &'a str,
    pub user: &'a str,
    pub secret: &'a SecretString,
    pub application_name: &'a str,
    pub options: &'a str,
    /// For connecting and authentication together.
    pub deadline: Duration,
}

/// A session. Dropping it closes the socket; the server then ends the session when it next reads from it.
pub(crate) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

pub(crate) async fn connect(target: &ConnectOptions<'_>) -> Result<Session, EngineError> {
    let mut config = Config::new();
    config
        .host(&target.endpoint.host)
        .port(target.endpoint.port)
        .user(target.user)
        .password(target.secret.expose_secret())
        .dbname(target.database)
        .application_name(target.application_name)
        .options(target.options)
        .ssl_mode(match target.endpoint.tls {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
    let tls = target.tls.config(target.endpoint.tls);
    let tls = tls.map_err(|e| EngineError::Unfit(e.to_string()))?;
    let dial = async {
        Ok::<_, EngineError>(match tls {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
            Some(tls) => {
                let connector = MakeRustlsConnect::new(tls.as_ref().clone());
                let (client, connection) = config.connect(connector).await?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
        })
    };
    let (client, driver) = within(target.deadline, dial).await?;
    Ok(Session { client, driver })
}

/// Runs `work`, or fails with [`EngineError::Deadline`] after `limit`, which drops the work. Cancel safe if the work is.
pub(crate) async fn within<T, E: Into<EngineError>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, EngineError> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(EngineError::Deadline(limit)),
    }
}

/// Closes `inside` and waits until its server process has ended. A rename of the database before that would take 100 ms.
pub(crate) async fn leave(outside: &Session, inside: Session, name: &str) -> Result<(), EngineError> {
    let pid = inside.pid().await?;
    drop(inside);
    let gone = "SELECT FROM pg_stat_activity WHERE pid = $1 AND datname = $2";
    wait_for_none(outside, gone, &[&pid, &name], name).await
}

/// Waits until the query returns no row; fails with [`EngineError::Busy`] for database `name` after 10 s.
pub(crate) async fn wait_for_none(
    outside: &Session,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
    name: &str,
) -> Result<(), EngineError> {
    let deadline = Instant::now() + LEAVE_TIME_MAX;
    while !outside.rows(sql, parameters).await?.is_empty() {
        if Instant::now() > deadline {
            return Err(EngineError::Busy {
                database: name.to_owned(),
            });
        }
        sleep(LEAVE_POLL).await;
    }
    Ok(())
}

impl Session {
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs text of one or more statements and discards the results.
    pub(crate) async fn run(&self, sql: &str) -> Result<(), EngineError> {
        self.run_within(STATEMENT_TIME_MAX, sql).await
    }

    pub(crate) async fn run_within(&self, limit: Duration, sql: &str) -> Result<(), EngineError> {
        within(limit, self.client.batch_execute(sql)).await
    }

    pub(crate) async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, EngineError> {
        within(STATEMENT_TIME_MAX, self.client.query(sql, parameters)).await
    }

    pub(crate) async fn row(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, EngineError> {
        within(STATEMENT_TIME_MAX, self.client.query_opt(sql, parameters)).await
    }

    pub(crate) async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, EngineError> {
        within(STATEMENT_TIME_MAX, self.client.execute(sql, parameters)).await
    }

    /// The server process of this session.
    pub(crate) async fn pid(&self) -> Result<i32, EngineError> {
        let row = self.row("SELECT pg_catalog.pg_backend_pid()", &[]).await?;
        let row = row.ok_or_else(|| EngineError::Unexpected("no backend pid".to_owned()))?;
        Ok(row.try_get(0)?)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
