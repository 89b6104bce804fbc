//! Tenants and their databases.

use tdb_names::{BlueprintName, ServerName, TenantName};
use time::OffsetDateTime;

use super::access::Connection;

/// The state of a tenant, as the API shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenantStatus {
    /// A database is being created.
    Provisioning,
    /// Clients can connect.
    Ready,
    /// Suspended by a user: clients are refused.
    Suspended,
    /// A deployment is changing a database. Clients can connect.
    Migrating,
    /// Deleted by a user, and restorable, or being removed permanently.
    Deleted,
    /// Creating a database has failed repeatedly; the workers still try.
    Error,
}

/// The state of a tenant's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatabaseStatus {
    /// Being created.
    Provisioning,
    /// Created.
    Ready,
    /// Being removed.
    Deleting,
    /// Creating it has failed repeatedly; the workers still try.
    Error,
}

/// How a tenant is separated from others, by the numbers of the API. Level 2, a dedicated server, is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IsolationLevel {
    /// Level 1: a separate database on a server that tenants share.
    Pooled,
}

impl IsolationLevel {
    /// The number that the API uses.
    pub fn number(self) -> u8 {
        match self {
            IsolationLevel::Pooled => 1,
        }
    }
}

/// A tenant to be created, or databases to be added to an existing one.
#[derive(Clone, Debug)]
pub struct TenantRequest {
    /// The tenant's name.
    pub name: TenantName,
    /// Its databases, at least one.
    pub databases: Vec<DatabaseRequest>,
    /// A label that is stored with a new tenant; `None` stands for "production".
    pub environment: Option<String>,
}

/// A database to be created for a tenant.
#[derive(Clone, Debug)]
pub struct DatabaseRequest {
    /// The blueprint that it is created from.
    pub blueprint: BlueprintName,
    /// How it is separated from others.
    pub isolation_level: IsolationLevel,
    /// The version to start with. `None` follows the workspace's setting: head, or the newest deployed version, which
    /// is also used if head cannot become a version.
    pub version: Option<u32>,
}

/// A tenant with its databases.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The tenant's name.
    pub name: TenantName,
    /// The state of the tenant as a whole.
    pub status: TenantStatus,
    /// The label from its creation.
    pub environment: String,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// Its databases.
    pub databases: Vec<TenantDatabase>,
}

/// A tenant's database.
#[derive(Clone, Debug)]
pub struct TenantDatabase {
    /// The blueprint that it was created from.
    pub blueprint: BlueprintName,
    /// The state.
    pub status: DatabaseStatus,
    /// How it is separated from others.
    pub isolation_level: IsolationLevel,
    /// The version that it has; `None` until that is chosen.
    pub version: Option<u32>,
    /// The server that it is on.
    pub server: ServerName,
    /// How clients connect. The password is present only in the answer that created the tenant.
    pub connection: Connection,
    /// Why the last step of its creation or deletion failed, or how a client changed its roles.
    pub last_error: Option<String>,
}

/// The answer to a creation. The tenant's status is `Ready`, or `Provisioning` if its databases are not finished yet.
#[derive(Debug)]
pub struct NewTenant {
    /// The tenant.
    pub tenant: Tenant,
    /// Sentences, for example that head could not be used and which version the tenant got instead.
    pub warnings: Vec<String>,
}

/// How a tenant is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Clients are refused; name and data are kept, and the tenant can be restored.
    Soft,
    /// Databases and roles are dropped, and the name can be used again.
    Hard,
}
