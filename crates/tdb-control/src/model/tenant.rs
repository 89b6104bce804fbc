//! Tenants and their databases.

use tdb_names::{BlueprintName, ServerName, TenantName};
use time::OffsetDateTime;

use super::access::Connection;

/// INTERFACE's status words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenantStatus {
    Provisioning,
    Ready,
    Suspended,
    Migrating,
    Deleted,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatabaseStatus {
    Provisioning,
    Ready,
    Deleting,
    Error,
}

/// 1: many tenants on one server. 2 (a server of its own) is not built yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IsolationLevel {
    Pooled,
}

impl IsolationLevel {
    pub fn number(self) -> u8 {
        match self {
            IsolationLevel::Pooled => 1,
        }
    }
}

#[derive(Clone, Debug)]
pub struct TenantRequest {
    pub name: TenantName,
    pub databases: Vec<DatabaseRequest>,
    pub environment: Option<String>,
}

#[derive(Clone, Debug)]
pub struct DatabaseRequest {
    pub blueprint: BlueprintName,
    pub isolation_level: IsolationLevel,
    /// None: head, or the last verified version where head cannot be had.
    pub version: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Tenant {
    pub name: TenantName,
    pub status: TenantStatus,
    pub environment: String,
    pub created_at: OffsetDateTime,
    pub databases: Vec<TenantDatabase>,
}

#[derive(Clone, Debug)]
pub struct TenantDatabase {
    pub blueprint: BlueprintName,
    pub status: DatabaseStatus,
    pub isolation_level: IsolationLevel,
    /// None until it is known which one it gets.
    pub version: Option<u32>,
    pub server: ServerName,
    /// With the password only in the answer that made the tenant.
    pub connection: Connection,
    /// Why the last step of its creation or deletion failed, or what a client changed of its roles.
    pub last_error: Option<String>,
}

/// The answer to a creation: `tenant.status` is `Ready` (201) or `Provisioning` (202).
#[derive(Debug)]
pub struct NewTenant {
    pub tenant: Tenant,
    /// For example that head could not be had and which version the tenant got instead.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Refuse connections, keep name and data.
    Soft,
    /// Drop databases and roles, free the name.
    Hard,
}
