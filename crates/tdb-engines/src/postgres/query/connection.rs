//! The connection of a [`Query`](super::Query). tokio-postgres is not used here, since it hides type oids and command tags
//! and buffers all rows. The protocol is implemented in `tdb-wire-postgres`.

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tdb_names::TlsMode;
use tdb_wire_postgres::backend::ENCRYPTION_ACCEPTED;
use tdb_wire_postgres::frame::{HEADER_LEN, parse_header};
use tdb_wire_postgres::login::{self, LoginError, Step};
use tdb_wire_postgres::report;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::postgres::error::{EngineError, SqlState};
use crate::postgres::login::DatabaseLogin;

/// The longest body of a frame that is buffered: errors, descriptions of 1,664 columns. For rows the caller sets the limit.
const FRAME_LEN_MAX: usize = 1024 * 1024;
const SKIP_LEN: usize = 64 * 1024;

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// An authenticated connection. Its functions have no deadlines, so the caller must set one. They are not cancel safe.
pub(super) struct Connection {
    socket: Box<dyn Socket>,
    out: BytesMut,
    server_pid: i32,
}

/// The tag of a frame and the length of its body, which must then be read or skipped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub tag: u8,
    pub len: usize,
}

impl Connection {
    pub(super) async fn open(login: &DatabaseLogin, options: &str) -> Result<Self, EngineError> {
        let parameters = [
            ("user", login.role.as_str()),
            ("database", login.database.as_str()),
            ("application_name", login.application_name.as_str()),
            ("client_encoding", "UTF8"),
            ("options", options),
        ];
        let startup = login::startup_message(parameters.into_iter())?;
        let mut socket = dial(login).await?;
        socket.write_all(&startup).await?;
        socket.flush().await?;
        let server_pid = log_in(socket.as_mut(), login).await?;
        Ok(Self {
            socket,
            out: BytesMut::new(),
            server_pid,
        })
    }

    /// The server process of the connection.
    pub(super) fn server_pid(&self) -> i32 {
        self.server_pid
    }

    /// Sends text of one or more statements, as a simple Query.
    pub(super) async fn query(&mut self, sql: &str) -> Result<(), EngineError> {
        frontend::query(sql, &mut self.out)?;
        self.flush().await
    }

    /// Sends exactly one statement with the extended protocol, with results as text. It must not be COPY FROM STDIN.
    pub(super) async fn statement(&mut self, sql: &str) -> Result<(), EngineError> {
        frontend::parse("", sql, [], &mut self.out)?;
        let nothing = |_: (), _: &mut BytesMut| Ok(postgres_protocol::IsNull::Yes);
        let bound = frontend::bind("", "", [], [], nothing, [], &mut self.out);
        bound.map_err(|error| match error {
            frontend::BindError::Conversion(error) => unexpected(&error.to_string()),
            frontend::BindError::Serialization(error) => error.into(),
        })?;
        frontend::describe(b'P', "", &mut self.out)?;
        frontend::execute("", 0, &mut self.out)?;
        frontend::sync(&mut self.out);
        self.flush().await
    }

    /// Refuses COPY FROM STDIN: there is no data to send.
    pub(super) async fn refuse_copy(&mut self) -> Result<(), EngineError> {
        frontend::copy_fail("COPY from the client is not possible here", &mut self.out)?;
        self.flush().await
    }

    /// Reads the header of the next frame.
    pub(super) async fn head(&mut self) -> Result<Head, EngineError> {
        let mut header = [0; HEADER_LEN];
        self.socket.read_exact(&mut header).await?;
        let header = parse_header(header).map_err(|error| unexpected(&error.to_string()))?;
        Ok(Head {
            tag: header.tag,
            len: usize::try_from(header.body_len).unwrap_or(usize::MAX),
        })
    }

    /// Reads a body of at most 1 MiB.
    pub(super) async fn body(&mut self, head: Head) -> Result<Bytes, EngineError> {
        self.body_up_to(head, FRAME_LEN_MAX).await
    }

    /// Reads a body, or fails if it is longer than `len_max` bytes.
    pub(super) async fn body_up_to(&mut self, head: Head, len_max: usize) -> Result<Bytes, EngineError> {
        if head.len > len_max {
            return Err(unexpected("a frame is too long"));
        }
        let mut body = vec![0; head.len];
        self.socket.read_exact(&mut body).await?;
        Ok(body.into())
    }

    /// Reads and discards a body in pieces of bounded size.
    pub(super) async fn skip(&mut self, head: Head) -> Result<(), EngineError> {
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
}

/// Reads up to ReadyForQuery, answering the authentication requests. Returns the process id of the server process.
async fn log_in(socket: &mut dyn Socket, login: &DatabaseLogin) -> Result<i32, EngineError> {
    let mut state = login::Handshake::new(login.secret.clone());
    loop {
        let mut header = [0; HEADER_LEN];
        socket.read_exact(&mut header).await?;
        let header = state.header(header)?;
        let mut body = vec![0; usize::try_from(header.body_len).unwrap_or(0)];
        socket.read_exact(&mut body).await?;
        match state.step(header.tag, &body)? {
            Step::Send(response) => {
                socket.write_all(&response).await?;
                socket.flush().await?;
            }
            Step::Read | Step::Greeting => {}
            Step::Refused => return Err(server_error(&body)),
            Step::Ready(key) => return Ok(key.pid),
        }
    }
}

async fn dial(login: &DatabaseLogin) -> Result<Box<dyn Socket>, EngineError> {
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
    tcp.write_all(&login::ssl_request()).await?;
    match (tcp.read_u8().await?, endpoint.tls) {
        (ENCRYPTION_ACCEPTED, _) => {
            let name = rustls::pki_types::ServerName::try_from(endpoint.host.clone());
            let name = name.map_err(|error| EngineError::Unfit(error.to_string()))?;
            Ok(Box::new(TlsConnector::from(config).connect(name, tcp).await?))
        }
        (_, TlsMode::Prefer) => Ok(Box::new(tcp)),
        _ => Err(EngineError::Unfit("the server does not support TLS".to_owned())),
    }
}

/// Converts an ErrorResponse.
pub(super) fn server_error(body: &[u8]) -> EngineError {
    let parsed = report::parse(body);
    let code = if parsed.code.is_empty() { "XX000" } else { &parsed.code };
    EngineError::Sql {
        sqlstate: SqlState::new(code),
        message: parsed.message,
        detail: parsed.detail,
        hint: parsed.hint,
    }
}

pub(super) fn unexpected(what: &str) -> EngineError {
    EngineError::Unexpected(what.to_owned())
}

impl From<std::io::Error> for EngineError {
    fn from(error: std::io::Error) -> Self {
        EngineError::Unreachable(Box::new(error))
    }
}

impl From<LoginError> for EngineError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Method(_) | LoginError::NoScram => EngineError::Unfit(error.to_string()),
            LoginError::Scram(_) | LoginError::Protocol(_) => EngineError::Unexpected(error.to_string()),
        }
    }
}
