//! Metrics of this process's use of the store.

use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

const WAIT_BUCKETS: [f64; 8] = [0.0005, 0.002, 0.01, 0.05, 0.25, 1.0, 2.5, 5.0];
const ANSWER_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 15.0];

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    waits: HistogramVec,
    answers: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let waits = HistogramOpts::new(
            "tenantsdb_store_pool_wait_seconds",
            "How long something waited for a connection to the metadata store.",
        );
        let answers = HistogramOpts::new(
            "tenantsdb_store_answer_seconds",
            "How long the metadata store took to answer a statement.",
        );
        Ok(Self {
            waits: HistogramVec::new(waits.buckets(WAIT_BUCKETS.to_vec()), &["pool"])?,
            answers: Histogram::with_opts(answers.buckets(ANSWER_BUCKETS.to_vec()))?,
        })
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.waits.clone()))?;
        registry.register(Box::new(self.answers.clone()))
    }

    pub(crate) fn waits(&self, pool: &str) -> Histogram {
        self.waits.with_label_values(&[pool])
    }

    pub(crate) fn answers(&self) -> Histogram {
        self.answers.clone()
    }
}
