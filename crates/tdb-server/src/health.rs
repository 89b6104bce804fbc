//! The metrics listener: `/metrics` for Prometheus, `/healthz` (the process runs) and `/readyz` (the metadata store answers
//! and the proxy accepts clients). It needs no key, so its answers contain nothing about tenants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, TextEncoder};
use tdb_control::Control;

/// How long `/readyz` waits for the store: longer than a healthy store takes, shorter than the usual timeouts of probes.
const STORE_TIME_MAX: Duration = Duration::from_secs(2);

/// The state of the listener.
#[derive(Clone)]
pub(crate) struct Health {
    registry: Registry,
    control: Control,
    proxy: ProxyState,
}

/// Whether the proxy accepts clients: false before the start and from the beginning of a shutdown on.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxyState(Arc<AtomicBool>);

impl ProxyState {
    pub(crate) fn accepts(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn stops(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn is_accepting(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Health {
    pub(crate) fn new(registry: Registry, control: Control, proxy: ProxyState) -> prometheus::Result<Self> {
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            registry,
            control,
            proxy,
        })
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self)
    }
}

async fn metrics(State(health): State<Health>) -> Result<impl IntoResponse, StatusCode> {
    let text = TextEncoder::new().encode_to_string(&health.registry.gather());
    let text = text.map_err(|error| {
        tracing::error!(%error, "the metrics cannot be encoded");
        StatusCode::INTERNAL_SERVER_ERROR
    })?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if !health.proxy.is_accepting() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the proxy does not accept clients\n");
    }
    match tokio::time::timeout(STORE_TIME_MAX, health.control.health()).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n"),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the metadata store does not answer\n"),
    }
}
