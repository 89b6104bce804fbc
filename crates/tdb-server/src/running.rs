//! The composition root: all parts are created here once, from the bottom up, and stopped in reverse order. The data plane
//! has a separate thread and runtime, so that the control plane cannot delay clients' data.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Error, Result, anyhow};
use axum::Router;
use prometheus::Registry;
use secrecy::ExposeSecret;
use tdb_auth::{ApiKey, ClientTls, MasterKey, Roots};
use tdb_control::model::ProxyAddress;
use tdb_control::{Control, ControlSettings, ServerEnrolment};
use tdb_names::{Engine, ServerEndpoint};
use tdb_proxy::{ClientTlsMode, DataPlane, PoolMode, ProxySettings, ServerTls, Stop};
use tdb_store::{Directory, DirectorySettings, Store, StoreSettings, migrations, projects};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificate;
use crate::config::{self, Config, Server};
use crate::health::{Health, ProxyState};
use crate::http::{self, HttpLimits};
use crate::sockets::Sockets;

/// Jobs stop between two steps, and a step consists of a few statements.
const JOBS_STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// The additional time that the proxy needs to notify clients and close their connections.
const PROXY_CLOSE_TIME_MAX: Duration = Duration::from_secs(2);
const FIRST_PROJECT: &str = "default";

/// The keys and certificates that are loaded before any connection is made.
pub(crate) struct Keys {
    pub master_key: Arc<MasterKey>,
    /// For connections to the metadata store and to database servers.
    pub tls: ClientTls,
}

/// All parts that need no listening port, created and connected.
pub(crate) struct Foundation {
    control: Control,
    registry: Registry,
    directory: Directory,
    data_plane: DataPlane,
}

/// A running installation.
pub(crate) struct Running {
    proxy: ProxyState,
    directory: Directory,
    proxy_stop: Stop,
    jobs_stop: CancellationToken,
    http_stop: CancellationToken,
    jobs: TaskTracker,
    http: TaskTracker,
    data_plane: CancellationToken,
    /// The errors of parts that ended unexpectedly.
    failures: mpsc::Receiver<Error>,
}

impl Keys {
    pub(crate) fn of(config: &Config) -> Result<Self> {
        let wrong = |key: &str, error: Error| config.problem(key, format!("{error:#}"));
        let master_key = MasterKey::parse(&config.master_key);
        let master_key = master_key.map_err(|e| wrong("secrets.master_key", e.into()))?;
        let tls = client_tls(config).map_err(|e| wrong("upstream.ca_file", e))?;
        Ok(Self {
            master_key: Arc::new(master_key),
            tls,
        })
    }
}

fn client_tls(config: &Config) -> Result<ClientTls> {
    let roots = match &config.upstream_ca {
        Some(file) => {
            let pem = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Roots::from_pem(&pem)?
        }
        None => Roots::system(),
    };
    Ok(ClientTls::new(&roots)?)
}

/// The certificate for clients, if one is configured.
pub(crate) fn server_tls(config: &Config) -> Result<Option<ServerTls>> {
    let loaded = config.proxy.tls.files.as_ref().map(certificate::load).transpose();
    Ok(loaded.map_err(|e| config.problem("proxy.tls.certificate", format!("{e:#}")))?)
}

pub(crate) fn endpoint(server: &Server) -> ServerEndpoint {
    ServerEndpoint {
        name: server.name.clone(),
        host: server.host.clone(),
        port: server.port,
        tls: server.tls,
    }
}

pub(crate) fn store_settings(config: &Config) -> StoreSettings {
    StoreSettings {
        url: config.store.url.clone(),
        connections_max: config.store.connections_max,
    }
}

impl Foundation {
    /// Says that this process alone holds `home`: what a killed one held that had it before is free.
    pub(crate) async fn take_over(&self, home: &str) -> Result<()> {
        let taken = self.control.jobs.take_over(home).await;
        taken.context("cannot take over what the last process held")
    }

    /// Loads keys and certificates, opens and migrates the store, creates the first API key, and registers the servers.
    pub(crate) async fn lay(config: &Config) -> Result<Self> {
        let keys = Keys::of(config)?;
        let certificate = server_tls(config)?;
        let migrated = migrations::migrate(&config.store.url, &keys.master_key, &keys.tls);
        for migration in migrated.await.context("cannot migrate the metadata store")? {
            tracing::info!(number = migration.number, name = migration.name, "migration applied");
        }
        let settings = store_settings(config);
        let store = Store::connect(&settings, Arc::clone(&keys.master_key), &keys.tls);
        let store = store.await.context("cannot open the metadata store")?;
        let address = config.public_address();
        let proxy = ProxyAddress {
            host: address.host,
            port: address.port,
        };
        let settings = ControlSettings {
            proxy,
            signup: config.signup,
            ..ControlSettings::default()
        };
        let control = Control::new(store.clone(), keys.tls.clone(), settings);
        bootstrap(&store, &control, config).await?;
        enrol(&control, &config.servers).await?;
        let registry = Registry::new();
        control.metrics.register(&registry)?;
        let settings = DirectorySettings {
            instance: store.instance(),
            ..DirectorySettings::default()
        };
        let directory = Directory::new(store, Handle::current(), settings);
        let data_plane = DataPlane::new(
            proxy_settings(config),
            Arc::new(directory.clone()),
            Arc::new(control.clone()),
            certificate,
            keys.tls,
            keys.master_key.mock_secret().to_vec(),
            &registry,
        )?;
        Ok(Self {
            control,
            registry,
            directory,
            data_plane,
        })
    }
}

fn proxy_settings(config: &Config) -> ProxySettings {
    let proxy = &config.proxy;
    ProxySettings {
        clients_max: proxy.clients_max,
        database_clients_max: proxy.database_clients_max,
        login_timeout: proxy.login_timeout,
        upstream_connect_timeout: proxy.upstream_connect_timeout,
        stale_routes_max: proxy.stale_routes_max,
        pool_mode: match proxy.pool_mode {
            config::PoolMode::Session => PoolMode::Session,
            config::PoolMode::Auto => PoolMode::Auto,
        },
        server_connections_max: proxy.server_connections_max,
        server_connection_timeout: proxy.server_connection_timeout,
        server_idle_timeout: proxy.server_idle_timeout,
        tls_mode: match proxy.tls.mode {
            config::ClientTlsMode::Disable => ClientTlsMode::Disable,
            config::ClientTlsMode::Prefer => ClientTlsMode::Prefer,
            config::ClientTlsMode::Require => ClientTlsMode::Require,
        },
    }
}

/// Creates the installation's first project and API key if the store is empty.
async fn bootstrap(store: &Store, control: &Control, config: &Config) -> Result<()> {
    let tx = store.jobs().await?;
    let is_empty = !projects::any(&tx).await?;
    tx.rollback().await?;
    if !is_empty {
        return Ok(());
    }
    let key = config
        .bootstrap_key
        .as_ref()
        .and_then(|key| ApiKey::parse(key.expose_secret()));
    let key = key.ok_or_else(|| {
        config.problem(
            "bootstrap.api_key",
            "is missing, and the metadata store is empty: it becomes the first API key".to_owned(),
        )
    })?;
    control
        .accounts
        .bootstrap(FIRST_PROJECT, Some(key))
        .await
        .context("cannot create the first project")?;
    tracing::info!(
        project = FIRST_PROJECT,
        "the store was empty; created the first project and its API key"
    );
    Ok(())
}

/// All at once: none waits for one that is slow to answer.
async fn enrol(control: &Control, servers: &[Server]) -> Result<()> {
    let mut enrolments = JoinSet::new();
    for server in servers {
        let enrolment = ServerEnrolment {
            endpoint: endpoint(server),
            admin_user: server.user.clone(),
            admin_secret: server.password.clone(),
            opaque_names: false,
            extensions: server.extensions.clone(),
        };
        let (servers, name) = (control.servers.clone(), server.name.clone());
        enrolments.spawn(async move {
            let enrolled = servers.enrol(enrolment).await;
            enrolled.with_context(|| format!("cannot register the server {name}"))
        });
    }
    while let Some(enrolled) = enrolments.join_next().await {
        enrolled.context("registering a server")??;
    }
    Ok(())
}

impl Running {
    /// Starts the data plane's thread, the jobs and the listeners.
    pub(crate) async fn start(foundation: Foundation, config: &Config, sockets: Sockets) -> Result<Self> {
        let Foundation {
            control,
            registry,
            directory,
            data_plane,
        } = foundation;
        let (failed, failures) = mpsc::channel(1);
        let running = Self {
            proxy: ProxyState::default(),
            directory,
            proxy_stop: Stop {
                drain: CancellationToken::new(),
                now: CancellationToken::new(),
                drain_timeout: config.shutdown_timeout,
            },
            jobs_stop: CancellationToken::new(),
            http_stop: CancellationToken::new(),
            jobs: TaskTracker::new(),
            http: TaskTracker::new(),
            data_plane: CancellationToken::new(),
            failures,
        };
        running.listen("the API", sockets.api, tdb_api::router(control.clone()))?;
        let health = Health::new(registry, control.clone(), running.proxy.clone())?;
        running.listen("metrics", sockets.metrics, health.router())?;
        control.jobs.start(&running.jobs, &running.jobs_stop);
        running.run_data_plane(data_plane, sockets.proxy, failed)?;
        running.proxy.accepts();
        tracing::info!(proxy = %config.proxy.listen, "ready");
        Ok(running)
    }

    /// Runs the data plane on a separate thread. A drain waits for the thread's end; at any other time the end is a failure.
    fn run_data_plane(
        &self,
        data_plane: DataPlane,
        socket: std::net::TcpListener,
        failed: mpsc::Sender<Error>,
    ) -> Result<()> {
        let stop = self.proxy_stop.clone();
        let ended = self.data_plane.clone();
        let run = move || {
            // Cancels the token when the thread ends, also by a panic.
            let _ended = ended.drop_guard();
            let draining = stop.drain.clone();
            let error = match data_plane.run(vec![(Engine::PostgreSql, socket)], stop) {
                Ok(()) if draining.is_cancelled() => return,
                Ok(()) => anyhow!("the proxy ended unexpectedly"),
                Err(error) => Error::new(error).context("the proxy failed"),
            };
            // If the channel is full, another part failed first; only its error is reported.
            let _ = failed.try_send(error);
        };
        thread::Builder::new()
            .name("data-plane".to_owned())
            .spawn(run)
            .context("cannot start the data plane's thread")?;
        Ok(())
    }

    /// Serves HTTP until the shutdown; running requests are answered.
    fn listen(&self, whose: &'static str, socket: std::net::TcpListener, router: Router) -> Result<()> {
        let listener = TcpListener::from_std(socket).with_context(|| format!("cannot listen for {whose}"))?;
        let (stop, tasks) = (self.http_stop.clone(), self.http.clone());
        self.http
            .spawn(http::serve(listener, router, HttpLimits::default(), stop, tasks));
        Ok(())
    }

    /// Waits until a part ends unexpectedly, and returns its error. Cancel safe.
    pub(crate) async fn failed(&mut self) -> Error {
        match self.failures.recv().await {
            Some(error) => error,
            None => anyhow!("all parts ended"),
        }
    }

    /// Stops all parts in order: readiness, clients, jobs, then the HTTP listeners. Takes little more than the configured
    /// time.
    pub(crate) async fn drain(&self) {
        self.proxy.stops();
        self.proxy_stop.drain.cancel();
        let limit = self.proxy_stop.drain_timeout + PROXY_CLOSE_TIME_MAX;
        if timeout(limit, self.data_plane.cancelled()).await.is_err() {
            tracing::warn!(?limit, "clients did not disconnect in time");
            self.proxy_stop.now.cancel();
        }
        // If this fails, other processes wait for this proxy only until its lease expires.
        if let Ok(Err(error)) = timeout(PROXY_CLOSE_TIME_MAX, self.directory.retire()).await {
            tracing::warn!(%error, "cannot release the proxy's lease; it remains until it expires");
        }
        self.jobs_stop.cancel();
        wait(&self.jobs, JOBS_STOP_TIME_MAX, "jobs").await;
        self.http_stop.cancel();
        wait(&self.http, PROXY_CLOSE_TIME_MAX, "HTTP requests").await;
    }
}

async fn wait(tasks: &TaskTracker, limit: Duration, whose: &str) {
    tasks.close();
    if timeout(limit, tasks.wait()).await.is_err() {
        tracing::warn!(?limit, "{whose} did not end in time");
    }
}
