//! A session at a database server, as the database's own role. A server is not trusted: its messages are bounded in
//! number and length while it logs us in.

use std::io;
use std::rc::Rc;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tdb_auth::ClientTls;
use tdb_contract::Route;
use tdb_names::{ServerEndpoint, TlsMode};
use tdb_wire_postgres::backend;
use tdb_wire_postgres::frame::parse_header;
use tdb_wire_postgres::login::{self, Login, LoginError, Next};
use tdb_wire_postgres::report;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::stream::Stream;

/// Longest message of a login; PostgreSQL's are a few hundred bytes.
const MESSAGE_LEN_MAX: u32 = 64 * 1024;
/// Most messages of a login; PostgreSQL sends about twenty.
const MESSAGES_MAX: usize = 1000;
const KEEPALIVE_IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// A server session, logged in and ready.
pub struct Dialled {
    pub stream: Stream,
    pub pid: i32,
    pub key: i32,
    /// ParameterStatus and notices, as frames for the client.
    pub greeting: Vec<u8>,
    /// The ReadyForQuery's frame.
    pub ready: Vec<u8>,
}

#[derive(Debug, Error)]
pub enum DialError {
    #[error("cannot reach the database server")]
    Unreachable(#[source] io::Error),
    #[error("the database server does not offer TLS")]
    NoTls,
    #[error("TLS with the database server failed")]
    Tls(#[source] io::Error),
    #[error("no TLS configuration: {0}")]
    TlsSettings(#[from] tdb_auth::RootsError),
    #[error("login at the database server failed")]
    Login(#[from] LoginError),
    /// The server's own ErrorResponse.
    #[error("the database server refused: {parsed}")]
    Refused { parsed: report::Parsed, frame: Vec<u8> },
}

/// Connects and logs in with the client's own startup parameters. The caller sets the deadline. Not cancel safe.
pub async fn dial(tls: &ClientTls, route: &Rc<Route>, parameters: &[(String, String)]) -> Result<Dialled, DialError> {
    let mut stream = connect(tls, &route.server).await?;
    let own = [
        ("user", route.role.as_str()),
        ("database", route.physical_database.as_str()),
    ];
    let theirs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let startup = login::startup_message(own.into_iter().chain(theirs))?;
    stream.write_all(&startup).await.map_err(DialError::Unreachable)?;
    log_in(stream, Login::new(route.secret.clone())).await
}

/// A connection to the server with the TLS its mode asks for; cancel requests use the same.
pub async fn connect(tls: &ClientTls, server: &ServerEndpoint) -> Result<Stream, DialError> {
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
    // One byte exactly: what follows it must be TLS (CVE-2021-23222).
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

async fn log_in(mut stream: Stream, mut login: Login) -> Result<Dialled, DialError> {
    let mut key = None;
    let mut authenticated = false;
    let mut greeting = Vec::new();
    for _ in 0..MESSAGES_MAX {
        let frame = read_frame(&mut stream).await?;
        let (tag, body) = (frame.first().copied().unwrap_or(0), frame.get(5..).unwrap_or_default());
        match tag {
            backend::AUTHENTICATION if !authenticated => match login.step(body)? {
                Next::Send(response) => stream.write_all(&response).await.map_err(DialError::Unreachable)?,
                Next::Wait => {}
                Next::Authenticated => authenticated = true,
            },
            backend::ERROR => {
                return Err(DialError::Refused {
                    parsed: report::parse(body),
                    frame,
                });
            }
            backend::NOTICE | backend::PARAMETER_STATUS => greeting.extend_from_slice(&frame),
            backend::BACKEND_KEY_DATA if authenticated => key = Some(login::parse_key(body)?),
            backend::READY_FOR_QUERY if authenticated => {
                let (pid, key) = key.ok_or(LoginError::Protocol("no BackendKeyData"))?;
                return Ok(Dialled {
                    stream,
                    pid,
                    key,
                    greeting,
                    ready: frame,
                });
            }
            _ => return Err(LoginError::Protocol("an unexpected message during login").into()),
        }
    }
    Err(LoginError::Protocol("too many messages during login").into())
}

async fn read_frame(stream: &mut Stream) -> Result<Vec<u8>, DialError> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).await.map_err(DialError::Unreachable)?;
    let parsed = parse_header(header).map_err(|_| LoginError::Protocol("an invalid length"))?;
    if parsed.body_len > MESSAGE_LEN_MAX {
        return Err(LoginError::Protocol("a message too long for a login").into());
    }
    let mut frame = header.to_vec();
    frame.resize(header.len() + usize::try_from(parsed.body_len).unwrap_or(0), 0);
    stream
        .read_exact(frame.get_mut(header.len()..).unwrap_or_default())
        .await
        .map_err(DialError::Unreachable)?;
    Ok(frame)
}
