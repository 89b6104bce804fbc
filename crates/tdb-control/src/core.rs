//! The store, the settings, the leases, and background tasks for work that outlives its caller. Every other part uses
//! this one; it depends on none of them.

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

/// The time limit of background work on one server or workspace.
const BACKGROUND_TIME_MAX: Duration = Duration::from_secs(300);

/// The settings of the control plane. The defaults are those of the shipped configuration.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    /// The proxy's address, as connection strings show it.
    pub proxy: ProxyAddress,
    /// How many targets of deployments run on one server at the same time. Every query over tenants, and every
    /// background task over a server's databases, has the same limit per server.
    pub deployments_per_server: NonZeroUsize,
    /// How long a creation waits for its result. After that it answers with the status "provisioning" and continues in
    /// the background.
    pub creation_wait: Duration,
    /// How long suspending and deleting wait for the proxies to acknowledge the change.
    pub acknowledge_wait: Duration,
    /// How often the journals of all workspaces are drained without a request.
    pub drain_interval: Duration,
    /// Whether anyone may sign up.
    pub signup: Signup,
}

/// Whether `POST /signup` creates users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signup {
    /// Anyone may sign up.
    Open,
    /// Sign-up is refused.
    Closed,
}

pub(crate) struct Core {
    pub(crate) store: Store,
    pub(crate) settings: ControlSettings,
    /// The control plane's runtime. Work continues there if the caller, on another runtime, stops waiting.
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) leases: Leases,
}

impl Core {
    /// Must be called on the runtime that is to do the work.
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

    /// Runs `work` in a separate task, so that it continues if the caller stops waiting, and waits for it for
    /// `creation_wait`. If it takes longer, the result is `Ok`: the caller reads the state from the store.
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
                tracing::info!(%id, "not finished in time; it continues in the background");
                Ok(())
            }
        }
    }

    /// Runs `work` in a separate task, so that a server that does not respond delays nothing else. A failure is logged.
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

    /// Like [`Self::in_background`], under a lease. Does nothing if another task or process holds it.
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

    /// Waits, at most `acknowledge_wait`, until every proxy has dropped its cached routes and closed the sessions that
    /// had to end. A proxy that is late acts later; its lease limits how late.
    pub(crate) async fn wait_for_proxies(&self) -> Result<()> {
        let waited = events::wait_acknowledged(&self.store, self.settings.acknowledge_wait).await?;
        if waited == Acknowledged::NotInTime {
            tracing::warn!("a proxy did not acknowledge the change in time");
        }
        Ok(())
    }
}

/// Runs one round of a loop with a time limit. A failure is logged; the next round tries again.
pub(crate) async fn limited(what: &'static str, limit: Duration, work: impl Future<Output = Result<()>>) {
    match timeout(limit, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(what, error = %error.explained(), "background work failed; it will be retried")
        }
        Err(_) => tracing::warn!(what, ?limit, "background work took too long; it will be retried"),
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
