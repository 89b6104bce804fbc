//! A tenant's database: cloned from a template, closed, opened, or removed. Every step can be repeated; the database is identified by
//! uuid and oid.

use std::sync::Arc;
use std::time::Duration;

use tdb_engines::fault;
use tdb_engines::postgres::Server;
use tdb_engines::postgres::databases::{self, Origin};
use tdb_engines::postgres::fingerprint::Difference;
use tdb_names::{BlueprintName, DatabaseId, DatabaseName, ProjectId, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::physical::DatabaseKind;
use tdb_store::settings::{self, NewTenants};
use tdb_store::templates::TemplateRow;
use tdb_store::tenants::{DatabaseStatus, TenantDatabaseRow};
use tdb_store::versions::VersionRow;
use tdb_store::workspaces::{WorkspaceRow, WorkspaceStatus};
use tdb_store::{Tx, drift, events, templates, tenants, versions, workspaces};
use uuid::Uuid;

use tokio::time::timeout;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};
use crate::leases::{Lease, Subject};
use crate::lifecycle::closing::Closing;
use crate::lifecycle::creations::Creations;
use crate::lifecycle::place::Placement;
use crate::lifecycle::place::{ServerInfo, choose_name, database_name, role_names};
use crate::lifecycle::readers::ReadAccess;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::settings::Settings;
use crate::lifecycle::workspaces::SYSTEM;
use crate::model::DatabaseRequest;
use crate::schema::differences::shown;
use crate::schema::head::HeadProblem;
use crate::schema::proof::Proofs;
use crate::schema::stock::Stock;
use crate::schema::versions::Versions;

/// How long the answer to a creation waits for the comparison of its workspace.
const LOOK_TIME_MAX: Duration = Duration::from_secs(2);
/// How often the choice is repeated: the template may be retired, or the spare taken by another tenant, before the
/// choice is recorded.
const CHOICES_MAX: u32 = 10;

/// A database that its own roles own already, with its current and its final name.
struct Made {
    /// The id of its row in `physical_databases`.
    id: Uuid,
    present: String,
    wanted: String,
}

enum Chosen {
    Spare(Made),
    Template(Box<TemplateRow>),
}

fn logical_name(row: &TenantDatabaseRow) -> DatabaseName {
    DatabaseName::Tenant {
        blueprint: row.blueprint.clone(),
        tenant: row.tenant.clone(),
    }
}

/// Makes a spare the tenant's database. `None` if another tenant took it.
async fn claim_spare(
    tx: &Tx,
    row: &TenantDatabaseRow,
    spare: &TemplateRow,
    info: ServerInfo<'_>,
) -> Result<Option<Made>> {
    if !templates::take_spare(tx, spare).await? {
        return Ok(None);
    }
    let present = database_name(&spare.physical)?.to_owned();
    let id = spare.physical.id;
    let wanted = choose_name(tx, &info, &logical_name(row), id).await?;
    tenants::take_over(tx, row.id, spare.id, &wanted).await?;
    Ok(Some(Made { id, present, wanted }))
}

/// A stored difference, as the comparison returned it.
fn again(stored: drift::Difference) -> Difference {
    Difference {
        object: stored.object,
        expected: stored.expected,
        found: stored.found,
    }
}

/// Creates and removes tenants' databases.
#[derive(Clone)]
pub(crate) struct Provisioning {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) placement: Placement,
    pub(crate) closing: Closing,
    pub(crate) creations: Creations,
    pub(crate) read_access: ReadAccess,
    pub(crate) settings: Settings,
    pub(crate) stock: Stock,
    pub(crate) proofs: Proofs,
    pub(crate) versions: Versions,
}

impl Provisioning {
    /// Creates databases that were just recorded, in parallel, and returns their warnings. A failed step is not an
    /// error of the caller: it is in the row, and the workers continue.
    pub(crate) async fn finish_new(&self, made: &[DatabaseId]) -> Result<Vec<String>> {
        self.finish_each(made).await;
        let tx = self.core.store.jobs().await?;
        let warnings = tenants::warnings(&tx, made).await?;
        tx.rollback().await?;
        Ok(warnings)
    }

    /// Does what is left on these databases, in parallel. A failure is logged, and the workers continue.
    pub(crate) async fn finish_each(&self, ids: &[DatabaseId]) {
        let work = ids.iter().map(|id| {
            let id = *id;
            self.core.run_for(self, id.as_uuid(), move |provisioning| async move {
                provisioning.finish(id).await
            })
        });
        for done in futures_util::future::join_all(work).await {
            if let Err(error) = done {
                tracing::warn!(error = %error.explained(), "work on a tenant's database is not complete yet");
            }
        }
    }

    /// Does what is left of a creation or deletion, or of closing or opening.
    pub(crate) async fn finish(&self, id: DatabaseId) -> Result<()> {
        let lease = self.core.leases.take(Subject::Database(id.as_uuid())).await?;
        self.finish_under(&lease, id).await
    }

    pub(crate) async fn finish_under(&self, lease: &Lease, id: DatabaseId) -> Result<()> {
        lease.during(self.finish_alone(lease, id)).await
    }

    async fn finish_alone(&self, lease: &Lease, id: DatabaseId) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = tenants::database(&tx, id).await?;
        tx.rollback().await?;
        let Some(row) = row else { return Ok(()) };
        let database = &row.database;
        let done = match database.status {
            DatabaseStatus::Ready => Box::pin(self.closing.finish(lease, &row)).await,
            DatabaseStatus::Provisioning => Box::pin(self.build_database(lease, database)).await,
            DatabaseStatus::Deleting => Box::pin(self.remove_database(lease, database)).await,
        };
        if let Err(error) = &done {
            self.placement
                .record_failure(
                    DatabaseKind::TenantDatabase,
                    id.as_uuid(),
                    database.progress.attempts,
                    error,
                )
                .await;
        }
        done
    }

    async fn build_database(&self, lease: &Lease, row: &TenantDatabaseRow) -> Result<()> {
        let server = self.servers.admin(&row.physical.server).await?;
        let made = match self.adopt_begun(&server, row).await? {
            Some(made) => made,
            None => match Box::pin(self.choose_template(lease, &server, row)).await? {
                Chosen::Spare(made) => made,
                Chosen::Template(template) => self.clone_for_tenant(lease, &server, row, &template).await?,
            },
        };
        self.settings.guard_before_use(row, &made.present).await?;
        self.read_access
            .admit_before_use(row.id.as_uuid(), &made.present)
            .await?;
        fault::point("tenant.create.adopted");
        self.placement
            .rename(lease, &server, &made.present, &made.wanted, made.id)
            .await?;
        fault::point("tenant.create.renamed");
        let tx = lease.begin().await?;
        tenants::set_ready(&tx, row.id).await?;
        events::tenant_changed(&tx, &row.project, &row.tenant).await?;
        tx.commit().await?;
        self.stock.asked.notify_one();
        Ok(())
    }

    /// Continues with a clone that an earlier attempt created and recorded.
    async fn adopt_begun(&self, server: &Server, row: &TenantDatabaseRow) -> Result<Option<Made>> {
        let Some(wanted) = &row.physical.database else {
            return Ok(None);
        };
        let Some(present) = self.placement.present_name(server, &row.physical).await? else {
            return Ok(None);
        };
        let failed = |e| upstream(&row.physical.server, e);
        let names = role_names(&row.physical);
        self.placement.make_roles(server, &row.project, &row.physical).await?;
        databases::open(server, &present, &names).await.map_err(failed)?;
        databases::adopt(server, &present, &names.owner).await.map_err(failed)?;
        let wanted = wanted.clone();
        let id = row.physical.id;
        Ok(Some(Made { id, present, wanted }))
    }

    async fn clone_for_tenant(
        &self,
        lease: &Lease,
        server: &Server,
        row: &TenantDatabaseRow,
        template: &TemplateRow,
    ) -> Result<Made> {
        let place = self.creations.place(&row.physical.server).await?;
        place.during(self.clone_in_place(lease, server, row, template)).await
    }

    /// Creates the roles while the database is cloned, and records the clone while it is adopted.
    async fn clone_in_place(
        &self,
        lease: &Lease,
        server: &Server,
        row: &TenantDatabaseRow,
        template: &TemplateRow,
    ) -> Result<Made> {
        let failed = |e| upstream(&row.physical.server, e);
        let making = databases::construction_name(self.core.store.installation(), row.physical.id);
        let origin = Origin::Template(database_name(&template.physical)?);
        let (roles, oid) = tokio::join!(
            self.placement.make_roles(server, &row.project, &row.physical),
            databases::clone(server, &making, origin)
        );
        roles?;
        let oid = oid.map_err(failed)?;
        fault::point("tenant.create.cloned");
        let logical = logical_name(row);
        let names = role_names(&row.physical);
        let inside = async {
            databases::open(server, &making, &names).await?;
            databases::adopt(server, &making, &names.owner).await
        };
        let (recorded, adopted) = tokio::join!(
            self.placement.record_clone(
                lease,
                (DatabaseKind::TenantDatabase, row.id.as_uuid()),
                &row.physical,
                &logical,
                oid
            ),
            inside
        );
        let wanted = recorded?;
        fault::point("tenant.create.recorded");
        adopted.map_err(failed)?;
        let present = making;
        let id = row.physical.id;
        Ok(Made { id, present, wanted })
    }

    /// The template of the requested version, of head, or of the last deployed version. Recording the choice in the
    /// tenant's row keeps the template from being retired. If the template has a spare, the first caller to record its
    /// choice gets it.
    async fn choose_template(&self, lease: &Lease, server: &Server, row: &TenantDatabaseRow) -> Result<Chosen> {
        let tx = self.core.store.jobs().await?;
        let workspace = workspaces::by_id(&tx, row.workspace).await?;
        let chosen = match row.template {
            Some(id) => templates::by_id(&tx, id).await?,
            None => None,
        };
        tx.rollback().await?;
        if let Some(template) = chosen {
            return Ok(Chosen::Template(Box::new(template)));
        }
        let workspace = workspace.ok_or_else(|| ControlError::not_found(EntryKind::Workspace, &row.blueprint))?;
        let info = ServerInfo {
            name: &row.physical.server,
            opaque_names: self.servers.names_are_opaque(&row.physical.server).await?,
        };
        for _ in 0..CHOICES_MAX {
            let version = self.version_for(row, &workspace).await?;
            let template = Box::pin(self.versions.template_of(&workspace, &row.physical.server, &version)).await;
            let template = template.map_err(|problem| problem.into_error(&row.blueprint))?;
            let spare = self.spare_of(server, row, version.number).await?;
            let tx = lease.begin().await?;
            if !tenants::choose_template(&tx, row.id, template.id, version.number).await? {
                tx.rollback().await?;
                continue;
            }
            let Some(spare) = spare else {
                tx.commit().await?;
                return Ok(Chosen::Template(Box::new(template)));
            };
            if let Some(made) = claim_spare(&tx, row, &spare, info).await? {
                tx.commit().await?;
                fault::point("tenant.create.claimed");
                return Ok(Chosen::Spare(made));
            }
            tx.rollback().await?;
        }
        Err(ControlError::busy(
            ProblemCode::HeadBusy,
            "the blueprint changes faster than a tenant can be created from it",
        ))
    }

    /// A spare that still exists as recorded. Rows of spares that do not exist are deleted. Called before the
    /// transaction that takes the spare: no transaction waits for a database server.
    async fn spare_of(&self, server: &Server, row: &TenantDatabaseRow, version: u32) -> Result<Option<TemplateRow>> {
        let name = &row.physical.server;
        loop {
            let spare = templates::any_spare(&self.core.store, row.workspace, name, version).await?;
            let Some(spare) = spare else { return Ok(None) };
            let present = database_name(&spare.physical)?;
            let found = databases::find(server, present).await;
            let found = found.map_err(|e| upstream(name, e))?;
            if found.map(|found| found.oid) == spare.physical.oid {
                return Ok(Some(spare));
            }
            tracing::warn!(server = %name, database = %present, "the database of a spare is missing; its row is deleted");
            let tx = self.core.store.jobs().await?;
            templates::forget(&tx, &spare).await?;
            tx.commit().await?;
        }
    }

    /// Checks, before anything is created, that there is a schema for the tenant: head, or a version that a tenant has.
    /// Waits as long as a creation does; after that the workers find out, and the tenant shows the reason. A missing or
    /// unfinished blueprint is reported when the tenant is recorded.
    pub(crate) async fn require_schema(
        &self,
        project: &ProjectId,
        blueprint: &BlueprintName,
        server: &ServerName,
    ) -> Result<()> {
        let tx = self.core.store.project(project).await?;
        let workspace = workspaces::by_name(&tx, project, blueprint).await?;
        let workspace = workspace.filter(|workspace| workspace.status == WorkspaceStatus::Ready);
        let deployed = match &workspace {
            Some(workspace) => versions::newest_deployed(&tx, workspace.id).await?,
            None => None,
        };
        tx.rollback().await?;
        let (Some(workspace), None) = (workspace, deployed) else {
            return Ok(());
        };
        let server = server.clone();
        self.core
            .run_for(self, workspace.id.as_uuid(), move |provisioning| async move {
                let problem = match Box::pin(provisioning.versions.of_head(&workspace, &server, SYSTEM)).await {
                    // A failure of the store or the server says nothing about head; the workers try again.
                    Ok(_) | Err(HeadProblem::Other(_)) => return Ok(()),
                    Err(HeadProblem::Unseen(error)) => match provisioning.versions.of_log(&workspace).await {
                        Ok(Some(_)) => return Ok(()),
                        Ok(None) => HeadProblem::Unseen(error),
                        Err(problem) => problem,
                    },
                    Err(problem) => problem,
                };
                Err(problem.into_error(&workspace.blueprint))
            })
            .await
    }

    /// Warnings for tenants that get head: objects of the workspace that no change accounts for, and that no tenant
    /// gets. If the comparison takes too long, the result of the last stored one counts. Nothing while the workspace is
    /// being changed.
    pub(crate) async fn uncaptured_warnings(&self, project: &ProjectId, databases: &[DatabaseRequest]) -> Vec<String> {
        let mut warnings = Vec::new();
        for database in databases.iter().filter(|database| database.version.is_none()) {
            match self.uncaptured_warning(project, &database.blueprint).await {
                Ok(warning) => warnings.extend(warning),
                Err(error) => {
                    tracing::warn!(blueprint = %database.blueprint, error = %error.explained(), "a workspace could not be compared");
                }
            }
        }
        warnings
    }

    async fn uncaptured_warning(&self, project: &ProjectId, blueprint: &BlueprintName) -> Result<Option<String>> {
        let tx = self.core.store.project(project).await?;
        let workspace = workspaces::by_name(&tx, project, blueprint).await?;
        let (stored, _) = drift::workspaces(&tx, project, Some(blueprint)).await?;
        tx.rollback().await?;
        let Some(workspace) = workspace.filter(|workspace| workspace.status == WorkspaceStatus::Ready) else {
            return Ok(None);
        };
        if self.deployed_version(&workspace).await?.is_some() {
            return Ok(None);
        }
        let compared = async {
            self.servers.require_answered(&workspace.physical.server)?;
            self.proofs.uncaptured(&workspace).await
        };
        let (when, differences) = match timeout(LOOK_TIME_MAX, compared).await {
            Ok(Ok(differences)) => ("", differences),
            Ok(Err(ControlError::Upstream { .. })) | Err(_) => {
                let known = stored.into_iter().flat_map(|row| row.differences).map(again);
                (", when it was last compared", known.collect())
            }
            Ok(Err(error)) => return Err(error),
        };
        let warning = || {
            let what = shown(&differences);
            format!(
                "the workspace \"{blueprint}\" has objects that no change accounts for, so tenants do not get them{when}: {what}"
            )
        };
        Ok((!differences.is_empty()).then(warning))
    }

    async fn version_for(&self, row: &TenantDatabaseRow, workspace: &WorkspaceRow) -> Result<VersionRow> {
        if let Some(number) = row.wanted_version {
            let tx = self.core.store.jobs().await?;
            let version = versions::by_number(&tx, workspace.id, number).await?;
            tx.rollback().await?;
            return version.ok_or_else(|| ControlError::not_found(EntryKind::Version, number));
        }
        if let Some(version) = self.deployed_version(workspace).await? {
            return Ok(version);
        }
        let problem = match Box::pin(self.versions.of_head(workspace, &row.physical.server, SYSTEM)).await {
            Ok(version) => return Ok(version),
            Err(HeadProblem::Unseen(error)) => match self.versions.of_log(workspace).await {
                Ok(Some(version)) => return self.unseen(row, version, &error).await,
                Ok(None) => return Err(error),
                Err(problem) => problem,
            },
            Err(problem) => problem,
        };
        let problem = match problem {
            HeadProblem::Other(error) => return Err(error),
            problem => problem.into_error(&row.blueprint),
        };
        let tx = self.core.store.jobs().await?;
        let version = versions::newest_deployed(&tx, workspace.id).await?;
        tx.rollback().await?;
        // Without a deployed version there is only version 1, the empty schema. A tenant never gets that instead of
        // head.
        let Some(version) = version else { return Err(problem) };
        let warning = format!(
            "tenant \"{}\" got version {} of \"{}\" instead of the current schema: {problem}",
            row.tenant, version.number, row.blueprint
        );
        self.warned(row, version, &warning).await
    }

    /// Notes that the workspace could not be looked at when the version was chosen.
    async fn unseen(&self, row: &TenantDatabaseRow, version: VersionRow, error: &ControlError) -> Result<VersionRow> {
        let warning = format!(
            "tenant \"{}\" got version {} of \"{}\", although the workspace could not be checked for newer changes: {error}",
            row.tenant, version.number, row.blueprint
        );
        self.warned(row, version, &warning).await
    }

    async fn warned(&self, row: &TenantDatabaseRow, version: VersionRow, warning: &str) -> Result<VersionRow> {
        tracing::warn!(%warning);
        let tx = self.core.store.jobs().await?;
        tenants::set_warning(&tx, row.id, warning).await?;
        tx.commit().await?;
        Ok(version)
    }

    /// The newest deployed version, if new tenants get deployed versions. `None` if they get head, or if no tenant
    /// exists.
    async fn deployed_version(&self, workspace: &WorkspaceRow) -> Result<Option<VersionRow>> {
        let tx = self.core.store.jobs().await?;
        let new_tenants = settings::of(&tx, workspace.id)
            .await?
            .map(|settings| settings.new_tenants);
        let version = match new_tenants {
            Some(NewTenants::Deployed) => versions::newest_deployed(&tx, workspace.id).await?,
            Some(NewTenants::Head) | None => None,
        };
        tx.rollback().await?;
        Ok(version)
    }

    async fn remove_database(&self, lease: &Lease, row: &TenantDatabaseRow) -> Result<()> {
        self.placement.unmake(&row.physical).await?;
        fault::point("tenant.delete.dropped");
        let tx = lease.begin().await?;
        tenants::delete_database(&tx, row.id).await?;
        tx.commit().await?;
        Ok(())
    }
}
