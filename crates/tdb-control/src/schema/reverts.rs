//! Reverts: DDL in the workspace that undoes a change. It is generated, verified on a replay that is removed
//! afterwards, and only then run in the workspace as the workspace's own role, where it is captured like any other DDL.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tdb_engines::postgres::apply::{ApplyError, BringUp, NumberedChange, TimeLimits, bring_up};
use tdb_engines::postgres::capture::inverse::{self, Irreversible, SchemaState};
use tdb_engines::postgres::capture::repeat;
use tdb_engines::postgres::change::Change;
use tdb_engines::postgres::fingerprint::{self, Fingerprint};
use tdb_engines::postgres::{EngineError, schema};
use tdb_names::BlueprintName;
use tdb_problems::ProblemCode;
use tdb_store::changes::{self, ChangeRow, ChangeState};
use tdb_store::templates::{self, TemplateRow};
use tdb_store::workspaces::{self, WorkspaceRow};
use uuid::Uuid;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};
use crate::identity::{Identity, KeyScope};
use crate::leases::Subject;
use crate::lifecycle::place::Placement;
use crate::lifecycle::place::{As, database_name};
use crate::lifecycle::servers::Servers;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::{ChangeInfo, ChangeState as State, Reverted};
use crate::schema::blueprints::info;
use crate::schema::builds::BuildError;
use crate::schema::builds::Builds;
use crate::schema::drain::Drains;
use crate::schema::failing::{Failing, Trials};
use crate::schema::repair::repair;
use crate::schema::templates::Templates;

/// The application name of the session that runs the inverse.
const APPLICATION: &str = "tdb-revert";
/// The inverse's number in the verifying replay: above that of any change.
const INVERSE_ID: i64 = 1 << 32;
/// A number that no change has; changes are numbered from 1.
const NO_CHANGE: u32 = 0;

/// Undoes changes in the workspace.
#[derive(Clone)]
pub struct Reverts {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) placement: Placement,
    pub(crate) templates: Templates,
    pub(crate) drains: Drains,
    pub(crate) workspaces: Workspaces,
    pub(crate) builds: Builds,
    pub(crate) trials: Trials,
}

impl Reverts {
    /// Undoes a change in the workspace. 409 if it has no safe inverse, naming the statement, or if a later change
    /// needs it, naming that change.
    pub async fn revert(&self, identity: &Identity, blueprint: &BlueprintName, id: u32) -> Result<Reverted> {
        identity.require(KeyScope::Write)?;
        let row = self.workspaces.ready(identity, blueprint).await?;
        let builds = Subject::Builds(row.id, row.physical.server.clone());
        let lease = self.core.leases.take(builds).await?;
        lease.during(self.revert_alone(identity, &row, id)).await
    }

    async fn revert_alone(&self, identity: &Identity, row: &WorkspaceRow, id: u32) -> Result<Reverted> {
        let tx = self.core.store.project(identity.project()).await?;
        let log = changes::all(&tx, row.id).await?;
        tx.rollback().await?;
        let change = log.iter().find(|change| change.id == id);
        let change = change.ok_or_else(|| ControlError::not_found(EntryKind::Change, id))?;
        may_be_reverted(change)?;
        let inverse = Box::pin(self.proven_inverse(row, &log, change)).await?;
        let login = self.placement.login(&row.physical, As::Owner, APPLICATION).await?;
        let xid = inverse::run(&login, &inverse).await.map_err(|error| match error {
            EngineError::Sql {
                sqlstate,
                message,
                detail,
                ..
            } => refused(id, &format!("{message} ({sqlstate})"), detail.as_deref()),
            other => upstream(&row.physical.server, other),
        })?;
        Box::pin(self.drains.drain_row(row)).await?;
        Box::pin(self.record_revert(identity, row, id, xid)).await
    }

    /// The inverse of a change, verified on a replay of the whole workspace, except the changes that cannot be replayed: it
    /// undoes what the change did and nothing else.
    async fn proven_inverse(&self, row: &WorkspaceRow, log: &[ChangeRow], change: &ChangeRow) -> Result<Change> {
        let mut replayable: Vec<u32> = log
            .iter()
            .filter(|other| other.reason.is_none() && other.state != ChangeState::Broken)
            .map(|other| other.id)
            .collect();
        let mut proven = Box::pin(self.inverse_among(row, log, change, &replayable)).await;
        if matches!(&proven, Err(BuildError::Replay(_))) {
            // Changes that need a broken or a skipped one are not marked until a replay fails.
            let server = &row.physical.server;
            let failing = Box::pin(self.trials.mark_failing(row, server, &replayable)).await?;
            if let Some(own) = failing.iter().find(|failing| failing.change == change.id) {
                let in_head = |id: u32| {
                    log.iter()
                        .any(|other| other.id == id && other.state == ChangeState::Pending)
                };
                let broken: Vec<u32> = failing
                    .iter()
                    .map(|failing| failing.change)
                    .filter(|id| in_head(*id))
                    .collect();
                return Err(itself_broken(row, own, &broken));
            }
            replayable.retain(|id| !failing.iter().any(|failing| failing.change == *id));
            proven = Box::pin(self.inverse_among(row, log, change, &replayable)).await;
        }
        proven.map_err(|error| cannot_replay(change.id, error))
    }

    async fn inverse_among(
        &self,
        row: &WorkspaceRow,
        log: &[ChangeRow],
        change: &ChangeRow,
        replayable: &[u32],
    ) -> std::result::Result<Change, BuildError> {
        let earlier: Vec<u32> = replayable.iter().copied().filter(|other| *other < change.id).collect();
        let build = Box::pin(self.builds.begin_build(row, &row.physical.server, &earlier)).await?;
        let proven = Box::pin(self.prove_inverse(row, log, change, &build, replayable)).await;
        Box::pin(self.templates.remove(&build)).await?;
        proven
    }

    async fn prove_inverse(
        &self,
        row: &WorkspaceRow,
        log: &[ChangeRow],
        change: &ChangeRow,
        build: &TemplateRow,
        replayable: &[u32],
    ) -> std::result::Result<Change, BuildError> {
        let up_to = |id: u32| -> Vec<u32> { replayable.iter().copied().filter(|other| *other <= id).collect() };
        Box::pin(self.builds.replay(row, build, &up_to(change.id.saturating_sub(1)))).await?;
        let before = self.state_of(build).await?;
        Box::pin(self.builds.replay(row, build, &up_to(change.id))).await?;
        let after = self.state_of(build).await?;
        let body: Change = serde_json::from_value(change.body.clone()).map_err(ControlError::internal)?;
        let inverse = inverse::of(&body, &before, &after).map_err(|error| irreversible(change.id, &error))?;
        Box::pin(self.builds.replay(row, build, replayable)).await?;
        let now = self.facts_of(build).await?;
        if let Err(error) = Box::pin(self.try_inverse(build, &inverse)).await? {
            let without: Vec<u32> = replayable.iter().copied().filter(|id| *id != change.id).collect();
            // All changes replay with it, so a change that fails without it needs it.
            let failing = Box::pin(self.trials.failing(row, &row.physical.server, &without)).await?;
            return Err(match failing.into_iter().next() {
                Some(later) => {
                    let reason = format!("without it, it fails with {}", later.reason);
                    needed(change.id, &Failing { reason, ..later }).into()
                }
                None => {
                    let why = format!("{} ({})", error.message, error.sqlstate);
                    refused(change.id, &why, error.detail.as_deref()).into()
                }
            });
        }
        let undone = self.facts_of(build).await?;
        let course = Course {
            before: &before.facts,
            after: &after.facts,
            now: &now,
            undone: &undone,
        };
        match course.check() {
            Ok(()) => Ok(inverse),
            Err(Astray::Different(object)) => {
                let reason = format!("undoing it would not restore {object}");
                Err(refused(change.id, &reason, None).into())
            }
            Err(Astray::ChangedLater(object)) => {
                Err(Box::pin(self.changed_later(row, log, change, replayable, &object))
                    .await?
                    .into())
            }
        }
    }

    /// Names the first later change that made `object` different from what `change` left.
    async fn changed_later(
        &self,
        row: &WorkspaceRow,
        log: &[ChangeRow],
        change: &ChangeRow,
        replayable: &[u32],
        object: &str,
    ) -> Result<ControlError> {
        let touches = |later: &&ChangeRow| {
            let is_later = later.id > change.id && replayable.contains(&later.id);
            is_later && later.objects.iter().any(|identity| repeat::concerns(identity, object))
        };
        let candidates: Vec<u32> = log.iter().filter(touches).map(|later| later.id).collect();
        let up_to = |id: u32| -> Vec<u32> { replayable.iter().copied().filter(|other| *other <= id).collect() };
        let build = Box::pin(self.builds.begin_build(row, &row.physical.server, &up_to(change.id))).await?;
        let searched = async {
            let fact = async |id: u32| {
                let replayed = Box::pin(self.builds.replay(row, &build, &up_to(id))).await;
                replayed.map_err(|error| cannot_replay(change.id, error))?;
                Ok::<_, ControlError>(self.facts_of(&build).await?.facts.get(object).cloned())
            };
            let left = fact(change.id).await?;
            for later in candidates {
                if fact(later.saturating_sub(1)).await? == left && fact(later).await? != left {
                    let reason = format!("it made or changed {object}");
                    return Ok(needed(change.id, &Failing { change: later, reason }));
                }
            }
            Ok(refused(change.id, &format!("a later change changed {object}"), None))
        };
        let named = searched.await;
        Box::pin(self.templates.remove(&build)).await?;
        named
    }

    async fn try_inverse(&self, build: &TemplateRow, inverse: &Change) -> Result<std::result::Result<(), ApplyError>> {
        let tx = self.core.store.jobs().await?;
        // After an exit in the middle, this marks the build as one that belongs to no version.
        templates::record_changes(&tx, build.id, &[NO_CHANGE]).await?;
        tx.commit().await?;
        let attempt = Uuid::new_v4();
        let login = self
            .placement
            .login(&build.physical, As::Deployer, &format!("tdb-deploy/{attempt}"))
            .await?;
        let changes = [NumberedChange {
            id: INVERSE_ID,
            change: inverse.clone(),
        }];
        let administrator = self.servers.admin(&build.physical.server).await?;
        let plan = BringUp {
            administrator: &administrator,
            owner: &build.physical.roles.owner.name,
            attempt,
            changes: &changes,
            taken: &[],
            limits: TimeLimits::default(),
        };
        Ok(bring_up(&login, &plan, &|_| ()).await.map(drop))
    }

    async fn state_of(&self, build: &TemplateRow) -> Result<SchemaState> {
        let facts = self.facts_of(build).await?;
        let server = self.servers.admin(&build.physical.server).await?;
        let tables = schema::describe(&server, database_name(&build.physical)?).await;
        let tables = tables.map_err(|e| upstream(&build.physical.server, e))?;
        Ok(SchemaState { tables, facts })
    }

    async fn facts_of(&self, build: &TemplateRow) -> Result<Fingerprint> {
        let server = self.servers.admin(&build.physical.server).await?;
        let owner = &build.physical.roles.owner.name;
        let facts = fingerprint::take(&server, database_name(&build.physical)?, owner).await;
        facts.map_err(|e| upstream(&build.physical.server, e))
    }

    /// Records which change the captured inverse undoes. Both leave head if no version contains them and head replays
    /// without them. After an exit before this, both stay in head, which gives the same schema.
    async fn record_revert(&self, identity: &Identity, row: &WorkspaceRow, id: u32, xid: u64) -> Result<Reverted> {
        let xid = i64::try_from(xid).map_err(ControlError::internal)?;
        let tx = self.core.store.project(identity.project()).await?;
        let inverse = changes::by_xid(&tx, row.id, xid).await?;
        let inverse = inverse
            .ok_or_else(|| ControlError::internal("the inverse was not captured"))?
            .id;
        changes::set_reverts(&tx, row.id, inverse, id).await?;
        changes::set_author(&tx, row.id, inverse, &identity.author()).await?;
        let heads = changes::heads(&tx, row.id).await?;
        tx.commit().await?;
        let pending = |other: &&changes::HeadRow| other.state == ChangeState::Pending;
        let rest: Vec<u32> = heads
            .iter()
            .filter(pending)
            .map(|other| other.id)
            .filter(|other| *other != id && *other != inverse)
            .collect();
        let without = if rest.iter().any(|other| *other > id) {
            Box::pin(self.trials.replays_without(row, &[id, inverse], &rest)).await
        } else {
            Ok(())
        };
        let dispensable = match without {
            Ok(()) => true,
            Err(error) if error.code() == ProblemCode::ChangeNeeded => false,
            Err(error) => return Err(error),
        };
        let tx = self.core.store.project(identity.project()).await?;
        workspaces::lock(&tx, row.id).await?;
        let versions: HashMap<u32, u32> = changes::first_versions(&tx, row.id).await?.into_iter().collect();
        let held = [id, inverse].iter().any(|change| versions.contains_key(change));
        if dispensable && !held {
            changes::set_state(&tx, row.id, id, ChangeState::Reverted, None).await?;
            changes::set_state(&tx, row.id, inverse, ChangeState::Reverted, None).await?;
        }
        let mut both = changes::of_ids(&tx, row.id, &[id, inverse]).await?.into_iter();
        let undeployed = changes::undeployed(&tx, row.id, id.saturating_sub(1), 1).await?;
        tx.commit().await?;
        match (both.next(), both.next()) {
            (Some(change), Some(inverse)) => Ok(Reverted {
                change: deployed_if(!undeployed.contains(&id), info(change, &versions)),
                inverse: info(inverse, &versions),
            }),
            _ => Err(ControlError::internal("a change is gone from the log")),
        }
    }
}

fn may_be_reverted(change: &ChangeRow) -> Result<()> {
    let (detail, hint) = match (change.state, change.reverts) {
        (ChangeState::Pending, None) => return Ok(()),
        (ChangeState::Pending, Some(of)) => (
            format!("change {} itself undoes change {of}", change.id),
            "Run the DDL that you want to have again.",
        ),
        (ChangeState::Broken, _) => (
            format!("change {} is broken", change.id),
            "Skip it, and undo it in the workspace with DDL of your own.",
        ),
        (ChangeState::Skipped | ChangeState::Reverted, _) => {
            (format!("change {} is {} already", change.id, change.state.as_str()), "")
        }
    };
    Err(ControlError::refused(ProblemCode::ChangeNotPending, detail, hint))
}

/// The schemas that verify an inverse: before the change, after it, after all changes, and after the inverse.
struct Course<'a> {
    before: &'a Fingerprint,
    after: &'a Fingerprint,
    now: &'a Fingerprint,
    undone: &'a Fingerprint,
}

/// Why an inverse is not safe.
enum Astray {
    /// This object would not be what it was before the change.
    Different(String),
    /// A later change altered this object.
    ChangedLater(String),
}

impl Course<'_> {
    /// Checks that the inverse has the right effect on every fact.
    fn check(&self) -> Result<(), Astray> {
        let objects: BTreeSet<&String> = self.now.facts.keys().chain(self.undone.facts.keys()).collect();
        for object in objects {
            // The order of columns depends on many changes; the columns are separate facts.
            if object.starts_with("columns of ") && self.before.facts.contains_key(object) {
                continue;
            }
            let of = |facts: &'_ Fingerprint| facts.facts.get(object).cloned();
            let (was, made, now, undone) = (of(self.before), of(self.after), of(self.now), of(self.undone));
            if was != made {
                if now != made {
                    return Err(Astray::ChangedLater(object.clone()));
                }
                if undone != was {
                    return Err(Astray::Different(object.clone()));
                }
            } else if undone != now {
                return Err(Astray::ChangedLater(object.clone()));
            }
        }
        Ok(())
    }
}

/// The change in the state `Deployed`, if it is in head and every tenant has it.
fn deployed_if(every_tenant_has_it: bool, change: ChangeInfo) -> ChangeInfo {
    let state = match change.state {
        State::Pending if every_tenant_has_it => State::Deployed,
        state => state,
    };
    ChangeInfo { state, ..change }
}

/// The refusal to revert a change that cannot be replayed. `broken` are all such changes that were not known to be broken.
fn itself_broken(row: &WorkspaceRow, own: &Failing, broken: &[u32]) -> ControlError {
    ControlError::refused(
        ProblemCode::ChangeNotPending,
        format!("change {} is broken: it cannot be replayed: {}", own.change, own.reason),
        &repair(&row.blueprint, broken, &[], None),
    )
}

fn needed(id: u32, later: &Failing) -> ControlError {
    let (by, reason) = (later.change, &later.reason);
    ControlError::refused(
        ProblemCode::ChangeNeeded,
        format!("change {by} needs change {id}: {reason}"),
        "Revert the later change first.",
    )
}

fn irreversible(id: u32, error: &Irreversible) -> ControlError {
    refused(id, &format!("{}, in: {}", error.reason, error.statement), None)
}

fn refused(id: u32, why: &str, detail: Option<&str>) -> ControlError {
    let detail = detail
        .map(|detail| format!(" ({})", detail.trim_end()))
        .unwrap_or_default();
    ControlError::refused(
        ProblemCode::ChangeNotRevertible,
        format!("change {id} cannot be reverted: {why}{detail}"),
        "Write the inverse DDL yourself in the workspace; it is captured and deployed like any other change.",
    )
}

fn cannot_replay(id: u32, error: BuildError) -> ControlError {
    match error {
        BuildError::Other(error) => error,
        BuildError::Replay(error) => refused(
            id,
            &format!("the changes do not replay: {} ({})", error.message, error.sqlstate),
            error.detail.as_deref(),
        ),
    }
}
