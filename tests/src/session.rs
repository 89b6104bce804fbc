//! tokio-postgres sessions that keep their notices, with and without TLS.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

/// A client whose connection runs as a task; derefs to the client.
#[derive(Debug)]
pub struct Session {
    client: Client,
    notices: Arc<Mutex<Vec<DbError>>>,
    ended: JoinHandle<Option<Error>>,
}

impl Session {
    /// What the server said so far besides answers.
    pub fn notices(&self) -> Vec<DbError> {
        self.notices.lock().unwrap().clone()
    }

    /// Waits until the connection is over; the error it ended with.
    pub async fn ended(&mut self) -> Option<Error> {
        let limit = Duration::from_secs(30);
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

    /// The same with settings of one's own.
    pub async fn configured(config: &Config) -> Result<Session, Error> {
        establish(config, NoTls).await
    }
}

async fn connect_with(url: &str, tls: Tls) -> Result<Session, Error> {
    let mut config: Config = url.parse().expect("a connection string");
    config.connect_timeout(Duration::from_secs(30));
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

/// Encrypts without checking who answers: the development certificate is self-signed.
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

/// The SQLSTATE of a failure; empty where it did not come from a server.
pub fn sqlstate(error: &Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

/// The database a connection string names.
pub fn database_of(url: &str) -> String {
    let config: Config = url.parse().expect("a connection string");
    config.get_dbname().expect("a database name").to_owned()
}

/// A connection string with other parts; what is `None` stays.
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

/// RFC 3986 percent encoding of all but the unreserved characters.
fn percent(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
