//! Database servers that hold workspaces and tenants' databases.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::{list, words};

words! {
    /// Whether new databases are placed on a server.
    ServerStatus {
        /// New databases can be placed on the server.
        Active = "active",
        /// No new databases are placed on the server; existing ones stay and continue to work.
        Draining = "draining",
    }
}

words! {
    /// How connections to a server use TLS, with the values of libpq's `sslmode`.
    TlsMode {
        /// Never encrypt.
        Disable = "disable",
        /// Encrypt if the server supports it; verify nothing.
        Prefer = "prefer",
        /// Encrypt or fail; verify nothing.
        Require = "require",
        /// Encrypt or fail; verify the certificate's chain.
        VerifyCa = "verify-ca",
        /// Encrypt or fail; verify the certificate's chain and host name.
        VerifyFull = "verify-full",
    }
}

/// A database server that holds workspaces and tenants' databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// The server's name.
    pub name: String,
    /// The server's host name or IP address.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// How connections to the server use TLS.
    pub tls: TlsMode,
    /// Whether new databases are placed on it.
    pub status: ServerStatus,
    /// PostgreSQL's version; null before the first successful connection.
    pub version: Option<String>,
    /// Whether the names of databases and roles on it reveal nothing about tenants.
    pub opaque_names: bool,
    /// How many workspaces it holds.
    pub workspaces: u32,
    /// How many tenants' databases it holds.
    pub tenant_databases: u32,
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the server last answered; null if it never has.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub answered_at: Option<OffsetDateTime>,
    /// Since when the server has not answered; null while it answers. It is pinged every two seconds.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub silent_since: Option<OffsetDateTime>,
}

list! {
    /// The database servers, in pages.
    ServerList, servers: Server
}

/// The request to register a database server.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterServer {
    /// The server's name.
    #[schema(min_length = 1, max_length = 40, pattern = "^[a-z0-9_-]+$")]
    pub name: String,
    /// The server's host name or IP address.
    #[schema(min_length = 1, max_length = 255, pattern = "^\\S+$")]
    pub host: String,
    /// Defaults to 5432.
    #[schema(minimum = 1, maximum = 65535)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Defaults to `prefer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
    /// A superuser, because event triggers, which capture DDL, need one.
    #[schema(min_length = 1, max_length = 255)]
    pub admin_user: String,
    /// The superuser's password. It is stored encrypted and never shown.
    #[schema(min_length = 1, max_length = 1024)]
    pub admin_password: String,
    /// Whether the names of databases and roles on it must reveal nothing about tenants. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque_names: Option<bool>,
    /// Extensions that developers may create; `*` means all, except those that give access beyond the database.
    /// Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Vec<String>>,
}

/// The properties of a server that was checked. If the server is not suitable, the answer is a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerTest {
    /// The server's name.
    pub name: String,
    /// PostgreSQL's version.
    pub version: String,
    /// The server's setting `max_connections`.
    pub max_connections: i32,
    /// How many of these connections are reserved for superusers.
    pub reserved_connections: i32,
    /// How many databases the server has, without templates, including those of other applications.
    pub databases: i64,
    /// How long the check took, in milliseconds.
    pub took_ms: u64,
}
