//! The accept loop. It outlives everything that goes wrong with one connection, and running out of file descriptors; when
//! told to stop it lets the sessions finish.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tdb_wire_postgres::report::SqlState;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::Plane;
use crate::postgres::session;
use crate::sessions::EndReason;
use crate::settings::Stop;

/// After a failed accept (out of file descriptors, most likely): time for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// What sessions that are ended at once get to say so.
const FAREWELL_TIME_MAX: Duration = Duration::from_millis(1500);

pub(crate) async fn serve(plane: Rc<Plane>, listener: TcpListener, stop: Stop) {
    loop {
        tokio::select! {
            biased;
            () = stop.drain.cancelled() => break,
            () = stop.now.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => begin(&plane, stream, address),
                Err(error) => {
                    plane.metrics.accept_errors.inc();
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drain(&plane, &stop).await;
}

fn begin(plane: &Rc<Plane>, stream: TcpStream, address: SocketAddr) {
    let plane = plane.clone();
    tokio::task::spawn_local(async move {
        if let Err(error) = tune(&stream) {
            tracing::debug!(%error, %address, "cannot set options of a connection");
        }
        // Without a slot the connection is closed without a word: words cost a slot.
        let Some(slot) = plane.limits.admit() else {
            return plane.metrics.refusal(SqlState::TooManyConnections.code());
        };
        plane.metrics.clients.inc();
        session::serve(&plane, stream, address.ip(), slot.admission()).await;
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
