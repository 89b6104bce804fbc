//! Extensions of PostgreSQL that developers can create in workspaces.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lists::list;

/// An extension that the server's administrator allows in workspaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Extension {
    /// The extension's name.
    pub name: String,
    /// The version that is installed by default.
    pub default_version: String,
    /// The version that the workspace has; null if it does not have the extension.
    pub installed_version: Option<String>,
    /// The schema that it is installed in; null if the workspace does not have the extension.
    pub schema: Option<String>,
}

list! {
    /// The extensions that are available in a workspace, in pages.
    ExtensionList, extensions: Extension
}

/// The request to create an extension in a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateExtension {
    /// The extension's name.
    #[schema(min_length = 1, max_length = 63)]
    pub name: String,
    /// The version. Defaults to the server's default version.
    #[schema(min_length = 1, max_length = 63)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The schema to create it in, which must exist unless it is "extensions". Defaults to the extension's fixed schema, else "public".
    #[schema(min_length = 1, max_length = 63)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}
