//! Names of blueprints, tenants, databases and servers, and identifiers of rows.
//! A value of these types is always valid: names can only be built with [`std::str::FromStr`]. No I/O, no async.

mod database;
mod engine;
mod id;
mod name;
mod role;
mod server;

pub use database::{DATABASE_GRAMMAR, DatabaseName, DatabaseNameError, PHYSICAL_NAME_LEN_MAX};
pub use engine::Engine;
pub use id::{CredentialId, DatabaseId, IdError, JobId, KeyId, ProjectId, ServerName, UserName, WorkspaceId};
pub use name::{BlueprintName, NameError, TenantName};
pub use role::{RoleName, RoleNameError};
pub use server::{ServerEndpoint, TlsMode};
