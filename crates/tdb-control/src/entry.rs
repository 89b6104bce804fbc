//! The kinds of entry that a request can name: their words in messages, and the endpoints that list them.

use std::fmt;

/// A kind of entry of a project or of the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A key of the API.
    ApiKey,
    /// A blueprint.
    Blueprint,
    /// A change of a workspace.
    Change,
    /// A database credential.
    Credential,
    /// A physical database.
    Database,
    /// A deployment.
    Deployment,
    /// An extension of a workspace.
    Extension,
    /// The list of facts of a version.
    FactList,
    /// A project.
    Project,
    /// A declared role.
    Role,
    /// A database server.
    Server,
    /// A tenant.
    Tenant,
    /// An account.
    User,
    /// A version of a blueprint.
    Version,
    /// A workspace.
    Workspace,
}

impl EntryKind {
    fn as_str(self) -> &'static str {
        match self {
            EntryKind::ApiKey => "API key",
            EntryKind::Blueprint => "blueprint",
            EntryKind::Change => "change",
            EntryKind::Credential => "credential",
            EntryKind::Database => "database",
            EntryKind::Deployment => "deployment",
            EntryKind::Extension => "extension",
            EntryKind::FactList => "fact list of version",
            EntryKind::Project => "project",
            EntryKind::Role => "role",
            EntryKind::Server => "server",
            EntryKind::Tenant => "tenant",
            EntryKind::User => "user",
            EntryKind::Version => "version",
            EntryKind::Workspace => "workspace",
        }
    }

    /// A hint that names the endpoint that lists such entries, if there is one.
    pub(crate) fn whereabouts(self) -> Option<&'static str> {
        match self {
            EntryKind::ApiKey => Some("GET /apikeys lists the API keys."),
            EntryKind::Blueprint => Some("GET /blueprints lists the blueprints."),
            EntryKind::Change => Some("GET /workspaces/{id}/diff lists the changes."),
            EntryKind::Credential => Some("GET /credentials lists the credentials."),
            EntryKind::Deployment => Some("GET /deployments lists the deployments."),
            EntryKind::Project => Some("GET /projects lists the projects."),
            EntryKind::Role => Some("GET /projects/{id}/roles lists the declared roles."),
            EntryKind::Server => Some("GET /servers lists the servers."),
            EntryKind::Tenant => Some("GET /tenants lists the tenants."),
            EntryKind::Version => Some("GET /blueprints/{name}/versions lists the versions."),
            EntryKind::Workspace => Some("GET /workspaces lists the workspaces."),
            EntryKind::Database | EntryKind::Extension | EntryKind::FactList | EntryKind::User => None,
        }
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
