//! The installation's figures in `/metrics`. They are read from the store, so that each process shows the same values,
//! and on a timer, so that a scrape does not query the store.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Gauge, IntGaugeVec, Opts, Registry};
use tdb_store::deployments::{DeploymentStatus, TargetStatus};
use tdb_store::figures::{self, Figures, JobState, SpareState};
use tdb_store::physical::DatabaseKind;
use tokio::time::sleep;

use crate::core::{Core, limited};
use crate::error::Result;

const READ_EVERY: Duration = Duration::from_secs(10);
const READ_TIME_MAX: Duration = Duration::from_secs(10);

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
        for &kind in DatabaseKind::ALL {
            for &state in JobState::ALL {
                let of = |(k, s, _): &&(DatabaseKind, JobState, u32)| *k == kind && *s == state;
                let n = figures.jobs.iter().find(of).map_or(0, |(_, _, n)| *n);
                let labels = [kind.as_str(), state.as_str()];
                self.jobs.with_label_values(&labels).set(i64::from(n));
            }
        }
        set_all(&self.spares, SpareState::ALL, SpareState::as_str, &figures.spares);
        let statuses = DeploymentStatus::ALL;
        set_all(
            &self.deployments,
            statuses,
            DeploymentStatus::as_str,
            &figures.deployments,
        );
        set_all(&self.targets, TargetStatus::ALL, TargetStatus::as_str, &figures.targets);
    }
}

/// A label without a figure is set to 0 instead of keeping its old value.
fn set_all<L: Copy + PartialEq>(gauges: &IntGaugeVec, all: &[L], word: fn(L) -> &'static str, figures: &[(L, u32)]) {
    for &label in all {
        let n = figures.iter().find(|(of, _)| *of == label).map_or(0, |(_, n)| *n);
        gauges.with_label_values(&[word(label)]).set(i64::from(n));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_store_has_a_gauge_from_the_start() {
        let registry = Registry::new();
        let gauges = Gauges::register(&registry).unwrap();
        gauges.show(&Figures::default());
        let series: usize = registry.gather().iter().map(|family| family.get_metric().len()).sum();
        let jobs = DatabaseKind::ALL.len() * JobState::ALL.len();
        let labels = jobs + SpareState::ALL.len() + DeploymentStatus::ALL.len() + TargetStatus::ALL.len();
        assert_eq!(series, labels + 1, "the drain lag has no label");
    }
}
