//! Blueprints and their versions.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::{list, words};
use crate::workspaces::{Engine, Schema};

words! {
    BlueprintStatus { Draft = "draft", Ready = "ready", Broken = "broken" }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Blueprint {
    /// The blueprint's name, as paths want it.
    pub id: String,
    pub name: String,
    /// Its newest version.
    pub version: u32,
    pub status: BlueprintStatus,
    pub database: Engine,
    /// The same.
    pub database_type: Engine,
    pub workspace: String,
    /// The same: the workspace's name, as paths want it.
    pub workspace_id: String,
    pub project_id: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// What was committed in the workspace before this is counted; null before the first look at its journal.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub drained_at: Option<OffsetDateTime>,
    /// Left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
    pub deployment_status: DeploymentStatus,
    pub deployed_to: Vec<DeployedTo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentStatus {
    /// Whether there are tenants and all have the present schema.
    pub deployed: bool,
    pub deployed_to_count: u32,
    /// Changes that a deployment would bring to a tenant.
    pub ready_to_deploy: u32,
    pub total_ddl_statements: u32,
}

/// A tenant that has the blueprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeployedTo {
    pub tenant_id: String,
    pub version: u32,
}

list! { BlueprintList, blueprints: Blueprint }

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    pub version: u32,
    pub change_ids: Vec<u32>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub author: String,
    pub statements: u32,
    /// Null where it was not built yet.
    pub fingerprint: Option<String>,
    pub verified: bool,
    /// Why it is not verified, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

list! { VersionList, versions: Version }
