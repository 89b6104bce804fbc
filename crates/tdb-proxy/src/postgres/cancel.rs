//! Cancel requests. A client's cancel key consists of the server's pid, so that the driver reports the same pid as
//! `pg_backend_pid()`, and a secret of the proxy. A key is removed before its server connection is closed, so a cancel
//! request cannot reach a later session with the same pid.

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
/// How long a client has to close its side of the connection.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct CancelKeys {
    /// By pid. Sessions on different servers can have the same.
    targets: RefCell<HashMap<i32, Vec<Target>>>,
}

struct Target {
    secret: Vec<u8>,
    server: Arc<ServerEndpoint>,
    server_key: i32,
}

/// Removes the key when it is dropped.
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

/// Forwards a cancel request and closes the client's connection. As in PostgreSQL, the client does not learn the outcome.
pub(crate) async fn cancel(plane: &Plane, mut client: Stream, request: CancelRequest) {
    if let Some((server, key)) = plane.cancel_keys.find(&request) {
        match timeout(CANCEL_TIME_MAX, forward(plane, &server, request.pid, key)).await {
            Ok(Ok(())) => plane.metrics.cancels.inc(),
            Ok(Err(error)) => tracing::warn!(server = %server.name, %error, "cannot forward a cancel request"),
            Err(_) => tracing::warn!(server = %server.name, "timed out forwarding a cancel request"),
        }
    }
    // libpq reports a failed cancel if TLS ends without close_notify.
    let _ = timeout(CLOSE_TIME_MAX, client.close_with(&[])).await;
}

async fn forward(plane: &Plane, server: &ServerEndpoint, pid: i32, key: i32) -> io::Result<()> {
    let mut stream = dial::connect(&plane.upstream_tls, server)
        .await
        .map_err(io::Error::other)?;
    stream.write_all(&login::cancel_request(pid, key)).await?;
    // The server closes the connection after it has sent the signal. The client waits for that, as with PostgreSQL.
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
