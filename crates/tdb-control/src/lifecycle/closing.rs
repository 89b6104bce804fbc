//! The databases of soft-deleted tenants refuse connections, so that a client that has a role's password is refused
//! too. Closing and opening is a step of a database's row: it is done under the database's lease, and workers complete it.

use std::sync::Arc;

use tdb_engines::fault;
use tdb_engines::postgres::databases;
use tdb_names::DatabaseId;
use tdb_store::tenants::{self, DatabaseAccess, DatabaseStatus, FleetRow, TenantDatabaseRow, TenantStatus};

use crate::core::Core;
use crate::error::{Result, upstream};
use crate::leases::Lease;
use crate::lifecycle::place::database_name;
use crate::lifecycle::readers::ReadAccess;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::settings::Settings;

/// Closes and opens tenants' databases.
#[derive(Clone)]
pub(crate) struct Closing {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) read_access: ReadAccess,
    pub(crate) settings: Settings,
}

impl Closing {
    /// Closes or opens a database that exists, if its tenant's status requires it.
    pub(crate) async fn finish(&self, lease: &Lease, row: &FleetRow) -> Result<()> {
        let database = &row.database;
        match (row.tenant_status, database.access) {
            (TenantStatus::Deleted, DatabaseAccess::Closed)
            | (TenantStatus::Ready | TenantStatus::Suspended, DatabaseAccess::Open)
            | (TenantStatus::Deleting, _) => Ok(()),
            (TenantStatus::Deleted, _) => self.close(lease, database).await,
            (TenantStatus::Ready | TenantStatus::Suspended, _) => self.open(lease, database).await,
        }
    }

    /// Opens a database of a tenant that is being restored. If the tenant stays deleted, workers close it again. Nothing
    /// is done if the database is being created or dropped.
    pub(crate) async fn open_for_restore(&self, lease: &Lease, id: DatabaseId) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = tenants::database(&tx, id).await?;
        tx.rollback().await?;
        match row {
            Some(row) if row.database.status == DatabaseStatus::Ready => self.open(lease, &row.database).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn close(&self, lease: &Lease, row: &TenantDatabaseRow) -> Result<()> {
        self.record(lease, row, DatabaseAccess::Changing).await?;
        let server = self.servers.admin(&row.physical.server).await?;
        let closed = databases::close(&server, database_name(&row.physical)?).await;
        closed.map_err(|e| upstream(&row.physical.server, e))?;
        fault::point("tenant.close.closed");
        self.record(lease, row, DatabaseAccess::Closed).await
    }

    async fn open(&self, lease: &Lease, row: &TenantDatabaseRow) -> Result<()> {
        self.record(lease, row, DatabaseAccess::Changing).await?;
        let server = self.servers.admin(&row.physical.server).await?;
        let name = database_name(&row.physical)?;
        let opened = databases::reopen(&server, name).await;
        opened.map_err(|e| upstream(&row.physical.server, e))?;
        self.settings.guard_before_use(row, name).await?;
        self.read_access.admit_before_use(row.id.as_uuid(), name).await?;
        fault::point("tenant.open.opened");
        self.record(lease, row, DatabaseAccess::Open).await
    }

    async fn record(&self, lease: &Lease, row: &TenantDatabaseRow, access: DatabaseAccess) -> Result<()> {
        let tx = lease.begin().await?;
        tenants::set_access(&tx, row.id, access).await?;
        tx.commit().await?;
        Ok(())
    }
}
