//! A store in a new cluster, owned by a role that is not a superuser, and rows for it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking
#![allow(dead_code, reason = "each test uses its part")]

use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tdb_auth::{ClientTls, MasterKey, Roots};
use tdb_names::{BlueprintName, DatabaseId, ProjectId, ServerEndpoint, TenantName, TlsMode, WorkspaceId};
use tdb_store::physical::{Physical, RoleSecret, RoleSecrets};
use tdb_store::servers::{self, Administrator};
use tdb_store::{
    Directory, DirectorySettings, Store, StoreSettings, StoreUrl, migrations, projects, tenants, workspaces,
};
use tdb_testkit::{Cluster, ClusterOptions, Durability};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio_postgres::Client;
use uuid::Uuid;

pub(crate) const OWNER: &str = "cp_owner";
pub(crate) const OWNER_PASSWORD: &str = "owner";
pub(crate) const DATABASE: &str = "tdb_control";

pub(crate) struct World {
    pub cluster: Arc<Cluster>,
    pub database: String,
    pub store: Store,
    pub master_key: Arc<MasterKey>,
}

pub(crate) fn key() -> Arc<MasterKey> {
    Arc::new(MasterKey::parse(&MasterKey::generate().unwrap()).unwrap())
}

pub(crate) fn tls() -> ClientTls {
    ClientTls::new(&Roots::system()).unwrap()
}

/// A separate cluster with the owner and an empty database.
pub(crate) async fn cluster() -> Cluster {
    let cluster = owned_cluster(Durability::Fast).await;
    create_database(&cluster, DATABASE).await;
    cluster
}

async fn owned_cluster(durability: Durability) -> Cluster {
    let options = ClusterOptions {
        durability,
        ..Default::default()
    };
    let cluster = Cluster::start_with(options).unwrap();
    let superuser = cluster.connect("postgres").await.unwrap();
    let owner = format!("CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{OWNER_PASSWORD}'");
    superuser.batch_execute(&owner).await.unwrap();
    cluster
}

async fn create_database(cluster: &Cluster, name: &str) {
    let superuser = cluster.connect("postgres").await.unwrap();
    let create = format!("CREATE DATABASE {name} OWNER {OWNER}");
    superuser.batch_execute(&create).await.unwrap();
}

/// One cluster for tests that run concurrently; it is stopped with the last of them.
async fn shared_cluster() -> Arc<Cluster> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(owned_cluster(Durability::Fast).await);
    *shared = Arc::downgrade(&cluster);
    cluster
}

pub(crate) fn url(cluster: &Cluster) -> StoreUrl {
    url_of(cluster, DATABASE)
}

pub(crate) fn url_of(cluster: &Cluster, database: &str) -> StoreUrl {
    let port = cluster.port();
    let text = format!("postgresql://{OWNER}:{OWNER_PASSWORD}@127.0.0.1:{port}/{database}?sslmode=disable");
    StoreUrl::parse(&text.into()).unwrap()
}

pub(crate) fn settings(cluster: &Cluster) -> StoreSettings {
    settings_of(url(cluster))
}

fn settings_of(url: StoreUrl) -> StoreSettings {
    StoreSettings {
        url,
        connections_max: NonZeroUsize::new(16).unwrap(),
    }
}

impl World {
    /// An installation in a separate database.
    pub(crate) async fn start() -> Self {
        Self::in_cluster(shared_cluster().await).await
    }

    /// An installation in a separate cluster, in which commits survive [`Cluster::crash`].
    pub(crate) async fn start_durable() -> Self {
        Self::in_cluster(Arc::new(owned_cluster(Durability::Safe).await)).await
    }

    async fn in_cluster(cluster: Arc<Cluster>) -> Self {
        let database = format!("store_{}", tdb_auth::base32(8).unwrap());
        create_database(&cluster, &database).await;
        let (url, master_key) = (url_of(&cluster, &database), key());
        migrations::migrate(&url, &master_key, &tls()).await.unwrap();
        let store = Store::connect(&settings_of(url), master_key.clone(), &tls()).await;
        Self {
            cluster,
            database,
            store: store.unwrap(),
            master_key,
        }
    }

    pub(crate) fn url(&self) -> StoreUrl {
        url_of(&self.cluster, &self.database)
    }

    pub(crate) fn settings(&self) -> StoreSettings {
        settings_of(self.url())
    }

    /// A session without row-level security.
    pub(crate) async fn superuser(&self) -> Client {
        self.cluster.connect(&self.database).await.unwrap()
    }

    /// Waits until a session of this store waits for a lock.
    pub(crate) async fn until_a_session_waits_for_a_lock(&self) {
        let superuser = self.superuser().await;
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let deadline = Instant::now() + Duration::from_secs(60);
        while superuser.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(Instant::now() < deadline, "no session waits for a lock");
        }
    }

    pub(crate) async fn owner(&self) -> Client {
        self.cluster
            .connect_as(OWNER, OWNER_PASSWORD, &self.database)
            .await
            .unwrap()
    }

    /// Logs in with one of the store's passwords, as an attacker who found it would.
    pub(crate) async fn login(&self, purpose: &str) -> Client {
        use secrecy::ExposeSecret;
        let sql = "SELECT name, secret FROM control_plane.store_roles WHERE purpose = $1";
        let row = self.superuser().await.query_one(sql, &[&purpose]).await.unwrap();
        let (name, sealed): (String, Vec<u8>) = (row.get(0), row.get(1));
        let secret = self.master_key.open(&format!("store-role:{name}"), &sealed).unwrap();
        self.cluster
            .connect_as(&name, secret.expose_secret(), &self.database)
            .await
            .unwrap()
    }

    /// A directory whose feeds have no heartbeat during a test, so that what they deliver was notified.
    pub(crate) fn directory(&self) -> Directory {
        let settings = DirectorySettings {
            lease: Duration::from_secs(24 * 3600),
            ..DirectorySettings::default()
        };
        Directory::new(self.store.clone(), Handle::current(), settings)
    }

    pub(crate) async fn server(&self) {
        let tx = self.store.jobs().await.unwrap();
        servers::upsert(&tx, &self.store, &administrator("main")).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) async fn project(&self) -> ProjectId {
        let id = projects::new_id().unwrap();
        let tx = self.store.project(&id).await.unwrap();
        projects::insert(&tx, &id, Uuid::new_v4(), "a project").await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) fn physical(&self, name: &str) -> Physical {
        let role = |suffix: &str| {
            let name = format!("r_{}{suffix}", tdb_auth::base32(13).unwrap());
            let sealed = self
                .store
                .seal_role(&name, &SecretString::from("upstream".to_owned()))
                .unwrap();
            RoleSecret { name, sealed }
        };
        Physical {
            id: Uuid::new_v4(),
            server: "main".parse().unwrap(),
            database: Some(name.to_owned()),
            oid: Some(4_000_000_000),
            roles: RoleSecrets {
                owner: role(""),
                deployer: role("_dep"),
                readonly: role("_ro"),
            },
        }
    }

    pub(crate) async fn workspace(&self, project: &ProjectId, blueprint: &BlueprintName) -> WorkspaceId {
        let id = WorkspaceId::from_uuid(Uuid::new_v4());
        let physical = self.physical(&format!("{blueprint}_{id}"));
        let tx = self.store.project(project).await.unwrap();
        assert!(
            workspaces::insert(&tx, id, project, blueprint, &physical)
                .await
                .unwrap()
        );
        tx.commit().await.unwrap();
        id
    }

    /// A tenant with a database in state `provisioning`.
    pub(crate) async fn tenant(
        &self,
        project: &ProjectId,
        tenant: &TenantName,
        blueprint: &BlueprintName,
        workspace: WorkspaceId,
    ) -> DatabaseId {
        let id = DatabaseId::from_uuid(Uuid::new_v4());
        let physical = self.physical(&format!("{blueprint}__{tenant}_{id}"));
        let tx = self.store.project(project).await.unwrap();
        tenants::insert(&tx, project, tenant, "production").await.unwrap();
        let database = tenants::NewDatabase {
            id,
            project,
            tenant,
            blueprint,
            workspace,
            wanted_version: None,
            physical: &physical,
        };
        assert!(tenants::insert_database(&tx, &database).await.unwrap());
        tx.commit().await.unwrap();
        id
    }
}

pub(crate) fn administrator(name: &str) -> Administrator {
    Administrator {
        endpoint: ServerEndpoint {
            name: name.parse().unwrap(),
            host: "127.0.0.1".to_owned(),
            port: 5432,
            tls: TlsMode::Prefer,
        },
        user: "postgres".to_owned(),
        secret: SecretString::from("the administrator's".to_owned()),
        opaque_names: false,
    }
}
