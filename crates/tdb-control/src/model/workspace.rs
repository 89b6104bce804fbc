//! Workspaces, their changes, and the versions made of them.

use tdb_names::{BlueprintName, DatabaseName, TenantName, WorkspaceId};
use time::OffsetDateTime;

use super::access::Connection;
use super::schema::Schema;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkspaceStatus {
    Provisioning,
    Ready,
    Deleting,
}

#[derive(Clone, Debug)]
pub struct Workspace {
    pub id: WorkspaceId,
    pub blueprint: BlueprintName,
    pub status: WorkspaceStatus,
    /// The newest version made of it.
    pub version: u32,
    pub created_at: OffsetDateTime,
    /// What was committed before this counts in what is shown; later changes may.
    pub drained_at: Option<OffsetDateTime>,
    pub undeployed_changes: u32,
    /// Present for one workspace, absent in lists and while it is being made.
    pub schema: Option<Schema>,
    /// Without password.
    pub connection: Connection,
    /// Why the last step failed, while it is being made or deleted.
    pub last_error: Option<String>,
}

/// A workspace just made; its connection has the password.
#[derive(Debug)]
pub struct NewWorkspace {
    pub workspace: Workspace,
    pub connection: Connection,
}

/// An extension that a workspace has, or may be given by its server's administrator.
#[derive(Clone, Debug)]
pub struct ExtensionInfo {
    pub name: String,
    pub default_version: String,
    pub installed_version: Option<String>,
    /// Where it is installed.
    pub schema: Option<String>,
}

/// Whether a tenant's own role may change its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantDdl {
    Allow,
    Deny,
}

/// Which version a new tenant gets when none is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTenants {
    Head,
    /// The newest one that a tenant has; head for the first tenant.
    Deployed,
}

#[derive(Clone, Debug)]
pub struct WorkspaceSettings {
    pub blueprint: BlueprintName,
    pub tenant_ddl: TenantDdl,
    pub new_tenants: NewTenants,
    /// Tenants that are there, and how many of them do not have `tenant_ddl` yet.
    pub tenants: u32,
    pub waiting_tenants: u32,
    /// Some of those.
    pub waiting: Vec<WaitingTenant>,
}

#[derive(Clone, Debug)]
pub struct WaitingTenant {
    pub tenant: TenantName,
    pub attempts: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// What is not given stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct SettingsChange {
    pub tenant_ddl: Option<TenantDdl>,
    pub new_tenants: Option<NewTenants>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeState {
    Pending,
    Deployed,
    Skipped,
    Reverted,
    Broken,
}

/// One entry of the change log.
#[derive(Clone, Debug)]
pub struct ChangeInfo {
    /// The change's number within its workspace (`ddl_id`).
    pub id: u32,
    /// The first version that holds it, if any.
    pub version: Option<u32>,
    pub statements: Vec<String>,
    pub command_tags: Vec<String>,
    pub objects: Vec<String>,
    pub author: String,
    pub created_at: OffsetDateTime,
    /// Data statements of the same messages, which are not part of a schema.
    pub left_out: Vec<String>,
    pub state: ChangeState,
    /// Why it is broken.
    pub reason: Option<String>,
    /// What frees head of it and of what else is broken, where it is.
    pub repair: Option<String>,
    /// The change that this one undoes.
    pub reverts: Option<u32>,
}

/// A change and the one that undoes it. Both are `Reverted` where nobody had got the first, else they go their way.
#[derive(Clone, Debug)]
pub struct Reverted {
    pub change: ChangeInfo,
    pub inverse: ChangeInfo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlueprintStatus {
    /// Nothing designed yet.
    Draft,
    Ready,
    /// A change cannot be replayed.
    Broken,
}

#[derive(Clone, Debug)]
pub struct Blueprint {
    pub name: BlueprintName,
    pub workspace_id: WorkspaceId,
    pub workspace_database: DatabaseName,
    pub version: u32,
    pub status: BlueprintStatus,
    pub created_at: OffsetDateTime,
    /// As the workspace's.
    pub drained_at: Option<OffsetDateTime>,
    /// Present for one blueprint, absent in lists.
    pub schema: Option<Schema>,
    pub counts: DeploymentCounts,
    pub deployed_to: Vec<DeployedTo>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentCounts {
    /// Every tenant database holds all of head (and there is one).
    pub deployed: bool,
    pub deployed_to_count: u32,
    /// Changes that a deployment would bring.
    pub ready_to_deploy: u32,
    pub total_ddl_statements: u32,
}

#[derive(Clone, Debug)]
pub struct DeployedTo {
    pub tenant: TenantName,
    pub version: u32,
}

#[derive(Clone, Debug)]
pub struct Version {
    pub number: u32,
    pub change_ids: Vec<u32>,
    pub created_at: OffsetDateTime,
    pub author: String,
    pub statements: u32,
    /// Hash of the fact list, if it was built.
    pub fingerprint: Option<String>,
    pub verified: bool,
    /// Why it is not verified.
    pub reason: Option<String>,
}
