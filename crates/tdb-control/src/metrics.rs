//! The installation's figures in `/metrics`. They are read from the store, so that each process shows the same values,
//! and on a timer, so that a scrape does not query the store.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Gauge, IntGaugeVec, Opts, Registry};
use tdb_store::figures::{self, Figures};
use tokio::time::sleep;

use crate::core::{Core, limited};
use crate::error::Result;

const READ_EVERY: Duration = Duration::from_secs(10);
const READ_TIME_MAX: Duration = Duration::from_secs(10);

const KINDS: [&str; 3] = ["workspace", "tenant_database", "template"];
const JOB_STATES: [&str; 3] = ["waiting", "running", "failing"];
const SPARE_STATES: [&str; 2] = ["making", "ready"];
const DEPLOYMENT_STATUSES: [&str; 3] = ["running", "completed", "failed"];
const TARGET_STATUSES: [&str; 6] = ["pending", "running", "retrying", "done", "skipped", "failed"];

#[derive(Clone, Debug)]
struct Gauges {
    drain_lag: Gauge,
    jobs: IntGaugeVec,
    spares: IntGaugeVec,
    deployments: IntGaugeVec,
    targets: IntGaugeVec,
}

impl Gauges {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let labelled = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
            let gauges = IntGaugeVec::new(Opts::new(format!("tenantsdb_control_{name}"), help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        let drain_lag = Gauge::new(
            "tenantsdb_control_drain_lag_seconds",
            "Age of the oldest timed drain that counts, over all workspaces.",
        )?;
        registry.register(Box::new(drain_lag.clone()))?;
        Ok(Self {
            drain_lag,
            jobs: labelled(
                "jobs",
                "Databases that are being created, deleted, opened or closed, by kind and state.",
                &["kind", "state"],
            )?,
            spares: labelled("spares", "Spare databases, by state.", &["state"])?,
            deployments: labelled("deployments", "Deployments, by status.", &["status"])?,
            targets: labelled(
                "deployment_targets",
                "Targets of running deployments, by status.",
                &["status"],
            )?,
        })
    }

    fn show(&self, figures: &Figures) {
        self.drain_lag.set(figures.drain_lag);
        for kind in KINDS {
            for state in JOB_STATES {
                let of = |(k, s, _): &&(String, String, u32)| k == kind && s == state;
                let n = figures.jobs.iter().find(of).map_or(0, |(_, _, n)| *n);
                self.jobs.with_label_values(&[kind, state]).set(i64::from(n));
            }
        }
        set_all(&self.spares, &SPARE_STATES, &figures.spares);
        set_all(&self.deployments, &DEPLOYMENT_STATUSES, &figures.deployments);
        set_all(&self.targets, &TARGET_STATUSES, &figures.targets);
    }
}

/// A label without a figure is set to 0 instead of keeping its old value.
fn set_all(gauges: &IntGaugeVec, labels: &[&str], figures: &[(String, u32)]) {
    for label in labels {
        let n = figures.iter().find(|(of, _)| of == label).map_or(0, |(_, n)| *n);
        gauges.with_label_values(&[*label]).set(i64::from(n));
    }
}

/// The installation's figures for `/metrics`.
#[derive(Clone)]
pub struct Metrics {
    core: Arc<Core>,
    /// Empty before `register`.
    gauges: Arc<OnceLock<Gauges>>,
}

impl Metrics {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: core.clone(),
            gauges: Arc::default(),
        }
    }

    /// Registers the histograms of the store and the installation's figures in `registry`. To be called once.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.core.store.register_metrics(registry)?;
        let gauges = Gauges::register(registry)?;
        gauges.show(&Figures::default());
        // A second registration fails above, so the cell is empty here.
        let _ = self.gauges.set(gauges);
        Ok(())
    }

    pub(crate) async fn run(&self) {
        loop {
            if let Some(gauges) = self.gauges.get() {
                limited("figures", READ_TIME_MAX, self.show_figures(gauges)).await;
            }
            sleep(READ_EVERY).await;
        }
    }

    async fn show_figures(&self, gauges: &Gauges) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let figures = figures::read(&tx).await?;
        tx.rollback().await?;
        gauges.show(&figures);
        Ok(())
    }
}
