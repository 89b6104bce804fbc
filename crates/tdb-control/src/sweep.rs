//! The sweep: drops databases that no row refers to, and deletes rows whose database is gone or whose time is over.

use std::sync::Arc;
use std::time::Duration;

use tdb_engines::postgres::{databases, roles};
use tdb_names::ServerName;
use tdb_store::{database_roles, deployments, events, idempotency, physical, servers, sessions, templates};

use crate::core::{Core, limited};
use crate::error::{Result, upstream};
use crate::leases::Subject;
use crate::lifecycle::memberships::Memberships;
use crate::lifecycle::readers::ReadAccess;
use crate::lifecycle::repairs::Repairs;
use crate::lifecycle::servers::Servers;
use crate::schema::deployments::Deployments;
use crate::schema::stock::DEMAND;

/// Longer than any row stays in a journal.
const SESSIONS_KEPT_DAYS: i32 = 30;
const EVENTS_KEPT_DAYS: i32 = 7;
/// The time limit of one step on a server.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);

/// Removes databases, roles and rows that are no longer needed.
#[derive(Clone)]
pub(crate) struct Sweep {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) repairs: Repairs,
    pub(crate) read_access: ReadAccess,
    pub(crate) memberships: Memberships,
    pub(crate) deployments: Deployments,
}

impl Sweep {
    pub(crate) async fn run(&self) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        sessions::forget_old(&tx, SESSIONS_KEPT_DAYS).await?;
        events::forget_old(&tx, EVENTS_KEPT_DAYS).await?;
        idempotency::forget_old(&tx).await?;
        deployments::complete(&tx).await?;
        templates::retire_old(&tx).await?;
        templates::retire_surplus(&tx, &DEMAND).await?;
        database_roles::forget_gone(&tx).await?;
        let all = servers::names(&tx).await?;
        tx.commit().await?;
        for name in all {
            self.core.alone_in_background(
                self,
                Subject::Sweep(name.clone()),
                "sweep of a server",
                move |sweep, _| async move { sweep.sweep_server(&name).await },
            );
        }
        self.deployments.catch_up().await
    }

    /// A step that fails does not stop the others. What protects the databases from each other comes first.
    async fn sweep_server(&self, name: &ServerName) -> Result<()> {
        limited("disabled roles", STEP_TIME_MAX, self.drop_disabled_roles(name)).await;
        limited("roles of databases", STEP_TIME_MAX, self.repairs.repair_roles_on(name)).await;
        limited("shared roles", STEP_TIME_MAX, self.memberships.converge_on(name)).await;
        limited("rights of readers", STEP_TIME_MAX, self.read_access.restore_on(name)).await;
        self.sweep_databases(name).await
    }

    async fn drop_disabled_roles(&self, name: &ServerName) -> Result<()> {
        let server = self.servers.admin(name).await?;
        for role in roles::drop_disabled(&server).await.map_err(|e| upstream(name, e))? {
            tracing::info!(server = %name, role, "a disabled role is dropped");
        }
        Ok(())
    }

    async fn sweep_databases(&self, name: &ServerName) -> Result<()> {
        // Read before the list of databases: what is recorded as created was there. A row that changes afterwards is
        // not touched.
        let tx = self.core.store.jobs().await?;
        let recorded = templates::made_on(&tx, name).await?;
        tx.rollback().await?;
        let server = self.servers.admin(name).await?;
        let found = databases::constructed(&server, self.core.store.installation()).await;
        let found = found.map_err(|e| upstream(name, e))?;
        // Read after the list of databases: a row is committed before its database is created, so a database without a
        // row belongs to no one.
        let tx = self.core.store.jobs().await?;
        let gone = |row: &&templates::TemplateRow| !found.iter().any(|found| Some(found.oid) == row.physical.oid);
        for row in recorded.iter().filter(gone) {
            if templates::forget(&tx, row).await? {
                tracing::warn!(server = %name, id = %row.id, status = %row.status.as_str(), "the database of a template is missing; its row is deleted");
            }
        }
        let recorded = physical::recorded(&tx, name).await?;
        tx.commit().await?;
        for orphan in found.iter().filter(|found| !recorded.has(found.id, found.oid)) {
            tracing::warn!(server = %name, database = %orphan.name, "a database that no row refers to is dropped");
            if let Err(error) = databases::drop(&server, &orphan.name).await {
                tracing::warn!(server = %name, database = %orphan.name, %error, "the database could not be dropped; it will be retried");
            }
        }
        Ok(())
    }
}
