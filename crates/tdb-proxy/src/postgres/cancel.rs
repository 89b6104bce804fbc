//! Cancel requests. Clients hold keys of ours: the server's pid, so that `pg_backend_pid()` agrees with the driver, and a
//! secret that only this proxy knows. A key is forgotten before its server connection is closed, so a cancel never
//! reaches a session that has gone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tdb_auth::equal_in_constant_time;
use tdb_names::ServerEndpoint;
use tdb_wire_postgres::login;
use tdb_wire_postgres::startup::CancelRequest;
use tokio::time::timeout;

use super::dial;
use crate::Plane;
use crate::stream::Stream;

const CANCEL_TIME_MAX: Duration = Duration::from_secs(5);
/// What a client gets to close its side.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct CancelKeys {
    /// By the pid shown; pids of different servers may be equal.
    targets: RefCell<HashMap<i32, Vec<Target>>>,
}

struct Target {
    secret: Vec<u8>,
    server: Arc<ServerEndpoint>,
    server_key: i32,
}

/// Forgets the key when it is dropped.
pub(crate) struct CancelKey<'a> {
    keys: &'a CancelKeys,
    pid: i32,
    secret: Vec<u8>,
}

impl CancelKeys {
    pub(crate) fn insert(
        &self,
        pid: i32,
        secret: Vec<u8>,
        server: Arc<ServerEndpoint>,
        server_key: i32,
    ) -> CancelKey<'_> {
        let target = Target {
            secret: secret.clone(),
            server,
            server_key,
        };
        self.targets.borrow_mut().entry(pid).or_default().push(target);
        CancelKey {
            keys: self,
            pid,
            secret,
        }
    }

    fn find(&self, request: &CancelRequest) -> Option<(Arc<ServerEndpoint>, i32)> {
        let targets = self.targets.borrow();
        let of_pid = targets.get(&request.pid)?;
        let target = of_pid
            .iter()
            .find(|target| equal_in_constant_time(&target.secret, &request.secret))?;
        Some((target.server.clone(), target.server_key))
    }
}

impl Drop for CancelKey<'_> {
    fn drop(&mut self) {
        let mut targets = self.keys.targets.borrow_mut();
        if let Some(of_pid) = targets.get_mut(&self.pid) {
            of_pid.retain(|target| target.secret != self.secret);
            if of_pid.is_empty() {
                targets.remove(&self.pid);
            }
        }
    }
}

/// Forwards a cancel request, then closes the client's connection: as in PostgreSQL, it is never told the outcome.
pub(crate) async fn cancel(plane: &Plane, mut client: Stream, request: CancelRequest) {
    if let Some((server, key)) = plane.cancel_keys.find(&request) {
        match timeout(CANCEL_TIME_MAX, forward(plane, &server, request.pid, key)).await {
            Ok(Ok(())) => plane.metrics.cancels.inc(),
            Ok(Err(error)) => tracing::warn!(server = %server.name, %error, "cannot forward a cancel request"),
            Err(_) => tracing::warn!(server = %server.name, "forwarding a cancel request takes too long"),
        }
    }
    // libpq takes TLS that ends without close_notify for a cancel that failed.
    let _ = timeout(CLOSE_TIME_MAX, client.say_last(&[])).await;
}

async fn forward(plane: &Plane, server: &ServerEndpoint, pid: i32, key: i32) -> io::Result<()> {
    let mut stream = dial::connect(&plane.upstream_tls, server)
        .await
        .map_err(io::Error::other)?;
    stream.write_all(&login::cancel_request(pid, key)).await?;
    // The server closes when it has sent the signal; until then the client waits, as with PostgreSQL.
    let mut end = [0];
    match stream.read_exact(&mut end).await {
        Err(error)
            if error.kind() != io::ErrorKind::UnexpectedEof && error.kind() != io::ErrorKind::ConnectionReset =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}
