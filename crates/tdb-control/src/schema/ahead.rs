//! Builds of head that are made before a version is requested.

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
    /// Replays head, so that the next request for a version finds the build. A change that cannot be replayed is marked
    /// as broken.
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
            Err(HeadProblem::Unseen(error) | HeadProblem::Other(error)) => return Err(error),
            // The next request for a version reports the problem; by then the changes that need the broken ones are
            // marked too.
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

    /// Marks the changes that cannot be replayed without a broken change.
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
