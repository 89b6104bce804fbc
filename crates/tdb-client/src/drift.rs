//! Drift: tenants whose schema differs from their version's.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Only tenants that differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    pub count: usize,
    pub tenants: Vec<TenantDrift>,
    /// Workspaces that have what no change accounts for, though nothing is pending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workspaces: Vec<WorkspaceDrift>,
    /// Tenants that could not be looked at, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<Unchecked>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceDrift {
    pub workspace: String,
    /// Expected: what the changes give. Found: what the workspace has.
    pub differences: Vec<Difference>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantDrift {
    pub tenant_id: String,
    pub blueprint: String,
    pub version: u32,
    pub differences: Vec<Difference>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    pub object: String,
    /// Null: the version does not have it.
    pub expected: Option<String>,
    /// Null: the tenant does not have it.
    pub found: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unchecked {
    pub tenant_id: String,
    pub reason: String,
}
