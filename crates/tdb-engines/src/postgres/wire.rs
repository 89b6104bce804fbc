//! The little of the protocol that [`crate::postgres::query`] needs and tokio-postgres hides: type oids, command tags, and frames
//! that are passed over without being held. Frontend/Backend Protocol 3.0; SCRAM-SHA-256 only, as our roles have.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use secrecy::ExposeSecret;
use tdb_names::TlsMode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::postgres::error::{EngineError, SqlState};
use crate::postgres::login::Login;

/// Longest frame that is held: errors, descriptions of 1,664 columns. Rows have a bound of their caller's.
const FRAME_LEN_MAX: usize = 1024 * 1024;
const SKIP_LEN: usize = 64 * 1024;

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// One authenticated connection. Nothing here has a deadline: the caller puts one around the whole.
pub(crate) struct Wire {
    socket: Box<dyn Socket>,
    out: BytesMut,
    /// The server process behind it (BackendKeyData).
    server_pid: i32,
}

/// A frame's tag and the length of its body, which is still to be read or passed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub tag: u8,
    pub len: usize,
}

impl Wire {
    pub async fn connect(login: &Login, options: &str) -> Result<Self, EngineError> {
        let socket = dial(login).await?;
        let mut wire = Self {
            socket,
            out: BytesMut::new(),
            server_pid: 0,
        };
        let parameters = [
            ("user", login.role.as_str()),
            ("database", login.database.as_str()),
            ("application_name", login.application_name.as_str()),
            ("client_encoding", "UTF8"),
            ("options", options),
        ];
        frontend::startup_message(parameters, &mut wire.out)?;
        wire.flush().await?;
        wire.authenticate(login).await?;
        loop {
            let head = wire.head().await?;
            let mut body = wire.body(head).await?;
            match head.tag {
                b'K' => wire.server_pid = body.try_get_i32().map_err(|_| unexpected("a malformed key"))?,
                b'Z' => return Ok(wire),
                b'E' => return Err(server_error(body)),
                _ => {}
            }
        }
    }

    pub fn server_pid(&self) -> i32 {
        self.server_pid
    }

    /// Sends text of one or more statements.
    pub async fn query(&mut self, sql: &str) -> Result<(), EngineError> {
        frontend::query(sql, &mut self.out)?;
        self.flush().await
    }

    /// We have nothing to copy into a table.
    pub async fn refuse_copy(&mut self) -> Result<(), EngineError> {
        frontend::copy_fail("COPY from the client is not possible here", &mut self.out)?;
        self.flush().await
    }

    pub async fn head(&mut self) -> Result<Head, EngineError> {
        let tag = self.socket.read_u8().await?;
        let len = usize::try_from(self.socket.read_u32().await?).unwrap_or(usize::MAX);
        let len = len.checked_sub(4).ok_or_else(|| unexpected("a frame is too short"))?;
        Ok(Head { tag, len })
    }

    pub async fn body(&mut self, head: Head) -> Result<Bytes, EngineError> {
        self.body_up_to(head, FRAME_LEN_MAX).await
    }

    pub async fn body_up_to(&mut self, head: Head, len_max: usize) -> Result<Bytes, EngineError> {
        if head.len > len_max {
            return Err(unexpected("a frame is too long"));
        }
        let mut body = vec![0; head.len];
        self.socket.read_exact(&mut body).await?;
        Ok(body.into())
    }

    /// Passes over a body without holding it.
    pub async fn skip(&mut self, head: Head) -> Result<(), EngineError> {
        let mut scratch = vec![0; head.len.min(SKIP_LEN)];
        let mut left = head.len;
        while left > 0 {
            let chunk = scratch
                .get_mut(..left.min(SKIP_LEN))
                .ok_or_else(|| unexpected("scratch"))?;
            self.socket.read_exact(chunk).await?;
            left -= chunk.len();
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), EngineError> {
        self.socket.write_all(&self.out).await?;
        self.socket.flush().await?;
        self.out.clear();
        Ok(())
    }

    async fn authenticate(&mut self, login: &Login) -> Result<(), EngineError> {
        let mut scram = None;
        loop {
            let head = self.head().await?;
            let mut body = self.body(head).await?;
            match head.tag {
                b'E' => return Err(server_error(body)),
                b'R' if body.remaining() >= 4 => {}
                _ => return Err(unexpected("no authentication request")),
            }
            match body.get_i32() {
                0 => return Ok(()),
                10 => {
                    let secret = login.secret.expose_secret().as_bytes();
                    let exchange = ScramSha256::new(secret, ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), &mut self.out)?;
                    scram = Some(exchange);
                    self.flush().await?;
                }
                11 => {
                    let exchange = scram.as_mut().ok_or_else(|| unexpected("SASL out of order"))?;
                    exchange.update(&body)?;
                    frontend::sasl_response(exchange.message(), &mut self.out)?;
                    self.flush().await?;
                }
                12 => scram
                    .as_mut()
                    .ok_or_else(|| unexpected("SASL out of order"))?
                    .finish(&body)?,
                _ => {
                    return Err(EngineError::Unfit(
                        "the server does not ask for SCRAM-SHA-256".to_owned(),
                    ));
                }
            }
        }
    }
}

async fn dial(login: &Login) -> Result<Box<dyn Socket>, EngineError> {
    let endpoint = &login.endpoint;
    if endpoint.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", endpoint.host, endpoint.port);
        return Ok(Box::new(UnixStream::connect(path).await?));
    }
    let mut tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    tcp.set_nodelay(true)?;
    let config = login
        .tls
        .config(endpoint.tls)
        .map_err(|error| EngineError::Unfit(error.to_string()))?;
    let Some(config) = config else {
        return Ok(Box::new(tcp));
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    match (tcp.read_u8().await?, endpoint.tls) {
        (b'S', _) => {
            let name = rustls::pki_types::ServerName::try_from(endpoint.host.clone());
            let name = name.map_err(|error| EngineError::Unfit(error.to_string()))?;
            Ok(Box::new(
                TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await?,
            ))
        }
        (_, TlsMode::Prefer) => Ok(Box::new(tcp)),
        _ => Err(EngineError::Unfit("the server does not speak TLS".to_owned())),
    }
}

/// An ErrorResponse: one-byte field types with zero-terminated values.
pub(crate) fn server_error(body: Bytes) -> EngineError {
    let mut fields = body.split(|byte| *byte == 0);
    let (mut sqlstate, mut message) = (SqlState::new("XX000"), String::new());
    let (mut detail, mut hint) = (None, None);
    for field in fields.by_ref() {
        let Some((kind, value)) = field.split_first() else {
            continue;
        };
        let value = String::from_utf8_lossy(value).into_owned();
        match kind {
            b'C' => sqlstate = SqlState::new(&value),
            b'M' => message = value,
            b'D' => detail = Some(value),
            b'H' => hint = Some(value),
            _ => {}
        }
    }
    EngineError::Sql {
        sqlstate,
        message,
        detail,
        hint,
    }
}

pub(crate) fn unexpected(what: &str) -> EngineError {
    EngineError::Unexpected(what.to_owned())
}

impl From<std::io::Error> for EngineError {
    fn from(error: std::io::Error) -> Self {
        EngineError::Unreachable(Box::new(error))
    }
}
