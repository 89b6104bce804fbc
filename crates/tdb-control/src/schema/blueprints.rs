//! Blueprints: the workspace seen from the tenants' side, with its change log.

use std::collections::HashMap;

use tdb_names::{BlueprintName, DatabaseName};
use tdb_problems::ProblemCode;
use tdb_store::changes::{self, ChangeRow, ChangeState as Stored, Holder};
use tdb_store::tenants::{DatabaseStatus, TenantStatus};
use tdb_store::workspaces::{WorkspaceRow, WorkspaceStatus};
use tdb_store::{tenants, versions, workspaces};

use crate::control::{Control, Limit};
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::model::{Blueprint, BlueprintStatus, ChangeInfo, ChangeState, DeployedTo, DeploymentCounts};
use crate::schema::builds::BuildError;

impl Control {
    pub async fn blueprints(&self, identity: &Identity, limit: Limit) -> Result<Vec<Blueprint>> {
        identity.require(KeyScope::Read)?;
        let tx = self.inner.store.project(identity.project()).await?;
        let rows = workspaces::list(&tx, identity.project(), limit.rows()).await?;
        tx.rollback().await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            self.drain_if_possible(row).await;
            found.push(self.describe_blueprint(row).await?);
        }
        Ok(found)
    }

    pub async fn blueprint(&self, identity: &Identity, name: &BlueprintName) -> Result<Blueprint> {
        identity.require(KeyScope::Read)?;
        let row = self
            .workspace_row(identity, name)
            .await
            .map_err(|e| e.naming("blueprint"))?;
        self.drain_if_possible(&row).await;
        let mut blueprint = self.describe_blueprint(&row).await?;
        if row.status == WorkspaceStatus::Ready {
            blueprint.schema = Some(self.schema_of(&row.physical).await?);
        }
        Ok(blueprint)
    }

    async fn describe_blueprint(&self, row: &WorkspaceRow) -> Result<Blueprint> {
        let tx = self.inner.store.project(&row.project).await?;
        let head = changes::head_counts(&tx, row.id).await?;
        let undeployed = changes::undeployed(&tx, row.id).await?.len();
        let fleet = tenants::of_blueprint(&tx, &row.project, &row.blueprint).await?;
        let newest = versions::list(&tx, row.id, 1).await?;
        tx.rollback().await?;
        let counts = |status| matches!(status, TenantStatus::Ready | TenantStatus::Suspended);
        let deployed_to: Vec<DeployedTo> = fleet
            .into_iter()
            .filter(|row| row.database.status == DatabaseStatus::Ready && counts(row.tenant_status))
            .map(|row| DeployedTo {
                tenant: row.database.tenant,
                version: row.database.version.unwrap_or(1),
            })
            .collect();
        let undeployed = u32::try_from(undeployed).unwrap_or(u32::MAX);
        Ok(Blueprint {
            name: row.blueprint.clone(),
            workspace_id: row.id,
            workspace_database: DatabaseName::Workspace(row.blueprint.clone()),
            version: newest.first().map_or(1, |version| version.number),
            status: match (head.changes, head.broken) {
                (0, _) => BlueprintStatus::Draft,
                (_, 0) => BlueprintStatus::Ready,
                (_, _) => BlueprintStatus::Broken,
            },
            created_at: row.created_at,
            schema: None,
            counts: DeploymentCounts {
                deployed: undeployed == 0 && !deployed_to.is_empty(),
                deployed_to_count: u32::try_from(deployed_to.len()).unwrap_or(u32::MAX),
                ready_to_deploy: undeployed,
                total_ddl_statements: head.statements,
            },
            deployed_to,
        })
    }

    /// What a deployment would bring: changes of head that a tenant lacks, by number.
    pub async fn workspace_diff(
        &self,
        identity: &Identity,
        blueprint: &BlueprintName,
        limit: Limit,
    ) -> Result<Vec<ChangeInfo>> {
        identity.require(KeyScope::Read)?;
        let row = self.ready_workspace(identity, blueprint).await?;
        let tx = self.inner.store.project(identity.project()).await?;
        let mut undeployed = changes::undeployed(&tx, row.id).await?;
        undeployed.truncate(usize::try_from(limit.rows()).unwrap_or(usize::MAX));
        let found = changes::of_ids(&tx, row.id, &undeployed).await?;
        let versions: HashMap<u32, u32> = changes::first_versions(&tx, row.id).await?.into_iter().collect();
        tx.rollback().await?;
        Ok(found.into_iter().map(|change| info(change, &versions)).collect())
    }

    /// Leaves a change out of head for good. 409 naming who holds it, or the later change that needs it.
    pub async fn skip_change(&self, identity: &Identity, blueprint: &BlueprintName, id: u32) -> Result<ChangeInfo> {
        identity.require(KeyScope::Write)?;
        let row = self.ready_workspace(identity, blueprint).await?;
        let _alone = self.inner.building.lock(row.id.as_uuid()).await;
        let tx = self.inner.store.project(identity.project()).await?;
        let heads = changes::heads(&tx, row.id).await?;
        let change = heads
            .iter()
            .find(|change| change.id == id)
            .ok_or_else(|| ControlError::not_found("change", id))?;
        match change.state {
            Stored::Pending | Stored::Broken => {}
            Stored::Skipped | Stored::Reverted => {
                let detail = format!("change {id} is {} already", change.state.as_str());
                return Err(ControlError::refused(ProblemCode::ChangeNotPending, detail, ""));
            }
        }
        if let Some(holder) = changes::holder(&tx, row.id, id).await? {
            return Err(held(id, &holder));
        }
        tx.rollback().await?;
        let without = |other: &&changes::HeadRow| other.id != id && other.state == Stored::Pending;
        let rest: Vec<u32> = heads.iter().filter(without).map(|other| other.id).collect();
        // A later change may need this one: only a replay knows.
        if rest.iter().any(|other| *other > id) {
            self.replays_without(&row, id, &rest).await?;
        }
        let tx = self.inner.store.project(identity.project()).await?;
        workspaces::lock(&tx, row.id).await?;
        if let Some(holder) = changes::holder(&tx, row.id, id).await? {
            return Err(held(id, &holder));
        }
        changes::set_state(&tx, row.id, id, Stored::Skipped, None).await?;
        let change = changes::of_ids(&tx, row.id, &[id]).await?.pop();
        tx.commit().await?;
        let change = change.ok_or_else(|| ControlError::not_found("change", id))?;
        Ok(info(change, &HashMap::new()))
    }

    /// Whether head without a change replays; 409 naming the later change that needs it.
    pub(crate) async fn replays_without(&self, row: &WorkspaceRow, id: u32, rest: &[u32]) -> Result<()> {
        match self.build(row, &row.physical.server, rest).await {
            Ok(_) => Ok(()),
            Err(BuildError::Other(error)) => Err(error),
            Err(BuildError::Replay(error)) => match error.change {
                Some(needs) if needs > i64::from(id) => {
                    let detail = format!(
                        "change {needs} needs change {id}: {} ({})",
                        error.message, error.sqlstate
                    );
                    let hint = "Skip the later change first, or undo both in the workspace.";
                    Err(ControlError::refused(ProblemCode::ChangeNeeded, detail, hint))
                }
                // It fails with or without the change; skipping one after the other has to begin somewhere.
                _ => Ok(()),
            },
        }
    }
}

fn held(id: u32, holder: &Holder) -> ControlError {
    let who = match holder {
        Holder::Tenant(name) => format!("tenant \"{name}\""),
        Holder::Deployment(job) => format!("deployment \"{job}\""),
        Holder::Version(number) => format!("the published version {number}"),
    };
    let hint = "Undo it in the workspace with DDL of its own, which is deployed like any other change.";
    ControlError::refused(ProblemCode::ChangeHeld, format!("change {id} is held by {who}"), hint)
}

pub(crate) fn info(row: ChangeRow, versions: &HashMap<u32, u32>) -> ChangeInfo {
    ChangeInfo {
        version: versions.get(&row.id).copied(),
        state: match row.state {
            Stored::Pending => ChangeState::Pending,
            Stored::Skipped => ChangeState::Skipped,
            Stored::Reverted => ChangeState::Reverted,
            Stored::Broken => ChangeState::Broken,
        },
        id: row.id,
        statements: row.statements,
        command_tags: row.tags,
        objects: row.objects,
        author: row.author,
        created_at: row.committed_at,
        left_out: row.left_out,
        reason: row.reason,
        reverts: row.reverts,
    }
}
