//! The types that use cases take and return. Plain data: the API defines the JSON and its field names.

mod access;
mod deployment;
mod schema;
mod tenant;
mod workspace;

pub use access::{
    ApiKeyInfo, Connection, CredentialInfo, CredentialRequest, CredentialScope, DeclaredRole, LoggedIn, NewApiKey,
    NewCredential, NewProject, Project, ProxyAddress, ServerInfo, ServerStatus, ServerTest,
};
pub use deployment::{
    Comparison, Deployment, DeploymentRequest, DeploymentStatus, DeploymentTarget, JobSummary, SqlFailure,
    TargetStatus, TenantChoice,
};
pub use schema::{
    Difference, DriftReport, QueryResult, ResultColumn, Schema, SchemaColumn, SchemaObject, Table, TenantDrift,
    TenantQuery, TenantQueryResult, Unchecked, WorkspaceDrift,
};
pub use tenant::{
    DatabaseRequest, DatabaseStatus, Deletion, IsolationLevel, NewTenant, Tenant, TenantDatabase, TenantRequest,
    TenantStatus,
};
pub use workspace::{
    Blueprint, BlueprintStatus, ChangeInfo, ChangeState, DeployedTo, DeploymentCounts, Diff, ExtensionInfo, NewTenants,
    NewWorkspace, Reverted, SettingsChange, TenantDdl, Version, WaitingTenant, Workspace, WorkspaceSettings,
    WorkspaceStatus,
};

// The API names rights and limits but must not depend on the data plane's contract.
pub use tdb_contract::{PoolMode, Rights, TenantLimits};
pub use tdb_engines::postgres::extensions::Wanted as WantedExtension;
