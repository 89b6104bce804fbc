//! Blueprints and their versions.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::{list, words};
use crate::workspaces::{Engine, Schema};

words! {
    /// Whether the blueprint's schema can be deployed.
    BlueprintStatus {
        /// The workspace has no changes.
        Draft = "draft",
        /// The present schema can be deployed.
        Ready = "ready",
        /// A change cannot be replayed, so the present schema cannot be deployed.
        Broken = "broken",
    }
}

/// A blueprint: the schema that the changes of a workspace give, in versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Blueprint {
    /// The blueprint's name, which paths take.
    pub id: String,
    /// The blueprint's name.
    pub name: String,
    /// The newest version.
    pub version: u32,
    /// Whether the present schema can be deployed.
    pub status: BlueprintStatus,
    /// The engine of its databases.
    pub database: Engine,
    /// The same as `database`.
    pub database_type: Engine,
    /// The name of its workspace.
    pub workspace: String,
    /// The same as `workspace`; paths take it.
    pub workspace_id: String,
    /// The project that the blueprint belongs to.
    pub project_id: String,
    /// When the blueprint was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the workspace's journal was last copied to the change log. Transactions that committed before are counted. Null
    /// before the first time.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub drained_at: Option<OffsetDateTime>,
    /// The present schema. Lists omit it, and so do answers with `server_error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
    /// Why the database server could not be queried. The answer is then from stored data: changes after `drained_at` may be
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_error: Option<String>,
    /// How far the present schema is deployed.
    pub deployment_status: DeploymentStatus,
    /// The tenants that have the blueprint.
    pub deployed_to: Vec<DeployedTo>,
}

/// How far a blueprint's present schema is deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentStatus {
    /// Whether the blueprint has tenants, and all of them have the present schema.
    pub deployed: bool,
    /// How many tenants have the blueprint.
    pub deployed_to_count: u32,
    /// How many changes at least one tenant lacks; all changes if there is no tenant.
    pub ready_to_deploy: u32,
    /// How many DDL statements the present schema consists of.
    pub total_ddl_statements: u32,
}

/// A tenant that has the blueprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeployedTo {
    /// The tenant's name.
    pub tenant_id: String,
    /// The version that the tenant's database has.
    pub version: u32,
}

list! {
    /// The blueprints of the project, in pages.
    BlueprintList, blueprints: Blueprint
}

/// A version of a blueprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The version's number, from 1.
    pub version: u32,
    /// The changes (`ddl_id`) that make up the version, in order.
    pub change_ids: Vec<u32>,
    /// When the version was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Who created the version: a credential or an API key.
    pub author: String,
    /// How many DDL statements these changes have.
    pub statements: u32,
    /// The fingerprint of the version's schema; null if the version was not built yet.
    pub fingerprint: Option<String>,
    /// Whether replaying the changes gave the workspace's schema.
    pub verified: bool,
    /// Why the version is not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

list! {
    /// The versions of a blueprint, in pages.
    VersionList, versions: Version
}
