//! Builds of head, made before somebody waits for one.

use std::sync::Arc;

use tdb_store::changes;
use tdb_store::changes::ChangeState;
use tdb_store::workspaces::{self, WorkspaceRow, WorkspaceStatus};

use crate::core::Core;
use crate::error::Result;
use crate::leases::Subject;
use crate::schema::builds::Builds;
use crate::schema::failing::Trials;
use crate::schema::head::{HeadProblem, Heads};
use crate::schema::versions::Versions;

/// Builds head before a version of it is requested.
#[derive(Clone)]
pub(crate) struct Ahead {
    pub(crate) core: Arc<Core>,
    pub(crate) builds: Builds,
    pub(crate) trials: Trials,
    pub(crate) heads: Heads,
    pub(crate) versions: Versions,
}

impl Ahead {
    /// Has what a developer made replayed before somebody waits for it: a build of head, without number. A change that
    /// cannot be replayed is known as broken from here on.
    pub(crate) async fn build(&self, row: &WorkspaceRow) -> Result<()> {
        let builds = Subject::Builds(row.id, row.physical.server.clone());
        let lease = self.core.leases.take(builds).await?;
        lease.during(self.build_alone(row)).await
    }

    async fn build_alone(&self, row: &WorkspaceRow) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let now = workspaces::by_id(&tx, row.id).await?;
        tx.rollback().await?;
        if now.is_none_or(|now| now.status != WorkspaceStatus::Ready) {
            return Ok(());
        }
        let head = match self.heads.of(row).await {
            Ok(head) => head,
            Err(HeadProblem::Other(error)) => return Err(error),
            // Reported to the next request for a version; what needs the broken changes is known by then.
            Err(HeadProblem::Broken { .. }) => return self.break_dependents(row).await,
            Err(_) => return Ok(()),
        };
        if self.versions.with_content(row, &head.hash).await?.is_some() {
            return Ok(());
        }
        match Box::pin(self.builds.replayed(row, &row.physical.server, &head.ids)).await {
            Ok(_) => Ok(()),
            Err(error) => match Box::pin(
                self.versions
                    .replay_problem(row, &row.physical.server, &head.ids, error),
            )
            .await
            {
                HeadProblem::Other(error) => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Marks what cannot be replayed because a broken change is not there.
    async fn break_dependents(&self, row: &WorkspaceRow) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let heads = changes::heads(&tx, row.id).await?;
        tx.rollback().await?;
        let pending = heads.iter().filter(|change| change.state == ChangeState::Pending);
        let pending: Vec<u32> = pending.map(|change| change.id).collect();
        Box::pin(self.trials.mark_failing(row, &row.physical.server, &pending))
            .await
            .map(drop)
    }
}
