//! Read access: read-only credentials, and queries of API keys with the scope read. A database's read-only role gets
//! its rights when a credential covers the database, or before such a query.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use tdb_engines::postgres::readers::{self, GrantProgress};
use tdb_names::{ProjectId, ServerName};
use tdb_store::database_roles::{self, DatabaseRoles, Readers};
use uuid::Uuid;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};
use crate::leases::Subject;
use crate::lifecycle::memberships::Memberships;
use crate::lifecycle::place::{database_name, pause_after, role_names};
use crate::lifecycle::servers::Servers;

/// The number of databases that one round takes.
const DUE_MAX: i64 = 500;

/// The rights of read-only roles in their databases.
#[derive(Clone)]
pub(crate) struct ReadAccess {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) memberships: Memberships,
}

impl ReadAccess {
    /// Grants read access to all databases that a read-only credential covers, and revokes server-wide rights that an
    /// earlier release gave to read-only roles, in one task per server. A database that fails is tried again.
    pub(crate) async fn admit_due(&self) -> Result<()> {
        for (server, due) in self.due(None).await? {
            self.core.alone_in_background(
                self,
                Subject::Readers(server),
                "read access",
                move |access, _| async move { access.admit_each(due).await },
            );
        }
        Ok(())
    }

    /// Like [`Self::admit_due`] for one project, and waits for the result. Servers are handled in parallel.
    pub(crate) async fn admit_project(&self, project: &ProjectId) -> Result<()> {
        let due = self.due(Some(project)).await?;
        let work = due.into_values().map(|due| self.admit_each(due));
        futures_util::future::join_all(work).await.into_iter().collect()
    }

    /// The databases that are due, by server. Those on a server that does not respond stay due.
    async fn due(&self, project: Option<&ProjectId>) -> Result<HashMap<ServerName, Vec<DatabaseRoles>>> {
        let tx = self.core.store.jobs().await?;
        let due = database_roles::due(&tx, project, DUE_MAX).await?;
        tx.rollback().await?;
        let mut of_server: HashMap<ServerName, Vec<DatabaseRoles>> = HashMap::new();
        for row in due {
            if !self.servers.is_silent(&row.physical.server) {
                of_server.entry(row.physical.server.clone()).or_default().push(row);
            }
        }
        Ok(of_server)
    }

    async fn admit_each(&self, due: Vec<DatabaseRoles>) -> Result<()> {
        let width = self.core.settings.deployments_per_server.get();
        let work = futures_util::stream::iter(due).map(|row| async move { self.admit_or_record(&row).await });
        let mut done = work.buffer_unordered(width);
        while let Some(one) = done.next().await {
            one?;
        }
        Ok(())
    }

    async fn admit_or_record(&self, row: &DatabaseRoles) -> Result<()> {
        let Some(readers) = row.due() else { return Ok(()) };
        let name = database_name(&row.physical)?;
        match self.admit(row, name, readers).await {
            Ok(GrantProgress::Complete) => return Ok(()),
            Ok(GrantProgress::SomeBusy) => {
                tracing::info!(database = %row.id, "clients change tables to which read access is to be granted; it will be retried");
            }
            Err(error) => {
                tracing::warn!(database = %row.id, error = %error.explained(), "read access to a database could not be granted; it will be retried");
            }
        }
        let tx = self.core.store.jobs().await?;
        database_roles::record_failure(&tx, row, pause_after(row.attempts)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Grants read access to a database before a query by a key of scope read. Tables that clients change now are left
    /// to the next query.
    pub(crate) async fn admit_one(&self, id: Uuid) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = database_roles::by_id(&tx, id).await?;
        tx.rollback().await?;
        let row = row.ok_or_else(|| ControlError::not_found(EntryKind::Database, id))?;
        match row.readers {
            Readers::Admitted => Ok(()),
            Readers::Old | Readers::None => {
                let database = database_name(&row.physical)?;
                self.admit(&row, database, Readers::Admitted).await.map(drop)
            }
        }
    }

    /// Grants what is due in a database that no client can connect to yet; `present` is its current name.
    pub(crate) async fn admit_before_use(&self, id: Uuid, present: &str) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = database_roles::by_id(&tx, id).await?;
        tx.rollback().await?;
        let Some(row) = row else { return Ok(()) };
        // A spare may be older than a declared role.
        self.memberships.admit(&row.project, &row.physical).await?;
        match row.due() {
            Some(readers) => self.admit(&row, present, readers).await.map(drop),
            None => Ok(()),
        }
    }

    /// Grants again the default privileges for reading that roles of the databases on a server removed, which one query finds.
    /// A database that fails does not stop the others; the next sweep tries again.
    pub(crate) async fn restore_on(&self, name: &ServerName) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let rows = database_roles::on_server(&tx, name).await?;
        tx.rollback().await?;
        let rows = rows.iter().filter(|row| row.readers == Readers::Admitted);
        let admitted: Vec<_> = rows
            .filter_map(|row| Some((row, database_name(&row.physical).ok()?)))
            .collect();
        if admitted.is_empty() {
            return Ok(());
        }
        let databases: Vec<&str> = admitted.iter().map(|(_, database)| *database).collect();
        let server = self.servers.admin(name).await?;
        let lacking = readers::lacking(&server, &databases).await;
        let lacking = lacking.map_err(|e| upstream(name, e))?;
        let lacking = admitted
            .iter()
            .filter(|(_, database)| lacking.iter().any(|found| found == database));
        for (row, database) in lacking {
            tracing::warn!(database = %row.id, server = %name, "a client removed default privileges for reading; they are granted again");
            if let Err(error) = self.admit_again(row, database).await {
                tracing::warn!(database = %row.id, error = %error.explained(), "read access to a database could not be granted; it will be retried");
            }
        }
        Ok(())
    }

    /// The database is recorded as one without readers until all is granted, so that it is due if that fails.
    async fn admit_again(&self, row: &DatabaseRoles, database: &str) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        database_roles::record_readers(&tx, row, Readers::None).await?;
        tx.commit().await?;
        self.admit(row, database, Readers::Admitted).await.map(drop)
    }

    async fn admit(&self, row: &DatabaseRoles, database: &str, readers: Readers) -> Result<GrantProgress> {
        let admitted = match readers {
            Readers::Admitted => readers::Readers::Admitted,
            Readers::Old | Readers::None => readers::Readers::None,
        };
        let server = self.servers.admin(&row.physical.server).await?;
        let done = readers::admit(&server, database, &role_names(&row.physical), admitted).await;
        let progress = done.map_err(|e| upstream(&row.physical.server, e))?;
        if progress == GrantProgress::Complete {
            let tx = self.core.store.jobs().await?;
            database_roles::record_readers(&tx, row, readers).await?;
            tx.commit().await?;
        }
        Ok(progress)
    }
}
