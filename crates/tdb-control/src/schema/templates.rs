//! Templates: closed permanently when they are published, removed with their roles when they are retired or abandoned.

use std::sync::Arc;
use std::time::Duration;

use tdb_engines::fault;
use tdb_engines::postgres::databases;
use tdb_store::physical::Step;
use tdb_store::templates::{self, TemplateRow, TemplateStatus};
use uuid::Uuid;

use crate::core::Core;
use crate::error::{Result, upstream};
use crate::leases::{Lease, Subject};
use crate::lifecycle::place::{Placement, database_name, role_names};
use crate::lifecycle::servers::Servers;

/// How long a template without users is kept although there is a newer one: the caller that requested it is about to
/// use it.
const RETIREMENT_GRACE: Duration = Duration::from_secs(60);

/// Publishes and removes the databases that tenants are cloned from.
#[derive(Clone)]
pub(crate) struct Templates {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) placement: Placement,
}

impl Templates {
    /// Makes a build the template of its version and closes it permanently.
    pub(crate) async fn publish(&self, template: &TemplateRow) -> Result<()> {
        let admin = self.servers.admin(&template.physical.server).await?;
        let (name, roles) = (database_name(&template.physical)?, role_names(&template.physical));
        let published = databases::publish_template(&admin, name, Some(&roles)).await;
        published.map_err(|e| upstream(&template.physical.server, e))?;
        let tx = self.core.store.jobs().await?;
        templates::set_published(&tx, template.id, RETIREMENT_GRACE).await?;
        templates::retire_old(&tx).await?;
        tx.commit().await?;
        fault::point("template.published");
        Ok(())
    }

    /// Finishes an interrupted publication, and removes templates that are retired or abandoned. The caller holds the
    /// lease of the workspace's builds.
    pub(crate) async fn finish(&self, id: Uuid) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = templates::by_id(&tx, id).await?;
        tx.rollback().await?;
        let Some(row) = row else { return Ok(()) };
        match row.status {
            TemplateStatus::Published => Ok(()),
            TemplateStatus::Publishing => Box::pin(self.publish(&row)).await,
            TemplateStatus::Dropping => Box::pin(self.remove(&row)).await,
            // One that is adopted serves the next version or tenant. One that is not was interrupted, and is created
            // again when it is needed.
            TemplateStatus::Building | TemplateStatus::Spare if row.progress.step == Step::Adopted => Ok(()),
            TemplateStatus::Building | TemplateStatus::Spare => Box::pin(self.remove(&row)).await,
        }
    }

    /// Removes a build, template or spare with its row, unless it was taken since the row was read.
    pub(crate) async fn remove(&self, row: &TemplateRow) -> Result<()> {
        let lease = self.core.leases.take(Subject::Database(row.id)).await?;
        lease.during(self.remove_alone(&lease, row)).await
    }

    async fn remove_alone(&self, lease: &Lease, row: &TemplateRow) -> Result<()> {
        let tx = lease.begin().await?;
        let dropping = templates::begin_dropping(&tx, row).await?;
        tx.commit().await?;
        if !dropping {
            return Ok(());
        }
        self.placement.unmake(&row.physical).await?;
        let tx = lease.begin().await?;
        templates::delete(&tx, row.id).await?;
        tx.commit().await?;
        Ok(())
    }
}
