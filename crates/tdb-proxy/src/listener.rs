//! The accept loop. It continues after any failure of a single connection, and when file descriptors run out. On shutdown it
//! lets the sessions finish.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tdb_names::Engine;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Plane;
use crate::limits::Admission;
use crate::sessions::EndReason;
use crate::settings::Stop;

/// The pause after a failed accept. The usual cause is that no file descriptors are left, and some may be released.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long sessions that are closed immediately have to send their clients the reason.
const CLOSE_TIME_MAX: Duration = Duration::from_millis(1500);

/// Serves one connection to its end.
type ServeConnection = fn(Rc<Plane>, TcpStream, IpAddr, Admission) -> Pin<Box<dyn Future<Output = ()>>>;

/// How the connections of an engine's protocol are served.
#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    pub engine: Engine,
    pub serve: ServeConnection,
    /// Counts a connection that is closed because all slots are taken.
    pub rejected: fn(&Plane),
}

/// Serves the connections of each listener with its protocol. Returns after `stop` was cancelled and the last session has
/// ended.
pub(crate) async fn serve(plane: Rc<Plane>, listeners: Vec<(Protocol, TcpListener)>, stop: Stop) {
    let mut accepting = JoinSet::new();
    for (protocol, listener) in listeners {
        accepting.spawn_local(accept(plane.clone(), protocol, listener, stop.clone()));
    }
    while accepting.join_next().await.is_some() {}
    drain(&plane, &stop).await;
}

async fn accept(plane: Rc<Plane>, protocol: Protocol, listener: TcpListener, stop: Stop) {
    loop {
        tokio::select! {
            biased;
            () = stop.drain.cancelled() => break,
            () = stop.now.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => begin(&plane, protocol, stream, address),
                Err(error) => {
                    plane.metrics.accept_errors.inc();
                    tracing::warn!(%error, engine = %protocol.engine, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

fn begin(plane: &Rc<Plane>, protocol: Protocol, stream: TcpStream, address: SocketAddr) {
    let plane = plane.clone();
    tokio::task::spawn_local(async move {
        if let Err(error) = set_options(&stream) {
            tracing::debug!(%error, %address, "cannot set socket options");
        }
        // Without a slot, the connection is closed without an error message: sending one would need a slot.
        let Some(slot) = plane.limits.admit() else {
            return (protocol.rejected)(&plane);
        };
        plane.metrics.clients.inc();
        (protocol.serve)(plane.clone(), stream, address.ip(), slot.admission()).await;
        plane.metrics.clients.dec();
    });
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

async fn drain(plane: &Plane, stop: &Stop) {
    let ids = plane.sessions.end_all(EndReason::Shutdown);
    tokio::select! {
        biased;
        () = stop.now.cancelled() => {}
        () = plane.sessions.ended(&ids) => {}
        () = sleep(stop.drain_timeout) => {}
    }
    let left = plane.sessions.end_all(EndReason::Now);
    if !left.is_empty() {
        tracing::warn!(
            sessions = left.len(),
            "closing sessions whose transactions did not finish in time"
        );
    }
    let _ = timeout(CLOSE_TIME_MAX, plane.sessions.ended(&left)).await;
}
