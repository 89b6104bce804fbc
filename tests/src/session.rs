//! tokio-postgres sessions that collect notices, with and without TLS.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tdb_auth::{ClientTls, Roots};
use tdb_names::TlsMode;
use tokio::task::JoinHandle;
use tokio_postgres::error::DbError;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Off,
    Required,
}

/// A client whose connection runs as a task; it dereferences to the client.
#[derive(Debug)]
pub struct Session {
    client: Client,
    notices: Arc<Mutex<Vec<DbError>>>,
    ended: JoinHandle<Option<Error>>,
}

impl Session {
    /// The notices that the server has sent so far.
    pub fn notices(&self) -> Vec<DbError> {
        self.notices.lock().unwrap().clone()
    }

    /// The names of the database and the current role.
    pub async fn identity(&self) -> (String, String) {
        let sql = "SELECT current_database()::text, current_user::text";
        let row = self.client.query_one(sql, &[]).await.expect("the identity");
        (row.get(0), row.get(1))
    }

    /// Waits until the connection has ended; returns the error that ended it.
    pub async fn ended(&mut self) -> Option<Error> {
        let limit = Duration::from_secs(60);
        let ended = tokio::time::timeout(limit, &mut self.ended).await;
        ended
            .expect("the session should have ended")
            .expect("the connection's task")
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Logs in with a connection string, without TLS.
pub async fn connect(url: &str) -> Result<Session, Error> {
    connect_with(url, Tls::Off).await
}

impl Session {
    pub async fn open(url: &str, tls: Tls) -> Result<Session, Error> {
        connect_with(url, tls).await
    }

    /// The same with a configuration.
    pub async fn configured(config: &Config) -> Result<Session, Error> {
        establish(config, NoTls).await
    }
}

async fn connect_with(url: &str, tls: Tls) -> Result<Session, Error> {
    let mut config: Config = url.parse().expect("a connection string");
    config.connect_timeout(Duration::from_secs(60));
    match tls {
        Tls::Off => {
            config.ssl_mode(tokio_postgres::config::SslMode::Disable);
            establish(&config, NoTls).await
        }
        Tls::Required => {
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
            establish(&config, rustls_connector()).await
        }
    }
}

/// Encrypts without verification: the development certificate is self-signed.
fn rustls_connector() -> MakeRustlsConnect {
    let tls = ClientTls::new(&Roots::system()).expect("a TLS configuration");
    let config = tls
        .config(TlsMode::Require)
        .expect("require needs no roots")
        .expect("require is not disable");
    MakeRustlsConnect::new((*config).clone())
}

async fn establish<T>(config: &Config, tls: T) -> Result<Session, Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = config.connect(tls).await?;
    let notices = Arc::new(Mutex::new(Vec::new()));
    let seen = notices.clone();
    let ended = tokio::spawn(async move {
        loop {
            match poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notice(notice))) => seen.lock().unwrap().push(notice),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some(error),
                None => return None,
            }
        }
    });
    Ok(Session { client, notices, ended })
}

/// The first column of a query's result. Panics if the query fails.
pub async fn column<C: FromIterator<String>>(client: &Client, sql: &str) -> C {
    let rows = client.query(sql, &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// The SQLSTATE of an error; empty if it did not come from a server.
pub fn sqlstate(error: &Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

/// The database of a connection string.
pub fn database_of(url: &str) -> String {
    let config: Config = url.parse().expect("a connection string");
    config.get_dbname().expect("a database name").to_owned()
}

/// The connection string with another database.
pub fn in_database(url: &str, database: &str) -> String {
    url_with(url, None, None, Some(database))
}

/// The connection string in a response, with another database.
pub fn url_of(answer: &Value, database: &str) -> String {
    in_database(
        answer["connection_string"].as_str().expect("a connection string"),
        database,
    )
}

/// Replaces parts of a connection string; `None` keeps a part.
pub fn url_with(url: &str, user: Option<&str>, password: Option<&str>, database: Option<&str>) -> String {
    let config: Config = url.parse().expect("a connection string");
    let host = match &config.get_hosts()[0] {
        tokio_postgres::config::Host::Tcp(name) => name.clone(),
        other => panic!("not a TCP host: {other:?}"),
    };
    let old_password = String::from_utf8(config.get_password().unwrap_or_default().to_vec()).expect("UTF-8");
    format!(
        "postgresql://{}:{}@{host}:{}/{}",
        percent(user.unwrap_or(config.get_user().unwrap_or_default())),
        percent(password.unwrap_or(&old_password)),
        config.get_ports()[0],
        percent(database.unwrap_or(config.get_dbname().unwrap_or_default())),
    )
}

/// RFC 3986 percent encoding of all characters except the unreserved ones.
fn percent(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
