//! Finds the changes that cannot be replayed. They are replayed in a build that is removed afterwards; a change that
//! fails is left out and the rest continues. So changes that need a failing one are found by what they do, not by names
//! in their text.

use std::collections::HashSet;
use std::sync::Arc;

use tdb_engines::postgres::ErrorClass;
use tdb_engines::postgres::apply::{ApplyError, NumberedChange};
use tdb_engines::postgres::capture::repeat::{self, Unrepeatable};
use tdb_engines::postgres::change::{Statement, made_by};
use tdb_engines::postgres::fingerprint::{Difference, Fingerprint};
use tdb_names::{BlueprintName, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::changes::{self, ChangeState};
use tdb_store::workspaces::{self, WorkspaceRow};

use crate::core::Core;
use crate::error::{ControlError, Result};
use crate::lifecycle::memberships::role_taken;
use crate::schema::builds::{BuildError, Builds, schema_of};
use crate::schema::differences::shown;
use crate::schema::repair::{numbered, skip_request};
use crate::schema::templates::Templates;

/// A change that cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failing {
    pub change: u32,
    pub reason: String,
}

impl Failing {
    /// `None` if the failure is not the change's own: another attempt may succeed, or the server lacks a declared role.
    pub(crate) fn of(error: &ApplyError) -> Option<Self> {
        if error.class != ErrorClass::Failed || error.taken.is_some() {
            return None;
        }
        let statement = error.statement.as_deref().unwrap_or("a statement of it");
        Some(Self {
            change: u32::try_from(error.change?).ok()?,
            reason: format!("{} ({}) in: {statement}", error.message, error.sqlstate),
        })
    }
}

/// Replays that find failing changes.
#[derive(Clone)]
pub(crate) struct Trials {
    pub(crate) core: Arc<Core>,
    pub(crate) templates: Templates,
    pub(crate) builds: Builds,
}

impl Trials {
    /// The changes among `ids` that cannot be replayed after those before them that can. The caller holds the lease of
    /// the workspace's builds on the server.
    pub(crate) async fn failing(&self, row: &WorkspaceRow, server: &ServerName, ids: &[u32]) -> Result<Vec<Failing>> {
        Ok(Box::pin(self.tried(row, server, ids)).await?.0)
    }

    /// The failing changes, and the result of the others if there are failing ones.
    async fn tried(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
    ) -> Result<(Vec<Failing>, Option<Fingerprint>)> {
        let build = Box::pin(self.builds.begin_build(row, server, ids)).await?;
        let tried = async {
            let (mut left, mut failing) = (ids.to_vec(), Vec::new());
            loop {
                let error = match Box::pin(self.builds.replay(row, &build, &left)).await {
                    Ok(_) if failing.is_empty() => return Ok((failing, None)),
                    Ok(applied) => return Ok((failing, Some(schema_of(&build, applied).await?))),
                    Err(BuildError::Other(error)) => return Err(error),
                    Err(BuildError::Replay(error)) => error,
                };
                let Some(found) = Failing::of(&error) else {
                    return Err(not_its_fault(server, &error));
                };
                left.retain(|id| *id != found.change);
                failing.push(found);
            }
        };
        let failing = tried.await;
        Box::pin(self.templates.remove(&build)).await?;
        failing
    }

    /// Marks the changes that fail in a replay of `ids` as broken and returns them. The caller holds the lease as for
    /// [`Trials::failing`].
    pub(crate) async fn mark_failing(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
    ) -> Result<Vec<Failing>> {
        let (mut failing, rest) = Box::pin(self.tried(row, server, ids)).await?;
        if let Some(rest) = rest {
            failing.extend(Box::pin(self.blamed(row, server, ids, &failing, &rest)).await?);
        }
        failing.sort_by_key(|failing| failing.change);
        self.mark_broken(row, &failing).await?;
        Ok(failing)
    }

    pub(crate) async fn mark_broken(&self, row: &WorkspaceRow, failing: &[Failing]) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        workspaces::lock(&tx, row.id).await?;
        let heads = changes::heads(&tx, row.id).await?;
        // A change that left head meanwhile stays out: builds on other servers run at the same time.
        let in_head = |failing: &&Failing| {
            let mut changes = heads.iter().filter(|change| change.id == failing.change);
            changes.any(|change| matches!(change.state, ChangeState::Pending | ChangeState::Broken))
        };
        for broken in failing.iter().filter(in_head) {
            changes::set_state(&tx, row.id, broken.change, ChangeState::Broken, Some(&broken.reason)).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The changes whose replay gives another result than they had in the workspace, each with the reason. Such a
    /// change has a text that may give another result, and changed an object that differs now.
    pub(crate) async fn unrepeatable(
        &self,
        row: &WorkspaceRow,
        ids: &[u32],
        differences: &[Difference],
    ) -> Result<Vec<Failing>> {
        let mut found = Vec::new();
        for (numbered, why) in self.suspects(row, ids).await? {
            let objects = numbered.change.objects();
            let its_own = |difference: &&Difference| match why {
                Unrepeatable::Value(_) => objects
                    .iter()
                    .any(|object| repeat::concerns(object, &difference.object)),
                // What a replay creates again it creates alike, so only objects that the replay lacks are this
                // change's.
                Unrepeatable::Data => {
                    difference.expected.is_none()
                        && objects
                            .iter()
                            .any(|object| repeat::concerns(object, &difference.object))
                }
            };
            let own: Vec<Difference> = differences.iter().filter(its_own).cloned().collect();
            if !own.is_empty()
                && let Ok(change) = u32::try_from(numbered.id)
            {
                let reason = format!(
                    "a replay gives another result, because {}: {}",
                    because(&why),
                    shown(&own)
                );
                found.push(Failing { change, reason });
            }
        }
        Ok(found)
    }

    /// The changes among `ids` that may be why their replay differs, each with the reason: those that changed a differing object, or else
    /// all that depend on data, since those can change more objects in a replay than in the workspace.
    pub(crate) async fn perhaps_unrepeatable(
        &self,
        row: &WorkspaceRow,
        ids: &[u32],
        differences: &[Difference],
    ) -> Result<Vec<Failing>> {
        let proven = self.in_versions(row).await?;
        let changes = self.builds.numbered_changes(row, ids).await?.into_iter();
        let changes = changes.filter(|change| !proven.contains(&change.id));
        let why = |numbered: &NumberedChange| {
            let time = || repeat::perhaps_a_time(&numbered.change).map(Unrepeatable::Value);
            repeat::unrepeatable(&numbered.change).or_else(time)
        };
        let suspects: Vec<_> = changes
            .filter_map(|change| why(&change).map(|why| (change, why)))
            .collect();
        let differs = |object: &String| differences.iter().any(|one| repeat::concerns(object, &one.object));
        let (own, others): (Vec<_>, Vec<_>) = suspects
            .into_iter()
            .partition(|(numbered, _)| numbered.change.objects().iter().any(differs));
        let suspects = if own.is_empty() {
            let by_data = others.into_iter().filter(|(_, why)| *why == Unrepeatable::Data);
            by_data.collect()
        } else {
            own
        };
        let named = suspects.into_iter().filter_map(|(numbered, why)| {
            Some(Failing {
                change: u32::try_from(numbered.id).ok()?,
                reason: because(&why),
            })
        });
        Ok(named.collect())
    }

    /// Changes among `ids` whose replay does not create what they created in the workspace, so that later ones fail. `rest` is
    /// the result of the changes that do not fail.
    async fn blamed(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
        failing: &[Failing],
        rest: &Fingerprint,
    ) -> Result<Vec<Failing>> {
        let changes = self.builds.numbered_changes(row, ids).await?;
        let is_failing = |id: i64| failing.iter().any(|failing| i64::from(failing.change) == id);
        let replayed: Vec<u32> = ids.iter().copied().filter(|id| !is_failing(i64::from(*id))).collect();
        let mut found = Vec::new();
        for (suspect, why) in self.suspects(row, ids).await? {
            let is_later = |other: &&NumberedChange| other.id > suspect.id;
            let Some(first) = changes.iter().filter(is_later).find(|other| is_failing(other.id)) else {
                continue;
            };
            if is_failing(suspect.id) {
                continue;
            }
            let made = suspect.change.objects();
            let needs_it = |later: &&NumberedChange| {
                let objects = later.change.objects();
                is_failing(later.id) && objects.iter().any(|o| made.iter().any(|m| repeat::concerns(m, o)))
            };
            let later = changes.iter().filter(is_later).find(needs_it);
            let what = match later {
                Some(later) => format!("change {} needs what it created in the workspace", later.id),
                None => match Box::pin(self.missing(row, server, &replayed, &suspect, rest)).await? {
                    Some(object) => format!("it does not create {object}, and change {} fails", first.id),
                    None => continue,
                },
            };
            if let Ok(change) = u32::try_from(suspect.id) {
                let reason = format!("a replay gives another result, because {}: {what}", because(&why));
                found.push(Failing { change, reason });
            }
        }
        Ok(found)
    }

    /// An object that a change created in the workspace but not in its replay. `rest` is the result of `replayed`.
    async fn missing(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        replayed: &[u32],
        suspect: &NumberedChange,
        rest: &Fingerprint,
    ) -> Result<Option<String>> {
        if missing_from(rest, suspect).is_none() {
            return Ok(None);
        }
        // A later change may have dropped it.
        let up_to: Vec<u32> = replayed
            .iter()
            .copied()
            .filter(|id| i64::from(*id) <= suspect.id)
            .collect();
        match Box::pin(self.builds.shadow(row, server, &up_to)).await {
            Ok(after) => Ok(missing_from(&after, suspect).cloned()),
            Err(BuildError::Replay(_)) => Ok(None),
            Err(BuildError::Other(error)) => Err(error),
        }
    }

    /// The changes among `ids` whose replay may give another result, and why.
    pub(crate) async fn suspects(
        &self,
        row: &WorkspaceRow,
        ids: &[u32],
    ) -> Result<Vec<(NumberedChange, Unrepeatable)>> {
        let proven = self.in_versions(row).await?;
        let changes = self.builds.numbered_changes(row, ids).await?.into_iter();
        let suspects = changes.filter_map(|change| suspicion(&change, &proven).map(|why| (change, why)));
        Ok(suspects.collect())
    }

    async fn in_versions(&self, row: &WorkspaceRow) -> Result<HashSet<i64>> {
        let tx = self.core.store.jobs().await?;
        let first = changes::first_versions(&tx, row.id).await?;
        tx.rollback().await?;
        Ok(first.into_iter().map(|(id, _)| i64::from(id)).collect())
    }

    /// Checks that `rest` replays without `left_out` as far as it does with it; else 409 naming the changes that need
    /// it. Changes that fail in both cases are marked as broken. The caller holds the lease of the builds on the
    /// workspace's server.
    pub(crate) async fn replays_without(&self, row: &WorkspaceRow, left_out: &[u32], rest: &[u32]) -> Result<()> {
        let server = &row.physical.server;
        match Box::pin(self.builds.build(row, server, rest)).await {
            Ok(_) => return Ok(()),
            Err(BuildError::Other(error)) => return Err(error),
            Err(BuildError::Replay(error)) if Failing::of(&error).is_some() => {}
            Err(BuildError::Replay(error)) => return Err(not_its_fault(server, &error)),
        }
        let without = Box::pin(self.failing(row, server, rest)).await?;
        let mut all: Vec<u32> = left_out.iter().chain(rest).copied().collect();
        all.sort_unstable();
        let with = if left_out.is_empty() {
            without.clone()
        } else {
            Box::pin(self.failing(row, server, &all)).await?
        };
        let fails_anyway = |failing: &Failing| with.iter().any(|other| other.change == failing.change);
        let (broken, needing): (Vec<_>, Vec<_>) = without.into_iter().partition(fails_anyway);
        match needing.first() {
            None => self.mark_broken(row, &broken).await,
            Some(first) => Err(needed(&row.blueprint, left_out, &needing, first)),
        }
    }
}

/// An object that a change created in the workspace and that is not in `schema`.
fn missing_from<'a>(schema: &Fingerprint, suspect: &'a NumberedChange) -> Option<&'a String> {
    let only_creates = |statement: &&Statement| statement.tags.iter().all(|tag| droppable(tag).is_some());
    let created = suspect.change.statements.iter().filter(only_creates);
    let is_there = |object: &str| schema.facts.keys().any(|fact| repeat::concerns(object, fact));
    created
        .flat_map(|statement| &statement.objects)
        .find(|object| !is_there(object))
}

/// Why a replay of a change may give another result. Changes in a version were replayed with the same result when it
/// was created.
fn suspicion(numbered: &NumberedChange, in_versions: &HashSet<i64>) -> Option<Unrepeatable> {
    repeat::unrepeatable(&numbered.change).filter(|_| !in_versions.contains(&numbered.id))
}

/// The error for a replay that failed because of the server or its state.
pub(crate) fn not_its_fault(server: &ServerName, error: &ApplyError) -> ControlError {
    if let Some(role) = &error.taken {
        return role_taken(server, role);
    }
    ControlError::Upstream {
        code: ProblemCode::DatabaseFailed,
        server: server.to_string(),
        reason: format!("{} ({})", error.message, error.sqlstate),
    }
}

fn because(why: &Unrepeatable) -> String {
    match why {
        Unrepeatable::Value(value) => format!("{value} in it has another value each time"),
        Unrepeatable::Data => "what it does depends on data, which a replay does not have".to_owned(),
    }
}

fn needed(blueprint: &BlueprintName, left_out: &[u32], needing: &[Failing], first: &Failing) -> ControlError {
    let needing: Vec<u32> = needing.iter().map(|failing| failing.change).collect();
    let (verb, it) = (
        if needing.len() == 1 { "needs" } else { "need" },
        if left_out.len() == 1 { "it" } else { "them" },
    );
    let detail = format!(
        "{} {verb} {}: without {it}, change {} fails with {}",
        numbered(&needing),
        numbered(left_out),
        first.change,
        first.reason
    );
    let mut together: Vec<u32> = left_out.iter().chain(&needing).copied().collect();
    together.sort_unstable();
    let hint = format!("Leave them out together with {}.", skip_request(blueprint, &together));
    ControlError::refused(ProblemCode::ChangeNeeded, detail, &hint)
}

/// The kind of object that a command creates, if its facts contain its identity.
pub(crate) fn droppable(tag: &str) -> Option<&str> {
    made_by(tag).filter(|kind| DROPPABLE.contains(kind))
}

/// The kinds of objects whose facts contain their identities.
const DROPPABLE: [&str; 11] = [
    "DOMAIN",
    "FUNCTION",
    "INDEX",
    "MATERIALIZED VIEW",
    "PROCEDURE",
    "SCHEMA",
    "SEQUENCE",
    "STATISTICS",
    "TABLE",
    "TYPE",
    "VIEW",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_as_people_count_them() {
        assert_eq!(numbered(&[3]), "change 3");
        assert_eq!(numbered(&[3, 4, 7]), "changes 3, 4 and 7");
    }
}
