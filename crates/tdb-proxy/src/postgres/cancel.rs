//! Cancel requests. A client's cancel key consists of a pid and a secret of the proxy. If the session keeps one server
//! connection, the pid is the server's, so that the driver reports the same pid as `pg_backend_pid()`. A key is removed before
//! its server connection is closed, and a shared connection does not go to another session while a request is being
//! forwarded, so a cancel request cannot reach another session.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
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
    running: Rc<Running>,
}

/// The server process that runs the statements of a session. While a cancel request for it is being forwarded, its connection
/// must not go to another session.
#[derive(Default)]
pub(crate) struct Running {
    key: Cell<Option<login::Key>>,
    cancels: Cell<u32>,
    waker: RefCell<Option<Waker>>,
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
        running: Rc<Running>,
    ) -> CancelKey<'_> {
        let target = Target {
            secret: secret.clone(),
            server,
            running,
        };
        self.targets.borrow_mut().entry(pid).or_default().push(target);
        CancelKey {
            keys: self,
            pid,
            secret,
        }
    }

    fn find(&self, request: &CancelRequest) -> Option<(Arc<ServerEndpoint>, Rc<Running>)> {
        let targets = self.targets.borrow();
        let of_pid = targets.get(&request.pid)?;
        let target = of_pid
            .iter()
            .find(|target| equal_in_constant_time(&target.secret, &request.secret))?;
        Some((target.server.clone(), target.running.clone()))
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

impl Running {
    /// `None`: the session has no server connection now, and there is nothing to cancel.
    pub(crate) fn set(&self, key: Option<login::Key>) {
        self.key.set(key);
    }

    /// Ready when no cancel request is being forwarded.
    pub(crate) fn poll_quiet(&self, cx: &Context<'_>) -> Poll<()> {
        if self.cancels.get() == 0 {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A cancel request that is being forwarded.
struct Cancelling {
    running: Rc<Running>,
    key: login::Key,
}

impl Cancelling {
    fn begin(running: Rc<Running>) -> Option<Self> {
        let key = running.key.get()?;
        running.cancels.set(running.cancels.get() + 1);
        Some(Self { running, key })
    }
}

impl Drop for Cancelling {
    fn drop(&mut self) {
        self.running.cancels.set(self.running.cancels.get().saturating_sub(1));
        if let Some(waker) = self.running.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Forwards a cancel request and closes the client's connection. As in PostgreSQL, the client does not learn the outcome.
pub(crate) async fn cancel(plane: &Plane, mut client: Stream, request: CancelRequest) {
    if let Some((server, running)) = plane.cancel_keys.find(&request)
        && let Some(cancelling) = Cancelling::begin(running)
    {
        match timeout(CANCEL_TIME_MAX, forward(plane, &server, cancelling.key)).await {
            Ok(Ok(())) => plane.metrics.cancels.inc(),
            Ok(Err(error)) => tracing::warn!(server = %server.name, %error, "cannot forward a cancel request"),
            Err(_) => tracing::warn!(server = %server.name, "timed out forwarding a cancel request"),
        }
    }
    // libpq reports a failed cancel if TLS ends without close_notify.
    let _ = timeout(CLOSE_TIME_MAX, client.close_with(&[])).await;
}

async fn forward(plane: &Plane, server: &ServerEndpoint, key: login::Key) -> io::Result<()> {
    let mut stream = dial::connect(&plane.upstream_tls, server)
        .await
        .map_err(io::Error::other)?;
    stream.write_all(&login::cancel_request(key.pid, key.secret)).await?;
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
