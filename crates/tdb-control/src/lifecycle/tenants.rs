//! Tenants: list, create, suspend, delete, restore. The creation of a database is in `provision`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tdb_contract::{Rights, Scope};
use tdb_engines::fault;
use tdb_engines::postgres::activity;
use tdb_names::{DatabaseId, DatabaseName, ProjectId, TenantName, UserName};
use tdb_problems::ProblemCode;
use tdb_store::tenants::{DatabaseStatus as Stored, FleetRow, NewDatabase, TenantRow, TenantStatus as StoredTenant};
use tdb_store::workspaces::WorkspaceStatus;
use tdb_store::{Tx, credentials, database_roles, deployments, events, tenants, versions, workspaces};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};
use crate::identity::{Identity, KeyScope};
use crate::leases::Subject;
use crate::lifecycle::closing::Closing;
use crate::lifecycle::place::{Placement, role_names};
use crate::lifecycle::provision::Provisioning;
use crate::lifecycle::servers::Servers;
use crate::model::{
    DatabaseRequest, DatabaseStatus, Deletion, IsolationLevel, NewTenant, Tenant, TenantDatabase, TenantRequest,
    TenantStatus,
};
use crate::page::Page;

/// What a repeated request needs to continue: see [`crate::idempotency`].
#[derive(Serialize, Deserialize)]
struct Receipt {
    databases: Vec<DatabaseId>,
    /// User and password, if the tenant is new.
    credential: Option<(UserName, String)>,
}

const ENVIRONMENT: &str = "production";
/// Workers close the databases of a deleted tenant if the request has not done so this long after the longest wait for
/// the proxies.
const CLOSE_LATE: Duration = Duration::from_secs(2);

/// Tenants: list, create, suspend, delete, restore.
#[derive(Clone)]
pub struct Tenants {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) placement: Placement,
    pub(crate) closing: Closing,
    pub(crate) provisioning: Provisioning,
    /// Notified when a tenant is restored that may have missed a deployment.
    pub(crate) returned: Arc<Notify>,
}

impl Tenants {
    /// The tenants of the project, by name, deleted ones that can be restored included. No database server is
    /// contacted.
    pub async fn list(&self, identity: &Identity, page: &Page<TenantName>) -> Result<Vec<Tenant>> {
        identity.require(KeyScope::Read)?;
        let tx = self.core.store.project(identity.project()).await?;
        let rows = tenants::list(&tx, identity.project(), page.after.as_ref(), page.limit.rows()).await?;
        let described = self.describe_tenants(&tx, identity.project(), rows).await?;
        tx.rollback().await?;
        Ok(described)
    }

    /// One tenant, as stored. No database server is contacted.
    pub async fn find(&self, identity: &Identity, name: &TenantName) -> Result<Tenant> {
        identity.require(KeyScope::Read)?;
        self.tenant_now(identity.project(), name).await
    }

    /// Creates a tenant with its databases and its credential, or adds databases to an existing tenant. Waits for them
    /// at most `creation_wait`.
    pub async fn create(&self, identity: &Identity, request: TenantRequest) -> Result<NewTenant> {
        identity.require(KeyScope::Write)?;
        if request.databases.is_empty() {
            let rule = "must name at least one blueprint".to_owned();
            return Err(ControlError::Invalid {
                field: "databases",
                rule,
            });
        }
        let project = identity.project();
        let (made, credential) = match identity.receipt::<Receipt>()? {
            Some(begun) => (begun.databases, begun.credential),
            None => self.intend_tenant(identity, &request).await?,
        };
        let (warnings, uncaptured) = tokio::join!(
            self.provisioning.finish_new(&made),
            self.provisioning.uncaptured_warnings(project, &request.databases)
        );
        let mut warnings = warnings?;
        warnings.extend(uncaptured);
        let mut tenant = self.tenant_now(project, &request.name).await?;
        if let Some((user, password)) = credential {
            for database in &mut tenant.databases {
                database.connection.user = user.clone();
                database.connection.password = Some(password.clone().into());
            }
        }
        Ok(NewTenant { tenant, warnings })
    }

    /// Records, in one transaction, everything that the workers need to create the tenant. Returns the databases and,
    /// if the tenant is new, its user and password.
    async fn intend_tenant(
        &self,
        identity: &Identity,
        request: &TenantRequest,
    ) -> Result<(Vec<DatabaseId>, Option<(UserName, String)>)> {
        let project = identity.project();
        let mut physicals = Vec::with_capacity(request.databases.len());
        for database in &request.databases {
            let server = self.servers.place_for(project, &database.blueprint).await?;
            if database.version.is_none() {
                self.provisioning
                    .require_schema(project, &database.blueprint, &server)
                    .await?;
            }
            physicals.push(self.placement.new_physical(server)?);
        }
        let tx = self.core.store.project(project).await?;
        let environment = request.environment.as_deref().unwrap_or(ENVIRONMENT);
        let credential = if tenants::insert(&tx, project, &request.name, environment).await? {
            let scope = Scope::Tenant(request.name.clone());
            let made = credentials::create(&tx, project, &scope, Rights::ReadWrite, None).await?;
            Some((made.row.user, made.password.expose_secret().to_owned()))
        } else {
            self.may_gain_databases(&tx, project, &request.name).await?;
            None
        };
        let mut made = Vec::with_capacity(physicals.len());
        for (database, physical) in request.databases.iter().zip(&physicals) {
            made.push(self.intend(&tx, project, &request.name, database, physical).await?);
        }
        events::tenant_changed(&tx, project, &request.name).await?;
        let receipt = Receipt {
            databases: made,
            credential,
        };
        identity.leave_receipt(&tx, &self.core.store, &receipt).await?;
        tx.commit().await?;
        fault::point("tenant.create.intended");
        Ok((receipt.databases, receipt.credential))
    }

    async fn may_gain_databases(&self, tx: &Tx, project: &ProjectId, name: &TenantName) -> Result<()> {
        let row = tenants::lock(tx, project, name).await?;
        match row.map(|row| row.status) {
            Some(StoredTenant::Ready | StoredTenant::Suspended) => Ok(()),
            Some(StoredTenant::Deleted) => {
                let detail =
                    format!("tenant \"{name}\" is deleted but keeps its name; restore it, or delete it permanently");
                let hint =
                    "Restore it with POST /tenants/{id}/restore, or free the name with DELETE /tenants/{id}?hard=true.";
                Err(ControlError::refused(ProblemCode::TenantDeleted, detail, hint))
            }
            Some(StoredTenant::Deleting) | None => {
                let detail = format!("tenant \"{name}\" is being deleted");
                Err(ControlError::refused(
                    ProblemCode::TenantDeleting,
                    detail,
                    "Try again in a moment.",
                ))
            }
        }
    }

    async fn intend(
        &self,
        tx: &Tx,
        project: &ProjectId,
        tenant: &TenantName,
        request: &DatabaseRequest,
        physical: &tdb_store::physical::Physical,
    ) -> Result<DatabaseId> {
        let workspace = workspaces::by_name_held(tx, project, &request.blueprint).await?;
        let workspace = workspace.ok_or_else(|| ControlError::not_found(EntryKind::Blueprint, &request.blueprint))?;
        if workspace.status != WorkspaceStatus::Ready {
            let detail = format!("workspace \"{}\" is {}", request.blueprint, workspace.status.as_str());
            return Err(ControlError::refused(
                ProblemCode::WorkspaceNotReady,
                detail,
                "Try again in a moment.",
            ));
        }
        if let Some(version) = request.version
            && versions::by_number(tx, workspace.id, version).await?.is_none()
        {
            let rule = format!(
                "is {version}, but blueprint \"{}\" has no such version",
                request.blueprint
            );
            return Err(ControlError::Invalid { field: "version", rule });
        }
        let id = DatabaseId::from_uuid(Uuid::new_v4());
        let database = NewDatabase {
            id,
            project,
            tenant,
            blueprint: &request.blueprint,
            workspace: workspace.id,
            wanted_version: request.version,
            physical,
        };
        if tenants::insert_database(tx, &database).await? {
            return Ok(id);
        }
        Err(ControlError::DatabaseExists {
            tenant: tenant.clone(),
            blueprint: request.blueprint.clone(),
        })
    }

    /// Deletes a tenant. Soft: refuses connections, keeps name and data. Hard: drops databases and roles, deletes the
    /// rows; the result is `None`, or the tenant if that takes longer and is continued in the background.
    pub async fn delete(&self, identity: &Identity, name: &TenantName, deletion: Deletion) -> Result<Option<Tenant>> {
        identity.require(KeyScope::Write)?;
        match deletion {
            Deletion::Soft => self.delete_softly(identity.project(), name).await.map(Some),
            Deletion::Hard => self.delete_for_good(identity.project(), name).await,
        }
    }

    async fn delete_softly(&self, project: &ProjectId, name: &TenantName) -> Result<Tenant> {
        let from = [StoredTenant::Ready, StoredTenant::Suspended];
        self.shut(project, name, &from, StoredTenant::Deleted).await?;
        // Beyond the proxies: the server itself then refuses a client that knows an upstream password. If it cannot be
        // reached now, the workers close the databases later.
        let fleet = self.fleet_of(project, name).await?;
        let existing = fleet.iter().filter(|row| row.database.status == Stored::Ready);
        let closed = existing.map(|row| self.finish_if_it_answers(row));
        for error in join_all(closed).await.into_iter().filter_map(Result::err) {
            tracing::warn!(error = %error.explained(), "a deleted tenant's database is not closed yet");
        }
        self.tenant_now(project, name).await
    }

    async fn delete_for_good(&self, project: &ProjectId, name: &TenantName) -> Result<Option<Tenant>> {
        let tx = self.core.store.project(project).await?;
        tenants::lock(&tx, project, name)
            .await?
            .ok_or_else(|| ControlError::not_found(EntryKind::Tenant, name))?;
        let from = [
            StoredTenant::Ready,
            StoredTenant::Suspended,
            StoredTenant::Deleted,
            StoredTenant::Deleting,
        ];
        tenants::change_status(&tx, project, name, &from, StoredTenant::Deleting).await?;
        tenants::set_deleting(&tx, project, name).await?;
        let fleet = tenants::of_tenant(&tx, project, name).await?;
        for row in &fleet {
            deployments::skip_database(&tx, row.database.id).await?;
            events::database_closed(&tx, project, name, row.database.id).await?;
        }
        credentials::revoke_of_tenant(&tx, project, name).await?;
        events::tenant_changed(&tx, project, name).await?;
        tx.commit().await?;
        fault::point("tenant.delete.intended");
        self.core.wait_for_proxies().await?;
        for row in &fleet {
            self.finish_if_it_answers(row).await?;
        }
        self.forget(project, name).await?;
        match self.tenant_now(project, name).await {
            Ok(tenant) => Ok(Some(tenant)),
            Err(ControlError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Does what is left on a database. If its server does not answer, returns within a few seconds, and workers do the rest
    /// later.
    async fn finish_if_it_answers(&self, row: &FleetRow) -> Result<()> {
        let (id, server) = (row.database.id, &row.database.physical.server);
        let finished = self.core.run_for(self, id.as_uuid(), move |tenants| async move {
            tenants.provisioning.finish(id).await
        });
        match self.servers.patiently(server, finished).await {
            Err(error) if self.servers.is_silent(server) => {
                tracing::warn!(database = %id, error = %error.explained(), "it continues in the background");
                Ok(())
            }
            done => done,
        }
    }

    /// Deletes the row of a tenant that has no databases left.
    pub(crate) async fn forget(&self, project: &ProjectId, name: &TenantName) -> Result<()> {
        let tx = self.core.store.project(project).await?;
        if tenants::of_tenant(&tx, project, name).await?.is_empty() {
            credentials::revoke_of_tenant(&tx, project, name).await?;
            tenants::delete(&tx, project, name).await?;
            events::tenant_changed(&tx, project, name).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Suspends a tenant: clients are refused. Returns when every proxy has closed the tenant's sessions.
    pub async fn suspend(&self, identity: &Identity, name: &TenantName) -> Result<Tenant> {
        identity.require(KeyScope::Write)?;
        self.shut(
            identity.project(),
            name,
            &[StoredTenant::Ready],
            StoredTenant::Suspended,
        )
        .await?;
        self.end_sessions(identity.project(), name).await?;
        self.tenant_now(identity.project(), name).await
    }

    /// Ends sessions that a client opened without a proxy, with a password that it had set. Those of deployments continue. A server
    /// that does not answer does not stop the suspension.
    async fn end_sessions(&self, project: &ProjectId, name: &TenantName) -> Result<()> {
        let fleet = self.fleet_of(project, name).await?;
        let existing = fleet.iter().filter(|row| row.database.status == Stored::Ready);
        join_all(existing.map(|row| self.end_sessions_in(row))).await;
        Ok(())
    }

    async fn end_sessions_in(&self, row: &FleetRow) {
        let physical = &row.database.physical;
        let names = role_names(physical);
        let ended = async {
            let server = self.servers.admin(&physical.server).await?;
            let ended = activity::end_sessions(&server, &[&names.owner, &names.readonly], None).await;
            ended.map_err(|e| upstream(&physical.server, e))
        };
        if let Err(error) = self.servers.patiently(&physical.server, ended).await {
            tracing::warn!(database = %row.database.id, error = %error.explained(), "could not end the sessions of a suspended tenant's roles");
        }
    }

    /// Resumes a suspended tenant.
    pub async fn resume(&self, identity: &Identity, name: &TenantName) -> Result<Tenant> {
        identity.require(KeyScope::Write)?;
        self.change(
            identity.project(),
            name,
            &[StoredTenant::Suspended],
            StoredTenant::Ready,
        )
        .await?;
        self.core.wait_for_proxies().await?;
        self.tenant_now(identity.project(), name).await
    }

    /// Undoes a soft deletion. The tenant then gets the deployments that it missed.
    pub async fn restore(&self, identity: &Identity, name: &TenantName) -> Result<Tenant> {
        identity.require(KeyScope::Write)?;
        let project = identity.project();
        let tx = self.core.store.project(project).await?;
        let row = tenants::by_name(&tx, project, name).await?;
        tx.rollback().await?;
        let row = row.ok_or_else(|| ControlError::not_found(EntryKind::Tenant, name))?;
        if row.status != StoredTenant::Deleted {
            let from = [StoredTenant::Deleted];
            return Err(wrong_state(name, row.status, &from, StoredTenant::Ready));
        }
        self.reopen(project, name).await?;
        self.returned.notify_one();
        self.core.wait_for_proxies().await?;
        self.tenant_now(project, name).await
    }

    /// Opens the databases. If a server does not answer, fails within a few seconds, and the tenant stays deleted.
    async fn reopen(&self, project: &ProjectId, name: &TenantName) -> Result<()> {
        let fleet = self.fleet_of(project, name).await?;
        let existing = fleet.iter().filter(|row| row.database.status == Stored::Ready);
        let (ids, servers): (Vec<_>, BTreeSet<_>) = existing
            .map(|row| (row.database.id, &row.database.physical.server))
            .unzip();
        let mut work = self.reopen_each(project, name, &ids).boxed();
        for server in servers {
            work = self.servers.patiently(server, work).boxed();
        }
        work.await
    }

    /// Opens the databases before the status changes, so that an admitted client finds its database. The leases are held
    /// until then: workers close the databases of a deleted tenant.
    async fn reopen_each(&self, project: &ProjectId, name: &TenantName, ids: &[DatabaseId]) -> Result<()> {
        let mut held = Vec::new();
        for id in ids {
            let lease = self.core.leases.take(Subject::Database(id.as_uuid())).await?;
            held.push((*id, lease));
        }
        let mut work = async {
            for (id, lease) in &held {
                self.closing.open_for_restore(lease, *id).await?;
            }
            self.change(project, name, &[StoredTenant::Deleted], StoredTenant::Ready)
                .await
        }
        .boxed();
        for (_, lease) in &held {
            work = lease.during(work);
        }
        work.await
    }

    /// Changes the status if it is one of `from`, and waits until the tenant's sessions are closed.
    async fn shut(
        &self,
        project: &ProjectId,
        name: &TenantName,
        from: &[StoredTenant],
        to: StoredTenant,
    ) -> Result<()> {
        self.change(project, name, from, to).await?;
        self.core.wait_for_proxies().await
    }

    async fn change(
        &self,
        project: &ProjectId,
        name: &TenantName,
        from: &[StoredTenant],
        to: StoredTenant,
    ) -> Result<()> {
        let tx = self.core.store.project(project).await?;
        let row = tenants::lock(&tx, project, name).await?;
        let row = row.ok_or_else(|| ControlError::not_found(EntryKind::Tenant, name))?;
        if !tenants::change_status(&tx, project, name, from, to).await? {
            return Err(wrong_state(name, row.status, from, to));
        }
        events::tenant_changed(&tx, project, name).await?;
        if to == StoredTenant::Deleted {
            // The caller closes the databases when the proxies have ended the sessions.
            let pause = self.core.settings.acknowledge_wait + CLOSE_LATE;
            tenants::defer(&tx, project, name, pause).await?;
        }
        if to != StoredTenant::Ready {
            for row in tenants::of_tenant(&tx, project, name).await? {
                events::database_closed(&tx, project, name, row.database.id).await?;
            }
        }
        tx.commit().await?;
        if to == StoredTenant::Deleted {
            fault::point("tenant.close.intended");
        }
        Ok(())
    }

    pub(crate) async fn fleet_of(&self, project: &ProjectId, name: &TenantName) -> Result<Vec<FleetRow>> {
        let tx = self.core.store.project(project).await?;
        let rows = tenants::of_tenant(&tx, project, name).await?;
        tx.rollback().await?;
        Ok(rows)
    }

    async fn tenant_now(&self, project: &ProjectId, name: &TenantName) -> Result<Tenant> {
        let tx = self.core.store.project(project).await?;
        let row = tenants::by_name(&tx, project, name).await?;
        let row = row.ok_or_else(|| ControlError::not_found(EntryKind::Tenant, name))?;
        let described = self.describe_tenants(&tx, project, vec![row]).await?.pop();
        tx.rollback().await?;
        described.ok_or_else(|| ControlError::not_found(EntryKind::Tenant, name))
    }

    async fn describe_tenants(&self, tx: &Tx, project: &ProjectId, rows: Vec<TenantRow>) -> Result<Vec<Tenant>> {
        let names: Vec<String> = rows.iter().map(|row| row.name.to_string()).collect();
        let users: HashMap<TenantName, UserName> = tenants::users(tx, project, &names).await?.into_iter().collect();
        let mut fleet: HashMap<TenantName, Vec<FleetRow>> = HashMap::new();
        for row in tenants::of_tenants(tx, project, &names).await? {
            fleet.entry(row.database.tenant.clone()).or_default().push(row);
        }
        let project_user = crate::lifecycle::credentials::project_user(tx, project).await?;
        let faults = database_roles::faults(tx, project).await?;
        let described = rows.into_iter().map(|row| {
            let databases = fleet.remove(&row.name).unwrap_or_default();
            Tenant {
                status: status(row.status, &databases),
                environment: row.environment,
                created_at: row.created_at,
                databases: databases
                    .iter()
                    .map(|d| {
                        let described = self.describe_database(d, users.get(&row.name).unwrap_or(&project_user));
                        let fault = faults.get(&d.database.id.as_uuid()).cloned();
                        TenantDatabase {
                            last_error: described.last_error.or(fault),
                            ..described
                        }
                    })
                    .collect(),
                name: row.name,
            }
        });
        Ok(described.collect())
    }

    fn describe_database(&self, row: &FleetRow, user: &UserName) -> TenantDatabase {
        let database = &row.database;
        let name = DatabaseName::Tenant {
            blueprint: database.blueprint.clone(),
            tenant: database.tenant.clone(),
        };
        TenantDatabase {
            blueprint: database.blueprint.clone(),
            status: match database.status {
                Stored::Provisioning if database.progress.attempts >= tenants::ATTEMPTS_SHOWN_AS_ERROR => {
                    DatabaseStatus::Error
                }
                Stored::Provisioning => DatabaseStatus::Provisioning,
                Stored::Ready => DatabaseStatus::Ready,
                Stored::Deleting => DatabaseStatus::Deleting,
            },
            isolation_level: IsolationLevel::Pooled,
            version: database.version,
            server: database.physical.server.clone(),
            connection: self.core.settings.proxy.connection(user.clone(), Some(name)),
            last_error: database.progress.last_error.clone(),
        }
    }
}

/// The status that the API shows: suspended and deleted first, then the state of the databases.
fn status(tenant: StoredTenant, databases: &[FleetRow]) -> TenantStatus {
    let any = |test: fn(&FleetRow) -> bool| databases.iter().any(test);
    match tenant {
        StoredTenant::Suspended => TenantStatus::Suspended,
        StoredTenant::Deleted | StoredTenant::Deleting => TenantStatus::Deleted,
        StoredTenant::Ready => {
            let waiting = |row: &FleetRow| row.database.status == Stored::Provisioning;
            if any(|row| {
                row.database.status == Stored::Provisioning
                    && row.database.progress.attempts >= tenants::ATTEMPTS_SHOWN_AS_ERROR
            }) {
                TenantStatus::Error
            } else if any(waiting) {
                TenantStatus::Provisioning
            } else if any(|row| row.migrating) {
                TenantStatus::Migrating
            } else {
                TenantStatus::Ready
            }
        }
    }
}

/// The error for a tenant that `is` in none of the states `from`.
fn wrong_state(name: &TenantName, is: StoredTenant, from: &[StoredTenant], wanted: StoredTenant) -> ControlError {
    if is == StoredTenant::Deleting {
        let but = match wanted {
            StoredTenant::Ready if !from.contains(&StoredTenant::Deleted) => "cannot be resumed",
            StoredTenant::Suspended => "cannot be suspended",
            StoredTenant::Ready | StoredTenant::Deleted | StoredTenant::Deleting => "cannot be restored",
        };
        return ControlError::being_deleted(name, but);
    }
    let (is, wanted) = (is.as_str(), wanted.as_str());
    let detail = if is == wanted {
        format!("tenant \"{name}\" is {is} already")
    } else {
        format!("tenant \"{name}\" is {is} and cannot become {wanted}")
    };
    ControlError::refused(ProblemCode::WrongState, detail, "")
}
