//! Roles that a project declares, so that its schemas may name them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::list;

/// A role without login that a project's schemas can grant to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Role {
    /// The role's name, also on the database servers.
    pub name: String,
    /// When it was declared.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// A sentence for each server of the project on which the role is not as declared, for example because another role has
    /// its name. TenantsDB tries again.
    pub warnings: Vec<String>,
}

list! {
    /// The roles that a project declares, by name.
    RoleList, roles: Role
}

/// A role to declare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRole {
    /// The role's name, also on the database servers: lower-case letters, digits and `_`, not starting with a digit.
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z_][a-z0-9_]*$")]
    pub name: String,
}
