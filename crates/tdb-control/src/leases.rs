//! Leases: which process works on what, among all processes that use one store. A lease is a row with a token and an
//! expiry time, never an open transaction, so nothing is locked while its holder waits for a database server. Work
//! under a lease is polled only while the lease is known to be held, so a process that was paused for too long does not
//! continue. Its writes confirm the token in the same transaction, so they fail if the lease was lost.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tdb_names::{ServerName, WorkspaceId};
use tdb_problems::ProblemCode;
use tdb_store::{Store, Tx, leases};
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use uuid::Uuid;

use crate::error::{ControlError, Result};
use crate::keyed::Keyed;

/// A lease expires this long after its last renewal.
const LEASE: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// The pause after a renewal that the store did not answer.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
const RENEW_TIME_MAX: Duration = Duration::from_secs(3);
/// How long a task waits for a lease that is held elsewhere.
const TURN_TIME_MAX: Duration = Duration::from_secs(120);
/// The first pause between two attempts to take a lease that another process holds. It doubles up to `LOOK_LAST`. Tasks
/// of this process queue in memory.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_LAST: Duration = Duration::from_millis(250);

/// What only one holder may work on at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The creation or removal of a database, by the id of its row.
    Database(Uuid),
    /// A workspace's builds, templates and spares on one server. Per server, so that a server that does not respond
    /// delays no other.
    Builds(WorkspaceId, ServerName),
    /// One of the slots for creating databases on a server.
    Creation(ServerName, usize),
    /// Draining a workspace's journal.
    Journal(WorkspaceId),
    /// The periodic drains of one server.
    Drain(ServerName),
    /// The sweep of one server.
    Sweep(ServerName),
    /// Filling a server's stock of spares.
    Stock(ServerName),
    /// Applying workspace settings to the tenant databases of one server.
    Settings(ServerName),
    /// Granting read-only roles their rights on one server.
    Readers(ServerName),
    /// Granting and revoking memberships in declared roles on one server.
    Memberships(ServerName),
    /// Restoring the roles of a database that a client changed, by the id of the database's row.
    Roles(Uuid),
    /// Comparisons on one server that a user requested.
    Drift(ServerName),
    /// Comparisons on one server that are due by their age.
    DriftSweep(ServerName),
    /// Creating deployments for tenants that missed one.
    CatchUp,
    /// Creating the installation's first project.
    Bootstrap,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Queries of the store for unfinished work build the first two names themselves.
            Subject::Database(id) => write!(f, "database:{id}"),
            Subject::Builds(workspace, server) => write!(f, "builds:{workspace}:{server}"),
            Subject::Creation(server, place) => write!(f, "creation:{server}:{place}"),
            Subject::Journal(workspace) => write!(f, "journal:{workspace}"),
            Subject::Drain(server) => write!(f, "drain:{server}"),
            Subject::Sweep(server) => write!(f, "sweep:{server}"),
            Subject::Stock(server) => write!(f, "stock:{server}"),
            Subject::Settings(server) => write!(f, "settings:{server}"),
            Subject::Readers(server) => write!(f, "readers:{server}"),
            Subject::Memberships(server) => write!(f, "memberships:{server}"),
            Subject::Roles(id) => write!(f, "roles:{id}"),
            Subject::Drift(server) => write!(f, "drift:{server}"),
            Subject::DriftSweep(server) => write!(f, "drift-sweep:{server}"),
            Subject::CatchUp => write!(f, "catch-up"),
            Subject::Bootstrap => write!(f, "bootstrap"),
        }
    }
}

/// Takes leases for this process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    store: Store,
    runtime: Handle,
    /// Tasks of this process wait here in turn; only the first one for a name queries the store.
    queue: Arc<Keyed>,
}

/// A held lease. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct Lease {
    leases: Leases,
    name: String,
    token: Uuid,
    taken: Instant,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Leases {
    pub(crate) fn new(store: Store, runtime: Handle) -> Self {
        Self {
            store,
            runtime,
            queue: Arc::default(),
        }
    }

    /// Waits for the lease, at most `TURN_TIME_MAX`. Cancel safe: a lease that was taken for a dropped caller expires.
    pub(crate) async fn take(&self, subject: Subject) -> Result<Lease> {
        let deadline = Instant::now() + TURN_TIME_MAX;
        let name = subject.to_string();
        let late = || {
            let detail = format!("another operation on \"{name}\" is still running");
            ControlError::refused(ProblemCode::TimedOut, detail, "Try again in a moment.")
        };
        let turn = timeout_at(deadline, self.queue.lock(&name)).await.map_err(|_| late())?;
        let mut pause = LOOK_FIRST;
        loop {
            let taken = Instant::now();
            if let Some(token) = leases::take(&self.store, &name, LEASE).await? {
                return Ok(self.held(name, token, taken, turn));
            }
            if Instant::now() + pause > deadline {
                return Err(late());
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    /// `None` if another task or process holds it.
    pub(crate) async fn try_take(&self, subject: Subject) -> Result<Option<Lease>> {
        let name = subject.to_string();
        let Some(turn) = self.queue.try_lock(&name) else {
            return Ok(None);
        };
        let taken = Instant::now();
        let token = leases::take(&self.store, &name, LEASE).await?;
        Ok(token.map(|token| self.held(name, token, taken, turn)))
    }

    fn held(&self, name: String, token: Uuid, taken: Instant, turn: OwnedMutexGuard<()>) -> Lease {
        Lease {
            leases: self.clone(),
            name,
            token,
            taken,
            turn: Some(turn),
        }
    }
}

enum Step<T> {
    Done(T),
    Renew,
}

impl Lease {
    /// Runs `work` and renews the lease while it runs. The work is not polled once the lease may have expired, and is
    /// dropped if the lease is lost. Boxed, because these futures are large.
    pub(crate) fn during<'a, T: Send + 'a>(
        &'a self,
        work: impl Future<Output = Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        let work = work.boxed();
        self.watched(work).boxed()
    }

    async fn watched<T>(&self, mut work: BoxFuture<'_, Result<T>>) -> Result<T> {
        let (mut ends, mut renew_at) = (self.taken + LEASE, self.taken + RENEW_EVERY);
        loop {
            let mut timer = pin!(sleep_until(renew_at));
            let step = poll_fn(|cx| {
                // Checks the clock as well as the timer: in a process that resumes, sockets may be ready before timers.
                if Instant::now() >= renew_at || timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Step::Renew);
                }
                work.as_mut().poll(cx).map(Step::Done)
            });
            match step.await {
                Step::Done(done) => return done,
                Step::Renew => {
                    let asked = Instant::now();
                    if self.renew().await? {
                        (ends, renew_at) = (asked + LEASE, asked + RENEW_EVERY);
                    } else if Instant::now() + RENEW_AGAIN < ends {
                        renew_at = Instant::now() + RENEW_AGAIN;
                    } else {
                        return Err(self.lost());
                    }
                }
            }
        }
    }

    /// `false` if the store did not answer. An error if another process holds the lease.
    async fn renew(&self) -> Result<bool> {
        let renewal = leases::renew(&self.leases.store, &self.name, self.token, LEASE);
        match timeout(RENEW_TIME_MAX, renewal).await {
            Ok(Ok(true)) => Ok(true),
            Ok(Ok(false)) => Err(self.lost()),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }

    fn lost(&self) -> ControlError {
        ControlError::Unavailable {
            code: ProblemCode::Unavailable,
            reason: format!("the lease \"{}\" is lost", self.name),
        }
    }

    /// Opens a transaction over all projects. Fails if the lease is lost.
    pub(crate) async fn begin(&self) -> Result<Tx> {
        let tx = self.leases.store.jobs().await?;
        leases::confirm(&tx, &self.name, self.token).await?;
        Ok(tx)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (store, name, token) = (self.leases.store.clone(), std::mem::take(&mut self.name), self.token);
        // The next task of this process gets its turn only after the store has released the lease.
        let turn = self.turn.take();
        self.leases.runtime.spawn(async move {
            if let Err(error) = leases::release(&store, &name, token).await {
                tracing::warn!(%name, %error, "a lease could not be released; it will expire");
            }
            drop(turn);
        });
    }
}
