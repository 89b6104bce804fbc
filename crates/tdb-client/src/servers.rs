//! Database servers of the data plane.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::{list, words};

words! {
    ServerStatus {
        Active = "active",
        /// Takes no new databases; what is there stays and works.
        Draining = "draining",
    }
}

words! {
    /// As libpq's `sslmode`.
    TlsMode {
        Disable = "disable",
        Prefer = "prefer",
        Require = "require",
        VerifyCa = "verify-ca",
        VerifyFull = "verify-full",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub tls: TlsMode,
    pub status: ServerStatus,
    /// PostgreSQL's version; null before the first contact.
    pub version: Option<String>,
    /// Whether names of databases and roles on it say nothing about tenants.
    pub opaque_names: bool,
    pub workspaces: u32,
    pub tenant_databases: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it last gave a sign of life; null before the first.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub answered_at: Option<OffsetDateTime>,
}

list! { ServerList, servers: Server }

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterServer {
    #[schema(min_length = 1, max_length = 40, pattern = "^[a-z0-9_-]+$")]
    pub name: String,
    /// A name or an address.
    #[schema(min_length = 1, max_length = 255, pattern = "^\\S+$")]
    pub host: String,
    /// Defaults to 5432.
    #[schema(minimum = 1, maximum = 65535)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Defaults to `prefer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
    /// A superuser: event triggers, which capture DDL, need one.
    #[schema(min_length = 1, max_length = 255)]
    pub admin_user: String,
    /// Kept sealed, never shown.
    #[schema(min_length = 1, max_length = 1024)]
    pub admin_password: String,
    /// Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque_names: Option<bool>,
    /// Extensions that its administrator makes for developers, `*` for all but those that reach too far; none where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Vec<String>>,
}

/// What a look at a server found; one that lacks something is a problem instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerTest {
    pub name: String,
    pub version: String,
    pub max_connections: i32,
    /// Of these, kept for superusers.
    pub reserved_connections: i32,
    /// Of anybody, templates left out.
    pub databases: i64,
    pub took_ms: u64,
}
