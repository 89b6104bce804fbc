//! Extensions that a server's administrator makes for developers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lists::list;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Extension {
    pub name: String,
    pub default_version: String,
    /// Null where the workspace does not have it.
    pub installed_version: Option<String>,
    /// The schema it is in, where the workspace has it.
    pub schema: Option<String>,
}

list! { ExtensionList, extensions: Extension }

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateExtension {
    #[schema(min_length = 1, max_length = 63)]
    pub name: String,
    /// Defaults to the newest that the server has.
    #[schema(min_length = 1, max_length = 63)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where it goes; it has to exist, but for "extensions". Defaults to the extension's fixed schema, else "public".
    #[schema(min_length = 1, max_length = 63)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}
