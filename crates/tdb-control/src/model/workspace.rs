//! Workspaces, their changes and settings, and the versions created from them.

use tdb_names::{BlueprintName, DatabaseName, TenantName, WorkspaceId};
use time::OffsetDateTime;

use super::access::Connection;
use super::schema::Schema;

/// The state of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkspaceStatus {
    /// Its database is being created.
    Provisioning,
    /// It can be used.
    Ready,
    /// It is being removed.
    Deleting,
}

/// A workspace: the database in which a blueprint's schema is developed.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The workspace's id.
    pub id: WorkspaceId,
    /// The name that it shares with its blueprint.
    pub blueprint: BlueprintName,
    /// The state.
    pub status: WorkspaceStatus,
    /// The newest version of its blueprint.
    pub version: u32,
    /// When its creation was requested.
    pub created_at: OffsetDateTime,
    /// Changes that were committed before this time are included; later ones may be.
    pub drained_at: Option<OffsetDateTime>,
    /// How many changes of head a deployment would bring to a tenant; without tenants, all of head.
    pub undeployed_changes: u32,
    /// Present for a single workspace that is ready and whose server is available, `None` in lists.
    pub schema: Option<Schema>,
    /// Why the server could not be queried for a single workspace; what is shown is then as stored.
    pub server_error: Option<String>,
    /// How clients connect, without the password.
    pub connection: Connection,
    /// Why the last step of its creation or deletion failed, or how a client changed its roles.
    pub last_error: Option<String>,
}

/// A workspace that was just created.
#[derive(Debug)]
pub struct NewWorkspace {
    /// The workspace.
    pub workspace: Workspace,
    /// How clients connect, with the password, which is shown only now.
    pub connection: Connection,
}

/// An extension that a workspace has, or that the server's administrator may create in it.
#[derive(Clone, Debug)]
pub struct ExtensionInfo {
    /// The extension's name.
    pub name: String,
    /// The version that is created by default.
    pub default_version: String,
    /// The version that the workspace has; `None` if it does not have the extension.
    pub installed_version: Option<String>,
    /// The schema that it is installed in.
    pub schema: Option<String>,
}

/// Whether the role of a tenant's clients may change the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantDdl {
    /// It may change the schema.
    Allow,
    /// Only deployments change the schema.
    Deny,
}

/// Which version a new tenant gets if the request names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTenants {
    /// The current schema of the workspace.
    Head,
    /// The newest version that a tenant has; head for the first tenant.
    Deployed,
}

/// The settings of a workspace.
#[derive(Clone, Debug)]
pub struct WorkspaceSettings {
    /// The workspace's blueprint.
    pub blueprint: BlueprintName,
    /// Whether tenants may change their schema.
    pub tenant_ddl: TenantDdl,
    /// Which version new tenants get.
    pub new_tenants: NewTenants,
    /// How many tenants the settings apply to: those that are not deleted.
    pub tenants: u32,
    /// How many of them do not have `tenant_ddl` yet.
    pub waiting_tenants: u32,
    /// The first of those, by name.
    pub waiting: Vec<WaitingTenant>,
}

/// A tenant that does not have a setting yet.
#[derive(Clone, Debug)]
pub struct WaitingTenant {
    /// The tenant's name.
    pub tenant: TenantName,
    /// How many attempts were started.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// A change of settings. What is `None` is not changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct SettingsChange {
    /// The new value of `tenant_ddl`.
    pub tenant_ddl: Option<TenantDdl>,
    /// The new value of `new_tenants`.
    pub new_tenants: Option<NewTenants>,
}

/// The state of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeState {
    /// It is part of head.
    Pending,
    /// It is part of head, and every tenant has it. A diff lists no such changes.
    Deployed,
    /// It was excluded from head.
    Skipped,
    /// It and the change that undoes it cancel each other out; neither is part of head.
    Reverted,
    /// It cannot be replayed. There is no new version until it is skipped or repaired.
    Broken,
}

/// One entry of the change log: the DDL of one committed transaction.
#[derive(Clone, Debug)]
pub struct ChangeInfo {
    /// The change's number within its workspace (`ddl_id` in the API).
    pub id: u32,
    /// The first version that contains it.
    pub version: Option<u32>,
    /// The SQL text of its statements, in order.
    pub statements: Vec<String>,
    /// The command tags of its statements, such as `CREATE TABLE`.
    pub command_tags: Vec<String>,
    /// Identities of the objects that it changed, such as `public.orders`.
    pub objects: Vec<String>,
    /// Who made the change: the name of a credential or of an API key, else the database role.
    pub author: String,
    /// When its transaction was committed, by the server's clock.
    pub created_at: OffsetDateTime,
    /// Statements of the same transaction or message that are not replayed, such as those that change data.
    pub left_out: Vec<String>,
    /// Whether it is part of head.
    pub state: ChangeState,
    /// Why it is broken, or was when it was skipped.
    pub reason: Option<String>,
    /// For a broken change in a diff: what to do so that head can be replayed again, about all broken changes together.
    pub repair: Option<String>,
    /// The change that this one undoes.
    pub reverts: Option<u32>,
}

/// The changes that a deployment would bring.
#[derive(Clone, Debug)]
pub struct Diff {
    /// By number.
    pub changes: Vec<ChangeInfo>,
    /// Changes that were committed before this time are included; later ones may be.
    pub drained_at: Option<OffsetDateTime>,
    /// Why the workspace's server could not be queried; later changes may then be missing.
    pub server_error: Option<String>,
}

/// A change and the one that undoes it. Both are `Reverted` if no version contains them and head replays without them;
/// else they stay in head.
#[derive(Clone, Debug)]
pub struct Reverted {
    /// The change that was undone.
    pub change: ChangeInfo,
    /// The change that undoes it.
    pub inverse: ChangeInfo,
}

/// Whether a blueprint can be deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlueprintStatus {
    /// Head has no changes.
    Draft,
    /// Head has changes, and none of them is known to be broken.
    Ready,
    /// A change of head cannot be replayed.
    Broken,
}

/// A blueprint: the schema of a workspace, with its versions and tenants.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The name that it shares with its workspace.
    pub name: BlueprintName,
    /// The workspace's id.
    pub workspace_id: WorkspaceId,
    /// The name of the workspace's database, for clients.
    pub workspace_database: DatabaseName,
    /// The newest version.
    pub version: u32,
    /// Whether it can be deployed.
    pub status: BlueprintStatus,
    /// When its workspace was created.
    pub created_at: OffsetDateTime,
    /// Changes that were committed before this time are included; later ones may be.
    pub drained_at: Option<OffsetDateTime>,
    /// Present for a single blueprint whose workspace is ready and on an available server, `None` in lists.
    pub schema: Option<Schema>,
    /// Why the workspace's server could not be queried for a single blueprint; what is shown is then as stored.
    pub server_error: Option<String>,
    /// How far it is deployed.
    pub counts: DeploymentCounts,
    /// The tenants that have it, with their version.
    pub deployed_to: Vec<DeployedTo>,
}

/// How far a blueprint is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentCounts {
    /// Whether every tenant has all of head. `false` if there are no tenants.
    pub deployed: bool,
    /// How many tenants have the blueprint.
    pub deployed_to_count: u32,
    /// How many changes of head a deployment would bring to a tenant; without tenants, all of head.
    pub ready_to_deploy: u32,
    /// How many statements the changes of head have.
    pub total_ddl_statements: u32,
}

/// A tenant that has a blueprint.
#[derive(Clone, Debug)]
pub struct DeployedTo {
    /// The tenant's name.
    pub tenant: TenantName,
    /// The version that it has.
    pub version: u32,
}

/// A version of a blueprint.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its number, from 1 within the blueprint.
    pub number: u32,
    /// The numbers of its changes, in order.
    pub change_ids: Vec<u32>,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// Who created it: the name of an API key, or `system`.
    pub author: String,
    /// How many statements its changes have.
    pub statements: u32,
    /// The hash of its newest stored list of facts; `None` if there is none.
    pub fingerprint: Option<String>,
    /// Whether replaying it was shown to give the workspace's schema.
    pub verified: bool,
    /// Why it could not be verified.
    pub reason: Option<String>,
}
