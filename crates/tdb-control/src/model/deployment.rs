//! Deployments and their targets.

use std::time::Duration;

use tdb_names::{BlueprintName, JobId, TenantName};
use time::OffsetDateTime;

/// A deployment to be created or planned.
#[derive(Clone, Debug)]
pub struct DeploymentRequest {
    /// The blueprint to deploy.
    pub blueprint: BlueprintName,
    /// The version to deploy; `None` stands for head.
    pub version: Option<u32>,
    /// The tenants to deploy to.
    pub tenants: TenantChoice,
}

/// The tenants of a blueprint that a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantChoice {
    /// All tenants that are not deleted.
    All,
    /// These tenants. An unknown name is an error.
    Named(Vec<TenantName>),
}

/// The progress of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeploymentStatus {
    /// A dry run: nothing was created.
    Planned,
    /// Some targets are unfinished.
    Running,
    /// Every target is done or skipped.
    Completed,
    /// Every target has ended, and at least one failed.
    Failed,
}

/// The progress of one tenant in a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetStatus {
    /// Not started.
    Pending,
    /// An attempt is running.
    Running,
    /// The last attempt failed in a way that may pass; the next one is scheduled.
    Retrying,
    /// The tenant has the version.
    Done,
    /// Nothing was to be done, or the tenant is deleted.
    Skipped,
    /// The last attempt failed permanently. A retry makes the target pending again.
    Failed,
}

/// A deployment without its targets, as in lists.
#[derive(Clone, Debug)]
pub struct JobSummary {
    /// `None` for a dry run.
    pub id: Option<JobId>,
    /// The blueprint that is deployed.
    pub blueprint: BlueprintName,
    /// The versions that the tenants had at the start.
    pub from_versions: Vec<u32>,
    /// The version that is deployed. For a dry run of head, the number that it would get.
    pub version: u32,
    /// The progress.
    pub status: DeploymentStatus,
    /// How many targets there are.
    pub total_tenants: u32,
    /// How many targets are done or skipped.
    pub completed_tenants: u32,
    /// How many targets have failed.
    pub failed_tenants: u32,
    /// When it was created; for a dry run, the current time.
    pub created_at: OffsetDateTime,
    /// When it was started, which is when it was created. `None` for a dry run.
    pub started_at: Option<OffsetDateTime>,
    /// When the last target ended; `None` before.
    pub completed_at: Option<OffsetDateTime>,
}

impl JobSummary {
    /// The percentage of targets that have ended, including failed ones.
    pub fn progress(&self) -> u32 {
        let through = self.completed_tenants.saturating_add(self.failed_tenants);
        match self.total_tenants {
            0 => 100,
            total => through.saturating_mul(100) / total,
        }
    }
}

/// A deployment with its targets.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The deployment as a whole.
    pub summary: JobSummary,
    /// One target per tenant; lists for one tenant have only that tenant's target.
    pub targets: Vec<DeploymentTarget>,
}

/// One tenant in a deployment.
#[derive(Clone, Debug)]
pub struct DeploymentTarget {
    /// The tenant's name.
    pub tenant: TenantName,
    /// The progress.
    pub status: TargetStatus,
    /// The version that the tenant had at the start.
    pub from: u32,
    /// The version that it is to have.
    pub to: u32,
    /// How many changes have been applied.
    pub changes_done: u32,
    /// How many changes the tenant lacked at the start.
    pub changes_total: u32,
    /// Whether the schema differs from the version's after the deployment; `None` if that was not compared.
    pub drift: Option<Comparison>,
    /// How many attempts were started since the creation or the last retry.
    pub attempts: u32,
    /// The error of the last attempt.
    pub error: Option<SqlFailure>,
    /// The time from the start of the first attempt to the end of the last one; `None` before an attempt has ended.
    pub duration: Option<Duration>,
}

/// The result of a comparison with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The schema is that of the version.
    Equal,
    /// The schema differs.
    Differs,
}

/// An error of PostgreSQL, or a failure to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlFailure {
    /// The SQLSTATE: PostgreSQL's, or one chosen by this program, such as 08006 if the server could not be reached.
    pub sqlstate: String,
    /// The message.
    pub message: String,
    /// The statement that failed, if the error concerns one.
    pub statement: Option<String>,
}
