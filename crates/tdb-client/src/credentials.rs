//! Credentials of workspaces and tenants.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::connections::Connection;
use crate::lists::{list, words};

words! {
    /// What a credential can do in the databases that it opens.
    Rights {
        /// Read and write, and change the schema where the settings allow it.
        ReadWrite = "rw",
        /// Read only.
        ReadOnly = "ro",
    }
}

words! {
    /// What kind of databases a credential opens.
    CredentialScope {
        /// All workspaces and tenants of the project.
        Project = "project",
        /// One workspace.
        Workspace = "workspace",
        /// All databases of one tenant.
        Tenant = "tenant",
    }
}

/// A database credential, without its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Credential {
    /// The credential's id.
    pub id: String,
    /// The credential's name: its user name, unless another name was given when it was created.
    pub name: String,
    /// The user name that clients log in with.
    pub user: String,
    /// What kind of databases it opens.
    pub scope: CredentialScope,
    /// The workspace or tenant that it opens; null for the whole project.
    pub opens: Option<String>,
    /// What it can do there.
    pub rights: Rights,
    /// When the credential was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it stops being accepted and its sessions end; null if never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

list! {
    /// The credentials of the project, in pages.
    CredentialList, credentials: Credential
}

/// The request to create a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCredential {
    /// The tenant whose databases it opens; exactly one of this, `workspace` and `project`.
    #[schema(min_length = 1, max_length = 36, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The workspace that it opens.
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// `true`: it opens all workspaces and tenants of the project, including later ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub project: bool,
    /// Free text that does not have the form of an id, for example the name of the application. Defaults to the user
    /// name.
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
    /// When it stops being accepted and its sessions end. Defaults to never.
    pub expires_at: Option<OffsetDateTime>,
}

/// A new credential. Its password is shown only in this answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedCredential {
    /// The credential's id.
    pub id: String,
    /// The credential's name.
    pub name: String,
    /// How clients connect to the first of `databases`. For a credential of the whole project without a database:
    /// clients append the name of any of its databases.
    pub connection: Connection,
    /// The same as a URL, password included.
    pub connection_string: String,
    /// The databases that it opens; empty for a credential of the whole project.
    pub databases: Vec<OpenedDatabase>,
}

/// A database that a credential opens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenedDatabase {
    /// The database's name.
    pub database: String,
    /// The connection string, password included.
    pub connection_string: String,
}

// Written by hand because the connection string contains a password.
impl std::fmt::Debug for OpenedDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenedDatabase({})", self.database)
    }
}
