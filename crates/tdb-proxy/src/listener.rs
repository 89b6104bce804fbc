//! The accept loop. It outlives everything that goes wrong with one connection, and running out of file descriptors; when
//! told to stop it lets the sessions finish.

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

/// After a failed accept (out of file descriptors, most likely): time for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// What sessions that are ended at once get to say so.
const FAREWELL_TIME_MAX: Duration = Duration::from_millis(1500);

/// Serves one connection to its end.
type ServeConnection = fn(Rc<Plane>, TcpStream, IpAddr, Admission) -> Pin<Box<dyn Future<Output = ()>>>;

/// How connections of an engine's protocol are served.
#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    pub engine: Engine,
    pub serve: ServeConnection,
    /// Counts a connection that is closed because there is no slot for it.
    pub turned_away: fn(&Plane),
}

/// Serves each listener's connections by its protocol until `stop` says so and the last session has ended.
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
        if let Err(error) = tune(&stream) {
            tracing::debug!(%error, %address, "cannot set options of a connection");
        }
        // Without a slot the connection is closed without a word: words cost a slot.
        let Some(slot) = plane.limits.admit() else {
            return (protocol.turned_away)(&plane);
        };
        plane.metrics.clients.inc();
        (protocol.serve)(plane.clone(), stream, address.ip(), slot.admission()).await;
        plane.metrics.clients.dec();
    });
}

fn tune(stream: &TcpStream) -> io::Result<()> {
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
            "ending sessions whose transactions did not finish"
        );
    }
    let _ = timeout(FAREWELL_TIME_MAX, plane.sessions.ended(&left)).await;
}
