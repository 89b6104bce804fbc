//! Builds: databases in which changes are replayed, the templates they become, and a stock of clones of those, ready
//! for the next tenant or build. A build holds a prefix of what it is brought to, or it is thrown away.

use std::collections::HashMap;
use std::time::Duration;

use tdb_contract::Repair;
use tdb_engines::fault;
use tdb_engines::postgres::apply::{Applied, ApplyError, BringUp, Limits, NumberedChange, bring_up};
use tdb_engines::postgres::databases::{self, Origin};
use tdb_engines::postgres::fingerprint::Fingerprint;
use tdb_engines::postgres::tenant_side;
use tdb_names::ServerName;
use tdb_store::changes::ChangeState;
use tdb_store::physical::{self, Holder, Physical, Step};
use tdb_store::templates::{self, TemplateRow, TemplateStatus};
use tdb_store::workspaces::{WorkspaceRow, WorkspaceStatus};
use tdb_store::{StoreError, changes, versions, workspaces};
use uuid::Uuid;

use crate::control::Control;
use crate::error::{ControlError, Result, upstream};
use crate::leases::Subject;
use crate::lifecycle::place::{As, database_name, role_names};
use crate::schema::versions::HeadProblem;

/// How long a template stays though a newer one is there and nobody names it: its maker is about to.
const RETIREMENT_GRACE: Duration = Duration::from_secs(60);
/// Spares of a template, as long as tenants were made of its blueprint lately.
const STOCK: u32 = 4;
const LATELY: Duration = Duration::from_secs(3600);

/// A build that holds exactly the changes asked for.
#[derive(Debug)]
pub(crate) struct Built {
    pub row: TemplateRow,
    pub fingerprint: Fingerprint,
}

/// Why there is no build.
#[derive(Debug)]
pub(crate) enum BuildError {
    /// A change does not replay; trying again would give the same.
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

async fn schema_of(build: &TemplateRow, applied: Applied) -> Result<Fingerprint> {
    let taken = applied.fingerprint(&build.physical.roles.owner.name).await;
    taken.map_err(|e| upstream(&build.physical.server, e))
}

impl Control {
    /// Replays `ids` of a workspace in a build of this server: the one at hand where it fits, else a new one. The caller
    /// holds the lease of the workspace's builds.
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

    /// Has what a developer made replayed before somebody waits for it: a build of head, without number. A change that
    /// cannot be replayed is known as broken from here on.
    pub(crate) async fn build_ahead(&self, row: &WorkspaceRow) -> Result<()> {
        let builds = Subject::Builds(row.id, row.physical.server.clone());
        let lease = self.inner.leases.take(builds).await?;
        lease.during(self.build_ahead_alone(row)).await
    }

    async fn build_ahead_alone(&self, row: &WorkspaceRow) -> Result<()> {
        let tx = self.inner.store.jobs().await?;
        let now = workspaces::by_id(&tx, row.id).await?;
        tx.rollback().await?;
        if now.is_none_or(|now| now.status != WorkspaceStatus::Ready) {
            return Ok(());
        }
        let head = match self.head(row).await {
            Ok(head) => head,
            Err(HeadProblem::Other(error)) => return Err(error),
            // Reported to the next request for a version; what needs the broken changes is known by then.
            Err(HeadProblem::Broken { .. }) => return self.break_dependents(row).await,
            Err(_) => return Ok(()),
        };
        if self.version_with(row, &head.hash).await?.is_some() {
            return Ok(());
        }
        match Box::pin(self.replayed(row, &row.physical.server, &head.ids)).await {
            Ok(_) => Ok(()),
            Err(error) => match Box::pin(self.replay_problem(row, &row.physical.server, &head.ids, error)).await {
                HeadProblem::Other(error) => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Marks what cannot be replayed because a broken change is not there.
    async fn break_dependents(&self, row: &WorkspaceRow) -> Result<()> {
        let tx = self.inner.store.jobs().await?;
        let heads = changes::heads(&tx, row.id).await?;
        tx.rollback().await?;
        let pending = heads.iter().filter(|change| change.state == ChangeState::Pending);
        let pending: Vec<u32> = pending.map(|change| change.id).collect();
        Box::pin(self.mark_failing(row, &row.physical.server, &pending))
            .await
            .map(drop)
    }

    async fn replayed(
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

    /// The fingerprint of a replay of `ids` in a build that is thrown away.
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
        Box::pin(self.remove_template(&build)).await?;
        fingerprint
    }

    /// The build under way, if what it holds is a prefix of `ids`; others are removed.
    async fn build_at_hand(&self, row: &WorkspaceRow, server: &ServerName, ids: &[u32]) -> Result<Option<TemplateRow>> {
        let tx = self.inner.store.jobs().await?;
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
                Box::pin(self.remove_template(&build)).await?;
            }
        }
        Ok(found)
    }

    /// A clone of the newest template that holds a prefix of `ids`, else of the base, adopted by roles of its own.
    pub(crate) async fn begin_build(
        &self,
        row: &WorkspaceRow,
        server: &ServerName,
        ids: &[u32],
    ) -> Result<TemplateRow> {
        let tx = self.inner.store.jobs().await?;
        let origin = self.origin(&tx, row, server, ids).await?;
        if let Some(number) = origin.as_ref().and_then(|(template, _)| template.version)
            && let Some(spare) = templates::build_from_spare(&tx, row.id, server, number).await?
        {
            tx.commit().await?;
            return Ok(spare);
        }
        let (id, physical) = (Uuid::new_v4(), self.new_physical(server.clone())?);
        templates::insert(&tx, id, &row.project, row.id, &physical, None).await?;
        tx.commit().await?;
        Box::pin(self.clone_and_adopt(
            id,
            &physical,
            origin.as_ref().map(|(template, held)| (template, held.as_slice())),
        ))
        .await
    }

    /// Makes the clone that a row of its own intends, and hands it to its roles.
    async fn clone_and_adopt(
        &self,
        id: Uuid,
        physical: &Physical,
        origin: Option<(&TemplateRow, &[u32])>,
    ) -> Result<TemplateRow> {
        let server = &physical.server;
        let admin = self.server(server).await?;
        let failed = |e| upstream(server, e);
        let name = databases::construction_name(self.inner.store.installation(), physical.id);
        let from = origin.map_or(Ok(Origin::Base), |(template, _)| {
            database_name(&template.physical).map(Origin::Template)
        })?;
        let (roles, oid) = tokio::join!(self.make_roles(&admin, physical), databases::clone(&admin, &name, from));
        roles.map_err(failed)?;
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
        let tx = self.inner.store.jobs().await?;
        physical::record_database(&tx, Holder::Template, id, Step::Adopted, &name, oid).await?;
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
        let tx = self.inner.store.jobs().await?;
        // Before the deed: a build that died in it is not taken for one that holds less.
        templates::record_changes(&tx, build.id, ids).await?;
        tx.commit().await?;
        let changes = self.numbered_changes(row, ids).await?;
        let attempt = Uuid::new_v4();
        let login = self
            .login(&build.physical, As::Deployer, &format!("tdb-deploy/{attempt}"))
            .await?;
        let owner = build.physical.roles.owner.name.as_str();
        let administrator = self.server(&build.physical.server).await?;
        let plan = BringUp {
            administrator: &administrator,
            owner,
            attempt,
            changes: &changes,
            limits: Limits::default(),
        };
        let mut applied = Box::pin(bring_up(&login, &plan, &|_| ())).await;
        if let Err(error) = &applied
            && error.is_refused_login()
            && Box::pin(self.repair_roles_of(build.id)).await? == Repair::Done
        {
            applied = Box::pin(bring_up(&login, &plan, &|_| ())).await;
        }
        let applied = applied.map_err(BuildError::Replay)?;
        fault::point("build.replayed");
        Ok(applied)
    }

    /// The changes as the engine replays them.
    pub(crate) async fn numbered_changes(&self, row: &WorkspaceRow, ids: &[u32]) -> Result<Vec<NumberedChange>> {
        let tx = self.inner.store.jobs().await?;
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

    /// Closes a build for ever under its version's number.
    pub(crate) async fn publish(&self, template: &TemplateRow) -> Result<()> {
        let admin = self.server(&template.physical.server).await?;
        let (name, roles) = (database_name(&template.physical)?, role_names(&template.physical));
        let published = databases::publish_template(&admin, name, Some(&roles)).await;
        published.map_err(|e| upstream(&template.physical.server, e))?;
        let tx = self.inner.store.jobs().await?;
        templates::set_published(&tx, template.id, RETIREMENT_GRACE).await?;
        templates::retire_old(&tx).await?;
        tx.commit().await?;
        fault::point("template.published");
        Ok(())
    }

    /// Finishes publishing that somebody began, and removes what is retired or was abandoned. The caller holds the
    /// lease of the workspace's builds.
    pub(crate) async fn finish_template(&self, id: Uuid) -> Result<()> {
        let tx = self.inner.store.jobs().await?;
        let row = templates::by_id(&tx, id).await?;
        tx.rollback().await?;
        let Some(row) = row else { return Ok(()) };
        match row.status {
            TemplateStatus::Published => Ok(()),
            TemplateStatus::Publishing => Box::pin(self.publish(&row)).await,
            TemplateStatus::Dropping => Box::pin(self.remove_template(&row)).await,
            // One that is adopted serves the next version, or the next tenant; one that never got so far is begun anew by
            // whoever needs it.
            TemplateStatus::Building | TemplateStatus::Spare if row.progress.step == Step::Adopted => Ok(()),
            TemplateStatus::Building | TemplateStatus::Spare => Box::pin(self.remove_template(&row)).await,
        }
    }

    /// Has the spares that are missing made, one task per server.
    pub(crate) async fn restock(&self) -> Result<()> {
        let tx = self.inner.store.jobs().await?;
        let short = templates::short_of_spares(&tx, STOCK, LATELY).await?;
        tx.rollback().await?;
        let mut of_server: HashMap<ServerName, Vec<(TemplateRow, u32)>> = HashMap::new();
        for (template, missing) in short {
            let server = template.physical.server.clone();
            of_server.entry(server).or_default().push((template, missing));
        }
        for (server, short) in of_server {
            self.alone_in_background(
                Subject::Stock(server),
                "spares of a server",
                move |control, _| async move { control.restock_server(short).await },
            );
        }
        Ok(())
    }

    /// One after the other per workspace.
    async fn restock_server(&self, short: Vec<(TemplateRow, u32)>) -> Result<()> {
        let work = short.iter().map(async |(template, missing)| {
            for _ in 0..*missing {
                self.make_spare(template).await?;
            }
            Ok(())
        });
        futures_util::future::join_all(work)
            .await
            .into_iter()
            .collect::<Result<()>>()?;
        // Tenants may have taken some meanwhile.
        self.inner.restock.notify_one();
        Ok(())
    }

    async fn make_spare(&self, template: &TemplateRow) -> Result<()> {
        let Some(number) = template.version else { return Ok(()) };
        let place = self.inner.creations.place(&template.physical.server).await?;
        let builds = Subject::Builds(template.workspace, template.physical.server.clone());
        let lease = self.inner.leases.take(builds).await?;
        place
            .during(lease.during(self.make_spare_alone(template, number)))
            .await
    }

    async fn make_spare_alone(&self, template: &TemplateRow, number: u32) -> Result<()> {
        let (id, physical) = (Uuid::new_v4(), self.new_physical(template.physical.server.clone())?);
        let tx = self.inner.store.jobs().await?;
        // Looked at again under the lock: the template may be on its way out, and its workspace too.
        let published = templates::published(&tx, template.workspace, &template.physical.server, number).await?;
        let version = versions::by_number(&tx, template.workspace, number).await?;
        let workspace = workspaces::by_id(&tx, template.workspace).await?;
        let ready = workspace.is_some_and(|workspace| workspace.status == WorkspaceStatus::Ready);
        let (Some(template), Some(version), true) = (published, version, ready) else {
            tx.rollback().await?;
            return Ok(());
        };
        templates::insert(&tx, id, &template.project, template.workspace, &physical, Some(number)).await?;
        tx.commit().await?;
        fault::point("spare.intended");
        Box::pin(self.clone_and_adopt(id, &physical, Some((&template, &version.change_ids)))).await?;
        fault::point("spare.ready");
        Ok(())
    }
}
