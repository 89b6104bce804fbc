//! Periodic drains, one task per server, and builds of workspaces that were changed and then left alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tdb_names::ServerName;
use tdb_store::workspaces::{self, WorkspaceRow};
use tokio::time::{Instant, sleep};

use crate::core::{Core, limited};
use crate::error::Result;
use crate::leases::Subject;
use crate::lifecycle::servers::Servers;
use crate::schema::ahead::Ahead;
use crate::schema::drain::Drains;

/// How long a workspace must be unchanged after a change before head is built.
const QUIET: Duration = Duration::from_secs(2);
const BUILD_TIME_MAX: Duration = Duration::from_secs(300);
/// The time limit for finding the workspaces to drain. The drains themselves are separate tasks.
const LOOK_TIME_MAX: Duration = Duration::from_secs(30);
/// How many workspaces of one server are drained at the same time.
const DRAINS_AT_ONCE: usize = 4;
/// An error that takes longer than this counts as no response from the server.
const PROMPT: Duration = Duration::from_secs(2);

/// Drains workspaces periodically.
#[derive(Clone)]
pub(crate) struct DrainTimer {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) drains: Drains,
    pub(crate) ahead: Ahead,
}

impl DrainTimer {
    /// Drains all workspaces, one task per server, and builds head of those that were changed and then left alone.
    pub(crate) async fn run(&self) {
        loop {
            sleep(self.core.settings.drain_interval).await;
            limited("drains", LOOK_TIME_MAX, self.begin_drains()).await;
        }
    }

    async fn begin_drains(&self) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let rows = workspaces::ready(&tx).await?;
        let quiet = workspaces::take_quiet(&tx, QUIET).await?;
        tx.commit().await?;
        for row in quiet {
            self.core
                .in_background(&self.ahead, "build ahead", BUILD_TIME_MAX, move |ahead| async move {
                    ahead.build(&row).await
                });
        }
        let mut of_server: HashMap<ServerName, Vec<WorkspaceRow>> = HashMap::new();
        for row in rows {
            of_server.entry(row.physical.server.clone()).or_default().push(row);
        }
        for (server, rows) in of_server {
            // A server that did not answer the last ping is skipped; a separate task keeps pinging it.
            if !self.servers.is_silent(&server) {
                self.core.alone_in_background(
                    self,
                    Subject::Drain(server),
                    "drains of a server",
                    move |drain_timer, _| async move { drain_timer.drain_journals(rows).await },
                );
            }
        }
        Ok(())
    }

    /// Drains a few workspaces at a time. Stops if the server does not respond: each of its other workspaces would wait
    /// as long. The next round tries again.
    async fn drain_journals(&self, rows: Vec<WorkspaceRow>) -> Result<()> {
        let begun = Instant::now();
        let (mut drained_all, mut slow) = (Vec::new(), 0);
        let drains = rows.into_iter().map(|row| async move {
            let begun = Instant::now();
            let drained = Box::pin(self.drains.drain_row(&row)).await;
            (row.id, begun.elapsed(), drained)
        });
        let mut drains = stream::iter(drains).buffer_unordered(DRAINS_AT_ONCE);
        while let Some((workspace, took, drained)) = drains.next().await {
            let Err(error) = drained else {
                drained_all.push(workspace);
                continue;
            };
            tracing::warn!(%workspace, error = %error.explained(), "the journal could not be drained");
            slow += usize::from(took > PROMPT);
            if slow >= DRAINS_AT_ONCE {
                break;
            }
        }
        // Every journal was read after the round began.
        Ok(workspaces::record_drained(&self.core.store, &drained_all, begun.elapsed()).await?)
    }
}
