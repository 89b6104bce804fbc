//! The stock of spares: clones of templates, ready for the next tenant or build.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tdb_engines::fault;
use tdb_names::ServerName;
use tdb_store::templates::{self, Demand, TemplateRow};
use tdb_store::workspaces::WorkspaceStatus;
use tdb_store::{versions, workspaces};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::core::Core;
use crate::error::Result;
use crate::leases::Subject;
use crate::lifecycle::creations::Creations;
use crate::lifecycle::place::Placement;
use crate::schema::builds::Builds;

/// A spare takes 15 MB. A blueprint with a single new tenant keeps none; while several tenants are being created, it
/// keeps as many as are used until the next ones are cloned.
pub(crate) const DEMAND: Demand = Demand {
    stock_max: 4,
    tenants_per_spare: 4,
    burst: Duration::from_secs(600),
};

/// Spares of templates.
#[derive(Clone)]
pub(crate) struct Stock {
    core: Arc<Core>,
    placement: Placement,
    creations: Creations,
    builds: Builds,
    /// Notified when a tenant was created, which may have used a spare.
    pub(crate) asked: Arc<Notify>,
}

impl Stock {
    pub(crate) fn new(core: &Arc<Core>, placement: &Placement, creations: &Creations, builds: &Builds) -> Self {
        Self {
            core: core.clone(),
            placement: placement.clone(),
            creations: creations.clone(),
            builds: builds.clone(),
            asked: Arc::default(),
        }
    }

    /// Creates the spares that are missing, in one task per server.
    pub(crate) async fn fill(&self) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let short = templates::short_of_spares(&tx, &DEMAND).await?;
        tx.rollback().await?;
        let mut of_server: HashMap<ServerName, Vec<(TemplateRow, u32)>> = HashMap::new();
        for (template, missing) in short {
            let server = template.physical.server.clone();
            of_server.entry(server).or_default().push((template, missing));
        }
        for (server, short) in of_server {
            self.core.alone_in_background(
                self,
                Subject::Stock(server),
                "spares of a server",
                move |stock, _| async move { stock.fill_server(short).await },
            );
        }
        Ok(())
    }

    /// Creates the spares of a server: one after the other per workspace, workspaces in parallel.
    async fn fill_server(&self, short: Vec<(TemplateRow, u32)>) -> Result<()> {
        let work = short.iter().map(async |(template, missing)| {
            for _ in 0..*missing {
                self.make_spare(template).await?;
            }
            Ok(())
        });
        futures_util::future::join_all(work)
            .await
            .into_iter()
            .collect::<Result<()>>()?;
        // Tenants may have used spares meanwhile.
        self.asked.notify_one();
        Ok(())
    }

    async fn make_spare(&self, template: &TemplateRow) -> Result<()> {
        let Some(number) = template.version else { return Ok(()) };
        let place = self.creations.place(&template.physical.server).await?;
        let builds = Subject::Builds(template.workspace, template.physical.server.clone());
        let lease = self.core.leases.take(builds).await?;
        place
            .during(lease.during(self.make_spare_alone(template, number)))
            .await
    }

    async fn make_spare_alone(&self, template: &TemplateRow, number: u32) -> Result<()> {
        let (id, physical) = (
            Uuid::new_v4(),
            self.placement.new_physical(template.physical.server.clone())?,
        );
        let tx = self.core.store.jobs().await?;
        // Read again under the lease: the template or its workspace may be about to be removed.
        let published = templates::published(&tx, template.workspace, &template.physical.server, number).await?;
        let version = versions::by_number(&tx, template.workspace, number).await?;
        let workspace = workspaces::by_id(&tx, template.workspace).await?;
        let ready = workspace.is_some_and(|workspace| workspace.status == WorkspaceStatus::Ready);
        let (Some(template), Some(version), true) = (published, version, ready) else {
            tx.rollback().await?;
            return Ok(());
        };
        templates::insert(&tx, id, &template.project, template.workspace, &physical, Some(number)).await?;
        tx.commit().await?;
        fault::point("spare.intended");
        Box::pin(
            self.builds
                .clone_and_adopt(id, &template.project, &physical, Some((&template, &version.change_ids))),
        )
        .await?;
        fault::point("spare.ready");
        Ok(())
    }
}
