//! A PostgreSQL cluster with the databases of a tenant and a workspace, and a data plane in front of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use tdb_auth::{ClientTls, ITERATIONS_RANDOM_SECRET, Roots, ScramVerifier};
use tdb_contract::{
    ChangeSink, Credential, DataStatements, Drained, Epoch, Login, Place, PostgresPlace, Prepared, Repair, Rights,
    Route, RouteChange, RouteChangeFeed, RouteKind, RouteSource, RouteState, Scope, SessionStart, TenantLimits,
    Unavailable, WorkspaceText,
};
use tdb_names::{
    CredentialId, DatabaseId, DatabaseName, Engine, ProjectId, ServerEndpoint, TlsMode, UserName, WorkspaceId,
};
use tdb_proxy::{ClientTlsMode, DataPlane, ProxySettings, ServerTls, Stop};
use tdb_testkit::{Cluster, ClusterOptions};
use tokio::sync::{mpsc, watch};
use tokio_postgres::{Client, Config, NoTls};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const PASSWORD: &str = "a password";
pub(crate) const TENANT: &str = "app__acme";
pub(crate) const TENANT_USER: &str = "acme_user";
pub(crate) const WORKSPACE: &str = "app_dev";
pub(crate) const WORKSPACE_USER: &str = "dev_user";
/// The user of a project credential.
pub(crate) const PROJECT_USER: &str = "project_user";
/// The time limit for each step of a test, also on a busy machine.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(30);

const TENANT_DATABASE: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(1));
const WORKSPACE_ID: WorkspaceId = WorkspaceId::from_uuid(Uuid::from_u128(2));

pub(crate) struct Lab {
    pub proxy: Proxy,
    pub directory: Arc<Directory>,
    pub journal: Arc<Journal>,
    pub cluster: Cluster,
}

/// A running data plane. It is stopped immediately when it is dropped.
pub(crate) struct Proxy {
    pub address: SocketAddr,
    pub stop: Stop,
    pub registry: Registry,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

pub(crate) struct Options {
    pub settings: ProxySettings,
    pub tls: Option<ServerTls>,
    pub server_tls: TlsMode,
    /// The authorities that the verifying TLS modes trust.
    pub roots: Roots,
    pub drain_timeout: Duration,
    pub cluster_settings: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            settings: ProxySettings::default(),
            tls: None,
            server_tls: TlsMode::Disable,
            roots: Roots::system(),
            drain_timeout: TIME_MAX,
            cluster_settings: Vec::new(),
        }
    }
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let cluster = Cluster::start_with(ClusterOptions {
            settings: options.cluster_settings.clone(),
            ..ClusterOptions::default()
        });
        let cluster = cluster.unwrap();
        let admin = cluster.connect("postgres").await.unwrap();
        for role in ["r_acme", "r_dev"] {
            let verifier = verifier(&secret_of(role));
            admin
                .batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{verifier}'"))
                .await
                .unwrap();
            admin
                .batch_execute(&format!("CREATE DATABASE d{role} OWNER {role}"))
                .await
                .unwrap();
        }
        let directory = Arc::new(Directory::new(&cluster, options.server_tls));
        let journal = Arc::new(Journal::default());
        let proxy = Proxy::start(options, directory.clone(), journal.clone());
        Self {
            proxy,
            directory,
            journal,
            cluster,
        }
    }

    pub(crate) fn config(&self, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.proxy.address.port());
        config
            .user(user)
            .password(PASSWORD)
            .dbname(database)
            .connect_timeout(TIME_MAX);
        config
    }

    pub(crate) async fn connect(&self, user: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        open(&self.config(user, database)).await
    }

    pub(crate) async fn tenant(&self) -> Client {
        self.connect(TENANT_USER, TENANT).await.unwrap()
    }

    /// A direct connection to the tenant's database as superuser.
    pub(crate) async fn superuser(&self) -> Client {
        self.cluster.connect("dr_acme").await.unwrap()
    }
}

pub(crate) async fn open(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The SQLSTATE and message of an error that the server or the proxy sent.
pub(crate) fn reported(error: &tokio_postgres::Error) -> (String, String) {
    let error = error
        .as_db_error()
        .unwrap_or_else(|| panic!("not an error of the server or the proxy: {error:?}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

pub(crate) async fn refusal(config: &Config) -> (String, String) {
    reported(&open(config).await.expect_err("a refusal"))
}

impl Proxy {
    fn start(options: Options, directory: Arc<Directory>, journal: Arc<Journal>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop {
            drain: CancellationToken::new(),
            now: CancellationToken::new(),
            drain_timeout: options.drain_timeout,
        };
        let registry = Registry::new();
        let upstream = ClientTls::new(&options.roots).unwrap();
        let secret = b"mock secret".to_vec();
        let plane = DataPlane::new(
            options.settings,
            directory,
            journal,
            options.tls,
            upstream,
            secret,
            &registry,
        );
        let (plane, stopped) = (plane.unwrap(), stop.clone());
        let thread = Some(std::thread::spawn(move || {
            plane.run(vec![(Engine::PostgreSql, listener)], stopped)
        }));
        Self {
            address,
            stop,
            registry,
            thread,
        }
    }

    pub(crate) async fn ended(&mut self) {
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(|| thread.join())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    /// The sum of a metric's values over all labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == format!("tenantsdb_proxy_{name}"));
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        metrics
            .iter()
            .map(|m| m.get_counter().get_value() + m.get_gauge().get_value())
            .sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.now.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The credentials and routes. A test changes them, and sends the change to the proxy.
pub(crate) struct Directory {
    state: Mutex<DirectoryState>,
    acknowledged: watch::Sender<i64>,
    epoch: AtomicU32,
    pub credentials_asked: AtomicU32,
}

struct DirectoryState {
    unavailable: bool,
    credentials: HashMap<String, Credential>,
    routes: HashMap<String, Route>,
    feed: Option<mpsc::Sender<RouteChange>>,
}

impl Directory {
    fn new(cluster: &Cluster, tls: TlsMode) -> Self {
        let server = Arc::new(ServerEndpoint {
            name: "main".parse().unwrap(),
            host: cluster.host().to_owned(),
            port: cluster.port(),
            tls,
        });
        let route = |role: &str, kind| Route {
            place: Place::Postgres(PostgresPlace {
                server: server.clone(),
                database: format!("d{role}"),
                role: role.to_owned(),
                secret: secret_of(role).into(),
            }),
            kind,
            state: RouteState::Active,
            limits: TenantLimits::default(),
        };
        let routes = HashMap::from([
            (TENANT.to_owned(), route("r_acme", RouteKind::Tenant(TENANT_DATABASE))),
            (WORKSPACE.to_owned(), route("r_dev", RouteKind::Workspace(WORKSPACE_ID))),
        ]);
        let credentials = HashMap::from([
            (
                TENANT_USER.to_owned(),
                credential(11, Scope::Tenant("acme".parse().unwrap())),
            ),
            (
                WORKSPACE_USER.to_owned(),
                credential(12, Scope::Workspace("app".parse().unwrap())),
            ),
            (PROJECT_USER.to_owned(), credential(13, Scope::Project)),
        ]);
        Self {
            state: Mutex::new(DirectoryState {
                unavailable: false,
                credentials,
                routes,
                feed: None,
            }),
            acknowledged: watch::Sender::new(0),
            epoch: AtomicU32::new(0),
            credentials_asked: AtomicU32::new(0),
        }
    }

    pub(crate) fn set_route(&self, database: &str, change: impl FnOnce(&mut Route)) {
        change(self.state.lock().unwrap().routes.get_mut(database).unwrap());
    }

    /// Changes the server that the database's route names.
    pub(crate) fn set_server(&self, database: &str, change: impl FnOnce(&mut ServerEndpoint)) {
        self.set_route(database, |route| {
            let Place::Postgres(place) = &mut route.place;
            let mut server = (*place.server).clone();
            change(&mut server);
            place.server = Arc::new(server);
        });
    }

    pub(crate) fn set_rights(&self, user: &str, rights: Rights) {
        self.state.lock().unwrap().credentials.get_mut(user).unwrap().rights = rights;
    }

    pub(crate) fn add_route(&self, database: &str, like: &str) {
        let mut state = self.state.lock().unwrap();
        let route = state.routes.get(like).unwrap().clone();
        state.routes.insert(database.to_owned(), route);
    }

    pub(crate) fn remove_credential(&self, user: &str) {
        self.state.lock().unwrap().credentials.remove(user);
    }

    /// Makes all lookups fail, and ends the feed.
    pub(crate) fn become_unavailable(&self) {
        let mut state = self.state.lock().unwrap();
        state.unavailable = true;
        state.feed = None;
    }

    pub(crate) async fn publish_tenant_closed(&self) -> i64 {
        self.publish(|epoch| RouteChange::DatabaseClosed {
            epoch,
            project: project(),
            tenant: "acme".parse().unwrap(),
            database: TENANT_DATABASE,
        })
        .await
    }

    pub(crate) async fn publish_revoked(&self, user: &str, id: u128) -> i64 {
        self.publish(|epoch| RouteChange::CredentialRevoked {
            epoch,
            user: user.parse().unwrap(),
            credential: CredentialId::from_uuid(Uuid::from_u128(id)),
        })
        .await
    }

    /// Sends a change to the proxy and returns its epoch.
    async fn publish(&self, change: impl FnOnce(Epoch) -> RouteChange) -> i64 {
        let epoch = i64::from(self.epoch.fetch_add(1, Ordering::SeqCst)) + 1;
        let feed = self
            .state
            .lock()
            .unwrap()
            .feed
            .clone()
            .expect("the proxy has subscribed");
        feed.send(change(Epoch(epoch))).await.unwrap();
        epoch
    }

    /// Waits until the proxy has acknowledged `epoch`.
    pub(crate) async fn acknowledged(&self, epoch: i64) {
        let mut acknowledged = self.acknowledged.subscribe();
        let waited = tokio::time::timeout(TIME_MAX, acknowledged.wait_for(|last| *last >= epoch)).await;
        waited.expect("an acknowledgement").unwrap();
    }

    fn look_up<T>(&self, answer: impl FnOnce(&mut DirectoryState) -> T) -> Result<T, Unavailable> {
        let mut state = self.state.lock().unwrap();
        if state.unavailable {
            return Err(Unavailable {
                reason: "unavailable".to_owned(),
            });
        }
        Ok(answer(&mut state))
    }
}

#[async_trait]
impl RouteSource for Directory {
    async fn credential(&self, user: &UserName) -> Result<Option<Credential>, Unavailable> {
        self.credentials_asked.fetch_add(1, Ordering::SeqCst);
        self.look_up(|state| state.credentials.get(user.as_str()).cloned())
    }

    async fn route(&self, _: &ProjectId, database: &DatabaseName, _: Rights) -> Result<Option<Route>, Unavailable> {
        self.look_up(|state| state.routes.get(&database.to_string()).cloned())
    }

    async fn subscribe(&self) -> Result<RouteChangeFeed, Unavailable> {
        self.look_up(|state| {
            let (sender, receiver) = mpsc::channel(8);
            state.feed = Some(sender);
            RouteChangeFeed::new(receiver)
        })
    }

    async fn acknowledge(&self, epoch: Epoch) -> Result<(), Unavailable> {
        self.acknowledged.send_replace(epoch.0);
        Ok(())
    }
}

/// The requests of the proxy about workspace sessions. Each drain returns its number as a warning, so that a test sees its
/// position among the replies.
#[derive(Default)]
pub(crate) struct Journal {
    pub started: Mutex<Vec<SessionStart>>,
    drains: AtomicU32,
    hang: std::sync::atomic::AtomicBool,
    /// The statement that restores a refused role, for the next refusal.
    pub(crate) repair: Mutex<Option<(Client, String)>>,
    refused: AtomicU32,
}

impl Journal {
    pub(crate) fn drains(&self) -> u32 {
        self.drains.load(Ordering::SeqCst)
    }

    /// The number of refused logins that the proxy has reported.
    pub(crate) fn refused(&self) -> u32 {
        self.refused.load(Ordering::SeqCst)
    }

    /// From now on, drains do not finish.
    pub(crate) fn hang(&self) {
        self.hang.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl ChangeSink for Journal {
    async fn session_started(&self, session: SessionStart) -> Result<(), Unavailable> {
        self.started.lock().unwrap().push(session);
        Ok(())
    }

    async fn drain(&self, workspace: WorkspaceId, _: Option<DataStatements>) -> Result<Drained, Unavailable> {
        assert_eq!(workspace, WORKSPACE_ID);
        let number = self.drains.fetch_add(1, Ordering::SeqCst) + 1;
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(Drained {
            changes: 1,
            warnings: vec![format!("drain {number}")],
        })
    }

    async fn login_refused(&self, _: RouteKind) -> Result<Repair, Unavailable> {
        self.refused.fetch_add(1, Ordering::SeqCst);
        let repair = self.repair.lock().unwrap().take();
        let Some((administrator, sql)) = repair else {
            return Ok(Repair::NotNeeded);
        };
        administrator.batch_execute(&sql).await.unwrap();
        Ok(Repair::Done)
    }

    async fn prepare(&self, _: WorkspaceText) -> Result<Prepared, Unavailable> {
        Ok(Prepared::default())
    }
}

pub(crate) fn at_most(clients: u32) -> TenantLimits {
    TenantLimits {
        clients_max: NonZeroU32::new(clients),
        ..TenantLimits::default()
    }
}

pub(crate) fn certificate() -> ServerTls {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    ServerTls::from_pem(own.cert.pem().as_bytes(), own.signing_key.serialize_pem().as_bytes()).unwrap()
}

pub(crate) fn with_tls(mode: ClientTlsMode) -> Options {
    let settings = ProxySettings {
        tls_mode: mode,
        ..ProxySettings::default()
    };
    Options {
        settings,
        tls: Some(certificate()),
        ..Options::default()
    }
}

fn project() -> ProjectId {
    "prj_aaaaaaaaaa".parse().unwrap()
}

fn credential(id: u128, scope: Scope) -> Credential {
    Credential {
        id: CredentialId::from_uuid(Uuid::from_u128(id)),
        project: project(),
        login: Login {
            scram_sha_256: verifier(PASSWORD),
        },
        scope,
        rights: Rights::ReadWrite,
        expires_at: None,
    }
}

fn verifier(password: &str) -> ScramVerifier {
    ScramVerifier::derive(&password.to_owned().into(), ITERATIONS_RANDOM_SECRET).unwrap()
}

/// The password of a role on the server, which clients do not know.
fn secret_of(role: &str) -> String {
    format!("secret of {role}")
}
