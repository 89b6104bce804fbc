//! Builds: databases in which changes are replayed, and which become templates. A build that does not hold a prefix of
//! the requested changes is removed.

use std::sync::Arc;

use tdb_contract::Repair;
use tdb_engines::fault;
use tdb_engines::postgres::apply::{Applied, ApplyError, BringUp, NumberedChange, TimeLimits, bring_up};
use tdb_engines::postgres::databases::{self, Origin};
use tdb_engines::postgres::fingerprint::Fingerprint;
use tdb_engines::postgres::tenant_side;
use tdb_names::{ProjectId, ServerName};
use tdb_store::physical::{self, DatabaseKind, Physical, Step};
use tdb_store::templates::{self, TemplateRow, TemplateStatus};
use tdb_store::workspaces::WorkspaceRow;
use tdb_store::{StoreError, changes, versions};
use uuid::Uuid;

use crate::core::Core;
use crate::error::{ControlError, Result, upstream};
use crate::lifecycle::place::{As, Placement, database_name, role_names};
use crate::lifecycle::repairs::Repairs;
use crate::lifecycle::servers::Servers;
use crate::schema::templates::Templates;

/// A build that holds exactly the requested changes.
#[derive(Debug)]
pub(crate) struct Built {
    pub row: TemplateRow,
    pub fingerprint: Fingerprint,
}

/// Why a build failed.
#[derive(Debug)]
pub(crate) enum BuildError {
    /// A change cannot be replayed. Another attempt would fail in the same way.
    Replay(ApplyError),
    Other(ControlError),
}

impl From<ControlError> for BuildError {
    fn from(error: ControlError) -> Self {
        BuildError::Other(error)
    }
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        BuildError::Other(error.into())
    }
}

/// The schema after a replay in a build.
pub(crate) async fn schema_of(build: &TemplateRow, applied: Applied) -> Result<Fingerprint> {
    let taken = applied.fingerprint(&build.physical.roles.owner.name).await;
    taken.map_err(|e| upstream(&build.physical.server, e))
}

/// Databases in which changes are replayed.
#[derive(Clone)]
pub(crate) struct Builds {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) placement: Placement,
    pub(crate) repairs: Repairs,
    pub(crate) templates: Templates,
}

impl Builds {
    /// Replays `ids` of a workspace on this server, in the existing build if it holds a prefix of them, else in a new
    /// one. The caller holds the lease of the workspace's builds.
    pub(crate) async fn build(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
    ) -> Result<Built, BuildError> {
        let (row, applied) = Box::pin(self.replayed(row, server, ids)).await?;
        let fingerprint = schema_of(&row, applied).await?;
        Ok(Built { row, fingerprint })
    }

    pub(crate) async fn replayed(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
    ) -> Result<(TemplateRow, Applied), BuildError> {
        let build = match Box::pin(self.build_at_hand(row, server, ids)).await? {
            Some(build) => build,
            None => Box::pin(self.begin_build(row, server, ids)).await?,
        };
        let applied = Box::pin(self.replay(row, &build, ids)).await?;
        Ok((build, applied))
    }

    /// The fingerprint after a replay of `ids` in a build that is then removed.
    pub(crate) async fn shadow(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
    ) -> Result<Fingerprint, BuildError> {
        let build = Box::pin(self.begin_build(row, server, ids)).await?;
        let replayed = async {
            let applied = Box::pin(self.replay(row, &build, ids)).await?;
            Ok(schema_of(&build, applied).await?)
        };
        let fingerprint = replayed.await;
        Box::pin(self.templates.remove(&build)).await?;
        fingerprint
    }

    /// The existing build, if it holds a prefix of `ids`. Other builds of the workspace on the server are removed.
    async fn build_at_hand(&self, row: &WorkspaceRow, server: &ServerName, ids: &[u32]) -> Result<Option<TemplateRow>> {
        let tx = self.core.store.jobs().await?;
        let rows = templates::of_workspace(&tx, row.id).await?;
        tx.rollback().await?;
        let mut found = None;
        for build in rows
            .into_iter()
            .filter(|b| b.status == TemplateStatus::Building && b.physical.server == *server)
        {
            let fits = build.progress.step == Step::Adopted && ids.starts_with(&build.change_ids);
            if fits && found.is_none() {
                found = Some(build);
            } else {
                Box::pin(self.templates.remove(&build)).await?;
            }
        }
        Ok(found)
    }

    /// Clones the newest template that holds a prefix of `ids`, else the base database, and gives the clone its own
    /// roles. Uses a spare of that template if there is one.
    pub(crate) async fn begin_build(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
    ) -> Result<TemplateRow> {
        let tx = self.core.store.jobs().await?;
        let origin = self.origin(&tx, row, server, ids).await?;
        if let Some(number) = origin.as_ref().and_then(|(template, _)| template.version)
            && let Some(spare) = templates::build_from_spare(&tx, row.id, server, number).await?
        {
            tx.commit().await?;
            return Ok(spare);
        }
        let (id, physical) = (Uuid::new_v4(), self.placement.new_physical(server.clone())?);
        templates::insert(&tx, id, &row.project, row.id, &physical, None).await?;
        tx.commit().await?;
        Box::pin(self.clone_and_adopt(
            id,
            &row.project,
            &physical,
            origin.as_ref().map(|(template, held)| (template, held.as_slice())),
        ))
        .await
    }

    /// Creates the clone that its row announces and gives it its roles.
    pub(crate) async fn clone_and_adopt(
        &self,
        id: Uuid,
        project: &ProjectId,
        physical: &Physical,
        origin: Option<(&TemplateRow, &[u32])>,
    ) -> Result<TemplateRow> {
        let server = &physical.server;
        let admin = self.servers.admin(server).await?;
        let failed = |e| upstream(server, e);
        let name = databases::construction_name(self.core.store.installation(), physical.id);
        let from = origin.map_or(Ok(Origin::Base), |(template, _)| {
            database_name(&template.physical).map(Origin::Template)
        })?;
        let (roles, oid) = tokio::join!(
            self.placement.make_roles(&admin, project, physical),
            databases::clone(&admin, &name, from)
        );
        roles?;
        let oid = oid.map_err(failed)?;
        fault::point("clone.made");
        databases::open(&admin, &name, &role_names(physical))
            .await
            .map_err(failed)?;
        if origin.is_none() {
            tenant_side::install(&admin, &name).await.map_err(failed)?;
        }
        databases::adopt(&admin, &name, &physical.roles.owner.name)
            .await
            .map_err(failed)?;
        fault::point("clone.adopted");
        let tx = self.core.store.jobs().await?;
        physical::record_database(&tx, DatabaseKind::Template, id, Step::Adopted, &name, oid).await?;
        templates::record_changes(&tx, id, origin.map_or(&[], |(_, held)| held)).await?;
        let made = templates::by_id(&tx, id).await?;
        tx.commit().await?;
        made.ok_or_else(|| ControlError::internal("a build's row is gone"))
    }

    async fn origin(
        &self,
        tx: &tdb_store::Tx,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
    ) -> Result<Option<(TemplateRow, Vec<u32>)>> {
        let mut best: Option<(TemplateRow, Vec<u32>)> = None;
        for template in templates::of_workspace(tx, row.id).await? {
            let Some(number) = template.version else { continue };
            if template.status != TemplateStatus::Published || template.physical.server != *server {
                continue;
            }
            let Some(version) = versions::by_number(tx, row.id, number).await? else {
                continue;
            };
            let longer = best
                .as_ref()
                .is_none_or(|(_, held)| held.len() <= version.change_ids.len());
            if longer && ids.starts_with(&version.change_ids) {
                best = Some((template, version.change_ids));
            }
        }
        Ok(best)
    }

    pub(crate) async fn replay(
        &self,
        row: &WorkspaceRow,
        build: &TemplateRow,
        ids: &[u32],
    ) -> Result<Applied, BuildError> {
        let tx = self.core.store.jobs().await?;
        // Recorded before the replay, so that a build whose replay was interrupted does not count as one that holds
        // fewer changes.
        templates::record_changes(&tx, build.id, ids).await?;
        tx.commit().await?;
        let changes = self.numbered_changes(row, ids).await?;
        let attempt = Uuid::new_v4();
        let login = self
            .placement
            .login(&build.physical, As::Deployer, &format!("tdb-deploy/{attempt}"))
            .await?;
        let owner = build.physical.roles.owner.name.as_str();
        let administrator = self.servers.admin(&build.physical.server).await?;
        let taken = self.placement.memberships.admit(&row.project, &build.physical).await?;
        let plan = BringUp {
            administrator: &administrator,
            owner,
            attempt,
            changes: &changes,
            taken: &taken,
            limits: TimeLimits::default(),
        };
        let mut applied = Box::pin(bring_up(&login, &plan, &|_| ())).await;
        // Code in a change may have altered the deployer's role.
        let repaired = Box::pin(self.repairs.repair_deployer(build.id, &build.physical)).await;
        if applied.is_err() && repaired == Repair::Done {
            applied = Box::pin(bring_up(&login, &plan, &|_| ())).await;
        }
        let applied = applied.map_err(BuildError::Replay)?;
        fault::point("build.replayed");
        Ok(applied)
    }

    /// The changes in the form in which the engine replays them.
    pub(crate) async fn numbered_changes(&self, row: &WorkspaceRow, ids: &[u32]) -> Result<Vec<NumberedChange>> {
        let tx = self.core.store.jobs().await?;
        let rows = changes::of_ids(&tx, row.id, ids).await?;
        tx.rollback().await?;
        let numbered = |change: changes::ChangeRow| {
            let body = serde_json::from_value(change.body).map_err(ControlError::internal)?;
            Ok(NumberedChange {
                id: i64::from(change.id),
                change: body,
            })
        };
        rows.into_iter().map(numbered).collect()
    }
}
