//! From accept to the startup packet: encryption requests, cancel requests, and the startup parameters. Only the bytes of
//! each packet are read, so that no unencrypted byte is buffered when TLS begins.

use std::io;

use tdb_names::Engine;
use tdb_wire_postgres::backend::{ENCRYPTION_ACCEPTED, ENCRYPTION_REFUSED};
use tdb_wire_postgres::startup::{CancelRequest, Opening, OpeningError, Startup, opening_len, parse_opening};
use tokio::net::TcpStream;

use super::refuse::Refusal;
use super::render::Refused;
use crate::Plane;
use crate::settings::ClientTlsMode;
use crate::stream::Stream;

/// The first byte of a TLS record that contains a handshake message (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// The maximum number of packets: SSLRequest, GSSENCRequest, the startup packet, and one more.
const OPENINGS_MAX: usize = 4;

pub(crate) enum Hello {
    Startup(Stream, Startup),
    Cancel(Stream, CancelRequest),
    /// The client closed the connection without a startup packet, as health checks of load balancers do.
    Gone,
}

/// Reads up to a startup packet or cancel request, and negotiates encryption. The caller sets the deadline. Not cancel safe.
pub(crate) async fn listen(plane: &Plane, stream: TcpStream) -> Result<Hello, Refusal> {
    let mut first = [0];
    let mut stream = match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Ok(Hello::Gone),
        Ok(_) if first == [TLS_HANDSHAKE] => match &plane.tls {
            Some(tls) if plane.settings.tls_mode != ClientTlsMode::Disable => tls
                .accept_direct(stream, Engine::PostgreSql)
                .await
                .map_err(|error| Refusal::silent("the TLS handshake failed", error))?,
            _ => {
                return Err(Refusal::silent(
                    "direct TLS is not enabled",
                    io::ErrorKind::Unsupported.into(),
                ));
            }
        },
        Ok(_) => Stream::Tcp(stream),
    };
    for _ in 0..OPENINGS_MAX {
        let opening = match read_opening(&mut stream).await {
            Err(refusal) => return Err(refusal.on(stream)),
            Ok(None) => return Ok(Hello::Gone),
            Ok(Some(opening)) => opening,
        };
        stream = match opening {
            Opening::Cancel(request) => return Ok(Hello::Cancel(stream, request)),
            Opening::Startup(startup) => {
                return check_tls(plane, stream).map(|stream| Hello::Startup(stream, startup));
            }
            Opening::Gss => answer(stream, ENCRYPTION_REFUSED).await?,
            Opening::Tls => encrypt(plane, stream).await?,
        };
    }
    Err(Refusal::from(Refused::TooManyOpenings).on(stream))
}

async fn read_opening(stream: &mut Stream) -> Result<Option<Opening>, Refusal> {
    let lost = |error| Refusal::silent("the connection was lost in its startup packet", error);
    let mut prefix = [0; 4];
    match stream.read_exact(&mut prefix).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map_err(lost)?,
    }
    // The first bytes of Terminate. node-postgres sends it when it is closed before it has connected.
    if prefix == *b"X\0\0\0" {
        return Ok(None);
    }
    let refuse = |error: OpeningError| Refusal::from(Refused::Opening(error));
    let len = opening_len(prefix).map_err(refuse)?;
    let mut body = vec![0; len.saturating_sub(prefix.len())];
    stream.read_exact(&mut body).await.map_err(lost)?;
    parse_opening(&body).map(Some).map_err(refuse)
}

async fn encrypt(plane: &Plane, stream: Stream) -> Result<Stream, Refusal> {
    let tls = plane
        .tls
        .as_ref()
        .filter(|_| plane.settings.tls_mode != ClientTlsMode::Disable);
    match (tls, stream) {
        (Some(tls), Stream::Tcp(stream)) => {
            let Stream::Tcp(stream) = answer(Stream::Tcp(stream), ENCRYPTION_ACCEPTED).await? else {
                return Err(Refusal::silent("the stream changed", io::ErrorKind::Other.into()));
            };
            tls.accept(stream)
                .await
                .map_err(|error| Refusal::silent("the TLS handshake failed", error))
        }
        // TLS is disabled, or the stream is already encrypted.
        (_, stream) => answer(stream, ENCRYPTION_REFUSED).await,
    }
}

async fn answer(mut stream: Stream, byte: u8) -> Result<Stream, Refusal> {
    match stream.write_all(&[byte]).await {
        Ok(()) => Ok(stream),
        Err(error) => Err(Refusal::silent("the connection was lost in its startup packet", error)),
    }
}

/// Refuses an unencrypted connection if TLS is required.
fn check_tls(plane: &Plane, stream: Stream) -> Result<Stream, Refusal> {
    match plane.settings.tls_mode {
        ClientTlsMode::Require if !stream.is_encrypted() => Err(Refusal::from(Refused::TlsRequired).on(stream)),
        ClientTlsMode::Require | ClientTlsMode::Prefer | ClientTlsMode::Disable => Ok(stream),
    }
}
