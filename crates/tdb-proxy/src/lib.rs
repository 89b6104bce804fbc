//! The data plane: it listens, encrypts, routes, authenticates and relays. It knows the control plane only through
//! `tdb-contract`: no SQL of the metadata store, no HTTP, no deployment. One thread, one runtime, one task per session;
//! what is shared between sessions is shared without locks.

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
pub use tls::{ServerTls, ServerTlsError};

use limits::Limits;
use metrics::Metrics;
use postgres::cancel::CancelKeys;
use routes::Routes;
use sessions::Sessions;

/// Everything the data plane needs, put together and not yet running.
pub struct DataPlane {
    settings: ProxySettings,
    source: Arc<dyn RouteSource>,
    sink: Arc<dyn ChangeSink>,
    tls: Option<ServerTls>,
    upstream_tls: ClientTls,
    mock_secret: Vec<u8>,
    metrics: Metrics,
}

/// What every session of the running data plane shares; never leaves its thread.
pub(crate) struct Plane {
    settings: ProxySettings,
    sink: Arc<dyn ChangeSink>,
    tls: Option<ServerTls>,
    upstream_tls: ClientTls,
    mock_secret: Vec<u8>,
    metrics: Metrics,
    routes: Routes,
    sessions: Sessions,
    limits: Limits,
    cancel_keys: CancelKeys,
    /// What every relay reads into: sessions are polled one at a time, so one buffer serves all.
    scratch: RefCell<Box<[u8]>>,
}

/// A read takes at most this; a session that is not being relayed holds no buffer.
const SCRATCH_LEN: usize = 64 * 1024;

impl DataPlane {
    /// `tls` is what clients are offered (none: no encryption); `mock_secret` makes the answers to unknown users stable.
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

    /// Serves the clients of `listeners`, each by its engine's protocol, on the calling thread until `stop` says so and the
    /// last session has ended.
    pub fn run(self, listeners: Vec<(Engine, TcpListener)>, stop: Stop) -> io::Result<()> {
        for (_, listener) in &listeners {
            listener.set_nonblocking(true)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let plane = Rc::new(Plane {
            limits: Limits::new(&self.settings),
            routes: Routes::new(self.source.clone(), self.settings.stale_routes_max),
            sessions: Sessions::default(),
            cancel_keys: CancelKeys::default(),
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
            let mut served = Vec::with_capacity(listeners.len());
            for (engine, listener) in listeners {
                let protocol = match engine {
                    Engine::PostgreSql => postgres::PROTOCOL,
                };
                served.push((protocol, tokio::net::TcpListener::from_std(listener)?));
            }
            let feed = tokio::task::spawn_local(feed::follow(plane.clone(), self.source));
            listener::serve(plane, served, stop).await;
            feed.abort();
            Ok(())
        })
    }
}
