//! Who only reads: read-only credentials and the queries of keys with the scope `read`. A database's read-only role gets
//! its rights when a credential covers the database, or a query comes.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use tdb_engines::postgres::readers;
use tdb_names::{DatabaseId, ProjectId, ServerName};
use tdb_store::database_roles::{self, DatabaseRoles, Readers};
use uuid::Uuid;

use crate::core::Core;
use crate::error::{ControlError, Result, upstream};
use crate::leases::Subject;
use crate::lifecycle::memberships::Memberships;
use crate::lifecycle::place::{database_name, pause_after, role_names};
use crate::lifecycle::servers::Servers;

/// Databases taken up by one look.
const DUE_MAX: i64 = 500;

/// The rights of read-only roles in their databases.
#[derive(Clone)]
pub(crate) struct ReadAccess {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) memberships: Memberships,
}

impl ReadAccess {
    /// Has readers let into all databases that a read-only credential covers, and the rights over the whole server taken
    /// from roles that an older program made, one task per server. A database that fails is tried again.
    pub(crate) async fn admit_due(&self) -> Result<()> {
        for (server, due) in self.due(None).await? {
            self.core.alone_in_background(
                self,
                Subject::Readers(server),
                "readers of databases",
                move |access, _| async move { access.admit_each(due).await },
            );
        }
        Ok(())
    }

    /// The same for the databases of one project; servers do not wait for each other.
    pub(crate) async fn admit_project(&self, project: &ProjectId) -> Result<()> {
        let due = self.due(Some(project)).await?;
        let work = due.into_values().map(|due| self.admit_each(due));
        futures_util::future::join_all(work).await.into_iter().collect()
    }

    /// By server. Databases of one that does not answer are still due afterwards.
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
        let Err(error) = self.admit(row, name, readers).await else {
            return Ok(());
        };
        tracing::warn!(database = %row.id, error = %error.explained(), "readers cannot be admitted to a database yet");
        let tx = self.core.store.jobs().await?;
        database_roles::record_failure(&tx, row, pause_after(row.attempts)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Before a query of a key that may only read.
    pub(crate) async fn admit_one(&self, id: Uuid) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = database_roles::by_id(&tx, id).await?;
        tx.rollback().await?;
        let row = row.ok_or_else(|| ControlError::not_found("database", id))?;
        match row.readers {
            Readers::Admitted => Ok(()),
            Readers::Old | Readers::None => self.admit(&row, database_name(&row.physical)?, Readers::Admitted).await,
        }
    }

    /// For a database that no client reaches yet, or again; `present` is what it is called now.
    pub(crate) async fn admit_before_use(&self, id: DatabaseId, present: &str) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = database_roles::by_id(&tx, id.as_uuid()).await?;
        tx.rollback().await?;
        let Some(row) = row else { return Ok(()) };
        // A spare may have been made before a role was declared.
        self.memberships.admit(&row.project, &row.physical).await?;
        match row.due() {
            Some(readers) => self.admit(&row, present, readers).await,
            None => Ok(()),
        }
    }

    async fn admit(&self, row: &DatabaseRoles, database: &str, readers: Readers) -> Result<()> {
        let admitted = match readers {
            Readers::Admitted => readers::Readers::Admitted,
            Readers::Old | Readers::None => readers::Readers::None,
        };
        let server = self.servers.admin(&row.physical.server).await?;
        let done = readers::admit(&server, database, &role_names(&row.physical), admitted).await;
        done.map_err(|e| upstream(&row.physical.server, e))?;
        let tx = self.core.store.jobs().await?;
        database_roles::record_readers(&tx, row, readers).await?;
        tx.commit().await?;
        Ok(())
    }
}
