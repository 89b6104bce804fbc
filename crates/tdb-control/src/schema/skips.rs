//! Skips: changes that stay in the workspace and leave head permanently.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tdb_names::BlueprintName;
use tdb_problems::ProblemCode;
use tdb_store::Tx;
use tdb_store::changes::{self, ChangeState, ChangeUse, HeadRow};
use tdb_store::workspaces::{self, WorkspaceRow};

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::leases::Subject;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::ChangeInfo;
use crate::schema::blueprints::info;
use crate::schema::failing::Trials;

/// Excludes changes from head.
#[derive(Clone)]
pub struct Skips {
    pub(crate) core: Arc<Core>,
    pub(crate) workspaces: Workspaces,
    pub(crate) trials: Trials,
}

impl Skips {
    /// Excludes changes from head, all or none of them. 409 naming a tenant, deployment or version that has one, or the
    /// later changes that need one.
    pub async fn skip(
        &self,
        identity: &Identity,
        blueprint: &BlueprintName,
        ids: &BTreeSet<u32>,
    ) -> Result<Vec<ChangeInfo>> {
        identity.require(KeyScope::Write)?;
        let row = self.workspaces.ready(identity, blueprint).await?;
        let Some(first) = ids.first() else {
            let rule = "must name at least one change".to_owned();
            return Err(ControlError::Invalid { field: "ddl_ids", rule });
        };
        let builds = Subject::Builds(row.id, row.physical.server.clone());
        let lease = self.core.leases.take(builds).await?;
        lease.during(self.skip_alone(identity, &row, ids, *first)).await
    }

    async fn skip_alone(
        &self,
        identity: &Identity,
        row: &WorkspaceRow,
        ids: &BTreeSet<u32>,
        first: u32,
    ) -> Result<Vec<ChangeInfo>> {
        let tx = self.core.store.project(identity.project()).await?;
        let heads = changes::heads(&tx, row.id).await?;
        may_be_skipped(&heads, ids)?;
        held_by_none(&tx, row, ids).await?;
        tx.rollback().await?;
        let pending = |wanted: bool| -> Vec<u32> {
            let all = heads.iter().filter(|change| change.state == ChangeState::Pending);
            all.map(|change| change.id)
                .filter(|id| ids.contains(id) == wanted)
                .collect()
        };
        let rest = pending(false);
        // A later change may need one of these; only a replay shows that.
        if rest.iter().any(|id| *id > first) {
            Box::pin(self.trials.replays_without(row, &pending(true), &rest)).await?;
        }
        let tx = self.core.store.project(identity.project()).await?;
        workspaces::lock(&tx, row.id).await?;
        held_by_none(&tx, row, ids).await?;
        let ids: Vec<u32> = ids.iter().copied().collect();
        for id in &ids {
            changes::set_state(&tx, row.id, *id, ChangeState::Skipped, None).await?;
        }
        let skipped = changes::of_ids(&tx, row.id, &ids).await?;
        tx.commit().await?;
        Ok(skipped
            .into_iter()
            .map(|change| info(change, &HashMap::new()))
            .collect())
    }
}

fn may_be_skipped(heads: &[HeadRow], ids: &BTreeSet<u32>) -> Result<()> {
    for id in ids {
        let change = heads.iter().find(|change| change.id == *id);
        let change = change.ok_or_else(|| ControlError::not_found(EntryKind::Change, id))?;
        match change.state {
            ChangeState::Pending | ChangeState::Broken => {}
            ChangeState::Skipped | ChangeState::Reverted => {
                let detail = format!("change {id} is {} already", change.state.as_str());
                return Err(ControlError::refused(ProblemCode::ChangeNotPending, detail, ""));
            }
        }
    }
    Ok(())
}

async fn held_by_none(tx: &Tx, row: &WorkspaceRow, ids: &BTreeSet<u32>) -> Result<()> {
    for id in ids {
        if let Some(used) = changes::first_use(tx, row.id, *id).await? {
            return Err(in_use(*id, &used));
        }
    }
    Ok(())
}

fn in_use(id: u32, used: &ChangeUse) -> ControlError {
    let who = match used {
        ChangeUse::Tenant(name) => format!("tenant \"{name}\""),
        ChangeUse::Deployment(job) => format!("deployment \"{job}\""),
        ChangeUse::Version(number) => format!("the published version {number}"),
    };
    let hint = "Undo it in the workspace with new DDL, which is deployed like any other change.";
    ControlError::refused(ProblemCode::ChangeHeld, format!("change {id} is held by {who}"), hint)
}
