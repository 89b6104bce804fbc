//! Drift: tenants whose schema differs from their version's.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// As of the last look at each tenant and workspace; they are looked at in the background.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// Tenants that differ.
    pub count: usize,
    /// Tenants whose last look counts.
    pub checked: u32,
    /// Tenants and workspaces that wait for a look: a tenant has a new version, or a refresh was asked for.
    pub pending: u32,
    /// The oldest of the looks that count; null where there is none.
    #[serde(with = "time::serde::rfc3339::option")]
    pub checked_at: Option<OffsetDateTime>,
    /// Only tenants that differ.
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
    #[serde(with = "time::serde::rfc3339")]
    pub checked_at: OffsetDateTime,
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
    pub blueprint: String,
    /// When it was tried.
    #[serde(with = "time::serde::rfc3339")]
    pub checked_at: OffsetDateTime,
    pub reason: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshDrift {
    /// Only this blueprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blueprint: Option<String>,
}

/// A refresh goes on in the background; `pending` of the drift says how much of it is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DriftRefresh {
    /// Tenants that are looked at.
    pub tenants: u32,
}
