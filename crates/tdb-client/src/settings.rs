//! Settings of a workspace.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lists::words;

words! {
    /// Whether tenants' own users may change their schema.
    TenantDdl {
        Allow = "allow",
        /// Refused with SQLSTATE 42501; temporary tables and deployments are not.
        Deny = "deny",
    }
}

words! {
    /// Which version a new tenant gets when none is asked for.
    NewTenants {
        /// The workspace's present schema.
        Head = "head",
        /// The newest version that a tenant has; the first tenant gets the present schema.
        Deployed = "deployed",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceSettings {
    pub workspace: String,
    pub tenant_ddl: TenantDdl,
    pub new_tenants: NewTenants,
    /// How far `tenant_ddl` has reached the tenants.
    pub applied: Applied,
}

/// Deleted tenants do not count: they get the setting when they are restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    pub total_tenants: u32,
    pub waiting_tenants: u32,
    /// The first 100 of them.
    pub waiting: Vec<WaitingTenant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingTenant {
    pub tenant_id: String,
    pub attempts: u32,
    /// Why the last attempt failed; it is tried again by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is left out stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_ddl: Option<TenantDdl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tenants: Option<NewTenants>,
}
