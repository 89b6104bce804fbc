//! Blueprints: the workspace seen from the tenants' side, with its change log.

use std::collections::HashMap;

use tdb_names::{BlueprintName, DatabaseName};
use tdb_store::changes::{self, ChangeRow, ChangeState as Stored};
use tdb_store::tenants::{DatabaseStatus, TenantStatus};
use tdb_store::workspaces::{WorkspaceRow, WorkspaceStatus};
use tdb_store::{tenants, versions, workspaces};

use crate::control::{Control, Limit};
use crate::error::Result;
use crate::identity::{Identity, KeyScope};
use crate::model::{Blueprint, BlueprintStatus, ChangeInfo, ChangeState, DeployedTo, DeploymentCounts};
use crate::schema::failing::repair;

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
        let broken: Vec<u32> = found
            .iter()
            .filter(|change| change.state == Stored::Broken)
            .map(|change| change.id)
            .collect();
        let shown = found.into_iter().map(|change| ChangeInfo {
            repair: (change.state == Stored::Broken).then(|| repair(blueprint, &broken)),
            ..info(change, &versions)
        });
        Ok(shown.collect())
    }
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
        repair: None,
        reverts: row.reverts,
    }
}
