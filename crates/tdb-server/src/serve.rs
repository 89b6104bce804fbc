//! `tenantsdb serve`: an installation that uses existing PostgreSQL servers. No port is opened before the configuration is
//! valid and the metadata store has answered.

use std::path::Path;

use anyhow::Result;

use crate::config::Config;
use crate::home::Home;
use crate::running::{Foundation, Running};
use crate::signals::Signals;
use crate::sockets::{Sockets, Wanted};
use crate::telemetry;

/// Runs until a signal arrives or a part fails.
pub(crate) async fn run(file: &Path) -> Result<()> {
    let config = Config::load(file)?;
    telemetry::start(&config.log)?;
    let mut signals = Signals::new()?;
    let foundation = Foundation::lay(&config).await?;
    // Held until this process ends.
    let home = Home::take(file);
    if let Some(home) = &home {
        foundation.take_over(home.name()).await?;
    }
    let sockets = Sockets::bind(
        Wanted {
            address: config.proxy.listen,
            option: "proxy.listen",
        },
        Wanted {
            address: config.api_listen,
            option: "api.listen",
        },
        Wanted {
            address: config.metrics_listen,
            option: "metrics.listen",
        },
    )?;
    let mut running = Running::start(foundation, &config, sockets).await?;
    let failed = tokio::select! {
        () = signals.next() => Ok(()),
        error = running.failed() => Err(error),
    };
    tracing::info!(timeout = ?config.shutdown_timeout, "stopping; clients can finish their transactions");
    tokio::select! {
        () = running.drain() => {}
        () = signals.next() => tracing::warn!("received a second signal; stopping immediately"),
    }
    failed
}
