//! Verification of the capture: whether the change log gives the workspace's schema, compared fact by fact while
//! nothing is being changed. Only this finds changes that fire no event trigger: EXPLAIN ANALYZE of a CREATE TABLE AS,
//! REINDEX of an invalid index, a superuser's update of a catalog.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tdb_engines::postgres::ErrorClass;
use tdb_engines::postgres::fingerprint::{self, CatalogState, Difference, Fingerprint};
use tdb_engines::postgres::journal;
use tdb_names::{ServerName, WorkspaceId};
use tdb_store::workspaces::WorkspaceRow;
use tdb_store::{changes, log_facts};
use tokio::time::{Instant, sleep};

use crate::core::Core;
use crate::error::{Result, upstream};
use crate::leases::Subject;
use crate::lifecycle::place::database_name;
use crate::lifecycle::servers::Servers;
use crate::schema::builds::{BuildError, Builds, Built};
use crate::schema::drain::Drains;
use crate::schema::failing::Trials;
use crate::schema::head::{Head, HeadProblem, Heads};
use crate::schema::leftovers::Leftovers;

/// How long to wait for a workspace that is being changed, and how often to compare in that time.
const QUIET_TIME_MAX: Duration = Duration::from_secs(5);
const QUIET_TRIES: u32 = 5;
/// The number of workspaces whose last comparison is cached.
const COMPARED_MAX: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(workspaces) => workspaces,
    None => NonZeroUsize::MIN,
};

/// The result of a comparison of a workspace with a replay.
#[derive(Debug)]
pub(crate) enum Proof {
    Equal,
    /// A skipped change cannot be replayed, so only head was compared, apart from what the skipped changes account for.
    Impossible {
        reason: String,
        /// Differences that a skipped change may have caused, though it is not known to have changed their objects.
        differences: Vec<Difference>,
    },
    Different(Vec<Difference>),
    /// The workspace was being changed all the time.
    Busy,
}

/// The state of a workspace's catalogs when it was last equal to the result of this number of changes. A cache: without
/// an entry, the comparison is repeated.
struct Compared(Mutex<LruCache<WorkspaceId, (u32, CatalogState)>>);

impl Default for Compared {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(COMPARED_MAX)))
    }
}

impl Compared {
    fn is_equal(&self, id: WorkspaceId, changes: u32, state: &CatalogState) -> bool {
        let mut compared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        compared
            .get(&id)
            .is_some_and(|(seen, equal)| *seen == changes && equal == state)
    }

    fn note(&self, id: WorkspaceId, changes: u32, state: CatalogState) {
        let mut compared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        compared.put(id, (changes, state));
    }
}

/// Compares workspaces with the result of their changes.
#[derive(Clone)]
pub(crate) struct Proofs {
    core: Arc<Core>,
    servers: Servers,
    drains: Drains,
    builds: Builds,
    heads: Heads,
    leftovers: Leftovers,
    compared: Arc<Compared>,
}

impl Proofs {
    pub(crate) fn new(core: &Arc<Core>, servers: &Servers, drains: &Drains, heads: &Heads, trials: &Trials) -> Self {
        Self {
            core: core.clone(),
            servers: servers.clone(),
            drains: drains.clone(),
            builds: trials.builds.clone(),
            heads: heads.clone(),
            leftovers: Leftovers { trials: trials.clone() },
            compared: Arc::default(),
        }
    }

    /// Checks that all changes, including those not in head, give the workspace's schema. `built` is a replay of head.
    pub(crate) async fn prove(&self, row: &WorkspaceRow, head: &Head, built: &Built) -> Result<Proof, HeadProblem> {
        if head.left_out().next().is_none() {
            return Ok(Box::pin(self.compare(row, head.length(), &built.fingerprint, QUIET_TRIES)).await?);
        }
        let server = &built.row.physical.server;
        Box::pin(self.prove_by_shadow(row, server, head, Some(&built.fingerprint))).await
    }

    /// The same check for a head that is a version already: the workspace may have been changed without a new change in
    /// the log. `replayed` is the result of the version's changes, if it is stored.
    pub(crate) async fn prove_again(
        &self,
        row: &WorkspaceRow,
        replayed: Option<&Fingerprint>,
    ) -> Result<Proof, HeadProblem> {
        let head = self.heads.of(row).await?;
        if let Some(expected) = self.facts_of_log(row, head.length()).await? {
            return Ok(Box::pin(self.compare(row, head.length(), &expected, QUIET_TRIES)).await?);
        }
        let home = &row.physical.server;
        let lease = self.core.leases.take(Subject::Builds(row.id, home.clone())).await?;
        // A problem of head is a result of the work under the lease, not an error of it.
        lease
            .during(async { Ok(Box::pin(self.prove_by_shadow(row, home, &head, replayed)).await) })
            .await?
    }

    /// The objects of a workspace that its changes do not account for. Empty if that is not known without a replay, or
    /// while the workspace is being changed.
    pub(crate) async fn uncaptured(&self, row: &WorkspaceRow) -> Result<Vec<Difference>> {
        let tx = self.core.store.jobs().await?;
        let length = changes::total(&tx, row.id).await?;
        tx.rollback().await?;
        let Some(expected) = self.facts_of_log(row, length).await? else {
            return Ok(Vec::new());
        };
        match Box::pin(self.compare(row, length, &expected, 1)).await? {
            Proof::Different(differences) => Ok(differences),
            Proof::Equal | Proof::Impossible { .. } | Proof::Busy => Ok(Vec::new()),
        }
    }

    /// Compares with a replay of all changes. If that is not possible, compares with `replayed`, the result of head, apart from
    /// what the other changes account for. The caller holds the lease of the workspace's builds on the server.
    async fn prove_by_shadow(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        head: &Head,
        replayed: Option<&Fingerprint>,
    ) -> Result<Proof, HeadProblem> {
        let reason = match Box::pin(self.shadow_of_all(row, server, head)).await? {
            Ok(fingerprint) => {
                let proof = Box::pin(self.compare(row, head.length(), &fingerprint, QUIET_TRIES)).await?;
                if !matches!(proof, Proof::Different(_)) || !self.leftovers.may_differ(row, head).await? {
                    return Ok(proof);
                }
                "a replay of the skipped changes gives another result".to_owned()
            }
            Err(reason) => reason,
        };
        let Some(replayed) = replayed else {
            let differences = Vec::new();
            return Ok(Proof::Impossible { reason, differences });
        };
        match Box::pin(self.compare(row, head.length(), replayed, QUIET_TRIES)).await? {
            Proof::Different(differences) => {
                let left = self.leftovers.unaccounted(row, head, differences).await?;
                if left.all_named && !left.differences.is_empty() {
                    return Ok(Proof::Different(left.differences));
                }
                Ok(Proof::Impossible {
                    reason,
                    differences: left.differences,
                })
            }
            proof => Ok(proof),
        }
    }

    /// The result of all changes, or why they cannot be replayed.
    async fn shadow_of_all(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        head: &Head,
    ) -> Result<std::result::Result<Fingerprint, String>> {
        if let Some(change) = head.left_out().find(|change| change.reason.is_some()) {
            return Ok(Err(format!("change {} was skipped and cannot be replayed", change.id)));
        }
        let all: Vec<u32> = head.all.iter().map(|change| change.id).collect();
        match Box::pin(self.builds.shadow(row, server, &all)).await {
            Ok(fingerprint) => Ok(Ok(fingerprint)),
            Err(BuildError::Replay(error)) => Ok(Err(format!(
                "the changes cannot be replayed with the skipped ones: {}",
                error.message
            ))),
            Err(BuildError::Other(error)) => Err(error),
        }
    }

    /// The stored facts of an earlier comparison with exactly this number of changes, for the server's current major
    /// version.
    async fn facts_of_log(&self, row: &WorkspaceRow, length: u32) -> Result<Option<Fingerprint>> {
        let pg_major = self
            .servers
            .pg_major(&self.servers.admin(&row.physical.server).await?)
            .await?;
        let tx = self.core.store.jobs().await?;
        let facts = log_facts::of(&tx, row.id, length, pg_major).await?;
        tx.rollback().await?;
        Ok(facts.map(Fingerprint::from_facts))
    }

    /// Compares while nothing is being changed: the journal is empty, and the log has no new change, before and after
    /// the comparison.
    async fn compare(&self, row: &WorkspaceRow, length: u32, expected: &Fingerprint, tries: u32) -> Result<Proof> {
        let begun = Instant::now();
        for attempt in 0..tries {
            if attempt > 0 {
                sleep(QUIET_TIME_MAX.saturating_sub(begun.elapsed()) / (tries - attempt)).await;
            }
            match Box::pin(self.compare_once(row, length, expected)).await? {
                Look::Proof(proof) => return Ok(proof),
                Look::Unquiet => {}
            }
        }
        Ok(Proof::Busy)
    }

    async fn compare_once(&self, row: &WorkspaceRow, length: u32, expected: &Fingerprint) -> Result<Look> {
        let server = self.servers.admin(&row.physical.server).await?;
        let database = database_name(&row.physical)?;
        let owner = &row.physical.roles.owner.name;
        let failed = |e| upstream(&row.physical.server, e);
        let before = journal::read(&server, database, owner)
            .await
            .map_err(failed)?
            .is_empty();
        let state = fingerprint::catalog_state(&server, database, owner)
            .await
            .map_err(failed)?;
        let equal = self.compared.is_equal(row.id, length, &state);
        let found = if equal {
            Ok(None)
        } else {
            fingerprint::take(&server, database, owner).await.map(Some)
        };
        let quiet = before
            && journal::read(&server, database, owner)
                .await
                .map_err(failed)?
                .is_empty();
        if !quiet {
            Box::pin(self.drains.drain_row(row)).await?;
        }
        let tx = self.core.store.jobs().await?;
        let same = changes::total(&tx, row.id).await? == length;
        tx.rollback().await?;
        if !same {
            // More changes were captured than replayed, so the comparison does not apply to this head.
            return Ok(Look::Proof(Proof::Busy));
        }
        match found {
            Ok(None) if quiet => Ok(Look::Proof(Proof::Equal)),
            Ok(Some(found)) if quiet && found.hash == expected.hash => {
                self.note_equal(row, length, state, &found).await?;
                Ok(Look::Proof(Proof::Equal))
            }
            Ok(Some(found)) if quiet => {
                // A setting has no row in the journal; a drain finds out whether one was changed.
                match Box::pin(self.drains.drain_row(row)).await?.changes {
                    0 => Ok(Look::Proof(Proof::Different(expected.diff(&found)))),
                    _ => Ok(Look::Proof(Proof::Busy)),
                }
            }
            Ok(_) => Ok(Look::Unquiet),
            Err(error) if error.class() == ErrorClass::Retry => Ok(Look::Unquiet),
            Err(error) => Err(failed(error)),
        }
    }

    async fn note_equal(
        &self,
        row: &WorkspaceRow,
        length: u32,
        state: CatalogState,
        found: &Fingerprint,
    ) -> Result<()> {
        let pg_major = self
            .servers
            .pg_major(&self.servers.admin(&row.physical.server).await?)
            .await?;
        let tx = self.core.store.jobs().await?;
        log_facts::store(&tx, &row.project, row.id, length, pg_major, &found.facts).await?;
        tx.commit().await?;
        self.compared.note(row.id, length, state);
        Ok(())
    }
}

enum Look {
    Proof(Proof),
    /// DDL was run during the comparison.
    Unquiet,
}
