//! The workers: whatever was begun and not finished, deployments, drains on a timer, sweeps. Loops decide, tasks do
//! the work; a tick that fails is logged and the next one tries again.

use std::pin::Pin;
use std::time::Duration;

use tdb_store::physical::Holder;
use tdb_store::templates::TemplateRow;
use tdb_store::workspaces::WorkspaceRow;
use tdb_store::{deployments, events, templates, tenants, workspaces};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::control::Control;
use crate::error::{ControlError, Result};

/// Between two looks at what is due; a wake-up brings deployments earlier.
const TICK: Duration = Duration::from_millis(500);
/// A workspace that was changed and then left alone for so long is built ahead.
const QUIET: Duration = Duration::from_secs(2);
/// A stock that could not be filled is tried again.
const RESTOCK_EVERY: Duration = Duration::from_secs(30);
/// Tenants that lack what their workspace's settings say are few, or told by whoever changed the setting.
const SETTINGS_EVERY: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// One look at everything.
const TICK_TIME_MAX: Duration = Duration::from_secs(30);
const SWEEP_TIME_MAX: Duration = Duration::from_secs(300);

impl Control {
    /// Goes on at once where the process before this one was killed, instead of waiting for its leases to run out. Only
    /// for the one process that works with its store.
    pub async fn take_over(&self) -> Result<()> {
        let tx = self.inner.store.jobs().await?;
        deployments::end_leases(&tx).await?;
        events::forget_proxies(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Runs the workers until `stop`; what they had in hand is finished by the next start.
    pub fn start_jobs(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let worker = |work: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let ended = stop.clone();
            let until_stopped = async move {
                let _stopped = ended.run_until_cancelled(work).await;
            };
            tasks.spawn_on(until_stopped, &self.inner.runtime);
        };
        let (watches, stopped) = (self.inner.watches.stop.clone(), stop.clone());
        tasks.spawn_on(
            async move {
                stopped.cancelled().await;
                watches.cancel();
            },
            &self.inner.runtime,
        );
        let control = self.clone();
        worker(Box::pin(async move { control.deploy().await }));
        let control = self.clone();
        worker(Box::pin(async move { control.keep_house().await }));
        let control = self.clone();
        worker(Box::pin(async move { control.keep_stock().await }));
        let control = self.clone();
        worker(Box::pin(async move { control.keep_settings().await }));
        let control = self.clone();
        worker(Box::pin(async move { control.drain_on_a_timer().await }));
    }

    /// In a loop of its own: no deployment waits for a template that is being dropped.
    async fn deploy(&self) {
        loop {
            self.limited("deployments", TICK_TIME_MAX, self.roll_out()).await;
            tokio::select! {
                () = self.inner.wake.notified() => {}
                () = sleep(TICK) => {}
            }
        }
    }

    async fn keep_stock(&self) {
        loop {
            self.limited("spare databases", SWEEP_TIME_MAX, self.restock()).await;
            tokio::select! {
                () = self.inner.restock.notified() => {}
                () = sleep(RESTOCK_EVERY) => {}
            }
        }
    }

    /// In a loop of its own: a tenant's server that does not answer holds up nothing else.
    async fn keep_settings(&self) {
        loop {
            self.limited("settings of tenants", SWEEP_TIME_MAX, self.guard_tenants(None))
                .await;
            self.limited("readers of databases", SWEEP_TIME_MAX, self.admit_readers(None))
                .await;
            sleep(SETTINGS_EVERY).await;
        }
    }

    async fn keep_house(&self) {
        let mut swept: Option<Instant> = None;
        loop {
            self.limited("unfinished work", TICK_TIME_MAX, self.tick()).await;
            if swept.is_none_or(|at| at.elapsed() > SWEEP_EVERY) {
                self.limited("sweep", SWEEP_TIME_MAX, self.sweep()).await;
                swept = Some(Instant::now());
            }
            sleep(TICK).await;
        }
    }

    async fn limited(&self, what: &'static str, limit: Duration, work: impl Future<Output = Result<()>>) {
        match timeout(limit, work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(what, error = %error.explained(), "the workers go on later"),
            Err(_) => tracing::warn!(what, ?limit, "the workers took too long and go on later"),
        }
    }

    /// Takes up what was left.
    async fn tick(&self) -> Result<()> {
        let tx = self.inner.store.jobs().await?;
        let (workspaces, databases) = (workspaces::unfinished(&tx).await?, tenants::unfinished(&tx).await?);
        let (templates, leaving) = (templates::unfinished(&tx).await?, tenants::deleting(&tx).await?);
        tx.rollback().await?;
        for row in workspaces {
            let id = row.id;
            self.go_on(id.as_uuid(), move |control| async move {
                control.finish_workspace(id).await
            });
        }
        for row in databases {
            let id = row.database.id;
            self.go_on(
                id.as_uuid(),
                move |control| async move { control.finish_database(id).await },
            );
        }
        for row in templates {
            // Whoever builds holds the workspace's lock; only what nobody builds is looked at.
            if let Some(_alone) = self.inner.building.try_lock(row.workspace.as_uuid()) {
                self.go_on_with_template(&row).await;
            }
        }
        for (project, name) in leaving {
            self.forget_tenant(&project, &name).await?;
        }
        Ok(())
    }

    async fn go_on_with_template(&self, row: &TemplateRow) {
        if let Err(error) = self.finish_template(row.id).await {
            self.record_failure(Holder::Template, row.id, row.progress.attempts, &error)
                .await;
        }
    }

    /// In a task of its own, unless somebody is at it.
    fn go_on<F>(&self, id: Uuid, work: impl FnOnce(Control) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        if self.inner.busy.try_lock(id).is_none() {
            return;
        }
        // A failure is in its row and in the log already.
        self.inner.tasks.spawn_on(work(self.clone()), &self.inner.runtime);
    }

    async fn drain_on_a_timer(&self) {
        loop {
            sleep(self.inner.settings.drain_interval).await;
            let found = async {
                let tx = self.inner.store.jobs().await?;
                let rows = workspaces::ready(&tx).await?;
                tx.rollback().await?;
                Ok::<Vec<WorkspaceRow>, ControlError>(rows)
            };
            match found.await {
                Ok(rows) => {
                    for row in rows {
                        self.drain_if_possible(&row).await;
                        if self.inner.changed.take_quiet(row.id, QUIET) {
                            let control = self.clone();
                            self.inner.tasks.spawn_on(
                                async move {
                                    control
                                        .limited("build ahead", SWEEP_TIME_MAX, control.build_ahead(&row))
                                        .await;
                                },
                                &self.inner.runtime,
                            );
                        }
                    }
                }
                Err(error) => tracing::warn!(error = %error.explained(), "journals are drained later"),
            }
        }
    }
}
