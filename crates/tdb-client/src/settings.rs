//! Settings of a workspace.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lists::words;

words! {
    /// Whether tenants' users can change the schema of their database.
    TenantDdl {
        /// They can.
        Allow = "allow",
        /// They cannot: DDL fails with SQLSTATE 42501. Temporary tables and deployments are not affected.
        Deny = "deny",
    }
}

words! {
    /// Which version a new tenant gets if the request names none.
    NewTenants {
        /// The workspace's present schema.
        Head = "head",
        /// The newest version that a tenant has. The first tenant gets the present schema.
        Deployed = "deployed",
    }
}

/// The settings of a workspace and its blueprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceSettings {
    /// The workspace's name.
    pub workspace: String,
    /// Whether tenants' users can change the schema.
    pub tenant_ddl: TenantDdl,
    /// Which version new tenants get.
    pub new_tenants: NewTenants,
    /// How far `tenant_ddl` has been applied to the tenants' databases.
    pub applied: Applied,
}

/// How far a setting has been applied. Deleted tenants are not counted; they get the setting when they are restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// How many tenants have the blueprint.
    pub total_tenants: u32,
    /// How many of them do not have the setting yet.
    pub waiting_tenants: u32,
    /// The first 100 tenants that do not have the setting yet.
    pub waiting: Vec<WaitingTenant>,
}

/// A tenant that does not have the setting yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingTenant {
    /// The tenant's name.
    pub tenant_id: String,
    /// How often applying the setting has failed.
    pub attempts: u32,
    /// Why the last attempt failed; the next one follows automatically.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The request to change settings. Omitted fields stay unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSettings {
    /// Whether tenants' users can change the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_ddl: Option<TenantDdl>,
    /// Which version new tenants get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tenants: Option<NewTenants>,
}
