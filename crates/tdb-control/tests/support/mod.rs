//! A control plane over one temporary cluster that is both the store and the database server. There is no proxy:
//! developers and clients connect to the server directly, in the roles that the proxy would use.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking
#![allow(dead_code, reason = "each test binary uses a part")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tdb_auth::{ClientTls, MasterKey, Roots};
use tdb_control::model::{
    ChangeInfo, DatabaseRequest, Deployment, DeploymentRequest, DeploymentStatus, DeploymentTarget, DriftReport,
    IsolationLevel, NewTenant, TenantChoice, TenantRequest, TenantStatus,
};
use tdb_control::{Control, ControlError, ControlSettings, Identity, Page, ServerEnrolment};
use tdb_names::{BlueprintName, ServerEndpoint, TenantName, TlsMode, WorkspaceId};
use tdb_store::{Store, StoreSettings, StoreUrl, migrations};
use tdb_testkit::Cluster;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The time limit of every wait in these tests.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) control: Control,
    pub(crate) identity: Identity,
    pub(crate) store: Store,
    stop: CancellationToken,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(ControlSettings::default()).await
    }

    pub(crate) async fn start_with(settings: ControlSettings) -> Self {
        let world = Self::idle(settings).await;
        world.control.jobs.start(&TaskTracker::new(), &world.stop);
        world
    }

    /// Does not start the workers.
    pub(crate) async fn idle(settings: ControlSettings) -> Self {
        let cluster = Cluster::start().unwrap();
        let url = cluster.create_store().await.unwrap();
        let admin = cluster.connect("postgres").await.unwrap();
        admin
            .batch_execute("REVOKE ALL ON DATABASE tdb_control FROM PUBLIC")
            .await
            .unwrap();
        let url = StoreUrl::parse(&url.into()).unwrap();
        let key = Arc::new(MasterKey::parse(&MasterKey::generate().unwrap()).unwrap());
        let tls = ClientTls::new(&Roots::system()).unwrap();
        migrations::migrate(&url, &key, &tls).await.unwrap();
        let connections_max = NonZeroUsize::new(20).unwrap();
        let store = Store::connect(&StoreSettings { url, connections_max }, key, &tls)
            .await
            .unwrap();
        let control = Control::new(store.clone(), tls, settings);
        let endpoint = ServerEndpoint {
            name: "main".parse().unwrap(),
            host: "127.0.0.1".to_owned(),
            port: cluster.port(),
            tls: TlsMode::Disable,
        };
        let enrolment = ServerEnrolment {
            endpoint,
            admin_user: cluster.superuser().to_owned(),
            admin_secret: cluster.password().to_owned().into(),
            opaque_names: false,
            extensions: vec!["*".to_owned()],
        };
        control.servers.enrol(enrolment).await.unwrap();
        let project = control.accounts.bootstrap("default", None).await.unwrap().unwrap();
        let identity = control
            .accounts
            .authenticate(secrecy::ExposeSecret::expose_secret(&project.api_key))
            .await
            .unwrap();
        Self {
            cluster,
            control,
            identity,
            store,
            stop: CancellationToken::new(),
        }
    }

    /// Another control plane over the same store, as after a restart.
    pub(crate) async fn restarted(&self) -> Control {
        self.stop.cancel();
        let tls = ClientTls::new(&Roots::system()).unwrap();
        Control::new(self.store.clone(), tls, ControlSettings::default())
    }

    pub(crate) async fn workspace(&self, name: &str) {
        self.control
            .workspaces
            .create(&self.identity, &blueprint(name))
            .await
            .unwrap();
    }

    pub(crate) async fn workspace_id(&self, name: &str) -> WorkspaceId {
        let found = self.control.workspaces.find(&self.identity, &blueprint(name)).await;
        found.unwrap().id
    }

    /// A session in the owner role of a database, without a proxy.
    pub(crate) async fn session(&self, database: &str) -> Client {
        let client = self.cluster.connect(database).await.unwrap();
        let sql = "SELECT rolname FROM pg_roles, pg_database d WHERE datname = current_database() AND rolname ~ '^r_[a-z2-7]{13}$'
                   AND has_database_privilege(rolname, d.oid, 'CONNECT')";
        let role: String = client.query_one(sql, &[]).await.unwrap().get(0);
        client
            .batch_execute(&format!("SET SESSION AUTHORIZATION {role}"))
            .await
            .unwrap();
        client
    }

    pub(crate) async fn ddl(&self, name: &str, sql: &str) {
        self.session(&format!("{name}_dev"))
            .await
            .batch_execute(sql)
            .await
            .unwrap();
    }

    pub(crate) async fn try_tenant(&self, name: &str, of: &str) -> Result<NewTenant, ControlError> {
        self.control
            .tenants
            .create(&self.identity, request(name, of, None))
            .await
    }

    pub(crate) async fn tenant(&self, name: &str, of: &str) -> NewTenant {
        let made = self.try_tenant(name, of).await.unwrap();
        assert_eq!(made.tenant.status, TenantStatus::Ready, "{made:#?}");
        made
    }

    pub(crate) async fn diff(&self, name: &str) -> Vec<ChangeInfo> {
        self.control
            .blueprints
            .diff(&self.identity, &blueprint(name), &Page::default())
            .await
            .unwrap()
            .changes
    }

    pub(crate) async fn skip(&self, name: &str, ids: &[u32]) -> Result<Vec<ChangeInfo>, ControlError> {
        let ids = ids.iter().copied().collect();
        self.control.skips.skip(&self.identity, &blueprint(name), &ids).await
    }

    /// The error of a deployment to all tenants.
    pub(crate) async fn refused_deployment(&self, name: &str) -> ControlError {
        let refused = self.control.deployments.create(&self.identity, deploy_all(name)).await;
        refused.unwrap_err()
    }

    pub(crate) async fn begin_deployment(&self, name: &str) -> Deployment {
        self.control
            .deployments
            .create(&self.identity, deploy_all(name))
            .await
            .unwrap()
    }

    pub(crate) async fn deploy(&self, name: &str) -> Deployment {
        let job = self.begin_deployment(name).await;
        self.finished(&self.control, &job).await
    }

    /// The deployment, once it is completed or failed.
    pub(crate) async fn finished(&self, control: &Control, job: &Deployment) -> Deployment {
        let id = job.summary.id.clone().unwrap();
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let job = control.deployments.find(&self.identity, &id).await.unwrap();
            match job.summary.status {
                DeploymentStatus::Planned | DeploymentStatus::Running => {}
                DeploymentStatus::Completed | DeploymentStatus::Failed => return job,
            }
            assert!(tokio::time::Instant::now() < end, "{job:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn version_of(&self, tenant: &str) -> Option<u32> {
        let name = tenant.parse().unwrap();
        self.control
            .tenants
            .find(&self.identity, &name)
            .await
            .unwrap()
            .databases[0]
            .version
    }

    pub(crate) async fn no_drift(&self, name: &str) {
        let report = self.drift(Some(name)).await;
        assert!(report.tenants.is_empty() && report.unchecked.is_empty(), "{report:#?}");
    }

    /// Requests a comparison of the tenants and workspaces and waits for it.
    pub(crate) async fn drift(&self, name: Option<&str>) -> DriftReport {
        let name = name.map(blueprint);
        self.control
            .drifts
            .refresh(&self.identity, name.as_ref())
            .await
            .unwrap();
        eventually("every tenant is looked at", async || {
            let report = self.control.drifts.report(&self.identity, name.as_ref()).await.unwrap();
            (report.pending == 0).then_some(report)
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn blueprint(name: &str) -> BlueprintName {
    name.parse().unwrap()
}

pub(crate) fn tenant(name: &str) -> TenantName {
    name.parse().unwrap()
}

pub(crate) fn request(name: &str, of: &str, version: Option<u32>) -> TenantRequest {
    let database = DatabaseRequest {
        blueprint: blueprint(of),
        isolation_level: IsolationLevel::Pooled,
        version,
    };
    TenantRequest {
        name: tenant(name),
        databases: vec![database],
        environment: None,
    }
}

pub(crate) fn deploy_all(name: &str) -> DeploymentRequest {
    DeploymentRequest {
        blueprint: blueprint(name),
        version: None,
        tenants: TenantChoice::All,
    }
}

pub(crate) fn target<'a>(job: &'a Deployment, name: &str) -> &'a DeploymentTarget {
    let found = job.targets.iter().find(|target| target.tenant.as_str() == name);
    found.unwrap_or_else(|| panic!("{name} is no target: {job:#?}"))
}

/// Repeats the check until it succeeds.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
