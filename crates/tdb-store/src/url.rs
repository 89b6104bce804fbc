//! The store's URL, and connections to it. `sslmode` has libpq's values, of which tokio-postgres supports only some.

use std::future::poll_fn;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tdb_auth::{ClientTls, RootsError};
use tdb_names::TlsMode;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Result, StoreError, detail};
use crate::tx::answered;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Where the store is, and how to log in.
#[derive(Clone)]
pub struct StoreUrl {
    config: Config,
    mode: TlsMode,
}

/// Why a URL cannot be used.
#[derive(Debug, Error)]
pub enum UrlError {
    /// Neither a URL nor a list of keys and values.
    #[error(
        "the URL of the metadata store must look like postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with ?sslmode=MODE if needed"
    )]
    Form,
    /// Not a connection URL. The message does not repeat the URL, which may contain a password.
    #[error("the URL of the metadata store is not a PostgreSQL connection URL: {0}")]
    Invalid(String),
    /// The URL has no user.
    #[error("the URL of the metadata store names no user")]
    NoUser,
    /// The URL has no database.
    #[error("the URL of the metadata store names no database")]
    NoDatabase,
    /// The `sslmode` is not one of the supported values.
    #[error(
        "the URL of the metadata store has sslmode \"{0}\"; it may be disable, prefer, require, verify-ca or verify-full"
    )]
    Mode(String),
}

impl StoreUrl {
    /// Parses `postgresql://user:password@host:port/database?sslmode=...`, or a `key=value` list.
    pub fn parse(url: &SecretString) -> Result<Self, UrlError> {
        if !has_form(url.expose_secret()) {
            return Err(UrlError::Form);
        }
        let (rest, mode) = without_mode(url.expose_secret());
        let mode = mode.map_or(Ok(TlsMode::Prefer), |text| {
            text.parse().map_err(|_| UrlError::Mode(text.to_owned()))
        })?;
        let invalid = |e: tokio_postgres::Error| {
            UrlError::Invalid(std::error::Error::source(&e).map_or_else(String::new, ToString::to_string))
        };
        let config = Config::from_str(&rest).map_err(invalid)?;
        if config.get_user().is_none() {
            return Err(UrlError::NoUser);
        }
        if config.get_dbname().is_none() {
            return Err(UrlError::NoDatabase);
        }
        Ok(Self { config, mode })
    }

    /// The role to log in as.
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// The name of the database.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// The host and the port, or several of them, for messages.
    fn address(&self) -> String {
        let ports = self.config.get_ports();
        let port_of = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        let hosts = self.config.get_hosts().iter().enumerate();
        let addresses = hosts.map(|(at, host)| match host {
            Host::Tcp(name) => format!("{name}:{}", port_of(at)),
            Host::Unix(directory) => format!("{}:{}", directory.display(), port_of(at)),
        });
        addresses.collect::<Vec<_>>().join(", ")
    }

    /// Why a connection could not be opened. Nothing was executed yet, so the server refused the login and not a statement.
    pub(crate) fn not_connected(&self, error: tokio_postgres::Error) -> StoreError {
        let address = self.address();
        let reason = detail(&error);
        match error.as_db_error() {
            None => StoreError::unavailable(format!("{address}: {reason}")),
            Some(_) => match StoreError::from(error) {
                StoreError::Database(_) => StoreError::Login { address, reason },
                temporary => temporary,
            },
        }
    }

    /// The same store, with another role.
    pub(crate) fn login_as(&self, user: &str, secret: &SecretString) -> Self {
        let mut config = self.config.clone();
        config.user(user).password(secret.expose_secret());
        Self {
            config,
            mode: self.mode,
        }
    }

    /// The configuration of a connection. Unqualified names are looked up in the store's schema and pg_catalog.
    pub(crate) fn dial(&self, purpose: &str) -> Config {
        let mut config = self.config.clone();
        config
            .ssl_mode(match self.mode {
                TlsMode::Disable => SslMode::Disable,
                TlsMode::Prefer => SslMode::Prefer,
                TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
            })
            .application_name(format!("tenantsdb {purpose}"))
            .connect_timeout(CONNECT_TIME_MAX)
            .keepalives_idle(Duration::from_secs(30))
            .options(
                "-c search_path=control_plane,pg_catalog -c statement_timeout=10s -c lock_timeout=5s \
                 -c idle_in_transaction_session_timeout=60s -c client_min_messages=warning -c TimeZone=UTC",
            );
        config
    }

    /// The TLS connector; `None` for `disable`.
    pub(crate) fn tls(&self, tls: &ClientTls) -> Result<Option<MakeRustlsConnect>, RootsError> {
        let config = tls.config(self.mode)?;
        Ok(config.map(|config| MakeRustlsConnect::new(ClientConfig::clone(&config))))
    }

    /// Opens one connection outside of the pools.
    pub(crate) async fn connect(&self, purpose: &str, tls: &ClientTls) -> Result<Connected> {
        let config = self.dial(purpose);
        let notified = Arc::new(Notify::new());
        let connected = async {
            let client = match self.tls(tls).map_err(StoreError::unavailable)? {
                Some(tls) => {
                    let (client, connection) = config.connect(tls).await.map_err(|e| self.not_connected(e))?;
                    tokio::spawn(drive(connection, notified.clone()));
                    client
                }
                None => {
                    let (client, connection) = config.connect(NoTls).await.map_err(|e| self.not_connected(e))?;
                    tokio::spawn(drive(connection, notified.clone()));
                    client
                }
            };
            Ok::<_, StoreError>(client)
        };
        let client = answered(connected).await.map_err(|error| match error {
            StoreError::TimedOut { reason } => StoreError::timed_out(format!("{}: {reason}", self.address())),
            other => other,
        })?;
        Ok(Connected { client, notified })
    }

    /// Checks that the server accepts a login, or replies that it has too many connections.
    pub(crate) async fn answers(&self, tls: &ClientTls) -> Result<()> {
        let config = self.dial("pulse");
        let connected = match self.tls(tls).map_err(StoreError::unavailable)? {
            Some(tls) => config.connect(tls).await.map(drop),
            None => config.connect(NoTls).await.map(drop),
        };
        match connected {
            Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => Ok(()),
            other => other.map_err(|e| self.not_connected(e)),
        }
    }
}

/// A connection whose background task ends with its client.
pub(crate) struct Connected {
    pub(crate) client: Client,
    /// Notified by NOTIFY and by the end of the connection.
    pub(crate) notified: Arc<Notify>,
}

async fn drive<S, T>(mut connection: Connection<S, T>, notified: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            notified.notify_one();
        }
    }
    notified.notify_one();
}

impl std::fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hosts = self.config.get_hosts();
        write!(
            f,
            "StoreUrl({}@{hosts:?}/{}, sslmode {})",
            self.user(),
            self.database(),
            self.mode
        )
    }
}

/// Whether this is a PostgreSQL URL or a `key=value` list; for other text the parser's messages ("unexpected EOF") do not help.
fn has_form(url: &str) -> bool {
    match url.split_once("://") {
        Some((scheme, _)) => ["postgres", "postgresql"].contains(&scheme) || scheme.contains('='),
        None => url.contains('='),
    }
}

/// Extracts `sslmode` from a URL's query or from a `key=value` list.
fn without_mode(url: &str) -> (String, Option<&str>) {
    let (head, parameters, separator) = match (url.contains("://"), url.split_once('?')) {
        (true, Some((head, query))) => (head, query, '&'),
        (true, None) => return (url.to_owned(), None),
        (false, _) => ("", url, ' '),
    };
    let mut mode = None;
    let kept: Vec<&str> = parameters
        .split(separator)
        .filter(|parameter| match parameter.strip_prefix("sslmode=") {
            Some(value) => {
                mode = Some(value);
                false
            }
            None => true,
        })
        .collect();
    let kept = kept.join(&separator.to_string());
    let joint = if separator == '&' && !kept.is_empty() { "?" } else { "" };
    (format!("{head}{joint}{kept}"), mode)
}

#[cfg(test)]
mod tests {
    use tdb_auth::Roots;

    use super::*;

    fn parsed(url: &str) -> Result<StoreUrl, UrlError> {
        StoreUrl::parse(&url.to_owned().into())
    }

    #[test]
    fn every_sslmode_of_libpq_but_allow_is_understood() {
        for mode in ["disable", "prefer", "require", "verify-ca", "verify-full"] {
            let url = parsed(&format!(
                "postgresql://u:p@h:1/d?connect_timeout=3&sslmode={mode}&keepalives=1"
            ))
            .unwrap();
            assert_eq!(url.mode.to_string(), mode);
            assert_eq!(
                parsed(&format!("host=h user=u dbname=d sslmode={mode}")).unwrap().mode,
                url.mode
            );
        }
        assert_eq!(parsed("postgresql://u:p@h/d").unwrap().mode, TlsMode::Prefer);
        assert!(matches!(parsed("postgresql://u:p@h/d?sslmode=allow"), Err(UrlError::Mode(mode)) if mode == "allow"));
    }

    #[test]
    fn text_that_is_no_url_is_answered_with_the_form_of_one() {
        for text in ["notaurl", "", "http://u:s3cret@h/d", "localhost:5432/d"] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(
                error.contains("postgresql://USER:PASSWORD@HOST:PORT/DATABASE"),
                "{error}"
            );
        }
        parsed("postgres://u:p@h/d").unwrap();
        parsed("host=h user=u dbname=d password=a://b").unwrap();
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_reached_is_named_with_the_cause() {
        let tls = ClientTls::new(&Roots::system()).unwrap();
        for (url, address, cause) in [
            ("postgresql://u:p@127.0.0.1:1/d", "127.0.0.1:1: ", "refused"),
            (
                "postgresql://u:p@no-such-host.invalid/d",
                "no-such-host.invalid:5432: ",
                "lookup",
            ),
        ] {
            let url = parsed(url).unwrap();
            let connected = url.connect("test", &tls).await.map(drop).unwrap_err().to_string();
            let answers = url.answers(&tls).await.unwrap_err().to_string();
            for error in [connected, answers] {
                assert!(error.contains(address) && error.contains(cause), "{error}");
            }
        }
    }

    #[test]
    fn what_is_missing_is_named_and_the_password_is_not() {
        assert!(matches!(parsed("postgresql://h/d"), Err(UrlError::NoUser)));
        assert!(matches!(parsed("postgresql://u:p@h"), Err(UrlError::NoDatabase)));
        let error = parsed("postgresql://u:s3cret@h/d?nonsense=1").unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        let url = parsed("postgresql://u:s3cret@h/d").unwrap();
        assert!(!format!("{url:?}").contains("s3cret"));
    }
}
