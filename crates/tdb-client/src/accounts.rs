//! Projects and API keys.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::connections::Connection;
use crate::lists::{list, words};

/// A project: the unit of isolation for workspaces, tenants and API keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// The project's id, `prj_` and ten characters.
    pub id: String,
    /// The same as `id`.
    pub project_id: String,
    /// The project's name.
    pub name: String,
    /// How many API keys the project has.
    pub api_key_count: u32,
    /// When the project was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

list! {
    /// The projects that the key can read, in pages.
    ProjectList, projects: Project
}

/// The request to create a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// Free text that does not have the form of an id.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
}

/// A new project. Its first API key and the password of its database credential are shown only in this answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CreatedProject {
    /// The project.
    #[serde(flatten)]
    pub project: Project,
    /// The project's first API key, with all scopes.
    pub api_key: String,
    /// How clients connect with the project's credential.
    pub connection: Connection,
    /// The same as a URL, password included.
    pub connection_string: String,
}

/// A project's database credential after a rotation. The previous password is no longer accepted; the new one is shown
/// only in this answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotatedCredential {
    /// The project's id.
    pub id: String,
    /// How clients connect with the project's credential.
    pub connection: Connection,
    /// The same as a URL, password included.
    pub connection_string: String,
}

words! {
    /// What an API key can do: `read` reads, `write` also changes the project's workspaces and tenants, `admin` also
    /// changes projects and API keys.
    Scope {
        /// Read.
        Read = "read",
        /// Read, and change the project's workspaces, tenants and credentials.
        Write = "write",
        /// Also create and delete projects and API keys.
        Admin = "admin",
    }
}

/// An API key, without its secret part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// The key's id.
    pub id: String,
    /// The key's name.
    pub name: String,
    /// The project that the key belongs to.
    pub project_id: String,
    /// The key's name, under the field name that clients of the hosted product expect.
    pub project_name: String,
    /// Always true: deleted keys are not listed.
    pub is_active: bool,
    /// The first characters of the key, to recognise it by.
    pub prefix: String,
    /// What the key can do.
    pub scopes: Vec<Scope>,
    /// When the key was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the key was last used, accurate to a minute; null if never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
}

list! {
    /// The API keys of the project, in pages.
    ApiKeyList, api_keys: ApiKey
}

/// The request to create an API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// Free text that does not have the form of an id. Defaults to `key`.
    #[schema(min_length = 1, max_length = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The key's name, under the field name that clients of the hosted product send; either this or `name`.
    #[schema(min_length = 1, max_length = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
    /// What the key can do. Defaults to `read` and `write`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<Scope>>,
}

/// A new API key. The key itself is shown only in this answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedApiKey {
    /// The key, as the `Authorization: Bearer` header needs it.
    pub api_key: String,
    /// The key's entry, as lists show it.
    #[serde(flatten)]
    pub key: ApiKey,
}

/// The request to create a user with an account and a project.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignUp {
    /// The user's email address. Upper and lower case are not distinguished.
    #[schema(min_length = 3, max_length = 254)]
    pub email: String,
    /// At most 256 bytes, with at least 5 different characters. A password of fewer than 12 characters needs more than
    /// one kind (lower-case letters, upper-case letters, digits, others). It must not be the email address or the part
    /// before the `@`.
    #[schema(min_length = 8, max_length = 256)]
    pub password: String,
    /// The name of the user's first project: free text that does not have the form of an id. Defaults to `default`.
    #[schema(min_length = 1, max_length = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
}

/// A new user's first project. Its API key and the password of its database credential are shown only in this answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignedUp {
    /// The project's id.
    pub project_id: String,
    /// The project's first API key, with all scopes.
    pub api_key: String,
    /// How clients connect with the project's credential.
    pub connection: Connection,
    /// The same as a URL, password included.
    pub connection_string: String,
}

/// The request for an API key by email and password.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The user's email address. Upper and lower case are not distinguished.
    pub email: String,
    /// The user's password.
    pub password: String,
}

/// A new API key for the user's oldest project, with all scopes, shown only in this answer. Only the ten newest keys of
/// a user's logins are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoggedIn {
    /// The project that the key belongs to.
    pub project_id: String,
    /// The key.
    pub api_key: String,
    /// The first 100 projects of the user's account, oldest first.
    pub projects: Vec<LoginProject>,
}

/// A project in the answer to a login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoginProject {
    /// The project's id.
    pub project_id: String,
    /// The project's name.
    pub name: String,
    /// How many API keys the project has.
    pub api_key_count: u32,
    /// The new key, for the project that it was created for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
}
