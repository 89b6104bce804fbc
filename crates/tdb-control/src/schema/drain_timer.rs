//! Drains that no request asked for, on a timer: one task per server. What was changed and left alone is built ahead.

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

/// A workspace that was changed and then left alone for so long is built ahead.
const QUIET: Duration = Duration::from_secs(2);
const BUILD_TIME_MAX: Duration = Duration::from_secs(300);
/// Of the look at what is to be drained; the drains themselves are tasks of their own.
const LOOK_TIME_MAX: Duration = Duration::from_secs(30);
/// Of one server, on the timer.
const DRAINS_AT_ONCE: usize = 4;
/// A server refuses within this time, or it does not answer.
const PROMPT: Duration = Duration::from_secs(2);

/// Drains that no request asked for.
#[derive(Clone)]
pub(crate) struct DrainTimer {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) drains: Drains,
    pub(crate) ahead: Ahead,
}

impl DrainTimer {
    /// Drains what nobody asked for, one task per server; and has what was changed and left alone built ahead.
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
            // It is asked for a sign of life in a task of its own; until it gives one nobody waits for it here.
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

    /// A few workspaces at a time. A server that does not answer is left alone until the next round: the rest of its
    /// workspaces would wait as long each.
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
        // Each was read after the round began.
        Ok(workspaces::record_drained(&self.core.store, &drained_all, begun.elapsed()).await?)
    }
}
