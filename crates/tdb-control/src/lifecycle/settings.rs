//! Settings of a workspace. They are stored at once and applied to the tenants' databases one by one. A database that
//! cannot be reached is tried again; until then the settings list it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tdb_engines::fault;
use tdb_engines::postgres::tenant_side;
use tdb_names::{BlueprintName, DatabaseId, ServerName, WorkspaceId};
use tdb_problems::ProblemCode;
use tdb_store::settings::{self, NewTenants as StoredNew, TenantDdl as StoredDdl};
use tdb_store::tenants::TenantDatabaseRow;
use tdb_store::workspaces::WorkspaceRow;
use tokio::time::timeout;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};
use crate::identity::{Identity, KeyScope};
use crate::leases::Subject;
use crate::lifecycle::place::{database_name, pause_after};
use crate::lifecycle::servers::Servers;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::{NewTenants, SettingsChange, TenantDdl, WaitingTenant, WorkspaceSettings};

/// A claim expires this long after it was taken. Applying a setting takes at most `WORK_TIME_MAX`.
const LEASE: Duration = Duration::from_secs(15);
const WORK_TIME_MAX: Duration = Duration::from_secs(12);
/// The number of databases that one round takes per server.
const DUE_MAX: i64 = 500;
/// The number of tenants that an answer lists.
const NAMED_MAX: i64 = 100;

/// The settings of workspaces, and their application to tenants' databases.
#[derive(Clone)]
pub struct Settings {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) workspaces: Workspaces,
}

impl Settings {
    /// The settings, and which tenants do not have them yet.
    pub async fn find(&self, identity: &Identity, blueprint: &BlueprintName) -> Result<WorkspaceSettings> {
        identity.require(KeyScope::Read)?;
        let row = self.workspaces.row(identity, blueprint).await?;
        self.settings_now(&row).await
    }

    /// Changes the settings that are given and applies them to the tenants, for which it waits as long as for a
    /// creation.
    pub async fn change(
        &self,
        identity: &Identity,
        blueprint: &BlueprintName,
        change: SettingsChange,
    ) -> Result<WorkspaceSettings> {
        identity.require(KeyScope::Write)?;
        let row = self.workspaces.row(identity, blueprint).await?;
        let tx = self.core.store.project(identity.project()).await?;
        let (ddl, new) = (change.tenant_ddl.map(stored_ddl), change.new_tenants.map(stored_new));
        settings::change(&tx, row.id, ddl, new).await?;
        tx.commit().await?;
        fault::point("settings.changed");
        let id = row.id;
        self.core
            .run_for(self, id.as_uuid(), move |settings| async move {
                settings.guard_tenants_of(id).await
            })
            .await?;
        self.settings_now(&row).await
    }

    async fn settings_now(&self, row: &WorkspaceRow) -> Result<WorkspaceSettings> {
        let tx = self.core.store.project(&row.project).await?;
        let found = settings::of(&tx, row.id).await?;
        let (counts, waiting) = settings::waiting(&tx, row.id, NAMED_MAX).await?;
        tx.rollback().await?;
        let found = found.ok_or_else(|| ControlError::not_found(EntryKind::Workspace, &row.blueprint))?;
        let waiting = waiting.into_iter().map(|tenant| WaitingTenant {
            tenant: tenant.tenant,
            attempts: tenant.attempts,
            error: tenant.error,
        });
        Ok(WorkspaceSettings {
            blueprint: row.blueprint.clone(),
            tenant_ddl: match found.tenant_ddl {
                StoredDdl::Allow => TenantDdl::Allow,
                StoredDdl::Deny => TenantDdl::Deny,
            },
            new_tenants: match found.new_tenants {
                StoredNew::Head => NewTenants::Head,
                StoredNew::Deployed => NewTenants::Deployed,
            },
            tenants: counts.tenants,
            waiting_tenants: counts.waiting,
            waiting: waiting.collect(),
        })
    }

    /// Applies `tenant_ddl` to the databases of a workspace that lack it. Servers are handled in parallel.
    async fn guard_tenants_of(&self, workspace: WorkspaceId) -> Result<()> {
        let due = self.tenants_due(Some(workspace)).await?;
        let work = due.into_values().map(|ids| self.guard_each(ids));
        futures_util::future::join_all(work).await.into_iter().collect()
    }

    /// Applies `tenant_ddl` to all databases that lack it, in one task per server.
    pub(crate) async fn guard_due_tenants(&self) -> Result<()> {
        for (server, ids) in self.tenants_due(None).await? {
            self.core.alone_in_background(
                self,
                Subject::Settings(server),
                "settings of tenants",
                move |settings, _| async move { settings.guard_each(ids).await },
            );
        }
        Ok(())
    }

    async fn tenants_due(&self, workspace: Option<WorkspaceId>) -> Result<HashMap<ServerName, Vec<DatabaseId>>> {
        let tx = self.core.store.jobs().await?;
        let due = settings::due(&tx, workspace, DUE_MAX).await?;
        tx.rollback().await?;
        let mut of_server: HashMap<ServerName, Vec<DatabaseId>> = HashMap::new();
        for (server, id) in due {
            of_server.entry(server).or_default().push(id);
        }
        Ok(of_server)
    }

    async fn guard_each(&self, due: Vec<DatabaseId>) -> Result<()> {
        let width = self.core.settings.deployments_per_server.get();
        let work = futures_util::stream::iter(due).map(|id| async move { self.guard_one(id).await });
        let mut done = work.buffer_unordered(width);
        while let Some(one) = done.next().await {
            // The failure of a server is recorded in the row; only an error of the store stops the others.
            one?;
        }
        Ok(())
    }

    /// Applies `tenant_ddl` to one database. An error of its server is recorded, and the result is `Ok`.
    async fn guard_one(&self, id: DatabaseId) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let claimed = settings::claim(&tx, id, LEASE).await?;
        tx.commit().await?;
        let Some(claimed) = claimed else { return Ok(()) };
        fault::point("settings.claimed");
        let work = async {
            let server = self.servers.admin(&claimed.physical.server).await?;
            let name = database_name(&claimed.physical)?;
            let set = tenant_side::set_ddl(&server, name, engine_ddl(claimed.wanted)).await;
            set.map_err(|e| upstream(&claimed.physical.server, e))
        };
        let work = self.servers.patiently(&claimed.physical.server, work);
        let worked = timeout(WORK_TIME_MAX, work).await.unwrap_or_else(|_| {
            Err(ControlError::Upstream {
                code: ProblemCode::DatabaseTimedOut,
                server: claimed.physical.server.to_string(),
                reason: format!("no answer within {WORK_TIME_MAX:?}"),
            })
        });
        let tx = self.core.store.jobs().await?;
        match worked {
            Ok(()) => settings::record_claimed(&tx, id, &claimed).await?,
            Err(error) => {
                tracing::warn!(database = %id, error = %error.explained(), "tenant_ddl could not be applied to a tenant; it will be retried");
                settings::record_failure(&tx, id, &error.to_string(), pause_after(claimed.attempts)).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// Applies `tenant_ddl` to a database that no client can connect to; `present` is its current name.
    pub(crate) async fn guard_before_use(&self, row: &TenantDatabaseRow, present: &str) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let lacking = settings::lacking(&tx, row.id).await?;
        tx.rollback().await?;
        let Some(wanted) = lacking else { return Ok(()) };
        let server = self.servers.admin(&row.physical.server).await?;
        let set = tenant_side::set_ddl(&server, present, engine_ddl(wanted)).await;
        set.map_err(|e| upstream(&row.physical.server, e))?;
        let tx = self.core.store.jobs().await?;
        settings::record(&tx, row.id, wanted).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn engine_ddl(ddl: StoredDdl) -> tenant_side::TenantDdl {
    match ddl {
        StoredDdl::Allow => tenant_side::TenantDdl::Allow,
        StoredDdl::Deny => tenant_side::TenantDdl::Deny,
    }
}

fn stored_ddl(ddl: TenantDdl) -> StoredDdl {
    match ddl {
        TenantDdl::Allow => StoredDdl::Allow,
        TenantDdl::Deny => StoredDdl::Deny,
    }
}

fn stored_new(new: NewTenants) -> StoredNew {
    match new {
        NewTenants::Head => StoredNew::Head,
        NewTenants::Deployed => StoredNew::Deployed,
    }
}
