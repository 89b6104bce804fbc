//! Blueprints and their change log, with the tenants that each version is deployed to.

use std::collections::HashMap;
use std::sync::Arc;

use tdb_names::{BlueprintName, DatabaseName, WorkspaceId};
use tdb_store::changes::{self, ChangeRow, ChangeState as Stored};
use tdb_store::workspaces::WorkspaceRow;
use tdb_store::{Tx, tenants, workspaces};

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::lifecycle::workspaces::Workspaces;
use crate::model::{Blueprint, BlueprintStatus, ChangeInfo, ChangeState, DeployedTo, DeploymentCounts, Diff};
use crate::page::Page;
use crate::schema::drain::Drains;
use crate::schema::repair::{Leftover, created, repair};

/// Blueprints and their change log.
#[derive(Clone)]
pub struct Blueprints {
    pub(crate) core: Arc<Core>,
    pub(crate) drains: Drains,
    pub(crate) workspaces: Workspaces,
}

impl Blueprints {
    /// The blueprints of the project, by name, as stored. No database server is contacted.
    pub async fn list(&self, identity: &Identity, page: &Page<BlueprintName>) -> Result<Vec<Blueprint>> {
        identity.require(KeyScope::Read)?;
        let tx = self.core.store.project(identity.project()).await?;
        let rows = workspaces::list(&tx, identity.project(), page.after.as_ref(), page.limit.rows()).await?;
        let described = describe_blueprints(&tx, rows).await?;
        tx.rollback().await?;
        Ok(described)
    }

    /// One blueprint with the schema of its workspace. Drains the workspace's journal first. If its server is not
    /// available, shows what is stored, with the reason.
    pub async fn find(&self, identity: &Identity, name: &BlueprintName) -> Result<Blueprint> {
        identity.require(KeyScope::Read)?;
        let row = self
            .workspaces
            .row(identity, name)
            .await
            .map_err(|e| e.naming(EntryKind::Blueprint))?;
        let not_drained = self.drains.drain_if_possible(&row).await;
        let tx = self.core.store.project(identity.project()).await?;
        let described = describe_blueprints(&tx, vec![row.clone()]).await?.pop();
        tx.rollback().await?;
        let mut blueprint = described.ok_or_else(|| ControlError::not_found(EntryKind::Blueprint, name))?;
        (blueprint.schema, blueprint.server_error) = self.workspaces.schema_if_possible(&row).await?;
        blueprint.server_error = not_drained.or(blueprint.server_error);
        Ok(blueprint)
    }

    /// The changes that a deployment would bring: those of head that a tenant lacks, by number. Drains the workspace's
    /// journal first. If its server is not available, gives the changes that are stored, with the reason.
    pub async fn diff(&self, identity: &Identity, blueprint: &BlueprintName, page: &Page<u32>) -> Result<Diff> {
        identity.require(KeyScope::Read)?;
        let row = self.workspaces.ready_as_stored(identity, blueprint).await?;
        let server_error = self.drains.drain_if_possible(&row).await;
        let tx = self.core.store.project(identity.project()).await?;
        let undeployed = changes::undeployed(&tx, row.id, page.after.unwrap_or(0), page.limit.rows()).await?;
        let found = changes::of_ids(&tx, row.id, &undeployed).await?;
        let versions: HashMap<u32, u32> = changes::first_versions(&tx, row.id).await?.into_iter().collect();
        let all = || found.iter().filter(|change| change.state == Stored::Broken);
        let objects: Vec<String> = all().flat_map(created).collect();
        let mut earlier: HashMap<String, Vec<u32>> = HashMap::new();
        if !objects.is_empty() {
            for (id, object) in changes::pending_of_objects(&tx, row.id, &objects).await? {
                earlier.entry(object).or_default().push(id);
            }
        }
        tx.rollback().await?;
        let broken: Vec<u32> = all().map(|change| change.id).collect();
        let left = Leftover::of(all(), &earlier);
        let undeclared: Vec<Vec<String>> = found.iter().map(undeclared).collect();
        let undeclared = undeclared.concat();
        let shown = found.into_iter().map(|change| ChangeInfo {
            repair: (change.state == Stored::Broken).then(|| repair(blueprint, &broken, &undeclared, Some(&left))),
            ..info(change, &versions)
        });
        Ok(Diff {
            changes: shown.collect(),
            drained_at: row.drained_at,
            server_error,
        })
    }
}

async fn describe_blueprints(tx: &Tx, rows: Vec<WorkspaceRow>) -> Result<Vec<Blueprint>> {
    let ids: Vec<WorkspaceId> = rows.iter().map(|row| row.id).collect();
    let mut summaries = workspaces::summaries(tx, &ids).await?;
    let mut fleet: HashMap<WorkspaceId, Vec<DeployedTo>> = HashMap::new();
    for (workspace, tenant, version) in tenants::deployed_to(tx, &ids).await? {
        fleet.entry(workspace).or_default().push(DeployedTo { tenant, version });
    }
    let described = rows.into_iter().filter_map(|row| {
        // A workspace that was deleted meanwhile is left out.
        let summary = summaries.remove(&row.id)?;
        let deployed_to = fleet.remove(&row.id).unwrap_or_default();
        Some(Blueprint {
            workspace_database: DatabaseName::Workspace(row.blueprint.clone()),
            name: row.blueprint,
            workspace_id: row.id,
            version: summary.version,
            status: match (summary.head.changes, summary.head.broken) {
                (0, _) => BlueprintStatus::Draft,
                (_, 0) => BlueprintStatus::Ready,
                (_, _) => BlueprintStatus::Broken,
            },
            created_at: row.created_at,
            drained_at: row.drained_at,
            schema: None,
            server_error: None,
            counts: DeploymentCounts {
                deployed: summary.undeployed == 0 && !deployed_to.is_empty(),
                deployed_to_count: u32::try_from(deployed_to.len()).unwrap_or(u32::MAX),
                ready_to_deploy: summary.undeployed,
                total_ddl_statements: summary.head.statements,
            },
            deployed_to,
        })
    });
    Ok(described.collect())
}

/// The roles that a broken change names and that its project had not declared.
fn undeclared(row: &ChangeRow) -> Vec<String> {
    let names = (row.state == Stored::Broken)
        .then(|| row.body.get("undeclared"))
        .flatten();
    names
        .cloned()
        .and_then(|names| serde_json::from_value(names).ok())
        .unwrap_or_default()
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
