//! The use cases that do not depend on DDL capture: accounts, servers, workspaces, tenants, credentials, and where
//! their databases are.

pub(crate) mod accounts;
pub(crate) mod closing;
pub(crate) mod creations;
pub(crate) mod credentials;
pub(crate) mod declared_roles;
pub(crate) mod fleet;
pub(crate) mod limits;
pub(crate) mod memberships;
pub(crate) mod place;
pub(crate) mod provision;
pub(crate) mod readers;
pub(crate) mod references;
pub(crate) mod registry;
pub(crate) mod repairs;
pub(crate) mod servers;
pub(crate) mod settings;
pub(crate) mod signup;
pub(crate) mod tenants;
pub(crate) mod workspaces;
