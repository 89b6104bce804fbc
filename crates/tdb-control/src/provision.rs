//! A tenant's database: made from a template, or removed. Steps that can be done again, found by uuid and oid.

use tdb_engines::databases::{self, Origin};
use tdb_engines::{Server, fault};
use tdb_names::{DatabaseId, DatabaseName};
use tdb_store::physical::Place;
use tdb_store::templates::TemplateRow;
use tdb_store::tenants::{DatabaseStatus, FleetRow, TenantDatabaseRow};
use tdb_store::versions::VersionRow;
use tdb_store::workspaces::WorkspaceRow;
use tdb_store::{events, templates, tenants, versions, workspaces};

use crate::control::Control;
use crate::error::{ControlError, Result, upstream};
use crate::place::{database_name, role_names};
use crate::versions::HeadProblem;
use crate::workspaces::SYSTEM;

/// A template that was retired while it was chosen is chosen anew.
const CHOICES_MAX: u32 = 5;

impl Control {
    /// Makes databases that were just intended, side by side. A step that failed is not the caller's error: the row says
    /// so and workers go on.
    pub(crate) async fn finish_new(&self, made: &[DatabaseId]) -> Result<Vec<String>> {
        let work = made.iter().map(|id| {
            let id = *id;
            self.run_for(
                id.as_uuid(),
                move |control| async move { control.finish_database(id).await },
            )
        });
        for done in futures_util::future::join_all(work).await {
            if let Err(error) = done {
                tracing::warn!(error = %error.explained(), "a tenant's database is not ready yet");
            }
        }
        let mut warnings = self
            .inner
            .warnings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(made.iter().filter_map(|id| warnings.remove(id)).collect())
    }

    /// Does what is left of a creation or deletion.
    pub(crate) async fn finish_database(&self, id: DatabaseId) -> Result<()> {
        let _alone = self.inner.busy.lock(id.as_uuid()).await;
        let tx = self.inner.store.jobs().await?;
        let row = tenants::database(&tx, id).await?;
        tx.rollback().await?;
        let Some(FleetRow { database, .. }) = row else {
            return Ok(());
        };
        let done = match database.status {
            DatabaseStatus::Ready => return Ok(()),
            DatabaseStatus::Provisioning => self.build_database(&database).await,
            DatabaseStatus::Deleting => self.remove_database(&database).await,
        };
        if let Err(error) = &done {
            self.record_failure(Place::TenantDatabases, id.as_uuid(), database.progress.attempts, error)
                .await;
        }
        done
    }

    async fn build_database(&self, row: &TenantDatabaseRow) -> Result<()> {
        let server = self.server(&row.physical.server).await?;
        let _turn = self.creation_turn(&row.physical.server).await?;
        let (id, failed) = (row.id.as_uuid(), |e| upstream(&row.physical.server, e));
        let names = role_names(&row.physical);
        let present = match self.present_name(&server, &row.physical, id).await? {
            Some(name) if row.physical.oid.is_some() => {
                self.make_roles(&server, &row.physical).await.map_err(failed)?;
                databases::open(&server, &name, &names).await.map_err(failed)?;
                databases::adopt(&server, &name, &names.owner).await.map_err(failed)?;
                name
            }
            _ => self.clone_for_tenant(&server, row).await?,
        };
        fault::point("tenant.create.adopted");
        let final_name = self.final_name(Place::TenantDatabases, id).await?;
        self.rename(&server, &present, &final_name, Place::TenantDatabases, id)
            .await?;
        fault::point("tenant.create.renamed");
        let tx = self.inner.store.jobs().await?;
        tenants::set_ready(&tx, row.id).await?;
        events::tenant_changed(&tx, &row.project, &row.tenant).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Roles beside the clone, and the record beside the adoption: neither waits for the other. Gives the name under
    /// which it is being made.
    async fn clone_for_tenant(&self, server: &Server, row: &TenantDatabaseRow) -> Result<String> {
        let (id, failed) = (row.id.as_uuid(), |e| upstream(&row.physical.server, e));
        let template = self.choose_template(row).await?;
        let making = databases::construction_name(self.inner.store.installation(), id);
        let origin = Origin::Template(database_name(&template.physical)?);
        let (roles, oid) = tokio::join!(
            self.make_roles(server, &row.physical),
            databases::clone(server, &making, origin)
        );
        roles.map_err(failed)?;
        let oid = oid.map_err(failed)?;
        fault::point("tenant.create.cloned");
        let logical = DatabaseName::Tenant {
            blueprint: row.blueprint.clone(),
            tenant: row.tenant.clone(),
        };
        let names = role_names(&row.physical);
        let inside = async {
            databases::open(server, &making, &names).await?;
            databases::adopt(server, &making, &names.owner).await
        };
        let (recorded, adopted) = tokio::join!(
            self.record_clone(Place::TenantDatabases, &row.physical, id, &logical, oid),
            inside
        );
        recorded?;
        fault::point("tenant.create.recorded");
        adopted.map_err(failed)?;
        Ok(making)
    }

    /// The template of the version that was asked for, of head, or of the last verified version; held against being
    /// retired by the row that names it.
    async fn choose_template(&self, row: &TenantDatabaseRow) -> Result<TemplateRow> {
        let tx = self.inner.store.jobs().await?;
        let workspace = workspaces::by_id(&tx, row.workspace).await?;
        let chosen = match row.template {
            Some(id) => templates::by_id(&tx, id).await?,
            None => None,
        };
        tx.rollback().await?;
        if let Some(template) = chosen {
            return Ok(template);
        }
        let workspace = workspace.ok_or_else(|| ControlError::not_found("workspace", &row.blueprint))?;
        for _ in 0..CHOICES_MAX {
            let version = self.version_for(row, &workspace).await?;
            let template = self.template_of(&workspace, &row.physical.server, &version).await;
            let template = template.map_err(|problem| problem.into_error(&row.blueprint))?;
            let tx = self.inner.store.jobs().await?;
            let taken = tenants::choose_template(&tx, row.id, template.id, version.number).await?;
            tx.commit().await?;
            if taken {
                return Ok(template);
            }
        }
        Err(ControlError::Unavailable {
            reason: "templates are retired faster than they are used".to_owned(),
        })
    }

    async fn version_for(&self, row: &TenantDatabaseRow, workspace: &WorkspaceRow) -> Result<VersionRow> {
        if let Some(number) = row.wanted_version {
            let tx = self.inner.store.jobs().await?;
            let version = versions::by_number(&tx, workspace.id, number).await?;
            tx.rollback().await?;
            return version.ok_or_else(|| ControlError::not_found("version", number));
        }
        let problem = match self.version_of_head(workspace, &row.physical.server, SYSTEM).await {
            Ok(version) => return Ok(version),
            Err(HeadProblem::Other(error)) => return Err(error),
            Err(problem) => problem.into_error(&row.blueprint),
        };
        let tx = self.inner.store.jobs().await?;
        let version = versions::newest_verified(&tx, workspace.id).await?;
        tx.rollback().await?;
        let Some(version) = version else { return Err(problem) };
        let warning = format!(
            "tenant \"{}\" got version {} of \"{}\" instead of the current schema: {problem}",
            row.tenant, version.number, row.blueprint
        );
        tracing::warn!(%warning);
        let mut warnings = self
            .inner
            .warnings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        warnings.insert(row.id, warning);
        Ok(version)
    }

    async fn remove_database(&self, row: &TenantDatabaseRow) -> Result<()> {
        self.unmake(&row.physical, row.id.as_uuid()).await?;
        fault::point("tenant.delete.dropped");
        let tx = self.inner.store.jobs().await?;
        tenants::delete_database(&tx, row.id).await?;
        tx.commit().await?;
        Ok(())
    }
}
