//! Versions: replays head, verifies that it gives the workspace's schema, and records it as an immutable version.

use std::sync::Arc;

use tdb_engines::fault;
use tdb_engines::postgres::fingerprint::{Difference, Fingerprint};
use tdb_names::{BlueprintName, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::templates::{TemplateRow, TemplateStatus};
use tdb_store::versions::{FactsRow, NewVersion, VersionRow};
use tdb_store::workspaces::WorkspaceRow;
use tdb_store::{Tx, changes, templates, versions, workspaces};

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::leases::{Lease, Subject};
use crate::lifecycle::servers::Servers;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::Version;
use crate::page::Page;
use crate::schema::builds::{BuildError, Builds};
use crate::schema::failing::{Failing, Trials, not_its_fault};
use crate::schema::head::{Head, HeadProblem, Heads};
use crate::schema::proof::{Proof, Proofs};
use crate::schema::templates::Templates;

/// A version with the changes of head.
enum HeadVersion {
    Existing(VersionRow),
    /// Just created, and therefore just verified.
    New(VersionRow),
}

/// Creates versions of head and their templates.
#[derive(Clone)]
pub struct Versions {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) workspaces: Workspaces,
    pub(crate) templates: Templates,
    pub(crate) builds: Builds,
    pub(crate) trials: Trials,
    pub(crate) heads: Heads,
    pub(crate) proofs: Proofs,
}

impl Versions {
    /// The versions of a blueprint, by number.
    pub async fn list(&self, identity: &Identity, name: &BlueprintName, page: &Page<u32>) -> Result<Vec<Version>> {
        identity.require(KeyScope::Read)?;
        let row = self
            .workspaces
            .row(identity, name)
            .await
            .map_err(|e| e.naming(EntryKind::Blueprint))?;
        let tx = self.core.store.project(identity.project()).await?;
        let rows = versions::list(&tx, row.id, page.after.unwrap_or(0), page.limit.rows()).await?;
        tx.rollback().await?;
        Ok(rows.into_iter().map(version).collect())
    }

    /// The version of head: the existing one, or a new one that was verified and whose template is published on the
    /// server.
    pub(crate) async fn of_head(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        author: &str,
    ) -> Result<VersionRow, HeadProblem> {
        match self.head_version(row, server, author).await? {
            HeadVersion::Existing(version) | HeadVersion::New(version) => Ok(version),
        }
    }

    /// The version for a new tenant while the workspace cannot be looked at: the one with the changes of the log, else
    /// the newest. `None` if there is only the empty schema.
    pub(crate) async fn of_log(&self, row: &WorkspaceRow) -> Result<Option<VersionRow>, HeadProblem> {
        let head = self.heads.stored(row).await?;
        let version = match self.with_content(row, &head.hash).await? {
            Some(version) => Some(version),
            None => {
                let tx = self.core.store.jobs().await?;
                let newest = versions::newest_row(&tx, row.id).await?;
                tx.rollback().await?;
                newest
            }
        };
        Ok(version.filter(|version| !version.change_ids.is_empty()))
    }

    /// Like [`Versions::of_head`], for a deployment: objects of the workspace that no change accounts for are an error
    /// even if head is an existing version. That comparison is omitted while the workspace is being changed.
    pub(crate) async fn deployable_head(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        author: &str,
    ) -> Result<VersionRow, HeadProblem> {
        let version = match self.head_version(row, server, author).await? {
            HeadVersion::New(version) => return Ok(version),
            HeadVersion::Existing(version) => version,
        };
        let replayed = self.facts_of(row, version.number).await?;
        match Box::pin(self.proofs.prove_again(row, replayed.as_ref())).await? {
            // The changes of a version were replayed when it was created, so none of them is the cause.
            Proof::Different(differences) => Err(HeadProblem::Different {
                differences,
                perhaps: Vec::new(),
            }),
            Proof::Equal | Proof::Impossible { .. } | Proof::Busy => Ok(version),
        }
    }

    /// The stored facts of a version, for the major version of the workspace's server.
    async fn facts_of(&self, row: &WorkspaceRow, version: u32) -> Result<Option<Fingerprint>> {
        let server = self.servers.admin(&row.physical.server).await?;
        let pg_major = self.servers.pg_major(&server).await?;
        let tx = self.core.store.jobs().await?;
        let facts = versions::facts(&tx, row.id, version, pg_major).await?;
        tx.rollback().await?;
        Ok(facts.map(|row| Fingerprint::from_facts(row.facts)))
    }

    async fn head_version(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        author: &str,
    ) -> Result<HeadVersion, HeadProblem> {
        let head = self.heads.of(row).await?;
        if let Some(version) = self.with_content(row, &head.hash).await? {
            return Ok(HeadVersion::Existing(version));
        }
        let builds = Subject::Builds(row.id, server.clone());
        let lease = self.core.leases.take(builds).await?;
        // A problem of head is a result of the work under the lease, not an error of it.
        lease
            .during(async { Ok(Box::pin(self.new_version_of_head(&lease, row, server, author)).await) })
            .await?
    }

    async fn new_version_of_head(
        &self,
        lease: &Lease,
        row: &WorkspaceRow,
        server: &ServerName,
        author: &str,
    ) -> Result<HeadVersion, HeadProblem> {
        // Another task may have created the version meanwhile, and head may have more changes now.
        let head = self.heads.of(row).await?;
        if let Some(version) = self.with_content(row, &head.hash).await? {
            return Ok(HeadVersion::Existing(version));
        }
        let built = match Box::pin(self.builds.build(row, server, &head.ids)).await {
            Ok(built) => built,
            Err(error) => return Err(Box::pin(self.replay_problem(row, server, &head.ids, error)).await),
        };
        let proof = Box::pin(self.proofs.prove(row, &head, &built)).await?;
        let (verified, reason) = match proof {
            Proof::Equal => (true, None),
            Proof::Impossible { reason, differences } => {
                if let Some(problem) = self.breaking(row, &head, &differences).await? {
                    return Err(problem);
                }
                (false, Some(reason))
            }
            Proof::Different(differences) => {
                if let Some(problem) = self.breaking(row, &head, &differences).await? {
                    return Err(problem);
                }
                let perhaps = self.trials.perhaps_unrepeatable(row, &head.ids, &differences).await?;
                return Err(HeadProblem::Different { differences, perhaps });
            }
            Proof::Busy => return Err(HeadProblem::Busy),
        };
        let version = NewVersion {
            change_ids: &head.ids,
            content_hash: &head.hash,
            author,
            statements: head.statements,
            verified,
            reason: reason.as_deref(),
        };
        let pg_major = self.servers.pg_major(&self.servers.admin(server).await?).await?;
        let tx = lease.begin().await?;
        if let Some(newer) = overtaken(&tx, row, &head).await? {
            tx.rollback().await?;
            return Ok(HeadVersion::Existing(newer));
        }
        let made = versions::insert(&tx, &row.project, row.id, &version).await?;
        let facts = FactsRow {
            hash: built.fingerprint.hash.clone(),
            facts: built.fingerprint.facts.clone(),
        };
        versions::store_facts(&tx, &row.project, row.id, made.number, pg_major, &facts).await?;
        templates::begin_publishing(&tx, built.row.id, made.number).await?;
        tx.commit().await?;
        fault::point("version.recorded");
        Box::pin(self.templates.publish(&built.row)).await?;
        Ok(HeadVersion::New(made))
    }

    /// Marks the changes whose replay differs from what they did in the workspace as broken, and returns the problem
    /// that names them; `None` if there is no such change.
    async fn breaking(
        &self,
        row: &WorkspaceRow,
        head: &Head,
        differences: &[Difference],
    ) -> Result<Option<HeadProblem>> {
        let named = self.trials.unrepeatable(row, &head.ids, differences).await?;
        self.trials.mark_broken(row, &named).await?;
        Ok((!named.is_empty()).then(|| broken(named)))
    }

    pub(crate) async fn with_content(&self, row: &WorkspaceRow, hash: &[u8]) -> Result<Option<VersionRow>> {
        let tx = self.core.store.jobs().await?;
        let version = versions::by_content(&tx, row.id, hash).await?;
        tx.rollback().await?;
        Ok(version)
    }

    /// The published template of a version on a server. It is built if it was dropped or never created.
    pub(crate) async fn template_of(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        version: &VersionRow,
    ) -> Result<TemplateRow, HeadProblem> {
        if let Some(template) = self.published(row, server, version.number).await? {
            return Ok(template);
        }
        let builds = Subject::Builds(row.id, server.clone());
        let lease = self.core.leases.take(builds).await?;
        lease
            .during(async { Ok(Box::pin(self.new_template_of(&lease, row, server, version)).await) })
            .await?
    }

    async fn new_template_of(
        &self,
        lease: &Lease,
        row: &WorkspaceRow,
        server: &ServerName,
        version: &VersionRow,
    ) -> Result<TemplateRow, HeadProblem> {
        if let Some(template) = self.published(row, server, version.number).await? {
            return Ok(template);
        }
        if let Some(begun) = self.being_published(row, server, version.number).await? {
            Box::pin(self.templates.publish(&begun)).await?;
        } else {
            let built = match Box::pin(self.builds.build(row, server, &version.change_ids)).await {
                Ok(built) => built,
                Err(error) => return Err(Box::pin(self.replay_problem(row, server, &version.change_ids, error)).await),
            };
            let tx = lease.begin().await?;
            templates::begin_publishing(&tx, built.row.id, version.number).await?;
            tx.commit().await?;
            Box::pin(self.templates.publish(&built.row)).await?;
        }
        let template = self.published(row, server, version.number).await?;
        template.ok_or_else(|| {
            HeadProblem::Other(ControlError::internal(
                "a template was removed right after its publication",
            ))
        })
    }

    async fn published(&self, row: &WorkspaceRow, server: &ServerName, version: u32) -> Result<Option<TemplateRow>> {
        let tx = self.core.store.jobs().await?;
        let template = templates::published(&tx, row.id, server, version).await?;
        tx.rollback().await?;
        Ok(template)
    }

    async fn being_published(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        version: u32,
    ) -> Result<Option<TemplateRow>> {
        let tx = self.core.store.jobs().await?;
        let rows = templates::of_workspace(&tx, row.id).await?;
        tx.rollback().await?;
        let begun = |t: &TemplateRow| {
            t.status == TemplateStatus::Publishing && t.version == Some(version) && t.physical.server == *server
        };
        Ok(rows.into_iter().find(begun))
    }

    /// Marks changes that cannot be replayed as broken, with those that need them: skipping them makes head replayable.
    /// `ids` is what was replayed on the server. The caller holds the lease of the builds there.
    pub(crate) async fn replay_problem(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
        error: BuildError,
    ) -> HeadProblem {
        let error = match error {
            BuildError::Other(error) => return HeadProblem::Other(error),
            BuildError::Replay(error) => error,
        };
        if Failing::of(&error).is_none() {
            return HeadProblem::Other(not_its_fault(server, &error));
        }
        match Box::pin(self.trials.mark_failing(row, server, ids)).await {
            Ok(failing) => broken(failing),
            Err(error) => HeadProblem::Other(error),
        }
    }
}

fn broken(failing: Vec<Failing>) -> HeadProblem {
    let all = failing.iter().map(|failing| failing.change).collect();
    match failing.into_iter().next() {
        Some(first) => HeadProblem::Broken {
            first: first.change,
            reason: first.reason,
            all,
            undeclared: Vec::new(),
        },
        None => {
            let detail = "a replay of the changes failed and then succeeded";
            HeadProblem::Other(ControlError::refused(ProblemCode::HeadBusy, detail, "Try again."))
        }
    }
}

/// Checks whether head changed since it was built, by a build on another server or by a skip. Returns the newer version
/// if there is one that contains more changes. Locks the workspace's row, so that the result holds until the end of the
/// transaction.
async fn overtaken(tx: &Tx, row: &WorkspaceRow, built: &Head) -> Result<Option<VersionRow>, HeadProblem> {
    workspaces::lock(tx, row.id).await?;
    let now = Head::of(changes::heads(tx, row.id).await?)?;
    if !now.ids.starts_with(&built.ids) {
        return Err(HeadProblem::Busy);
    }
    let newest = versions::newest_row(tx, row.id).await?;
    Ok(newest
        .filter(|version| version.change_ids.len() > built.ids.len() && version.change_ids.starts_with(&built.ids)))
}

fn version(row: VersionRow) -> Version {
    Version {
        number: row.number,
        change_ids: row.change_ids,
        created_at: row.created_at,
        author: row.author,
        statements: row.statements,
        fingerprint: row.fingerprint,
        verified: row.verified,
        reason: row.reason,
    }
}
