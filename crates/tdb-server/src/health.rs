//! The metrics listener: `/metrics` for Prometheus, `/healthz` (this process answers) and `/readyz` (clients can be
//! served: the metadata store answers and the proxy accepts). It needs no key, so it says nothing about tenants.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Counter, IntGauge, Registry, TextEncoder};
use tdb_control::Control;

/// Longer than a healthy store ever takes, shorter than the timeout of whoever probes.
const STORE_TIME_MAX: Duration = Duration::from_secs(2);
/// The kernel counts CPU time of a process in these (USER_HZ, proc(5)), whatever its own clock.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: i64 = 4096;

/// What the listener answers from.
#[derive(Clone)]
pub struct Health {
    registry: Registry,
    control: Control,
    proxy: ProxyState,
    process: Process,
}

/// Whether the proxy takes clients; false again when a stop has begun.
#[derive(Clone, Debug, Default)]
pub struct ProxyState(Arc<AtomicBool>);

#[derive(Clone)]
struct Process {
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
}

impl ProxyState {
    pub fn accepts(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn stops(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn is_accepting(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Health {
    pub fn new(registry: Registry, control: Control, proxy: ProxyState) -> prometheus::Result<Self> {
        let process = Process {
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "CPU time of this process, user and system.",
            )?,
            resident_bytes: IntGauge::new("process_resident_memory_bytes", "Resident memory of this process.")?,
        };
        registry.register(Box::new(process.cpu_seconds.clone()))?;
        registry.register(Box::new(process.resident_bytes.clone()))?;
        Ok(Self {
            registry,
            control,
            proxy,
            process,
        })
    }

    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self)
    }
}

async fn metrics(State(health): State<Health>) -> Result<impl IntoResponse, StatusCode> {
    health.process.measure();
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

impl Process {
    fn measure(&self) {
        if let Some(seconds) = cpu_seconds() {
            // The kernel does the counting; a counter has no other way to take its number over.
            self.cpu_seconds.reset();
            self.cpu_seconds.inc_by(seconds);
        }
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(bytes);
        }
    }
}

/// utime and stime of /proc/self/stat; the command's name before them may hold spaces and parentheses.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<f64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<i64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_memory_and_time() {
        assert!(resident_bytes().unwrap() > 1 << 20);
        assert!(cpu_seconds().unwrap() >= 0.0);
    }
}
