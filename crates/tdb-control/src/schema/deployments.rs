//! Deployments: plan, create, list, retry. `rollout` carries them out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tdb_names::{BlueprintName, JobId, ProjectId, TenantName};
use tdb_problems::ProblemCode;
use tdb_store::deployments::{
    self, DeploymentRow, DeploymentStatus as StoredJob, NewDeployment, NewTarget, TargetRow,
    TargetStatus as StoredTarget,
};
use tdb_store::tenants::{DatabaseStatus, FleetRow, TenantStatus};
use tdb_store::versions::VersionRow;
use tdb_store::workspaces::WorkspaceRow;
use tdb_store::{Tx, tenants, versions, workspaces};
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::leases::{Lease, Subject};
use crate::lifecycle::workspaces::SYSTEM;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::{
    Comparison, Deployment, DeploymentRequest, DeploymentStatus, DeploymentTarget, JobSummary, SqlFailure,
    TargetStatus, TenantChoice,
};
use crate::page::Page;
use crate::schema::head::Heads;
use crate::schema::plan::{self, Path};
use crate::schema::versions::Versions;

/// The number and the changes of the version to deploy.
struct Goal {
    number: u32,
    change_ids: Vec<u32>,
}

/// Deployments: plan, create, list, retry.
#[derive(Clone)]
pub struct Deployments {
    pub(crate) core: Arc<Core>,
    pub(crate) workspaces: Workspaces,
    pub(crate) heads: Heads,
    pub(crate) versions: Versions,
    /// Starts a round of the deployment worker at once.
    pub(crate) wake: Arc<Notify>,
    /// Notified when a tenant is restored that may have missed a deployment.
    pub(crate) returned: Arc<Notify>,
}

impl Deployments {
    /// A dry run: what a deployment would do. Creates no version and no deployment.
    pub async fn plan(&self, identity: &Identity, request: DeploymentRequest) -> Result<Deployment> {
        identity.require(KeyScope::Read)?;
        let workspace = self.workspace_of(identity, &request).await?;
        let goal = self.goal_of_plan(identity, &workspace, request.version).await?;
        let targets = self
            .targets(identity.project(), &workspace, &goal, &request.tenants)
            .await?;
        let (completed, pending): (Vec<_>, Vec<_>) = targets.iter().partition(|t| t.status == StoredTarget::Skipped);
        let summary = JobSummary {
            id: None,
            blueprint: request.blueprint,
            from_versions: from_versions(&targets),
            version: goal.number,
            status: DeploymentStatus::Planned,
            total_tenants: length(pending.len() + completed.len()),
            completed_tenants: length(completed.len()),
            failed_tenants: 0,
            created_at: OffsetDateTime::now_utc(),
            started_at: None,
            completed_at: None,
        };
        Ok(Deployment {
            summary,
            targets: targets.iter().map(|t| planned(t, goal.number)).collect(),
        })
    }

    /// Creates a deployment, which the workers carry out. If the request names no version, head is deployed, as a new
    /// version if necessary.
    pub async fn create(&self, identity: &Identity, request: DeploymentRequest) -> Result<Deployment> {
        identity.require(KeyScope::Write)?;
        if let Some(id) = identity.receipt::<JobId>()? {
            return self.find(identity, &id).await;
        }
        let blueprint = &request.blueprint;
        let workspace = self.workspace_of(identity, &request).await?;
        let author = identity.author();
        let version = match request.version {
            Some(number) => self.version_row(identity, &workspace, number).await?,
            None => {
                let made = self
                    .versions
                    .deployable_head(&workspace, &workspace.physical.server, &author);
                let made = Box::pin(made).await;
                made.map_err(|problem| problem.into_error(blueprint))?
            }
        };
        let goal = Goal {
            number: version.number,
            change_ids: version.change_ids,
        };
        let id = self.begin(identity, &workspace, &goal, &request.tenants).await?;
        self.find(identity, &id).await
    }

    /// The workspace. Its server is needed only for head: an existing version does not change.
    async fn workspace_of(&self, identity: &Identity, request: &DeploymentRequest) -> Result<WorkspaceRow> {
        let row = match request.version {
            Some(_) => self.workspaces.ready_as_stored(identity, &request.blueprint).await,
            None => self.workspaces.ready(identity, &request.blueprint).await,
        };
        row.map_err(|e| e.naming(EntryKind::Blueprint))
    }

    async fn begin(
        &self,
        identity: &Identity,
        workspace: &WorkspaceRow,
        goal: &Goal,
        choice: &TenantChoice,
    ) -> Result<JobId> {
        let targets = self.targets(&workspace.project, workspace, goal, choice).await?;
        let tx = self.core.store.project(&workspace.project).await?;
        let id = insert_deployment(&tx, workspace, goal, choice, &targets, &identity.author()).await?;
        identity.leave_receipt(&tx, &self.core.store, &id).await?;
        tx.commit().await?;
        self.wake.notify_one();
        Ok(id)
    }

    /// Creates deployments for tenants that missed one: restored tenants, and new ones that were created while it ran.
    /// One deployment per version, even if several processes look at the same time.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        match self.core.leases.try_take(Subject::CatchUp).await? {
            Some(lease) => lease.during(self.catch_up_alone(&lease)).await,
            // The holder of the lease may have looked before the last tenant was restored.
            None => {
                self.returned.notify_one();
                Ok(())
            }
        }
    }

    async fn catch_up_alone(&self, lease: &Lease) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let late = deployments::late(&tx).await?;
        tx.rollback().await?;
        for group in late.chunk_by(|a, b| a.workspace == b.workspace && a.version == b.version) {
            let Some(first) = group.first() else { continue };
            let tx = self.core.store.jobs().await?;
            let workspace = workspaces::by_id(&tx, first.workspace).await?;
            let version = versions::by_number(&tx, first.workspace, first.version).await?;
            tx.rollback().await?;
            let (Some(workspace), Some(version)) = (workspace, version) else {
                continue;
            };
            let goal = Goal {
                number: version.number,
                change_ids: version.change_ids,
            };
            let choice = TenantChoice::Named(group.iter().map(|late| late.tenant.clone()).collect());
            let targets = self.targets(&workspace.project, &workspace, &goal, &choice).await?;
            let tx = lease.begin().await?;
            let job = insert_deployment(&tx, &workspace, &goal, &choice, &targets, SYSTEM).await?;
            tx.commit().await?;
            self.wake.notify_one();
            tracing::info!(%job, blueprint = %workspace.blueprint, tenants = group.len(), "a deployment was created for tenants that missed one");
        }
        Ok(())
    }

    /// The deployments of the project, newest first, without their targets.
    pub async fn list(&self, identity: &Identity, page: &Page<(OffsetDateTime, JobId)>) -> Result<Vec<JobSummary>> {
        identity.require(KeyScope::Read)?;
        let tx = self.core.store.project(identity.project()).await?;
        let (after, limit) = (page.after.as_ref(), page.limit.rows());
        let rows = deployments::list(&tx, identity.project(), None, after, limit).await?;
        tx.rollback().await?;
        Ok(rows.into_iter().map(summary).collect())
    }

    /// One deployment with its targets.
    pub async fn find(&self, identity: &Identity, job: &JobId) -> Result<Deployment> {
        identity.require(KeyScope::Read)?;
        let tx = self.core.store.project(identity.project()).await?;
        let row = deployments::by_id(&tx, identity.project(), job).await?;
        let row = row.ok_or_else(|| ControlError::not_found(EntryKind::Deployment, job))?;
        let targets = deployments::targets(&tx, job).await?;
        tx.rollback().await?;
        Ok(Deployment {
            summary: summary(row),
            targets: targets.into_iter().map(target).collect(),
        })
    }

    /// The deployments of a tenant, newest first, each with only the tenant's own target.
    pub async fn of_tenant(
        &self,
        identity: &Identity,
        name: &TenantName,
        page: &Page<(OffsetDateTime, JobId)>,
    ) -> Result<Vec<Deployment>> {
        identity.require(KeyScope::Read)?;
        let tx = self.core.store.project(identity.project()).await?;
        if tenants::by_name(&tx, identity.project(), name).await?.is_none() {
            return Err(ControlError::not_found(EntryKind::Tenant, name));
        }
        let (after, limit) = (page.after.as_ref(), page.limit.rows());
        let rows = deployments::list(&tx, identity.project(), Some(name), after, limit).await?;
        let ids: Vec<JobId> = rows.iter().map(|row| row.id.clone()).collect();
        let mut targets = deployments::targets_of(&tx, name, &ids).await?;
        tx.rollback().await?;
        let found = rows.into_iter().map(|row| {
            let targets = targets.remove(&row.id).unwrap_or_default();
            Deployment {
                targets: targets.into_iter().map(target).collect(),
                summary: summary(row),
            }
        });
        Ok(found.collect())
    }

    /// Makes the failed targets of a deployment pending again. 409 if none failed.
    pub async fn retry(&self, identity: &Identity, job: &JobId) -> Result<Deployment> {
        identity.require(KeyScope::Write)?;
        let tx = self.core.store.project(identity.project()).await?;
        let row = deployments::by_id(&tx, identity.project(), job).await?;
        row.ok_or_else(|| ControlError::not_found(EntryKind::Deployment, job))?;
        if deployments::retry_failed(&tx, identity.project(), job).await? == 0 {
            let detail = format!("deployment \"{job}\" has no failed tenant");
            return Err(ControlError::refused(ProblemCode::NothingToRetry, detail, ""));
        }
        tx.commit().await?;
        self.wake.notify_one();
        self.find(identity, job).await
    }

    async fn version_row(&self, identity: &Identity, workspace: &WorkspaceRow, number: u32) -> Result<VersionRow> {
        let tx = self.core.store.project(identity.project()).await?;
        let version = versions::by_number(&tx, workspace.id, number).await?;
        tx.rollback().await?;
        version.ok_or_else(|| {
            let rule = format!(
                "is {number}, but blueprint \"{}\" has no such version",
                workspace.blueprint
            );
            ControlError::Invalid { field: "version", rule }
        })
    }

    /// As for a deployment, but without creating a version: if head is no version yet, with the number that it would
    /// get.
    async fn goal_of_plan(&self, identity: &Identity, workspace: &WorkspaceRow, wanted: Option<u32>) -> Result<Goal> {
        if let Some(number) = wanted {
            let version = self.version_row(identity, workspace, number).await?;
            return Ok(Goal {
                number,
                change_ids: version.change_ids,
            });
        }
        let head = self
            .heads
            .of(workspace)
            .await
            .map_err(|problem| problem.into_error(&workspace.blueprint))?;
        let tx = self.core.store.project(identity.project()).await?;
        let existing = versions::by_content(&tx, workspace.id, &head.hash).await?;
        let newest = versions::newest(&tx, workspace.id).await?;
        tx.rollback().await?;
        let next = newest.map_or(1, |number| number.saturating_add(1));
        Ok(Goal {
            number: existing.map_or(next, |version| version.number),
            change_ids: head.ids,
        })
    }

    async fn targets(
        &self,
        project: &ProjectId,
        workspace: &WorkspaceRow,
        goal: &Goal,
        choice: &TenantChoice,
    ) -> Result<Vec<NewTarget>> {
        let tx = self.core.store.project(project).await?;
        let fleet = tenants::of_blueprint(&tx, project, &workspace.blueprint).await?;
        let chosen = chosen(fleet, choice, &workspace.blueprint)?;
        let mut held: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for number in chosen
            .iter()
            .filter_map(|row| row.database.version)
            .collect::<BTreeSet<u32>>()
        {
            let version = versions::by_number(&tx, workspace.id, number).await?;
            held.insert(number, version.map(|version| version.change_ids).unwrap_or_default());
        }
        tx.rollback().await?;
        let paths = plan::paths(
            &goal.change_ids,
            held.iter().map(|(number, ids)| (*number, ids.as_slice())),
        );
        let target = |row: FleetRow| {
            let from = row.database.version?;
            let path = paths.get(&from)?;
            let deployable = row.database.status == DatabaseStatus::Ready
                && matches!(row.tenant_status, TenantStatus::Ready | TenantStatus::Suspended);
            Some(NewTarget {
                tenant: row.database.tenant,
                database: row.database.id,
                server: row.database.physical.server,
                status: match path {
                    Path::Bring(_) if deployable => StoredTarget::Pending,
                    Path::Bring(_) | Path::Nothing => StoredTarget::Skipped,
                },
                from,
                changes_done: 0,
                changes_total: path.len(),
            })
        };
        Ok(chosen.into_iter().filter_map(target).collect())
    }
}

/// Records a deployment with its targets. It is completed at once if there is nothing to do.
async fn insert_deployment(
    tx: &Tx,
    workspace: &WorkspaceRow,
    goal: &Goal,
    choice: &TenantChoice,
    targets: &[NewTarget],
    author: &str,
) -> Result<JobId> {
    let id: JobId = format!("dep_{}", tdb_auth::base32(10).map_err(ControlError::internal)?)
        .parse()
        .map_err(ControlError::internal)?;
    let job = NewDeployment {
        id: &id,
        project: &workspace.project,
        blueprint: &workspace.blueprint,
        workspace: workspace.id,
        version: goal.number,
        from_versions: &from_versions(targets),
        author,
        all_tenants: matches!(choice, TenantChoice::All),
    };
    deployments::insert(tx, &job, targets).await?;
    deployments::complete(tx).await?;
    Ok(id)
}

/// The databases that a deployment is about. "All" leaves deleted tenants out; if they are named, their target is
/// skipped. An unknown name is an error.
fn chosen(fleet: Vec<FleetRow>, choice: &TenantChoice, blueprint: &BlueprintName) -> Result<Vec<FleetRow>> {
    let made = |row: &FleetRow| row.database.status == DatabaseStatus::Ready;
    match choice {
        TenantChoice::All => {
            let there = |row: &FleetRow| {
                made(row) && matches!(row.tenant_status, TenantStatus::Ready | TenantStatus::Suspended)
            };
            Ok(fleet.into_iter().filter(there).collect())
        }
        TenantChoice::Named(names) => {
            let known: BTreeSet<&TenantName> = fleet.iter().map(|row| &row.database.tenant).collect();
            if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
                return Err(ControlError::NoDatabase {
                    tenant: unknown.clone(),
                    blueprint: blueprint.clone(),
                });
            }
            Ok(fleet
                .into_iter()
                .filter(|row| made(row) && names.contains(&row.database.tenant))
                .collect())
        }
    }
}

fn from_versions(targets: &[NewTarget]) -> Vec<u32> {
    targets
        .iter()
        .map(|target| target.from)
        .collect::<BTreeSet<u32>>()
        .into_iter()
        .collect()
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(crate) fn summary(row: DeploymentRow) -> JobSummary {
    JobSummary {
        id: Some(row.id),
        blueprint: row.blueprint,
        from_versions: row.from_versions,
        version: row.version,
        status: match row.status {
            StoredJob::Running => DeploymentStatus::Running,
            StoredJob::Completed => DeploymentStatus::Completed,
            StoredJob::Failed => DeploymentStatus::Failed,
        },
        total_tenants: row.targets,
        completed_tenants: row.completed,
        failed_tenants: row.failed,
        created_at: row.created_at,
        started_at: row.started_at,
        completed_at: row.completed_at,
    }
}

fn target_status(status: StoredTarget) -> TargetStatus {
    match status {
        StoredTarget::Pending => TargetStatus::Pending,
        StoredTarget::Running => TargetStatus::Running,
        StoredTarget::Retrying => TargetStatus::Retrying,
        StoredTarget::Done => TargetStatus::Done,
        StoredTarget::Skipped => TargetStatus::Skipped,
        StoredTarget::Failed => TargetStatus::Failed,
    }
}

pub(crate) fn target(row: TargetRow) -> DeploymentTarget {
    let failure = |message: String| SqlFailure {
        sqlstate: row.sqlstate.clone().unwrap_or_else(|| "XX000".to_owned()),
        message,
        statement: row.statement.clone(),
    };
    DeploymentTarget {
        tenant: row.tenant,
        status: target_status(row.status),
        from: row.from,
        to: row.to,
        changes_done: row.changes_done,
        changes_total: row.changes_total,
        drift: row.drift.map(|differs| {
            if differs {
                Comparison::Differs
            } else {
                Comparison::Equal
            }
        }),
        attempts: row.attempts,
        error: row.message.clone().map(failure),
        duration: row.duration,
    }
}

fn planned(row: &NewTarget, to: u32) -> DeploymentTarget {
    DeploymentTarget {
        tenant: row.tenant.clone(),
        status: target_status(row.status),
        from: row.from,
        to,
        changes_done: 0,
        changes_total: row.changes_total,
        drift: None,
        attempts: 0,
        error: None,
        duration: None,
    }
}
