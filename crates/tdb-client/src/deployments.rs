//! Deployments and their targets.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::{list, words};
use crate::versions::VersionNumber;

words! {
    JobStatus {
        Planned = "planned",
        Running = "running",
        Paused = "paused",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

impl JobStatus {
    /// Nothing more will happen by itself.
    pub fn is_final(self) -> bool {
        match self {
            JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => true,
            JobStatus::Planned | JobStatus::Running | JobStatus::Paused => false,
        }
    }
}

words! {
    TargetStatus {
        Pending = "pending",
        Running = "running",
        Retrying = "retrying",
        Done = "done",
        Skipped = "skipped",
        Failed = "failed",
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// `dep_…`; null in the plan of a dry run.
    pub job_id: Option<String>,
    pub blueprint_id: String,
    pub from_versions: Vec<u32>,
    /// The version that the tenants are brought to.
    pub version: u32,
    pub status: JobStatus,
    /// Per cent of the tenants that are through.
    pub progress: u32,
    /// The same for people, such as `3 of 12 tenants`.
    pub progress_display: String,
    pub total_tenants: u32,
    pub completed_tenants: u32,
    pub failed_tenants: u32,
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub completed_at: Option<OffsetDateTime>,
    /// Left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<Target>>,
}

list! { JobList, jobs: Job }

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Target {
    pub tenant_id: String,
    pub status: TargetStatus,
    pub from: u32,
    pub to: u32,
    /// Changes that have committed on this tenant.
    pub changes_done: u32,
    /// Changes that it lacked at the start.
    pub changes_total: u32,
    /// Whether its schema differs from the version's at the end.
    pub drift: bool,
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TargetError>,
    pub duration_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetError {
    pub sqlstate: String,
    pub message: String,
    pub statement: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDeployment {
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub blueprint_name: String,
    /// Defaults to the blueprint's present schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionNumber>,
    /// All tenants of the blueprint; either this or `tenants`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deploy_all: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<String>>,
    /// Only show what would be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}
