//! The metrics of the data plane, by engine. Handles are looked up once, so the relay only increments counters.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tdb_names::Engine;

#[derive(Clone)]
pub(crate) struct Metrics {
    /// Open client connections, before and after login.
    pub clients: IntGauge,
    pub sessions: IntGauge,
    pub from_clients_bytes: IntCounter,
    pub to_clients_bytes: IntCounter,
    pub cancels: IntCounter,
    pub drains: IntCounter,
    pub drains_late: IntCounter,
    pub accept_errors: IntCounter,
    logins: IntCounterVec,
    refusals: IntCounterVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry, engine: Engine) -> prometheus::Result<Self> {
        let options = |name: &str, help: &str| {
            Opts::new(format!("tenantsdb_proxy_{name}"), help).const_label("engine", engine.as_str())
        };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::with_opts(options(name, help))?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::with_opts(options(name, help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let labelled = |name: &str, help: &str, label: &str| -> prometheus::Result<IntCounterVec> {
            let counter = IntCounterVec::new(options(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            clients: gauge("clients", "Client connections, before and after login.")?,
            sessions: gauge("sessions", "Sessions that have logged in.")?,
            from_clients_bytes: counter("from_clients_bytes_total", "Bytes relayed from clients to servers.")?,
            to_clients_bytes: counter("to_clients_bytes_total", "Bytes relayed from servers to clients.")?,
            cancels: counter("cancels_total", "Cancel requests forwarded to a server.")?,
            drains: counter("drains_total", "Journal drains that a reply waited for.")?,
            drains_late: counter(
                "drains_late_total",
                "Journal drains that did not finish before the reply.",
            )?,
            accept_errors: counter("accept_errors_total", "Connections that could not be accepted.")?,
            logins: labelled("logins_total", "Logins by outcome.", "outcome")?,
            refusals: labelled(
                "refusals_total",
                "Errors sent to clients by the proxy itself.",
                "sqlstate",
            )?,
        })
    }

    pub(crate) fn login(&self, outcome: &'static str) {
        self.logins.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn refusal(&self, sqlstate: &'static str) {
        self.refusals.with_label_values(&[sqlstate]).inc();
    }
}
