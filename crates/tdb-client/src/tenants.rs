//! Tenants and their databases.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::lists::{list, words};
use crate::versions::VersionNumber;
use crate::workspaces::Engine;

words! {
    /// The state of a tenant.
    TenantStatus {
        /// Databases are being created.
        Provisioning = "provisioning",
        /// All databases accept clients.
        Ready = "ready",
        /// Clients are refused until the tenant is resumed.
        Suspended = "suspended",
        /// A deployment is changing a database.
        Migrating = "migrating",
        /// Clients are refused; the data is kept and the tenant can be restored.
        Deleted = "deleted",
        /// The creation of a database has failed several times and is being retried.
        Error = "error",
    }
}

/// A tenant: a customer with a database for each of its blueprints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// The tenant's name.
    pub tenant_id: String,
    /// The state of the tenant.
    pub status: TenantStatus,
    /// A field that clients of the hosted product expect; always the same value.
    pub environment: String,
    /// When the tenant was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// The tenant's databases.
    pub databases: Vec<TenantDatabase>,
    /// What the caller should know, for example that the tenant got an older version than the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

list! {
    /// The tenants of the project, in pages.
    TenantList, tenants: Tenant
}

words! {
    /// The state of a tenant's database.
    DatabaseStatus {
        /// The database is being created.
        Provisioning = "provisioning",
        /// The database accepts clients, unless the tenant is suspended or deleted.
        Ready = "ready",
        /// The database is being removed.
        Deleting = "deleting",
        /// The creation has failed several times and is being retried.
        Error = "error",
    }
}

/// A tenant's database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TenantDatabase {
    /// The blueprint that it was created from.
    pub blueprint: String,
    /// The engine.
    pub database_type: Engine,
    /// 1: a separate database, on a server with databases of other tenants.
    pub isolation_level: u32,
    /// The version that it has; null while it is being created.
    pub version: Option<u32>,
    /// The server that holds it.
    pub server: String,
    /// The state of the database.
    pub status: DatabaseStatus,
    /// How clients connect to it.
    pub connection: TenantConnection,
    /// Why the last step of its creation or deletion failed, or which of its roles a client changed. Cleared when the
    /// step succeeds or the role is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// How clients connect to a tenant's database.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantConnection {
    /// The database's name.
    pub database: String,
    /// The connection string. It contains the password only in the answer that creates the tenant.
    pub connection_string: String,
}

// Written by hand because the connection string can contain a password.
impl std::fmt::Debug for TenantConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TenantConnection({})", self.database)
    }
}

/// The request to create a tenant, or databases of a tenant that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// The tenant's name. If the tenant exists, the databases are added to it.
    #[schema(min_length = 1, max_length = 36, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub tenant_id: String,
    /// The databases to create.
    pub databases: Vec<CreateTenantDatabase>,
}

/// A database to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenantDatabase {
    /// The blueprint to create it from.
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub blueprint: String,
    /// 1, the default: a separate database, on a server with databases of other tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_level: Option<u32>,
    /// The version to create. Defaults to what the workspace's setting `new_tenants` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionNumber>,
}

/// A deleted tenant. A soft deletion keeps the name and the data, which `restore` brings back; a hard deletion removes
/// both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedTenant {
    /// The tenant's name.
    pub tenant_id: String,
    /// The state of the tenant.
    pub status: TenantStatus,
    /// What happened, as a sentence.
    pub message: String,
}
