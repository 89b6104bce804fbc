//! Deployments: jobs and their targets.

use std::time::Duration;

use tdb_names::{BlueprintName, JobId, TenantName};
use time::OffsetDateTime;

#[derive(Clone, Debug)]
pub struct DeploymentRequest {
    pub blueprint: BlueprintName,
    /// None: head.
    pub version: Option<u32>,
    pub tenants: TenantChoice,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantChoice {
    All,
    Named(Vec<TenantName>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeploymentStatus {
    /// A dry run's answer, or not begun.
    Planned,
    Running,
    Completed,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetStatus {
    Pending,
    Running,
    Retrying,
    Done,
    Skipped,
    Failed,
}

/// A job without its targets, as in lists.
#[derive(Clone, Debug)]
pub struct JobSummary {
    /// None for a dry run.
    pub id: Option<JobId>,
    pub blueprint: BlueprintName,
    pub from_versions: Vec<u32>,
    pub version: u32,
    pub status: DeploymentStatus,
    pub total_tenants: u32,
    /// Done and skipped ones.
    pub completed_tenants: u32,
    pub failed_tenants: u32,
    pub created_at: OffsetDateTime,
    pub started_at: Option<OffsetDateTime>,
    pub completed_at: Option<OffsetDateTime>,
}

impl JobSummary {
    /// Percent of tenants that are through, failed ones included.
    pub fn progress(&self) -> u32 {
        let through = self.completed_tenants.saturating_add(self.failed_tenants);
        match self.total_tenants {
            0 => 100,
            total => through.saturating_mul(100) / total,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Deployment {
    pub summary: JobSummary,
    pub targets: Vec<DeploymentTarget>,
}

#[derive(Clone, Debug)]
pub struct DeploymentTarget {
    pub tenant: TenantName,
    pub status: TargetStatus,
    pub from: u32,
    pub to: u32,
    /// How many of the changes are on the tenant, of how many.
    pub changes_done: u32,
    pub changes_total: u32,
    /// The schema differs from the version's after the deployment; none until that is known.
    pub drift: Option<Drift>,
    pub attempts: u32,
    pub error: Option<SqlFailure>,
    pub duration: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    Equal,
    Differs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlFailure {
    pub sqlstate: String,
    pub message: String,
    /// The statement that failed, where one did.
    pub statement: Option<String>,
}
