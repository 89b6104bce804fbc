//! Credentials, and the routes that database names resolve to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;
use tdb_auth::ScramVerifier;
use tdb_names::{
    BlueprintName, CredentialId, DatabaseId, DatabaseName, ProjectId, ServerEndpoint, TenantName, WorkspaceId,
};

/// The credential of a user name: how to authenticate the client, and which databases it may open.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Identifies the credential in changes and in the audit log.
    pub id: CredentialId,
    /// The project whose databases it can open.
    pub project: ProjectId,
    /// The password verifiers.
    pub login: Login,
    /// Which databases of the project it can open.
    pub scope: Scope,
    /// Which role its sessions run as.
    pub rights: Rights,
    /// When it stops being valid and its sessions end; `None` if never.
    pub expires_at: Option<SystemTime>,
}

/// Password verifiers, one for each authentication mechanism.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// For SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.
    pub scram_sha_256: ScramVerifier,
}

/// The databases that a credential can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every workspace and tenant database of the project.
    Project,
    /// One workspace.
    Workspace(BlueprintName),
    /// Every database of one tenant.
    Tenant(TenantName),
}

impl Scope {
    /// Whether a credential of this scope may open `database`.
    pub fn covers(&self, database: &DatabaseName) -> bool {
        match (self, database) {
            (Scope::Project, _) => true,
            (Scope::Workspace(own), DatabaseName::Workspace(requested)) => own == requested,
            (Scope::Tenant(own), DatabaseName::Tenant { tenant: requested, .. }) => own == requested,
            (Scope::Workspace(_), DatabaseName::Tenant { .. }) | (Scope::Tenant(_), DatabaseName::Workspace(_)) => {
                false
            }
        }
    }
}

/// What a credential may do in the databases that it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rights {
    /// Sessions run as the database's owner.
    ReadWrite,
    /// Sessions run as the database's read-only role.
    ReadOnly,
}

/// What a database name resolves to.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where the database is.
    pub place: Place,
    /// Whether it is a workspace or a tenant's database.
    pub kind: RouteKind,
    /// Whether clients may connect.
    pub state: RouteState,
    /// What its clients may use.
    pub limits: TenantLimits,
}

/// Where a database is and how to log in there, by engine.
#[derive(Clone, Debug)]
pub enum Place {
    /// A database on a PostgreSQL server.
    Postgres(PostgresPlace),
}

/// A database on a PostgreSQL server, and the role to log in with.
#[derive(Clone, Debug)]
pub struct PostgresPlace {
    /// The server's address.
    pub server: Arc<ServerEndpoint>,
    /// The database's name on its server; it can differ from the logical name.
    pub database: String,
    /// The role that sessions run as: the database's owner, or its read-only role.
    pub role: String,
    /// The role's password.
    pub secret: SecretString,
}

/// A workspace or a tenant's database, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// A workspace: DDL is captured.
    Workspace(WorkspaceId),
    /// A tenant's database: DDL is not captured.
    Tenant(DatabaseId),
}

/// Whether a database accepts clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteState {
    /// Clients may connect.
    Active,
    /// The tenant is suspended; it can be resumed.
    Suspended,
    /// The tenant is deleted; it can be restored.
    Deleted,
    /// The database is being created, restored or removed.
    NotReady,
    /// The creation has failed several times and is still being retried: status `error`.
    Failed,
}

/// What the clients of each database of a tenant may use in one proxy. `None`: what the proxy's configuration says, as for all
/// workspaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// Whether its clients share server connections.
    pub pool_mode: Option<PoolMode>,
    /// How many clients may be connected to a database at the same time.
    pub clients_max: Option<NonZeroU32>,
    /// How many shared server connections a database may have.
    pub server_connections_max: Option<NonZeroU32>,
    /// How long a client waits for a shared server connection.
    pub queue_timeout: Option<Duration>,
}

/// Whether clients share server connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// A client has a server connection while it is connected.
    Session,
    /// A client has a server connection during a transaction, and longer if it has left something there that cannot be
    /// restored on another connection.
    Auto,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_covers_no_other_database() {
        let name = |text: &str| text.parse::<DatabaseName>().unwrap();
        let cases = [
            (Scope::Project, [true, true, true, true]),
            (Scope::Workspace("app".parse().unwrap()), [true, false, false, false]),
            (Scope::Tenant("acme".parse().unwrap()), [false, false, true, true]),
        ];
        for (scope, expected) in cases {
            let covered =
                ["app_dev", "crm_dev", "app__acme", "crm__acme"].map(|database| scope.covers(&name(database)));
            assert_eq!(covered, expected, "{scope:?}");
            assert_eq!(scope.covers(&name("app__globex")), scope == Scope::Project);
        }
    }
}
