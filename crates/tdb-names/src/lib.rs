//! The names of the installation: blueprints, tenants, databases, and the identifiers of rows.
//! A value of these types is valid by construction; its one door is [`std::str::FromStr`]. No I/O, no async.

mod database;
mod engine;
mod id;
mod name;
mod server;

pub use database::{DATABASE_GRAMMAR, DatabaseName, DatabaseNameError, PHYSICAL_NAME_LEN_MAX};
pub use engine::Engine;
pub use id::{CredentialId, DatabaseId, IdError, JobId, KeyId, ProjectId, ServerName, UserName, WorkspaceId};
pub use name::{BlueprintName, NameError, TenantName};
pub use server::{ServerEndpoint, TlsMode};
