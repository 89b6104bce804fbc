//! The background workers: unfinished creations and deletions, deployments, periodic drains, sweeps. The loops only
//! decide what is due; tasks do the work. A failed round is logged, and the next one tries again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tdb_store::physical::DatabaseKind;
use tdb_store::templates::TemplateRow;
use tdb_store::{leases, servers, templates, tenants, workspaces};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::core::{Core, limited};
use crate::error::Result;
use crate::leases::{Lease, Subject};
use crate::lifecycle::place::Placement;
use crate::lifecycle::provision::Provisioning;
use crate::lifecycle::readers::ReadAccess;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::settings::Settings;
use crate::lifecycle::tenants::Tenants;
use crate::lifecycle::workspaces::Workspaces;
use crate::metrics::Metrics;
use crate::schema::deployments::Deployments;
use crate::schema::drain_timer::DrainTimer;
use crate::schema::drift::Drifts;
use crate::schema::rollout::Rollouts;
use crate::schema::stock::Stock;
use crate::schema::templates::Templates;
use crate::schema::watches::Watches;
use crate::sweep::Sweep;

/// The pause between two checks for due work. A notification starts deployments earlier.
const TICK: Duration = Duration::from_millis(500);
/// The pause between two attempts to fill the stock of spares.
const RESTOCK_EVERY: Duration = Duration::from_secs(30);
/// The pause between two checks for tenants that lack a setting. A request that changes a setting applies it itself.
const SETTINGS_EVERY: Duration = Duration::from_secs(2);
/// The pause between two pings of a server.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The time limit of one round.
const TICK_TIME_MAX: Duration = Duration::from_secs(30);
/// Tenants that are restored within this time of each other get one deployment.
const RETURN_QUIET: Duration = Duration::from_secs(1);
const RETURN_TIME_MAX: Duration = Duration::from_secs(10);

/// The background workers. Nothing runs before [`Jobs::start`].
#[derive(Clone)]
pub struct Jobs {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) placement: Placement,
    pub(crate) read_access: ReadAccess,
    pub(crate) templates: Templates,
    pub(crate) workspaces: Workspaces,
    pub(crate) stock: Stock,
    pub(crate) settings: Settings,
    pub(crate) provisioning: Provisioning,
    pub(crate) tenants: Tenants,
    pub(crate) deployments: Deployments,
    pub(crate) rollouts: Rollouts,
    pub(crate) watches: Watches,
    pub(crate) drifts: Drifts,
    pub(crate) metrics: Metrics,
    pub(crate) drain_timer: DrainTimer,
    pub(crate) sweep: Sweep,
    pub(crate) wake: Arc<Notify>,
    pub(crate) returned: Arc<Notify>,
}

impl Jobs {
    /// Ends the leases of an earlier process of this `home`, so that its work continues at once instead of when its
    /// leases expire. The caller must hold a lock on `home`, such as that of the data directory, which only one process
    /// can hold. Leases of other processes stay.
    pub async fn take_over(&self, home: &str) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        leases::take_over(&tx, &self.core.store, home).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Starts the workers, which run until `stop`. Work that is interrupted is finished after the next start.
    pub fn start(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let worker = |work: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let ended = stop.clone();
            let until_stopped = async move {
                let _stopped = ended.run_until_cancelled(work).await;
            };
            tasks.spawn_on(until_stopped, &self.core.runtime);
        };
        let (watches, stopped) = (self.watches.stop.clone(), stop.clone());
        tasks.spawn_on(
            async move {
                stopped.cancelled().await;
                watches.cancel();
            },
            &self.core.runtime,
        );
        let jobs = self.clone();
        worker(Box::pin(async move { jobs.deploy().await }));
        let jobs = self.clone();
        worker(Box::pin(async move { jobs.keep_house().await }));
        let jobs = self.clone();
        worker(Box::pin(async move { jobs.keep_stock().await }));
        let jobs = self.clone();
        worker(Box::pin(async move { jobs.keep_settings().await }));
        let drain_timer = self.drain_timer.clone();
        worker(Box::pin(async move { drain_timer.run().await }));
        let jobs = self.clone();
        worker(Box::pin(async move { jobs.keep_up().await }));
        let jobs = self.clone();
        worker(Box::pin(async move { jobs.look_after_servers().await }));
        let metrics = self.metrics.clone();
        worker(Box::pin(async move { metrics.run().await }));
        let drifts = self.drifts.clone();
        worker(Box::pin(async move { drifts.run().await }));
    }

    /// A separate loop, so that no deployment waits for a template that is being dropped.
    async fn deploy(&self) {
        loop {
            limited("deployments", TICK_TIME_MAX, self.rollouts.roll_out()).await;
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(TICK) => {}
            }
        }
    }

    async fn keep_stock(&self) {
        loop {
            limited("spare databases", TICK_TIME_MAX, self.stock.fill()).await;
            tokio::select! {
                () = self.stock.asked.notified() => {}
                () = sleep(RESTOCK_EVERY) => {}
            }
        }
    }

    async fn keep_settings(&self) {
        loop {
            limited("settings of tenants", TICK_TIME_MAX, self.settings.guard_due_tenants()).await;
            limited("read access", TICK_TIME_MAX, self.read_access.admit_due()).await;
            sleep(SETTINGS_EVERY).await;
        }
    }

    /// Pings every server, each in a separate task.
    async fn look_after_servers(&self) {
        loop {
            let look = async {
                let tx = self.core.store.jobs().await?;
                let names = servers::names(&tx).await?;
                tx.rollback().await?;
                for name in names {
                    let servers = &self.servers;
                    self.core
                        .in_background(servers, "ping of a server", TICK_TIME_MAX, move |servers| async move {
                            servers.look_after(&name).await
                        });
                }
                Ok(())
            };
            limited("servers", TICK_TIME_MAX, look).await;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Creates one deployment for tenants that were restored shortly after each other.
    async fn keep_up(&self) {
        loop {
            self.returned.notified().await;
            let gathering = async { while timeout(RETURN_QUIET, self.returned.notified()).await.is_ok() {} };
            // After this time the remaining tenants get the next deployment.
            let _late = timeout(RETURN_TIME_MAX, gathering).await;
            limited(
                "deployments for tenants that missed one",
                TICK_TIME_MAX,
                self.deployments.catch_up(),
            )
            .await;
        }
    }

    async fn keep_house(&self) {
        let mut swept: Option<Instant> = None;
        loop {
            limited("unfinished work", TICK_TIME_MAX, self.tick()).await;
            if swept.is_none_or(|at| at.elapsed() > SWEEP_EVERY) {
                limited("sweep", TICK_TIME_MAX, self.sweep.run()).await;
                swept = Some(Instant::now());
            }
            sleep(TICK).await;
        }
    }

    /// Continues creations and deletions that are unfinished.
    async fn tick(&self) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let (workspaces, databases) = (workspaces::unfinished(&tx).await?, tenants::unfinished(&tx).await?);
        let (templates, leaving) = (templates::unfinished(&tx).await?, tenants::deleting(&tx).await?);
        tx.rollback().await?;
        for row in workspaces {
            let id = row.id;
            self.go_on(&self.workspaces, id.as_uuid(), move |workspaces, lease| async move {
                workspaces.finish_under(&lease, id).await
            });
        }
        for row in databases {
            let id = row.database.id;
            self.go_on(
                &self.provisioning,
                id.as_uuid(),
                move |provisioning, lease| async move { provisioning.finish_under(&lease, id).await },
            );
        }
        for row in templates {
            self.core.alone_in_background(
                self,
                Subject::Builds(row.workspace, row.physical.server.clone()),
                "a template",
                move |jobs, _| async move {
                    jobs.go_on_with_template(&row).await;
                    Ok(())
                },
            );
        }
        for (project, name) in leaving {
            if let Err(error) = self.tenants.forget(&project, &name).await {
                tracing::warn!(%project, tenant = %name, error = %error.explained(), "a deleted tenant's row could not be deleted; it will be retried");
            }
        }
        Ok(())
    }

    async fn go_on_with_template(&self, row: &TemplateRow) {
        if let Err(error) = self.templates.finish(row.id).await {
            self.placement
                .record_failure(DatabaseKind::Template, row.id, row.progress.attempts, &error)
                .await;
        }
    }

    /// Works on a database in a separate task, unless another task or process does.
    fn go_on<P, F>(&self, part: &P, id: Uuid, work: impl FnOnce(P, Lease) -> F + Send + 'static)
    where
        P: Clone + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (part, leases) = (part.clone(), self.core.leases.clone());
        let task = async move {
            match leases.try_take(Subject::Database(id)).await {
                // The work has recorded and logged its own failure.
                Ok(Some(lease)) => drop(work(part, lease).await),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%id, error = %error.explained(), "unfinished work could not be continued; it will be retried")
                }
            }
        };
        self.core.tasks.spawn_on(task, &self.core.runtime);
    }
}
