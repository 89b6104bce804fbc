//! One bounded pool per login role of the store. A caller waits a limited time for a connection, then gets
//! [`StoreError::Busy`].

use std::time::{Duration, Instant};

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use prometheus::Histogram;
use tdb_auth::ClientTls;
use tokio_postgres::NoTls;

use crate::StoreSettings;
use crate::error::{Result, StoreError};
use crate::metrics::Metrics;
use crate::pulse::Pulse;
use crate::setup::{SetupError, StoreLogin, StoreLogins};
use crate::url::{Connected, StoreUrl};

const WAIT_TIME_MAX: Duration = Duration::from_secs(5);
/// A use case may read something in a second transaction.
const POOL_SIZE_MIN: usize = 2;

#[derive(Debug)]
pub(crate) struct Pools {
    api: Measured,
    data_plane: Measured,
    jobs: Measured,
    /// For connections outside the pools, such as the one that listens for events.
    listener: StoreUrl,
    tls: ClientTls,
}

impl Pools {
    pub(crate) fn new(
        settings: &StoreSettings,
        logins: &StoreLogins,
        tls: &ClientTls,
        metrics: &Metrics,
    ) -> Result<Self, SetupError> {
        // The data plane sends single short queries; requests and workers hold transactions.
        let total = settings.connections_max.get();
        let data_plane = (total / 4).max(POOL_SIZE_MIN);
        let rest = total.saturating_sub(data_plane);
        let jobs = (rest / 2).max(POOL_SIZE_MIN);
        let api = rest.saturating_sub(jobs).max(POOL_SIZE_MIN);
        let make = |login: &StoreLogin, purpose, size| -> Result<Measured, SetupError> {
            let url = settings.url.login_as(&login.name, &login.secret);
            Ok(Measured {
                pool: pool(&url, purpose, size, tls)?,
                url,
                waits: metrics.waits(purpose),
            })
        };
        Ok(Self {
            api: make(&logins.api, "api", api)?,
            data_plane: make(&logins.data_plane, "data plane", data_plane)?,
            jobs: make(&logins.jobs, "jobs", jobs)?,
            listener: settings
                .url
                .login_as(&logins.data_plane.name, &logins.data_plane.secret),
            tls: tls.clone(),
        })
    }

    pub(crate) async fn api(&self) -> Result<Object> {
        taken(&self.api).await
    }

    pub(crate) async fn data_plane(&self) -> Result<Object> {
        taken(&self.data_plane).await
    }

    pub(crate) async fn jobs(&self) -> Result<Object> {
        taken(&self.jobs).await
    }

    /// Checks that the store accepts connections of the data plane's role.
    pub(crate) fn pulse(&self, metrics: &Metrics) -> Pulse {
        Pulse::new(self.listener.clone(), self.tls.clone(), metrics.answers())
    }

    pub(crate) async fn listener(&self) -> Result<Connected> {
        self.listener.connect("feed", &self.tls).await
    }
}

/// A pool, and a histogram of how long its users wait.
#[derive(Debug)]
struct Measured {
    pool: Pool,
    url: StoreUrl,
    waits: Histogram,
}

async fn taken(from: &Measured) -> Result<Object> {
    let asked = Instant::now();
    let taken = from.pool.get().await;
    from.waits.observe(asked.elapsed().as_secs_f64());
    taken.map_err(|error| match error {
        PoolError::Timeout(TimeoutType::Wait) => StoreError::busy("no free connection"),
        PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => StoreError::timed_out("no new connection"),
        // The store itself may refuse a login because it has run out of connections.
        PoolError::Backend(error) => from.url.not_connected(error),
        other => StoreError::unavailable(other),
    })
}

fn pool(url: &StoreUrl, purpose: &str, size: usize, tls: &ClientTls) -> Result<Pool, SetupError> {
    let config = url.dial(purpose);
    // A connection whose session ended is not reused, and one whose transaction did not end is never returned to the
    // pool.
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = match url.tls(tls)? {
        Some(tls) => Manager::from_config(config, tls, recycling),
        None => Manager::from_config(config, NoTls, recycling),
    };
    Pool::builder(manager)
        .max_size(size)
        .timeouts(Timeouts {
            wait: Some(WAIT_TIME_MAX),
            create: Some(WAIT_TIME_MAX),
            recycle: Some(WAIT_TIME_MAX),
        })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|e| StoreError::unavailable(e).into())
}
