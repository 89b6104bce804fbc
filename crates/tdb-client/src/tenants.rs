//! Tenants and their databases.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::{list, words};
use crate::versions::VersionNumber;
use crate::workspaces::Engine;

words! {
    TenantStatus {
        Provisioning = "provisioning",
        Ready = "ready",
        Suspended = "suspended",
        Migrating = "migrating",
        Deleted = "deleted",
        Error = "error",
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    pub tenant_id: String,
    pub status: TenantStatus,
    pub environment: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub databases: Vec<TenantDatabase>,
    /// What its maker should know, such as that an older version than the newest was taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

list! { TenantList, tenants: Tenant }

words! {
    DatabaseStatus { Provisioning = "provisioning", Ready = "ready", Deleting = "deleting", Error = "error" }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TenantDatabase {
    pub blueprint: String,
    pub database_type: Engine,
    /// 1: pooled with other tenants.
    pub isolation_level: u32,
    /// Null while it is being made.
    pub version: Option<u32>,
    pub server: String,
    pub status: DatabaseStatus,
    pub connection: TenantConnection,
    /// Why the last step of its making or deletion failed, or which of its roles a client changed; that is gone when the
    /// role is set again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantConnection {
    pub database: String,
    /// With the password only in the answer that creates the tenant.
    pub connection_string: String,
}

// By hand: the connection string may hold a password.
impl std::fmt::Debug for TenantConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TenantConnection({})", self.database)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// The tenant's name. One that exists gains the databases.
    #[schema(min_length = 1, max_length = 36, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub tenant_id: String,
    pub databases: Vec<CreateTenantDatabase>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenantDatabase {
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub blueprint: String,
    /// 1, the default: pooled with other tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_level: Option<u32>,
    /// Defaults to the blueprint's present schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionNumber>,
}

/// What deleting left: softly, the name and the data, which `restore` brings back; hard, nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedTenant {
    pub tenant_id: String,
    pub status: TenantStatus,
    pub message: String,
}
