//! Credentials of workspaces and tenants.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::connections::Connection;
use crate::lists::{list, words};

words! {
    Rights { ReadWrite = "rw", ReadOnly = "ro" }
}

words! {
    CredentialScope { Project = "project", Workspace = "workspace", Tenant = "tenant" }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Credential {
    pub id: String,
    /// The user name unless another was given at the creation.
    pub name: String,
    pub user: String,
    pub scope: CredentialScope,
    /// The workspace or tenant it opens; null for the project's.
    pub opens: Option<String>,
    pub rights: Rights,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

list! { CredentialList, credentials: Credential }

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCredential {
    /// The tenant it opens; exactly one of this, `workspace` and `project`.
    #[schema(min_length = 1, max_length = 36, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The workspace it opens.
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// `true`: it opens every workspace and tenant of the project, those created later too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub project: bool,
    /// Free text without the form of an id, for example the application that uses it. Defaults to the user name.
    #[schema(min_length = 1, max_length = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Defaults to `rw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<Rights>,
    /// From when on it is refused, and its sessions end; never where absent.
    #[serde(
        default,
        serialize_with = "time::serde::rfc3339::option::serialize",
        deserialize_with = "crate::times::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<OffsetDateTime>,
}

/// A credential just made; its password is shown this once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedCredential {
    pub id: String,
    pub name: String,
    /// To the first of `databases`; without a database for the project's, where any of its databases is appended.
    pub connection: Connection,
    pub connection_string: String,
    /// One for each database that it opens; empty for the project's.
    pub databases: Vec<OpenedDatabase>,
}

/// A database that a credential opens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenedDatabase {
    pub database: String,
    pub connection_string: String,
}

// By hand: the connection string has a password.
impl std::fmt::Debug for OpenedDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenedDatabase({})", self.database)
    }
}
