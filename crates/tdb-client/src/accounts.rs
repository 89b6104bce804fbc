//! Projects and API keys.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::connections::Connection;
use crate::lists::{list, words};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// `prj_…`
    pub id: String,
    /// The same.
    pub project_id: String,
    pub name: String,
    pub api_key_count: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

list! { ProjectList, projects: Project }

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// Free text without the form of an id.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
}

/// A project just made: its database credential and its first API key are shown this once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CreatedProject {
    #[serde(flatten)]
    pub project: Project,
    /// The project's first key, with all scopes.
    pub api_key: String,
    pub connection: Connection,
    pub connection_string: String,
}

/// A project's database credential after rotation; the former one is refused from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotatedCredential {
    /// The project.
    pub id: String,
    pub connection: Connection,
    pub connection_string: String,
}

words! {
    /// What a key may do: `read` looks, `write` changes what is in the project, `admin` changes projects and keys too.
    Scope { Read = "read", Write = "write", Admin = "admin" }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    pub id: String,
    pub name: String,
    pub project_id: String,
    /// The key's name, as clients of the hosted product call it.
    pub project_name: String,
    /// Always true: a deleted key is not listed.
    pub is_active: bool,
    /// The first characters of the key, to recognise it by.
    pub prefix: String,
    pub scopes: Vec<Scope>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
}

list! { ApiKeyList, api_keys: ApiKey }

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// Free text without the form of an id. Defaults to `key`.
    #[schema(min_length = 1, max_length = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The key's name, as clients of the hosted product call it; either this or `name`.
    #[schema(min_length = 1, max_length = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
    /// Defaults to `read` and `write`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<Scope>>,
}

/// A key just made; the key itself is shown this once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedApiKey {
    pub api_key: String,
    #[serde(flatten)]
    pub key: ApiKey,
}

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignUp {
    /// Upper and lower case are the same.
    #[schema(min_length = 3, max_length = 254)]
    pub email: String,
    /// At most 256 bytes and at least 5 different characters; below 12 characters of more than one kind (lower-case letters,
    /// upper-case letters, digits, others). Not the email address or its first part.
    #[schema(min_length = 8, max_length = 256)]
    pub password: String,
    /// Free text without the form of an id. Defaults to `default`.
    #[schema(min_length = 1, max_length = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
}

/// A user just made, with an account, a project, its first API key and its database credential, each shown this once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignedUp {
    pub project_id: String,
    pub api_key: String,
    pub connection: Connection,
    pub connection_string: String,
}

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    pub email: String,
    pub password: String,
}

/// A new API key with all scopes for the user's oldest project, shown this once. A user keeps the newest ten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoggedIn {
    pub project_id: String,
    pub api_key: String,
    /// The first 100 projects of the user's account, oldest first.
    pub projects: Vec<LoginProject>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoginProject {
    pub project_id: String,
    pub name: String,
    pub api_key_count: u32,
    /// The new key, at the project that it was created for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
}
