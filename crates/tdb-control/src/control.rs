//! The handle on all use cases, cheap to clone. Their methods are in the modules named after what they are about; the
//! ones that take an [`crate::Identity`] act within its project and check its scope themselves.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tdb_auth::ClientTls;
use tdb_names::WorkspaceId;
use tdb_store::Store;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::error::{ControlError, Result};
use crate::leases::Leases;
use crate::lifecycle::creations::Creations;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::signup::HASHES_MAX;
use crate::metrics::Metrics;
use crate::model::ProxyAddress;
use crate::schema::drain::Drains;
use crate::schema::proof::Compared;
use crate::schema::rollout::Changes;
use crate::schema::watches::Watches;
use crate::throttle::Throttle;

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

#[derive(Clone)]
pub struct Control {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) tls: ClientTls,
    pub(crate) settings: ControlSettings,
    /// The control plane's runtime: work goes on there when a caller of another runtime stops waiting.
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    /// Deployments are to be looked at now rather than at the next tick.
    pub(crate) wake: Notify,
    /// A tenant was made, perhaps of a spare: the stock is to be looked at.
    pub(crate) restock: Notify,
    /// Somebody asked for looks at tenants' schemas.
    pub(crate) drift_asked: Notify,
    /// A tenant came back that may have missed a deployment.
    pub(crate) returned: Notify,
    pub(crate) servers: Servers,
    pub(crate) leases: Leases,
    pub(crate) creations: Creations,
    pub(crate) drains: Drains,
    pub(crate) compared: Compared,
    /// None where nobody shows them.
    pub(crate) metrics: OnceLock<Metrics>,
    pub(crate) throttle: Throttle,
    pub(crate) hashes: Arc<Semaphore>,
    pub(crate) changes: Mutex<HashMap<(WorkspaceId, u32), Changes>>,
    pub(crate) watches: Watches,
}

/// A part of a list: what comes after the entry with the key `after`, at most `limit` entries.
#[derive(Clone, Debug)]
pub struct Page<K> {
    pub after: Option<K>,
    pub limit: Limit,
}

impl<K> Default for Page<K> {
    fn default() -> Self {
        Self {
            after: None,
            limit: Limit::DEFAULT,
        }
    }
}

/// Most rows of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(NonZeroU32);

impl Control {
    /// Uses a migrated store. Starts nothing; to be called on the runtime that is to do the work.
    pub fn new(store: Store, tls: ClientTls, settings: ControlSettings) -> Self {
        let leases = Leases::new(store.clone(), Handle::current());
        Self {
            inner: Arc::new(Inner {
                store,
                tls,
                settings,
                runtime: Handle::current(),
                tasks: TaskTracker::new(),
                wake: Notify::new(),
                restock: Notify::new(),
                drift_asked: Notify::new(),
                returned: Notify::new(),
                servers: Servers::default(),
                creations: Creations::new(leases.clone()),
                leases,
                drains: Drains::default(),
                compared: Compared::default(),
                metrics: OnceLock::new(),
                throttle: Throttle::default(),
                hashes: Arc::new(Semaphore::new(HASHES_MAX)),
                changes: Mutex::default(),
                watches: Watches::default(),
            }),
        }
    }

    /// The metadata store answers.
    pub async fn health(&self) -> Result<()> {
        Ok(self.inner.store.ping().await?)
    }

    /// Does work in a task of its own, so that it goes on when the caller leaves, and waits for it a bounded time. Past
    /// that the answer is "not finished yet", which is no error.
    pub(crate) async fn run_for<F>(&self, id: Uuid, work: impl FnOnce(Control) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let task = self.inner.tasks.spawn_on(work(self.clone()), &self.inner.runtime);
        match timeout(self.inner.settings.creation_wait, task).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(ControlError::internal(error)),
            Err(_) => {
                tracing::info!(%id, "not finished in time; it goes on");
                Ok(())
            }
        }
    }

    /// Waits until every proxy has forgotten routes and ended sessions that were to end. One that is late acts later; its
    /// lease bounds how late.
    pub(crate) async fn wait_for_proxies(&self) -> Result<()> {
        let waited =
            tdb_store::events::wait_acknowledged(&self.inner.store, self.inner.settings.acknowledge_wait).await?;
        if waited == tdb_store::events::Acknowledged::NotInTime {
            tracing::warn!("a proxy has not acted on the change in time");
        }
        Ok(())
    }
}

impl Limit {
    pub const MAX: u32 = 100_000;
    pub const DEFAULT: Limit = Limit(NonZeroU32::new(100).unwrap());

    /// 1 to [`Limit::MAX`].
    pub fn new(limit: u32) -> Option<Self> {
        NonZeroU32::new(limit)
            .filter(|limit| limit.get() <= Self::MAX)
            .map(Self)
    }

    pub(crate) fn rows(self) -> i64 {
        i64::from(self.0.get())
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
