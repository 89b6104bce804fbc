//! Deployments and their targets.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::{list, words};
use crate::versions::VersionNumber;

words! {
    /// The state of a deployment.
    JobStatus {
        /// The answer to a dry run; nothing is changed.
        Planned = "planned",
        /// Tenants are being changed or wait for their turn.
        Running = "running",
        /// Reserved; not returned at present.
        Paused = "paused",
        /// All tenants have the version.
        Completed = "completed",
        /// At least one tenant failed. The deployment can be retried.
        Failed = "failed",
        /// Reserved; not returned at present.
        Cancelled = "cancelled",
    }
}

impl JobStatus {
    /// Whether the deployment has ended: its status changes only if it is retried.
    pub fn is_final(self) -> bool {
        match self {
            JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => true,
            JobStatus::Planned | JobStatus::Running | JobStatus::Paused => false,
        }
    }
}

words! {
    /// The state of a tenant in a deployment.
    TargetStatus {
        /// Not started.
        Pending = "pending",
        /// Changes are being applied.
        Running = "running",
        /// An attempt failed; the next one follows automatically.
        Retrying = "retrying",
        /// The tenant has the version.
        Done = "done",
        /// There was nothing to do, or the tenant is deleted.
        Skipped = "skipped",
        /// The last attempt failed. The tenant keeps the changes that were committed.
        Failed = "failed",
    }
}

/// A deployment: a job that brings tenants to a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// The deployment's id, `dep_` and ten characters; null in the answer to a dry run.
    pub job_id: Option<String>,
    /// The blueprint's name.
    pub blueprint_id: String,
    /// The versions that the tenants had at the start, without duplicates.
    pub from_versions: Vec<u32>,
    /// The version that the tenants are brought to.
    pub version: u32,
    /// The state of the deployment.
    pub status: JobStatus,
    /// The percentage of tenants that are finished.
    pub progress: u32,
    /// The progress as text, such as `3 of 12 tenants`.
    pub progress_display: String,
    /// How many tenants the deployment covers.
    pub total_tenants: u32,
    /// How many tenants have the version, including those that had it before.
    pub completed_tenants: u32,
    /// How many tenants failed.
    pub failed_tenants: u32,
    /// When the first tenant was started; null before.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When the deployment ended; null before.
    #[serde(with = "time::serde::rfc3339::option")]
    pub completed_at: Option<OffsetDateTime>,
    /// The tenants. Lists omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<Target>>,
}

list! {
    /// The deployments of the project, newest first, in pages.
    JobList, jobs: Job
}

/// A tenant in a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Target {
    /// The tenant's name.
    pub tenant_id: String,
    /// The state of the tenant in the deployment.
    pub status: TargetStatus,
    /// The version that the tenant had at the start.
    pub from: u32,
    /// The version that the tenant is brought to.
    pub to: u32,
    /// How many changes are committed in this tenant's database.
    pub changes_done: u32,
    /// How many changes the tenant lacked at the start.
    pub changes_total: u32,
    /// Whether the tenant's schema differs from the version's schema at the end.
    pub drift: bool,
    /// How many attempts were started.
    pub attempts: u32,
    /// The error of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TargetError>,
    /// The time from the start of the first attempt to the end of the last one, in milliseconds; null before.
    pub duration_ms: Option<u64>,
}

/// The error that ended an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetError {
    /// The SQLSTATE.
    pub sqlstate: String,
    /// The error message.
    pub message: String,
    /// The statement that failed; null if the error was not caused by a statement.
    pub statement: Option<String>,
}

/// The request to start a deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDeployment {
    /// The blueprint.
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub blueprint_name: String,
    /// The version to deploy. Defaults to the present schema, as a new version if necessary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionNumber>,
    /// Deploy to all tenants that have the blueprint; either this or `tenants`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deploy_all: bool,
    /// The names of the tenants to deploy to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<String>>,
    /// Return the plan and change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}
