//! The data plane: it accepts connections, terminates TLS, authenticates, routes and relays. It depends on the control plane
//! only through `tdb-contract`: no SQL of the metadata store, no HTTP, no deployment. It runs on one thread with one runtime
//! and one task per session; state that sessions share needs no locks.

mod cache;
mod feed;
mod limits;
mod listener;
mod metrics;
mod postgres;
mod routes;
mod sessions;
mod settings;
mod stream;
mod tls;

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

use prometheus::Registry;
use tdb_auth::ClientTls;
use tdb_contract::{ChangeSink, RouteSource};
use tdb_names::Engine;
use tokio::task::LocalSet;

pub use settings::{ClientTlsMode, ProxySettings, Stop};
// A field of the settings.
pub use tdb_contract::PoolMode;
pub use tls::{ServerTls, ServerTlsError};

use limits::ClientLimits;
use metrics::Metrics;
use postgres::cancel::CancelKeys;
use postgres::pool::Pool;
use routes::Routes;
use sessions::Sessions;

/// The data plane, configured and not yet running.
pub struct DataPlane {
    settings: ProxySettings,
    source: Arc<dyn RouteSource>,
    sink: Arc<dyn ChangeSink>,
    tls: Option<ServerTls>,
    upstream_tls: ClientTls,
    mock_secret: Vec<u8>,
    metrics: Metrics,
}

/// The state that all sessions of the running data plane share. It never leaves its thread.
pub(crate) struct Plane {
    settings: ProxySettings,
    sink: Arc<dyn ChangeSink>,
    tls: Option<ServerTls>,
    upstream_tls: ClientTls,
    mock_secret: Vec<u8>,
    metrics: Metrics,
    routes: Routes,
    sessions: Sessions,
    limits: ClientLimits,
    cancel_keys: CancelKeys,
    pool: Pool,
    /// The read buffer of all relays. Sessions are polled one at a time, so one buffer is enough.
    scratch: RefCell<Box<[u8]>>,
}

/// The largest number of bytes that a relay reads at once. An idle session holds no buffer.
const SCRATCH_LEN: usize = 64 * 1024;

impl DataPlane {
    /// Registers the metrics in `registry`; an error if they are already registered. `tls`: the certificate for client
    /// connections; `None` disables TLS. `mock_secret`: derives the SCRAM parameters that unknown user names are answered
    /// with, so that they are the same at each attempt.
    pub fn new(
        settings: ProxySettings,
        source: Arc<dyn RouteSource>,
        sink: Arc<dyn ChangeSink>,
        tls: Option<ServerTls>,
        upstream_tls: ClientTls,
        mock_secret: Vec<u8>,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let metrics = Metrics::register(registry, Engine::PostgreSql)?;
        Ok(Self {
            settings,
            source,
            sink,
            tls,
            upstream_tls,
            mock_secret,
            metrics,
        })
    }

    /// Serves the connections of `listeners`, each with its engine's protocol, on the calling thread. Returns after `stop`
    /// was cancelled and the last session has ended. An error if the runtime or a listener could not be set up.
    pub fn run(self, listeners: Vec<(Engine, TcpListener)>, stop: Stop) -> io::Result<()> {
        for (_, listener) in &listeners {
            listener.set_nonblocking(true)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let plane = Rc::new(Plane {
            limits: ClientLimits::new(&self.settings),
            routes: Routes::new(self.source.clone(), self.settings.stale_routes_max),
            sessions: Sessions::default(),
            cancel_keys: CancelKeys::default(),
            pool: Pool::new(self.settings.server_connections_max.get()),
            scratch: RefCell::new(vec![0; SCRATCH_LEN].into_boxed_slice()),
            settings: self.settings,
            sink: self.sink,
            tls: self.tls,
            upstream_tls: self.upstream_tls,
            mock_secret: self.mock_secret,
            metrics: self.metrics,
        });
        let local = LocalSet::new();
        local.block_on(&runtime, async move {
            let mut by_protocol = Vec::with_capacity(listeners.len());
            for (engine, listener) in listeners {
                let protocol = match engine {
                    Engine::PostgreSql => postgres::PROTOCOL,
                };
                by_protocol.push((protocol, tokio::net::TcpListener::from_std(listener)?));
            }
            let feed = tokio::task::spawn_local(feed::follow(plane.clone(), self.source));
            let janitor = tokio::task::spawn_local(close_idle_connections(plane.clone()));
            listener::serve(plane, by_protocol, stop).await;
            feed.abort();
            janitor.abort();
            Ok(())
        })
    }
}

/// Closes shared server connections that no session uses. Runs until it is aborted.
async fn close_idle_connections(plane: Rc<Plane>) {
    let idle_max = plane.settings.server_idle_timeout;
    loop {
        tokio::time::sleep(idle_max / 4).await;
        plane.pool.close_idle(idle_max);
        plane.pool.forget_shares();
    }
}
