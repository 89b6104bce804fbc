//! Leases: which process works on what, over all processes that use one store. A lease is a row with a token and a time,
//! never a transaction: nothing is held open while its holder talks to a database server. What is done under a lease is
//! polled only while the lease is known to be held, so that a process that was paused past its time does not go on; and
//! what it writes confirms the token in the same transaction, so that even the last instant before the pause does no harm.

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

/// A holder that gives no sign for so long has lost it.
const LEASE: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Between two tries of a renewal that the store did not answer.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
const RENEW_TIME_MAX: Duration = Duration::from_secs(3);
/// How long somebody waits for another holder.
const TURN_TIME_MAX: Duration = Duration::from_secs(120);
/// Between two looks at a lease that another process holds; doubled up to the second. Waiters of this process queue.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_LAST: Duration = Duration::from_millis(250);

/// What one holder at a time works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A database of ours, by the id of its row: made or removed.
    Database(Uuid),
    /// A workspace's builds, templates and spares on a server. A server that does not answer holds up no other's.
    Builds(WorkspaceId, ServerName),
    /// One of the places for databases being made on a server.
    Creation(ServerName, usize),
    /// A workspace's journal.
    Journal(WorkspaceId),
    /// The journals of a server's workspaces, on the timer.
    Drain(ServerName),
    /// What is left over on a server.
    Sweep(ServerName),
    /// A server's spares.
    Stock(ServerName),
    /// What tenants of a server carry of their workspace's settings.
    Settings(ServerName),
    /// Rights of readers on a server's databases.
    Readers(ServerName),
    /// The roles of a database, by the id of its holder: set again where a client changed them.
    Roles(Uuid),
    /// Looks for drift on a server that somebody asked for.
    Drift(ServerName),
    /// Those that are due by their age.
    DriftSweep(ServerName),
    /// Deployments for tenants that missed one.
    CatchUp,
    /// The installation's first project.
    Bootstrap,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The store's queries for unfinished work know these two.
            Subject::Database(id) => write!(f, "database:{id}"),
            Subject::Builds(workspace, server) => write!(f, "builds:{workspace}:{server}"),
            Subject::Creation(server, place) => write!(f, "creation:{server}:{place}"),
            Subject::Journal(workspace) => write!(f, "journal:{workspace}"),
            Subject::Drain(server) => write!(f, "drain:{server}"),
            Subject::Sweep(server) => write!(f, "sweep:{server}"),
            Subject::Stock(server) => write!(f, "stock:{server}"),
            Subject::Settings(server) => write!(f, "settings:{server}"),
            Subject::Readers(server) => write!(f, "readers:{server}"),
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
    /// Waiters of this process, each at its turn; only the first of them looks at the store.
    queue: Arc<Keyed>,
}

/// A lease that is held. Dropping it lets the next one have it.
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

    /// Waits for its turn, a bounded time. Cancel safe: what was taken for a caller who left runs out.
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

    /// None while another task or process works on it.
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
    /// Does `work` and renews the lease meanwhile. The work takes no step while the lease may have run out; it is dropped
    /// where another holder has it. On the heap: what is done under a lease is most of what there is.
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
                // The clock, not the timer: a process that wakes up may see its sockets before its timers.
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

    /// False where the store did not answer.
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

    /// A transaction over all projects that fails, and leaves nothing, where another holder has the lease.
    pub(crate) async fn begin(&self) -> Result<Tx> {
        let tx = self.leases.store.jobs().await?;
        leases::confirm(&tx, &self.name, self.token).await?;
        Ok(tx)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (store, name, token) = (self.leases.store.clone(), std::mem::take(&mut self.name), self.token);
        // The next waiter of this process gets its turn when the store knows that the lease is free.
        let turn = self.turn.take();
        self.leases.runtime.spawn(async move {
            if let Err(error) = leases::release(&store, &name, token).await {
                tracing::warn!(%name, %error, "a lease could not be released; it runs out");
            }
            drop(turn);
        });
    }
}
