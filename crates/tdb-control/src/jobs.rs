//! The workers: whatever was begun and not finished, deployments, drains on a timer, sweeps. Loops decide, tasks do
//! the work; a tick that fails is logged and the next one tries again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tdb_store::physical::Holder;
use tdb_store::templates::TemplateRow;
use tdb_store::{leases, servers, templates, tenants, workspaces};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::control::Control;
use crate::error::Result;
use crate::leases::{Lease, Subject};

/// Between two looks at what is due; a wake-up brings deployments earlier.
const TICK: Duration = Duration::from_millis(500);
/// A stock that could not be filled is tried again.
const RESTOCK_EVERY: Duration = Duration::from_secs(30);
/// Tenants that lack what their workspace's settings say are few, or told by whoever changed the setting.
const SETTINGS_EVERY: Duration = Duration::from_secs(2);
/// Between two signs of life of a server.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// One look at everything.
const TICK_TIME_MAX: Duration = Duration::from_secs(30);
/// Work of one server, or of one workspace.
const BACKGROUND_TIME_MAX: Duration = Duration::from_secs(300);
/// Tenants of which each is restored within it after the one before are deployed to together.
const RETURN_QUIET: Duration = Duration::from_secs(1);
const RETURN_TIME_MAX: Duration = Duration::from_secs(10);

impl Control {
    /// Goes on at once where the process before this one was killed, instead of waiting for its leases to run out. Only
    /// for a process that holds `home`, which one process at a time can hold: a data directory. What other processes hold
    /// stays theirs.
    pub async fn take_over(&self, home: &str) -> Result<()> {
        let tx = self.inner.store.jobs().await?;
        leases::take_over(&tx, &self.inner.store, home).await?;
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
        let control = self.clone();
        worker(Box::pin(async move { control.keep_up().await }));
        let control = self.clone();
        worker(Box::pin(async move { control.look_after_servers().await }));
        let control = self.clone();
        worker(Box::pin(async move { control.keep_figures().await }));
        let control = self.clone();
        worker(Box::pin(async move { control.keep_drift().await }));
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
            self.limited("spare databases", TICK_TIME_MAX, self.restock()).await;
            tokio::select! {
                () = self.inner.restock.notified() => {}
                () = sleep(RESTOCK_EVERY) => {}
            }
        }
    }

    async fn keep_settings(&self) {
        loop {
            self.limited("settings of tenants", TICK_TIME_MAX, self.guard_due_tenants())
                .await;
            self.limited("readers of databases", TICK_TIME_MAX, self.admit_readers(None))
                .await;
            sleep(SETTINGS_EVERY).await;
        }
    }

    /// Which servers answer, each in a task of its own.
    async fn look_after_servers(&self) {
        loop {
            let look = async {
                let tx = self.inner.store.jobs().await?;
                let names = servers::names(&tx).await?;
                tx.rollback().await?;
                for name in names {
                    self.in_background("a look at a server", TICK_TIME_MAX, move |control| async move {
                        control.look_after(&name).await
                    });
                }
                Ok(())
            };
            self.limited("servers", TICK_TIME_MAX, look).await;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Tenants that come back one after the other are brought up together.
    async fn keep_up(&self) {
        loop {
            self.inner.returned.notified().await;
            let gathering = async { while timeout(RETURN_QUIET, self.inner.returned.notified()).await.is_ok() {} };
            // Past that the others come with the next deployment.
            let _late = timeout(RETURN_TIME_MAX, gathering).await;
            self.limited("tenants that catch up", TICK_TIME_MAX, self.catch_up())
                .await;
        }
    }

    async fn keep_house(&self) {
        let mut swept: Option<Instant> = None;
        loop {
            self.limited("unfinished work", TICK_TIME_MAX, self.tick()).await;
            if swept.is_none_or(|at| at.elapsed() > SWEEP_EVERY) {
                self.limited("sweep", TICK_TIME_MAX, self.sweep()).await;
                swept = Some(Instant::now());
            }
            sleep(TICK).await;
        }
    }

    pub(crate) async fn limited(&self, what: &'static str, limit: Duration, work: impl Future<Output = Result<()>>) {
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
            self.go_on(id.as_uuid(), move |control, lease| async move {
                control.finish_workspace_under(&lease, id).await
            });
        }
        for row in databases {
            let id = row.database.id;
            self.go_on(id.as_uuid(), move |control, lease| async move {
                control.finish_database_under(&lease, id).await
            });
        }
        for row in templates {
            self.alone_in_background(
                Subject::Builds(row.workspace, row.physical.server.clone()),
                "a template",
                move |control, _| async move {
                    control.go_on_with_template(&row).await;
                    Ok(())
                },
            );
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

    /// Works on a database in a task of its own, unless another task or process is at it.
    fn go_on<F>(&self, id: Uuid, work: impl FnOnce(Control, Lease) -> F + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let control = self.clone();
        let task = async move {
            match control.inner.leases.try_take(Subject::Database(id)).await {
                // A failure is in its row and in the log already.
                Ok(Some(lease)) => drop(work(control, lease).await),
                Ok(None) => {}
                Err(error) => tracing::warn!(%id, error = %error.explained(), "unfinished work is taken up later"),
            }
        };
        self.inner.tasks.spawn_on(task, &self.inner.runtime);
    }

    /// In a task of its own, so that a server that does not answer holds up nothing else.
    pub(crate) fn in_background<F>(
        &self,
        what: &'static str,
        limit: Duration,
        work: impl FnOnce(Control) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let control = self.clone();
        let task = async move { control.limited(what, limit, work(control.clone())).await };
        self.inner.tasks.spawn_on(task, &self.inner.runtime);
    }

    /// The same under a lease; nothing where another task or process has it.
    pub(crate) fn alone_in_background<F>(
        &self,
        subject: Subject,
        what: &'static str,
        work: impl FnOnce(Control, Arc<Lease>) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.in_background(what, BACKGROUND_TIME_MAX, move |control| async move {
            let Some(lease) = control.inner.leases.try_take(subject).await?.map(Arc::new) else {
                return Ok(());
            };
            lease.during(work(control.clone(), lease.clone())).await
        });
    }
}
