//! The control plane's metadata in PostgreSQL 13 or later: one schema, one `Tx` per use case, functions over it that give
//! typed rows, and [`Directory`], which answers the data plane. No HTTP, no state machines, nothing of the databases of
//! tenants but their names and sealed secrets.
//!
//! Below all of it stands row-level security: the sessions of [`Store::project`] see and write rows of one project,
//! those of [`Store::jobs`] rows of all, and those of the directory no table at all. A bug above cannot cross projects.

mod access;
mod directory;
mod error;
mod feed;
mod metrics;
mod pools;
mod pulse;
mod row;
mod setup;
mod tx;
mod url;

pub mod api_keys;
pub mod changes;
pub mod credentials;
pub mod database_roles;
pub mod deployments;
pub mod drift;
pub mod events;
pub mod figures;
pub mod idempotency;
pub mod leases;
pub mod log_facts;
pub mod migrations;
pub mod physical;
pub mod projects;
pub mod servers;
pub mod sessions;
pub mod settings;
pub mod templates;
pub mod tenants;
pub mod users;
pub mod versions;
pub mod workspaces;

pub use directory::{Directory, DirectorySettings};
pub use error::{Result, StoreError};
pub use setup::SetupError;
pub use tx::{Parameter, Tx};
pub use url::{StoreUrl, UrlError};

use std::num::NonZeroUsize;
use std::sync::Arc;

use deadpool_postgres::Object;
use secrecy::SecretString;
use tdb_auth::{ClientTls, MasterKey};
use tdb_names::ProjectId;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::pools::Pools;
use crate::pulse::Pulse;

/// The metadata store, cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pools: Pools,
    pulse: Arc<Pulse>,
    metrics: Metrics,
    master_key: Arc<MasterKey>,
    installation: String,
    instance: Uuid,
}

/// How to reach the store.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Of the role that owns the database. It is used to look at migrations and to find the store's own logins.
    pub url: StoreUrl,
    /// Most connections of this process, without the one that listens; at least six are used.
    pub connections_max: NonZeroUsize,
}

impl Store {
    /// Opens a migrated store. The master key must be the one it was migrated with.
    pub async fn connect(
        settings: &StoreSettings,
        master_key: Arc<MasterKey>,
        tls: &ClientTls,
    ) -> Result<Self, SetupError> {
        let found = setup::look(&settings.url, &master_key, tls).await?;
        let metrics = Metrics::new().map_err(StoreError::unavailable)?;
        let pools = Pools::new(settings, &found.logins, tls, &metrics)?;
        let store = Self {
            inner: Arc::new(Inner {
                pulse: Arc::new(pools.pulse(&metrics)),
                pools,
                metrics,
                master_key,
                installation: found.installation,
                instance: Uuid::new_v4(),
            }),
        };
        store.ping().await?;
        Ok(store)
    }

    /// A transaction that sees and writes rows of this project only.
    pub async fn project(&self, project: &ProjectId) -> Result<Tx> {
        // The id is base32 by its type.
        let opening = format!("BEGIN; SET LOCAL tdb.project = '{project}'");
        Tx::begin(&self.inner.pulse, self.inner.pools.api(), &opening).await
    }

    /// A transaction over all projects, for workers and for what belongs to the installation. It cannot see API keys.
    pub async fn jobs(&self) -> Result<Tx> {
        Tx::begin(&self.inner.pulse, self.inner.pools.jobs(), "BEGIN").await
    }

    /// Asks one of the data plane's functions, as its role.
    pub(crate) async fn ask(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.answer_of(self.inner.pools.data_plane(), sql, parameters).await
    }

    /// A single statement over all projects: what [`Self::jobs`] would need three round trips for.
    pub(crate) async fn ask_as_jobs(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.answer_of(self.inner.pools.jobs(), sql, parameters).await
    }

    /// A connection whose answer is in doubt is closed.
    async fn answer_of(
        &self,
        connection: impl Future<Output = Result<Object>>,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        let pulse = &self.inner.pulse;
        let connection = pulse.answered(connection).await?;
        let answer = pulse.statement(async {
            let statement = connection.prepare_cached(sql).await?;
            connection.query(&statement, parameters).await
        });
        let answer = answer.await;
        if answer.is_err() {
            drop(Object::take(connection));
        }
        answer
    }

    /// Shows in `registry` how long this process waits for the store; to be called once.
    pub fn register_metrics(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        self.inner.metrics.register(registry)
    }

    /// The store takes connections, known within 2.4 seconds.
    pub async fn ping(&self) -> Result<()> {
        self.inner.pulse.check().await
    }

    /// Eight characters of base32: what this installation's things are called on shared servers.
    pub fn installation(&self) -> &str {
        &self.inner.installation
    }

    /// This process, towards the others that use the same store.
    pub fn instance(&self) -> Uuid {
        self.inner.instance
    }

    /// Seals the secret of a database role; it opens only as the secret of this very role.
    pub fn seal_role(&self, role: &str, secret: &SecretString) -> Result<Vec<u8>> {
        Ok(self.inner.master_key.seal(&format!("role:{role}"), secret)?)
    }

    pub fn open_role(&self, role: &str, sealed: &[u8]) -> Result<SecretString> {
        Ok(self.inner.master_key.open(&format!("role:{role}"), sealed)?)
    }

    pub(crate) fn pools(&self) -> &Pools {
        &self.inner.pools
    }

    pub(crate) fn master_key(&self) -> &MasterKey {
        &self.inner.master_key
    }
}
