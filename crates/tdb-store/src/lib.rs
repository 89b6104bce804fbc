//! The control plane's metadata in PostgreSQL 13 or later: one schema, one [`Tx`] per use case, functions that return
//! typed rows, and [`Directory`], which answers the proxy's lookups. No HTTP, no state machines; of tenants' databases
//! it stores only names and sealed secrets.
//!
//! Row-level security applies to every connection: transactions of [`Store::project`] read and write the rows of one
//! project, those of [`Store::jobs`] the rows of all projects, and the connections of the directory cannot read any
//! table. So a bug in a caller cannot mix up projects.

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
pub mod declared_roles;
pub mod deployments;
pub mod drift;
pub mod events;
pub mod figures;
pub mod idempotency;
pub mod leases;
pub mod limits;
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

/// Where the store is, and how many connections to open.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The URL of the role that owns the database. It is used to check the migrations and to read the store's login
    /// roles.
    pub url: StoreUrl,
    /// The maximum number of connections of this process, without the one that listens for events. Values below six
    /// count as six.
    pub connections_max: NonZeroUsize,
}

impl Store {
    /// Opens a migrated store. `master_key` must be the one it was set up with. Fails with [`SetupError`] if a migration is
    /// missing or changed, or if the login roles are not recorded.
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

    /// Opens a transaction that reads and writes rows of this project only.
    pub async fn project(&self, project: &ProjectId) -> Result<Tx> {
        // The id is base32 by its type.
        let opening = format!("BEGIN; SET LOCAL tdb.project = '{project}'");
        Tx::begin(&self.inner.pulse, self.inner.pools.api(), &opening).await
    }

    /// Opens a transaction over all projects, for workers and for rows that belong to the installation. It cannot read
    /// API keys.
    pub async fn jobs(&self) -> Result<Tx> {
        Tx::begin(&self.inner.pulse, self.inner.pools.jobs(), "BEGIN").await
    }

    /// Calls one of the data plane's functions, with the data plane's role.
    pub(crate) async fn ask(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.answer_of(self.inner.pools.data_plane(), sql, parameters).await
    }

    /// Runs a single statement over all projects in one round trip; [`Self::jobs`] would need three.
    pub(crate) async fn ask_as_jobs(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        self.answer_of(self.inner.pools.jobs(), sql, parameters).await
    }

    /// A connection on which a statement failed without a reply is closed, not reused.
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

    /// Registers the histograms of pool waits and answer times. To be called once.
    pub fn register_metrics(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        self.inner.metrics.register(registry)
    }

    /// Checks that the store accepts connections. Ends within 2.4 seconds.
    pub async fn ping(&self) -> Result<()> {
        self.inner.pulse.check().await
    }

    /// Eight characters of base32 that identify this installation. Names of databases and roles on servers contain
    /// them.
    pub fn installation(&self) -> &str {
        &self.inner.installation
    }

    /// The id of this process, which other processes on the same store see as a lease holder.
    pub fn instance(&self) -> Uuid {
        self.inner.instance
    }

    /// Encrypts the secret of a database role. The result can be decrypted only for the same role name.
    pub fn seal_role(&self, role: &str, secret: &SecretString) -> Result<Vec<u8>> {
        Ok(self.inner.master_key.seal(&format!("role:{role}"), secret)?)
    }

    /// Decrypts a secret that [`Self::seal_role`] encrypted for this role. [`StoreError::Seal`] if it is another
    /// role's, or if the master key differs.
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
