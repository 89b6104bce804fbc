//! Database servers of the data plane.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::list;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    pub name: String,
    pub host: String,
    pub port: u16,
    /// PostgreSQL's version; null before the first contact.
    pub version: Option<String>,
    /// Whether names of databases and roles on it say nothing about tenants.
    pub opaque_names: bool,
    pub workspaces: u32,
    pub tenant_databases: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

list! { ServerList, servers: Server }
