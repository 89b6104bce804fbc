//! The connection to a database server, logged in as the database's role. [`Handshake`] limits what the server can send
//! during the login.

use std::io;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tdb_auth::ClientTls;
use tdb_contract::PostgresPlace;
use tdb_names::{ServerEndpoint, TlsMode};
use tdb_wire_postgres::backend;
use tdb_wire_postgres::frame::HEADER_LEN;
use tdb_wire_postgres::login::{self, Handshake, Key, LoginError, Step};
use tdb_wire_postgres::report;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::stream::Stream;

const KEEPALIVE_IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// A server session that has logged in.
pub(crate) struct Dialled {
    pub stream: Stream,
    pub key: Key,
    /// The server's ParameterStatus messages and notices, as frames for the client.
    pub greeting: Vec<u8>,
}

#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("cannot connect to the database server")]
    Unreachable(#[source] io::Error),
    #[error("timed out connecting to the database server")]
    Deadline,
    #[error("the database server does not offer TLS")]
    NoTls,
    #[error("the TLS handshake with the database server failed")]
    Tls(#[source] io::Error),
    #[error("invalid TLS configuration: {0}")]
    TlsSettings(#[from] tdb_auth::RootsError),
    #[error("the login to the database server failed")]
    Login(#[from] LoginError),
    /// The server sent an ErrorResponse.
    #[error("the database server refused the login: {parsed}")]
    Refused { parsed: report::Parsed, frame: Vec<u8> },
}

/// Connects and logs in with these startup parameters. The caller sets the deadline. Not cancel safe.
pub(crate) async fn dial(
    tls: &ClientTls,
    place: &PostgresPlace,
    parameters: &[(String, String)],
) -> Result<Dialled, DialError> {
    let mut stream = connect(tls, &place.server).await?;
    let own = [("user", place.role.as_str()), ("database", place.database.as_str())];
    let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let startup = login::startup_message(own.into_iter().chain(parameters))?;
    stream.write_all(&startup).await.map_err(DialError::Unreachable)?;
    log_in(stream, Handshake::new(place.secret.clone())).await
}

/// Connects to the server, with TLS according to its mode. Cancel requests are sent over such a connection too.
pub(crate) async fn connect(tls: &ClientTls, server: &ServerEndpoint) -> Result<Stream, DialError> {
    if server.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", server.host, server.port);
        return UnixStream::connect(path)
            .await
            .map(Stream::Unix)
            .map_err(DialError::Unreachable);
    }
    let stream = TcpStream::connect((server.host.as_str(), server.port))
        .await
        .map_err(DialError::Unreachable)?;
    stream.set_nodelay(true).map_err(DialError::Unreachable)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE);
    SockRef::from(&stream)
        .set_tcp_keepalive(&keepalive)
        .map_err(DialError::Unreachable)?;
    match tls.config(server.tls)? {
        None => Ok(Stream::Tcp(stream)),
        Some(config) => encrypt(stream, TlsConnector::from(config), server).await,
    }
}

async fn encrypt(stream: TcpStream, connector: TlsConnector, server: &ServerEndpoint) -> Result<Stream, DialError> {
    let mut stream = Stream::Tcp(stream);
    stream
        .write_all(&login::ssl_request())
        .await
        .map_err(DialError::Unreachable)?;
    // Exactly one byte: the bytes that follow must be read as TLS (CVE-2021-23222).
    let mut answer = [0];
    stream.read_exact(&mut answer).await.map_err(DialError::Unreachable)?;
    match (answer, server.tls, stream) {
        ([backend::ENCRYPTION_ACCEPTED], _, Stream::Tcp(stream)) => {
            let invalid = |_| DialError::Tls(io::Error::new(io::ErrorKind::InvalidInput, "not a host name"));
            let name = ServerName::try_from(server.host.clone()).map_err(invalid)?;
            let stream = connector.connect(name, stream).await.map_err(DialError::Tls)?;
            Ok(Stream::TlsToServer(Box::new(stream)))
        }
        ([backend::ENCRYPTION_REFUSED], TlsMode::Prefer, stream) => Ok(stream),
        _ => Err(DialError::NoTls),
    }
}

async fn log_in(mut stream: Stream, mut login: Handshake) -> Result<Dialled, DialError> {
    let mut greeting = Vec::new();
    loop {
        let frame = read_frame(&mut stream, &mut login).await?;
        let body = frame.get(HEADER_LEN..).unwrap_or_default();
        match login.step(frame.first().copied().unwrap_or(0), body)? {
            Step::Send(response) => stream.write_all(&response).await.map_err(DialError::Unreachable)?,
            Step::Read => {}
            Step::Greeting => greeting.extend_from_slice(&frame),
            Step::Refused => {
                return Err(DialError::Refused {
                    parsed: report::parse(body),
                    frame,
                });
            }
            Step::Ready(key) => {
                return Ok(Dialled { stream, key, greeting });
            }
        }
    }
}

async fn read_frame(stream: &mut Stream, login: &mut Handshake) -> Result<Vec<u8>, DialError> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await.map_err(DialError::Unreachable)?;
    let body_len = login.header(header)?.body_len;
    let mut frame = header.to_vec();
    frame.resize(HEADER_LEN + usize::try_from(body_len).unwrap_or(0), 0);
    let body = frame.get_mut(HEADER_LEN..).unwrap_or_default();
    stream.read_exact(body).await.map_err(DialError::Unreachable)?;
    Ok(frame)
}
