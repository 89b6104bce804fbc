//! Drift: tenants whose schema differs from their version's.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// The drift of a project: tenants and workspaces whose schema is not what it should be. They are checked in the background;
/// this is the result of the last check of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// How many tenants differ.
    pub count: usize,
    /// How many tenants have a result.
    pub checked: u32,
    /// How many tenants and workspaces wait for a check, because a tenant has a new version or a refresh was requested.
    pub pending: u32,
    /// The time of the oldest result; null if there is none.
    #[serde(with = "time::serde::rfc3339::option")]
    pub checked_at: Option<OffsetDateTime>,
    /// Tenants whose schema differs from their version's schema.
    pub tenants: Vec<TenantDrift>,
    /// Workspaces whose schema differs from what their changes give although no change is pending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workspaces: Vec<WorkspaceDrift>,
    /// Tenants that could not be checked, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<Unchecked>,
}

/// A workspace that differs from what its changes give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceDrift {
    /// The workspace's name.
    pub workspace: String,
    /// The differences. `expected` is what the changes give, `found` is what the workspace has.
    pub differences: Vec<Difference>,
}

/// A tenant that differs from its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantDrift {
    /// The tenant's name.
    pub tenant_id: String,
    /// The blueprint.
    pub blueprint: String,
    /// The version that the tenant should have.
    pub version: u32,
    /// When the tenant was checked.
    #[serde(with = "time::serde::rfc3339")]
    pub checked_at: OffsetDateTime,
    /// The differences. `expected` is what the version has, `found` is what the tenant has.
    pub differences: Vec<Difference>,
}

/// A difference in one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// The object, such as `table public.users`.
    pub object: String,
    /// The expected definition; null if the object should not exist.
    pub expected: Option<String>,
    /// The actual definition; null if the object does not exist.
    pub found: Option<String>,
}

/// A tenant that could not be checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unchecked {
    /// The tenant's name.
    pub tenant_id: String,
    /// The blueprint.
    pub blueprint: String,
    /// When the check failed.
    #[serde(with = "time::serde::rfc3339")]
    pub checked_at: OffsetDateTime,
    /// Why it could not be checked.
    pub reason: String,
}

/// The request to check tenants and workspaces again.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshDrift {
    /// The blueprint to check. Defaults to all blueprints of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blueprint: Option<String>,
}

/// A refresh that was started. It runs in the background; `pending` of `GET /drift` shows how much is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DriftRefresh {
    /// How many tenants are checked.
    pub tenants: u32,
}

/// The request to correct what a tenant's database records about applied changes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepairDrift {
    /// The tenant's name.
    pub tenant_id: String,
    /// The blueprint of the database.
    pub blueprint: String,
}

/// The rows of `tdb.deployed_change` that were wrong. Rows that the change log does not have are deleted, and those of the
/// tenant's version are restored; the schema is not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepairedDrift {
    /// How many rows `repaired` shows.
    pub count: usize,
    /// The rows, 100 at most. `expected` is what the database has now, `found` is what it had.
    pub repaired: Vec<Difference>,
}
