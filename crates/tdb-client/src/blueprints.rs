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
    pub version: i64,
    pub status: BlueprintStatus,
    pub database: Engine,
    pub workspace: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
    pub deployment_status: DeploymentStatus,
    /// The tenants that have it.
    pub deployed_to: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentStatus {
    /// Whether a tenant has it.
    pub deployed: bool,
    pub deployed_to_count: usize,
    /// Changes that a deployment would bring to a tenant.
    pub ready_to_deploy: i64,
    pub total_ddl_statements: i64,
}

list! { BlueprintList, blueprints: Blueprint }

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    pub version: i64,
    pub change_ids: Vec<i64>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub author: Option<String>,
    pub statements: i64,
    pub fingerprint: Option<String>,
    pub verified: bool,
    /// Why it is not verified, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

list! { VersionList, versions: Version }
