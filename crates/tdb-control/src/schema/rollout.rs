//! The deployment worker: claim a target under a lease, apply the missing changes as the database's deployer role,
//! compare the result, record it. After an exit at any point the next claim continues: the tenant's database records
//! which changes it has.

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use lru::LruCache;
use tdb_contract::Repair;
use tdb_engines::fault;
use tdb_engines::postgres::ErrorClass;
use tdb_engines::postgres::apply::{Applied, ApplyError, BringUp, NumberedChange, TimeLimits, bring_up};
use tdb_names::{ServerName, WorkspaceId};
use tdb_store::deployments::{self, ClaimedTarget, TargetEnd, TargetStatus};
use tdb_store::tenants::{DatabaseStatus, FleetRow, TenantDatabaseRow, TenantStatus};
use tdb_store::{tenants, versions, workspaces};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};
use crate::lifecycle::place::As;
use crate::lifecycle::place::Placement;
use crate::lifecycle::repairs::Repairs;
use crate::lifecycle::servers::Servers;
use crate::schema::builds::Builds;

/// A worker that does not renew its lease for this long is considered dead.
const LEASE: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(3);
/// The maximum number of attempts for a target; after the last one its error stays.
pub(crate) const ATTEMPTS_MAX: u32 = 8;
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// How long no target is started on a server that lacks a resource.
const SERVER_PAUSE: Duration = Duration::from_secs(5);
/// The number of versions whose changes are cached.
const VERSIONS_KEPT: NonZeroUsize = match NonZeroUsize::new(16) {
    Some(versions) => versions,
    None => NonZeroUsize::MIN,
};

/// A version's changes, shared by all targets.
type ReplayChanges = Arc<Vec<NumberedChange>>;

/// The result of an attempt.
struct Outcome {
    status: TargetStatus,
    changes_done: u32,
    drift: Option<bool>,
    failure: Option<ApplyError>,
    pause: Duration,
}

/// The work on the targets of deployments.
#[derive(Clone)]
pub(crate) struct Rollouts {
    core: Arc<Core>,
    servers: Servers,
    placement: Placement,
    repairs: Repairs,
    builds: Builds,
    wake: Arc<Notify>,
    /// A cache; versions never change.
    kept: Arc<Mutex<LruCache<(WorkspaceId, u32), ReplayChanges>>>,
}

impl Rollouts {
    pub(crate) fn new(
        core: &Arc<Core>,
        servers: &Servers,
        placement: &Placement,
        repairs: &Repairs,
        builds: &Builds,
        wake: &Arc<Notify>,
    ) -> Self {
        Self {
            core: core.clone(),
            servers: servers.clone(),
            placement: placement.clone(),
            repairs: repairs.clone(),
            builds: builds.clone(),
            wake: wake.clone(),
            kept: Arc::new(Mutex::new(LruCache::new(VERSIONS_KEPT))),
        }
    }

    /// Claims targets that are due, as many as each server allows, and starts the work on them. Called at every
    /// wake-up.
    pub(crate) async fn roll_out(&self) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        deployments::complete(&tx).await?;
        let servers = deployments::busy_servers(&tx).await?;
        tx.commit().await?;
        let at_once = i64::try_from(self.core.settings.deployments_per_server.get()).unwrap_or(i64::MAX);
        let claim = deployments::TargetClaim {
            limit: at_once,
            at_once,
            lease: LEASE,
            holder: self.core.store.instance(),
        };
        for server in servers {
            let tx = self.core.store.jobs().await?;
            let claimed = deployments::claim(&tx, &server, &claim).await?;
            tx.commit().await?;
            for target in claimed {
                let (rollouts, server) = (self.clone(), server.clone());
                self.core.tasks.spawn(async move {
                    rollouts.work_on(&server, &target).await;
                    rollouts.wake.notify_one();
                });
            }
        }
        Ok(())
    }

    async fn work_on(&self, server: &ServerName, target: &ClaimedTarget) {
        fault::point("deploy.claimed");
        let done = AtomicU32::new(0);
        let work = self.attempt(target, &done);
        tokio::pin!(work);
        let (mut beat, mut asked) = (interval(HEARTBEAT), Instant::now());
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await;
        let outcome = loop {
            let step = poll_fn(|cx| {
                // Checked first, and by the clock as well: a process that was paused must renew its lease before it
                // continues.
                if beat.poll_tick(cx).is_ready() || asked.elapsed() > HEARTBEAT * 2 {
                    return Poll::Ready(None);
                }
                work.as_mut().poll(cx).map(Some)
            });
            if let Some(outcome) = step.await {
                break outcome;
            }
            asked = Instant::now();
            // If the store does not answer, the work continues: another process that claims the target cannot pass the
            // lock that this attempt holds in the tenant's database.
            if let Ok(false) = self.heartbeat(target, done.load(Ordering::Relaxed)).await {
                tracing::warn!(job = %target.job, database = %target.database, "the lease is lost; another process works on the target");
                return;
            }
        };
        if let Err(error) = self.end_attempt(server, target, &outcome).await {
            // The lease will expire and the target is claimed again.
            tracing::warn!(job = %target.job, database = %target.database, error = %error.explained(), "an attempt could not be recorded");
        }
    }

    async fn heartbeat(&self, target: &ClaimedTarget, done: u32) -> Result<bool> {
        let tx = self.core.store.jobs().await?;
        let held = deployments::heartbeat(&tx, target, LEASE, Some(done)).await?;
        tx.commit().await?;
        Ok(held)
    }

    async fn attempt(&self, target: &ClaimedTarget, done: &AtomicU32) -> Outcome {
        match self.try_target(target, done).await {
            Ok(outcome) => outcome,
            // An error of the store or of the administrator's session says nothing about the tenant.
            Err(error) => {
                tracing::warn!(job = %target.job, database = %target.database, error = %error.explained(), "an attempt failed; the target will be retried");
                Outcome::retrying(target, done.load(Ordering::Relaxed), failure_of(&error))
            }
        }
    }

    async fn try_target(&self, target: &ClaimedTarget, done: &AtomicU32) -> Result<Outcome> {
        let tx = self.core.store.jobs().await?;
        let row = tenants::database(&tx, target.database).await?;
        tx.rollback().await?;
        let Some(FleetRow {
            database,
            tenant_status,
            ..
        }) = row
        else {
            return Ok(Outcome::skipped());
        };
        let there = matches!(tenant_status, TenantStatus::Ready | TenantStatus::Suspended);
        if database.status != DatabaseStatus::Ready || !there {
            return Ok(Outcome::skipped());
        }
        let changes = self.changes_of(target.workspace, target.version).await?;
        let held = self
            .changes_of(target.workspace, database.version.unwrap_or(1))
            .await?
            .len();
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        let attempt = Uuid::new_v4();
        let login = self
            .placement
            .login(&database.physical, As::Deployer, &format!("tdb-deploy/{attempt}"))
            .await?;
        let owner = database.physical.roles.owner.name.as_str();
        let administrator = self.servers.admin(&database.physical.server).await?;
        let memberships = &self.placement.memberships;
        let taken = memberships.admit(&database.project, &database.physical).await?;
        let plan = BringUp {
            administrator: &administrator,
            owner,
            attempt,
            changes: &changes,
            taken: &taken,
            limits: TimeLimits::default(),
        };
        let progress = |there: u32| done.store(there.saturating_sub(held), Ordering::Relaxed);
        let brought = Box::pin(bring_up(&login, &plan, &progress)).await;
        let id = target.database.as_uuid();
        let repaired = self.repairs.repair_deployer(id, &database.physical).await;
        match brought {
            Ok(applied) => {
                fault::point("deploy.applied");
                let changes_done = applied.changes_done.saturating_sub(held);
                let drift = self.drifts(target, &database, applied).await?;
                Ok(Outcome {
                    status: TargetStatus::Done,
                    changes_done,
                    drift,
                    failure: None,
                    pause: Duration::ZERO,
                })
            }
            // Code in a change altered the deployer's role, which may be why this attempt failed.
            Err(error) if repaired == Repair::Done => Ok(Outcome::retrying(target, 0, error)),
            Err(error) => Ok(Outcome::failed(target, error.changes_done.saturating_sub(held), error)),
        }
    }

    /// Whether the database differs from the version. `None` if the version has no facts for this server's major
    /// version.
    async fn drifts(
        &self,
        target: &ClaimedTarget,
        database: &TenantDatabaseRow,
        applied: Applied,
    ) -> Result<Option<bool>> {
        let server = self.servers.admin(&database.physical.server).await?;
        let expected = self
            .expected_hash(target.workspace, target.version, self.servers.pg_major(&server).await?)
            .await?;
        let Some(expected) = expected else { return Ok(None) };
        let owner = &database.physical.roles.owner.name;
        let found = applied.fingerprint(owner).await;
        Ok(Some(
            found.map_err(|e| upstream(&database.physical.server, e))?.hash != *expected,
        ))
    }

    async fn expected_hash(&self, workspace: WorkspaceId, version: u32, pg_major: u32) -> Result<Option<Arc<str>>> {
        let tx = self.core.store.jobs().await?;
        let facts = versions::facts_hash(&tx, workspace, version, pg_major).await?;
        tx.rollback().await?;
        Ok(facts.map(Arc::from))
    }

    /// The changes of a version, in order. Cached, because versions never change.
    async fn changes_of(&self, workspace: WorkspaceId, version: u32) -> Result<ReplayChanges> {
        let key = (workspace, version);
        if let Some(changes) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(changes.clone());
        }
        let tx = self.core.store.jobs().await?;
        let row = workspaces::by_id(&tx, workspace).await?;
        let number = versions::by_number(&tx, workspace, version).await?;
        tx.rollback().await?;
        let (Some(row), Some(version)) = (row, number) else {
            return Err(ControlError::not_found(EntryKind::Version, version));
        };
        let changes: ReplayChanges = Arc::new(self.builds.numbered_changes(&row, &version.change_ids).await?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(key, changes.clone());
        Ok(changes)
    }

    async fn end_attempt(&self, server: &ServerName, target: &ClaimedTarget, outcome: &Outcome) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let failure = outcome.failure.as_ref();
        let end = TargetEnd {
            status: outcome.status,
            changes_done: outcome.changes_done,
            drift: outcome.drift,
            sqlstate: failure.map(|f| f.sqlstate.as_str()),
            message: failure.map(|f| f.message.as_str()),
            statement: failure.and_then(|f| f.statement.as_deref()),
            pause: outcome.pause,
        };
        if deployments::end_attempt(&tx, target, &end).await? {
            if outcome.status == TargetStatus::Done {
                tenants::set_version(&tx, target.database, target.version).await?;
            }
            if failure.is_some_and(|f| f.class == ErrorClass::Pause) {
                deployments::pause_server(&tx, server, SERVER_PAUSE).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }
}

impl Outcome {
    fn skipped() -> Self {
        Self {
            status: TargetStatus::Skipped,
            changes_done: 0,
            drift: None,
            failure: None,
            pause: Duration::ZERO,
        }
    }

    fn failed(target: &ClaimedTarget, changes_done: u32, error: ApplyError) -> Self {
        match error.class {
            ErrorClass::Retry | ErrorClass::Pause => Self::retrying(target, changes_done, error),
            ErrorClass::Failed => Self {
                status: TargetStatus::Failed,
                changes_done,
                drift: None,
                failure: Some(error),
                pause: Duration::ZERO,
            },
        }
    }

    fn retrying(target: &ClaimedTarget, changes_done: u32, error: ApplyError) -> Self {
        let status = if target.attempts >= ATTEMPTS_MAX {
            TargetStatus::Failed
        } else {
            TargetStatus::Retrying
        };
        Self {
            status,
            changes_done,
            drift: None,
            failure: Some(error),
            pause: backoff(target.attempts),
        }
    }
}

/// The error that a target shows for a failure outside of the tenant's database.
fn failure_of(error: &ControlError) -> ApplyError {
    ApplyError {
        class: ErrorClass::Retry,
        sqlstate: tdb_engines::postgres::SqlState::new("08006"),
        message: error.to_string(),
        detail: None,
        hint: None,
        change: None,
        statement: None,
        taken: None,
        changes_done: 0,
    }
}

/// 0.5 s, doubled per attempt up to 15 s, minus a random part of up to one half, so that targets that failed together
/// are not retried together.
fn backoff(attempts: u32) -> Duration {
    let full = BACKOFF_FIRST
        .saturating_mul(1 << attempts.saturating_sub(1).min(10))
        .min(BACKOFF_MAX);
    let [random] = tdb_auth::unguessable::<1>().unwrap_or([0]);
    full - full.mul_f64(f64::from(random) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_bound_with_jitter() {
        for attempts in 1..40 {
            let full = Duration::from_millis(500 * (1 << (attempts - 1).min(10))).min(BACKOFF_MAX);
            for _ in 0..50 {
                let pause = backoff(attempts);
                assert!(pause <= full && pause >= full / 2, "{attempts}: {pause:?}");
            }
        }
    }
}
