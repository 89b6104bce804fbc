//! Workspaces: create, show, delete. Creation and deletion are recorded first and carried out afterwards; a worker that
//! finds the row unfinished repeats the steps.

use std::sync::Arc;

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tdb_contract::{Rights, Scope};
use tdb_engines::fault;
use tdb_engines::postgres::databases::{self, Origin};
use tdb_engines::postgres::{fingerprint, journal, schema};
use tdb_names::{BlueprintName, DatabaseName, ProjectId, UserName, WorkspaceId};
use tdb_problems::ProblemCode;
use tdb_store::physical::{DatabaseKind, Physical, Step};
use tdb_store::workspaces::{WorkspaceRow, WorkspaceStatus as Stored};
use tdb_store::{StoreError, Tx, credentials, database_roles, events, templates, tenants, versions, workspaces};
use uuid::Uuid;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};
use crate::identity::{Identity, KeyScope};
use crate::leases::{Lease, Subject};
use crate::lifecycle::credentials::project_user;
use crate::lifecycle::place::{Placement, database_name, role_names};
use crate::lifecycle::readers::ReadAccess;
use crate::lifecycle::servers::Servers;
use crate::model::{NewWorkspace, Schema, SchemaColumn, SchemaObject, Table, Workspace, WorkspaceStatus};
use crate::page::Page;
use crate::schema::drain::Drains;
use crate::schema::head::content_hash;
use crate::schema::templates::Templates;

/// What a repeated request needs to continue: see [`crate::idempotency`].
#[derive(Serialize, Deserialize)]
struct Receipt {
    id: WorkspaceId,
    user: UserName,
    password: String,
}

/// The author of versions and deployments that no user requested.
pub(crate) const SYSTEM: &str = "system";
/// How often a deletion looks for builds again because one started after it looked.
const BEGUN_MEANWHILE_MAX: u32 = 5;

/// Workspaces: create, show, delete.
#[derive(Clone)]
pub struct Workspaces {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) placement: Placement,
    pub(crate) templates: Templates,
    pub(crate) drains: Drains,
    pub(crate) read_access: ReadAccess,
}

impl Workspaces {
    /// The workspaces of the project, by name, as stored. No database server is contacted.
    pub async fn list(&self, identity: &Identity, page: &Page<BlueprintName>) -> Result<Vec<Workspace>> {
        identity.require(KeyScope::Read)?;
        let tx = self.core.store.project(identity.project()).await?;
        let rows = workspaces::list(&tx, identity.project(), page.after.as_ref(), page.limit.rows()).await?;
        let described = self.describe_all(&tx, identity.project(), rows).await?;
        tx.rollback().await?;
        Ok(described)
    }

    /// Creates the workspace and its blueprint with version 1, the empty schema. Waits for it at most `creation_wait`.
    pub async fn create(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<NewWorkspace> {
        identity.require(KeyScope::Write)?;
        let begun = match identity.receipt::<Receipt>()? {
            Some(begun) => begun,
            None => self.intend(identity, blueprint).await?,
        };
        let id = begun.id;
        let finish = move |workspaces: Self| async move { workspaces.finish(id).await };
        if let Err(error) = self.core.run_for(self, id.as_uuid(), finish).await {
            // Not an error: the row has the reason, the workers continue, and the password is returned only here.
            tracing::warn!(workspace = %id, error = %error.explained(), "a workspace is not ready yet");
        }
        let row = self.row(identity, blueprint).await?;
        let workspace = self.describe(&row).await?;
        let database = DatabaseName::Workspace(blueprint.clone());
        let mut connection = self.core.settings.proxy.connection(begun.user, Some(database));
        connection.password = Some(begun.password.into());
        Ok(NewWorkspace { workspace, connection })
    }

    /// Records, in one transaction, everything that the workers need to create the workspace.
    async fn intend(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<Receipt> {
        let project = identity.project();
        let id = WorkspaceId::from_uuid(Uuid::new_v4());
        let physical = self
            .placement
            .new_physical(self.servers.place_for(project, blueprint).await?)?;
        let tx = self.core.store.project(project).await?;
        if !workspaces::insert(&tx, id, project, blueprint, &physical).await? {
            return Err(ControlError::Exists {
                what: EntryKind::Workspace,
                name: blueprint.to_string(),
                hint: None,
            });
        }
        let scope = Scope::Workspace(blueprint.clone());
        let credential = credentials::create(&tx, project, &scope, Rights::ReadWrite, None).await?;
        let receipt = Receipt {
            id,
            user: credential.row.user,
            password: credential.password.expose_secret().to_owned(),
        };
        identity.leave_receipt(&tx, &self.core.store, &receipt).await?;
        tx.commit().await?;
        fault::point("workspace.create.intended");
        Ok(receipt)
    }

    /// One workspace with its schema. Drains its journal first. If its server is not available, shows what is stored, with
    /// the reason.
    pub async fn find(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<Workspace> {
        identity.require(KeyScope::Read)?;
        let row = self.row(identity, blueprint).await?;
        let not_drained = self.drains.drain_if_possible(&row).await;
        let mut workspace = self.describe(&row).await?;
        (workspace.schema, workspace.server_error) = self.schema_if_possible(&row).await?;
        workspace.server_error = not_drained.or(workspace.server_error);
        Ok(workspace)
    }

    /// The schema of the workspace, as it is in its database now.
    pub async fn schema(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<Schema> {
        identity.require(KeyScope::Read)?;
        let row = self.ready(identity, blueprint).await?;
        self.schema_of(&row.physical).await
    }

    /// Deletes a workspace. 409 while a tenant database exists; those of deleted tenants that can be restored count.
    pub async fn delete(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<()> {
        identity.require(KeyScope::Write)?;
        let row = self.row(identity, blueprint).await?;
        // Changes that were reported to developers as captured stay in the log until the log itself is deleted.
        self.drains.drain_if_possible(&row).await;
        let tx = self.core.store.project(identity.project()).await?;
        workspaces::lock_for_deletion(&tx, row.id).await?;
        let fleet = tenants::of_blueprint(&tx, identity.project(), blueprint).await?;
        if let Some(first) = fleet.first() {
            let detail = format!(
                "workspace \"{blueprint}\" has {}, \"{}\" among them",
                counted(fleet.len(), "tenant database"),
                first.database.tenant
            );
            let hint = "First delete its tenants permanently (DELETE /tenants/{id}?hard=true); a deleted tenant that can be restored still counts.";
            return Err(ControlError::refused(ProblemCode::WorkspaceHasTenants, detail, hint));
        }
        let from = [Stored::Ready, Stored::Provisioning];
        workspaces::change_status(&tx, row.id, &from, Stored::Deleting, Step::Deleting).await?;
        credentials::revoke_of_workspace(&tx, identity.project(), blueprint).await?;
        events::workspace_closed(&tx, identity.project(), blueprint, row.id).await?;
        tx.commit().await?;
        fault::point("workspace.delete.intended");
        self.core.wait_for_proxies().await?;
        let (id, server) = (row.id, &row.physical.server);
        let finished = self.core.run_for(self, id.as_uuid(), move |workspaces| async move {
            workspaces.finish(id).await
        });
        match self.servers.patiently(server, finished).await {
            Err(error) if self.servers.is_silent(server) => {
                tracing::warn!(workspace = %id, error = %error.explained(), "it continues in the background");
                Ok(())
            }
            done => done,
        }
    }

    /// Does what is left of a creation or deletion.
    pub(crate) async fn finish(&self, id: WorkspaceId) -> Result<()> {
        let lease = self.core.leases.take(Subject::Database(id.as_uuid())).await?;
        self.finish_under(&lease, id).await
    }

    pub(crate) async fn finish_under(&self, lease: &Lease, id: WorkspaceId) -> Result<()> {
        lease.during(self.finish_alone(lease, id)).await
    }

    async fn finish_alone(&self, lease: &Lease, id: WorkspaceId) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = workspaces::by_id(&tx, id).await?;
        tx.rollback().await?;
        let Some(row) = row else { return Ok(()) };
        let done = match row.status {
            Stored::Ready => return Ok(()),
            Stored::Provisioning => Box::pin(self.build(lease, &row)).await,
            Stored::Deleting => Box::pin(self.remove(lease, &row)).await,
        };
        if let Err(error) = &done {
            self.placement
                .record_failure(DatabaseKind::Workspace, id.as_uuid(), row.progress.attempts, error)
                .await;
        }
        done
    }

    async fn build(&self, lease: &Lease, row: &WorkspaceRow) -> Result<()> {
        let server = self.servers.admin(&row.physical.server).await?;
        let (id, failed) = (row.physical.id, |e| upstream(&row.physical.server, e));
        self.placement.make_roles(&server, &row.project, &row.physical).await?;
        fault::point("workspace.create.roles");
        let present = match self.placement.present_name(&server, &row.physical).await? {
            Some(name) if row.physical.oid.is_some() => name,
            _ => self.clone_base(lease, row).await?,
        };
        let names = role_names(&row.physical);
        databases::open(&server, &present, &names).await.map_err(failed)?;
        databases::adopt(&server, &present, &names.owner)
            .await
            .map_err(failed)?;
        fault::point("workspace.create.adopted");
        journal::install(&server, &present, &names.owner)
            .await
            .map_err(failed)?;
        fault::point("workspace.create.journaled");
        // Before a client creates tables.
        self.read_access.admit_before_use(row.id.as_uuid(), &present).await?;
        let final_name = self.placement.final_name(id).await?;
        self.placement.rename(lease, &server, &present, &final_name, id).await?;
        fault::point("workspace.create.renamed");
        // The empty schema on this server, for comparisons. The session stays open and serves the first drain.
        let final_name = self.placement.final_name(id).await?;
        let empty = fingerprint::take(&server, &final_name, &names.owner)
            .await
            .map_err(failed)?;
        let pg_major = self.servers.pg_major(&server).await?;
        let tx = lease.begin().await?;
        let version = versions::NewVersion {
            change_ids: &[],
            content_hash: &content_hash(&[]),
            author: SYSTEM,
            statements: 0,
            verified: true,
            reason: None,
        };
        let first = versions::insert(&tx, &row.project, row.id, &version).await?;
        let facts = versions::FactsRow {
            hash: empty.hash,
            facts: empty.facts,
        };
        versions::store_facts(&tx, &row.project, row.id, first.number, pg_major, &facts).await?;
        workspaces::change_status(&tx, row.id, &[Stored::Provisioning], Stored::Ready, Step::Ready).await?;
        events::workspace_changed(&tx, &row.project, &row.blueprint).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Clones the base database and returns its construction name.
    async fn clone_base(&self, lease: &Lease, row: &WorkspaceRow) -> Result<String> {
        let server = self.servers.admin(&row.physical.server).await?;
        let making = databases::construction_name(self.core.store.installation(), row.physical.id);
        let cloned = databases::clone(&server, &making, Origin::Base).await;
        let oid = cloned.map_err(|e| upstream(&row.physical.server, e))?;
        fault::point("workspace.create.cloned");
        let logical = DatabaseName::Workspace(row.blueprint.clone());
        self.placement
            .record_clone(
                lease,
                (DatabaseKind::Workspace, row.id.as_uuid()),
                &row.physical,
                &logical,
                oid,
            )
            .await?;
        fault::point("workspace.create.recorded");
        Ok(making)
    }

    async fn remove(&self, lease: &Lease, row: &WorkspaceRow) -> Result<()> {
        self.placement.unmake(&row.physical).await?;
        fault::point("workspace.delete.dropped");
        let mut begun_meanwhile = 0;
        loop {
            Box::pin(self.remove_templates(row)).await?;
            fault::point("workspace.delete.templates");
            let tx = lease.begin().await?;
            match workspaces::delete(&tx, row.id).await {
                // A build or a spare started after the templates were removed: remove them again.
                Err(StoreError::Conflict { .. }) if begun_meanwhile < BEGUN_MEANWHILE_MAX => {
                    begun_meanwhile += 1;
                    tx.rollback().await?;
                }
                deleted => {
                    deleted?;
                    tx.commit().await?;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for a build or a spare that is being created on the workspace's server, even if it has no row yet.
    async fn remove_templates(&self, row: &WorkspaceRow) -> Result<()> {
        let home = Subject::Builds(row.id, row.physical.server.clone());
        drop(self.core.leases.take(home).await?);
        let tx = self.core.store.jobs().await?;
        let rows = templates::of_workspace(&tx, row.id).await?;
        tx.rollback().await?;
        for template in &rows {
            let builds = Subject::Builds(row.id, template.physical.server.clone());
            let lease = self.core.leases.take(builds).await?;
            lease.during(self.templates.remove(template)).await?;
        }
        Ok(())
    }

    pub(crate) async fn row(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<WorkspaceRow> {
        let tx = self.core.store.project(identity.project()).await?;
        let row = workspaces::by_name(&tx, identity.project(), blueprint).await?;
        tx.rollback().await?;
        row.ok_or_else(|| ControlError::not_found(EntryKind::Workspace, blueprint))
    }

    /// The workspace, with its journal drained. 409 while it is being created or deleted.
    pub(crate) async fn ready(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<WorkspaceRow> {
        let row = self.ready_as_stored(identity, blueprint).await?;
        self.drains.drain_row(&row).await?;
        Ok(row)
    }

    /// The workspace, without contacting its server. 409 while it is being created or deleted.
    pub(crate) async fn ready_as_stored(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<WorkspaceRow> {
        let row = self.row(identity, blueprint).await?;
        if row.status != Stored::Ready {
            let detail = format!("workspace \"{blueprint}\" is {}", row.status.as_str());
            return Err(ControlError::refused(
                ProblemCode::WorkspaceNotReady,
                detail,
                "Try again in a moment.",
            ));
        }
        Ok(row)
    }

    async fn describe(&self, row: &WorkspaceRow) -> Result<Workspace> {
        let tx = self.core.store.project(&row.project).await?;
        let described = self.describe_all(&tx, &row.project, vec![row.clone()]).await?.pop();
        tx.rollback().await?;
        described.ok_or_else(|| ControlError::not_found(EntryKind::Workspace, &row.blueprint))
    }

    async fn describe_all(&self, tx: &Tx, project: &ProjectId, rows: Vec<WorkspaceRow>) -> Result<Vec<Workspace>> {
        let ids: Vec<WorkspaceId> = rows.iter().map(|row| row.id).collect();
        let mut summaries = workspaces::summaries(tx, &ids).await?;
        let otherwise = project_user(tx, project).await?;
        let mut faults = database_roles::faults(tx, project).await?;
        let described = rows.into_iter().filter_map(|row| {
            // A workspace that was deleted meanwhile is left out.
            let summary = summaries.remove(&row.id)?;
            let user = summary.user.unwrap_or_else(|| otherwise.clone());
            let fault = faults.remove(&row.id.as_uuid());
            let database = DatabaseName::Workspace(row.blueprint.clone());
            Some(Workspace {
                id: row.id,
                blueprint: row.blueprint,
                status: match row.status {
                    Stored::Provisioning => WorkspaceStatus::Provisioning,
                    Stored::Ready => WorkspaceStatus::Ready,
                    Stored::Deleting => WorkspaceStatus::Deleting,
                },
                version: summary.version,
                created_at: row.created_at,
                drained_at: row.drained_at,
                undeployed_changes: summary.undeployed,
                schema: None,
                server_error: None,
                connection: self.core.settings.proxy.connection(user, Some(database)),
                last_error: row.progress.last_error.or(fault),
            })
        });
        Ok(described.collect())
    }

    /// The schema of a workspace that is ready, or why its server could not be queried.
    pub(crate) async fn schema_if_possible(&self, row: &WorkspaceRow) -> Result<(Option<Schema>, Option<String>)> {
        if row.status != Stored::Ready {
            return Ok((None, None));
        }
        match self.schema_of(&row.physical).await {
            Ok(schema) => Ok((Some(schema), None)),
            Err(error @ ControlError::Upstream { .. }) => Ok((None, Some(error.to_string()))),
            Err(error) => Err(error),
        }
    }

    async fn schema_of(&self, physical: &Physical) -> Result<Schema> {
        let server = self.servers.admin(&physical.server).await?;
        let database = database_name(physical)?;
        let described = async {
            let tables = schema::describe(&server, database).await;
            tables.map_err(|e| upstream(&physical.server, e))
        };
        let tables = self.servers.patiently(&physical.server, described).await?;
        Ok(Schema {
            tables: tables.into_iter().map(table).collect(),
        })
    }
}

fn table(table: schema::Table) -> Table {
    let object = |object: schema::Object| SchemaObject {
        name: object.name,
        definition: object.definition,
    };
    let column = |column: schema::Column| SchemaColumn {
        name: column.name,
        type_name: column.type_name,
        nullable: column.nullable,
        default: column.default,
    };
    Table {
        name: table.name,
        columns: table.columns.into_iter().map(column).collect(),
        indexes: table.indexes.into_iter().map(object).collect(),
        constraints: table.constraints.into_iter().map(object).collect(),
    }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
