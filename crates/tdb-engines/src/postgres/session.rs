//! A connection that ends with its value, and whose every answer has a deadline.

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

/// A server process that was told to end, or whose client left, is gone within this time.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(10);
const LEAVE_POLL: Duration = Duration::from_millis(2);
/// For statements of ours that do not wait for anybody else's locks.
pub(crate) const STATEMENT_TIME_MAX: Duration = Duration::from_secs(30);

pub(crate) struct Target<'a> {
    pub endpoint: &'a ServerEndpoint,
    pub tls: &'a ClientTls,
    pub database: &'a str,
    pub user: &'a str,
    pub secret: &'a SecretString,
    pub application_name: &'a str,
    pub options: &'a str,
    /// From the first byte to the end of authentication.
    pub deadline: Duration,
}

/// Dropping it closes the socket, which ends the server's session at its next read.
pub(crate) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

pub(crate) async fn connect(target: &Target<'_>) -> Result<Session, EngineError> {
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

/// `work`, or an error once `limit` is over. Not cancel safe where the work is not.
pub(crate) async fn within<T, E: Into<EngineError>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, EngineError> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(EngineError::Deadline(limit)),
    }
}

/// Ends `inside` and waits for its server process to be gone: a rename in its last moments would wait 100 ms.
pub(crate) async fn leave(outside: &Session, inside: Session, name: &str) -> Result<(), EngineError> {
    let pid = inside.pid().await?;
    std::mem::drop(inside);
    let gone = "SELECT FROM pg_stat_activity WHERE pid = $1 AND datname = $2";
    wait_for_none(outside, gone, &[&pid, &name], name).await
}

/// Waits until the query gives no row, a bounded time.
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
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs text of one or more statements; the answers are thrown away.
    pub async fn run(&self, sql: &str) -> Result<(), EngineError> {
        self.run_within(STATEMENT_TIME_MAX, sql).await
    }

    pub async fn run_within(&self, limit: Duration, sql: &str) -> Result<(), EngineError> {
        within(limit, self.client.batch_execute(sql)).await
    }

    pub async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, EngineError> {
        within(STATEMENT_TIME_MAX, self.client.query(sql, parameters)).await
    }

    pub async fn row(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, EngineError> {
        within(STATEMENT_TIME_MAX, self.client.query_opt(sql, parameters)).await
    }

    pub async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, EngineError> {
        within(STATEMENT_TIME_MAX, self.client.execute(sql, parameters)).await
    }

    /// This session's server process.
    pub async fn pid(&self) -> Result<i32, EngineError> {
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
