//! What every part of the control plane needs: the store, settings, leases, and tasks of their own for work that outlives
//! its caller. It knows no part.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tdb_store::Store;
use tdb_store::events::{self, Acknowledged};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::error::{ControlError, Result};
use crate::leases::{Lease, Leases, Subject};
use crate::model::ProxyAddress;

/// Work of one server, or of one workspace.
const BACKGROUND_TIME_MAX: Duration = Duration::from_secs(300);

/// What can be set from outside; the defaults are the shipped configuration's.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    /// What connection strings show.
    pub proxy: ProxyAddress,
    /// Deployment targets and tenant queries at work on one server at a time.
    pub deployments_per_server: NonZeroUsize,
    /// How long a creation may keep its caller waiting before it answers "provisioning".
    pub creation_wait: Duration,
    /// How long suspending and deleting wait for the proxies to have acted.
    pub acknowledge_wait: Duration,
    /// How often journals are drained that nobody asked for.
    pub drain_interval: Duration,
    /// Whether strangers may sign up.
    pub signup: Signup,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signup {
    Open,
    Closed,
}

pub(crate) struct Core {
    pub(crate) store: Store,
    pub(crate) settings: ControlSettings,
    /// The control plane's runtime: work goes on there when a caller of another runtime stops waiting.
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) leases: Leases,
}

impl Core {
    /// To be called on the runtime that is to do the work.
    pub(crate) fn new(store: Store, settings: ControlSettings) -> Self {
        let runtime = Handle::current();
        Self {
            leases: Leases::new(store.clone(), runtime.clone()),
            store,
            settings,
            runtime,
            tasks: TaskTracker::new(),
        }
    }

    /// Does work of `part` in a task of its own, so that it goes on when the caller leaves, and waits for it a bounded
    /// time. Past that the answer is "not finished yet", which is no error.
    pub(crate) async fn run_for<P, F>(&self, part: &P, id: Uuid, work: impl FnOnce(P) -> F) -> Result<()>
    where
        P: Clone,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let task = self.tasks.spawn_on(work(part.clone()), &self.runtime);
        match timeout(self.settings.creation_wait, task).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(ControlError::internal(error)),
            Err(_) => {
                tracing::info!(%id, "not finished in time; it goes on");
                Ok(())
            }
        }
    }

    /// In a task of its own, so that a server that does not answer holds up nothing else.
    pub(crate) fn in_background<P, F>(
        &self,
        part: &P,
        what: &'static str,
        limit: Duration,
        work: impl FnOnce(P) -> F + Send + 'static,
    ) where
        P: Clone + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let part = part.clone();
        let task = async move { limited(what, limit, work(part)).await };
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// The same under a lease; nothing where another task or process has it.
    pub(crate) fn alone_in_background<P, F>(
        &self,
        part: &P,
        subject: Subject,
        what: &'static str,
        work: impl FnOnce(P, Arc<Lease>) -> F + Send + 'static,
    ) where
        P: Clone + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let leases = self.leases.clone();
        self.in_background(part, what, BACKGROUND_TIME_MAX, move |part| async move {
            let Some(lease) = leases.try_take(subject).await?.map(Arc::new) else {
                return Ok(());
            };
            lease.during(work(part, lease.clone())).await
        });
    }

    /// Waits until every proxy has forgotten routes and ended sessions that were to end. One that is late acts later; its
    /// lease bounds how late.
    pub(crate) async fn wait_for_proxies(&self) -> Result<()> {
        let waited = events::wait_acknowledged(&self.store, self.settings.acknowledge_wait).await?;
        if waited == Acknowledged::NotInTime {
            tracing::warn!("a proxy has not acted on the change in time");
        }
        Ok(())
    }
}

/// Does work of a loop, a bounded time; the next round tries again.
pub(crate) async fn limited(what: &'static str, limit: Duration, work: impl Future<Output = Result<()>>) {
    match timeout(limit, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(what, error = %error.explained(), "the workers go on later"),
        Err(_) => tracing::warn!(what, ?limit, "the workers took too long and go on later"),
    }
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            proxy: ProxyAddress {
                host: "127.0.0.1".to_owned(),
                port: 6432,
            },
            deployments_per_server: NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN),
            creation_wait: Duration::from_secs(10),
            acknowledge_wait: Duration::from_secs(10),
            drain_interval: Duration::from_secs(2),
            signup: Signup::Closed,
        }
    }
}
