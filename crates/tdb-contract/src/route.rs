//! Who may connect, and to what a (credential, database name) resolves.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::SystemTime;

use secrecy::SecretString;
use tdb_auth::ScramVerifier;
use tdb_names::{
    BlueprintName, CredentialId, DatabaseId, DatabaseName, ProjectId, ServerEndpoint, TenantName, WorkspaceId,
};

/// What a user name's password is checked against, and what it opens.
#[derive(Clone, Debug)]
pub struct Credential {
    pub id: CredentialId,
    pub project: ProjectId,
    pub login: Login,
    pub scope: Scope,
    pub rights: Rights,
    pub expires_at: Option<SystemTime>,
}

/// What a password is checked against, by authentication mechanism.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub scram_sha_256: ScramVerifier,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every workspace and tenant of the project.
    Project,
    Workspace(BlueprintName),
    /// Every database of one tenant.
    Tenant(TenantName),
}

impl Scope {
    pub fn covers(&self, database: &DatabaseName) -> bool {
        match (self, database) {
            (Scope::Project, _) => true,
            (Scope::Workspace(own), DatabaseName::Workspace(asked)) => own == asked,
            (Scope::Tenant(own), DatabaseName::Tenant { tenant: asked, .. }) => own == asked,
            (Scope::Workspace(_), DatabaseName::Tenant { .. }) | (Scope::Tenant(_), DatabaseName::Workspace(_)) => {
                false
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rights {
    ReadWrite,
    ReadOnly,
}

/// What a database name resolves to.
#[derive(Clone, Debug)]
pub struct Route {
    pub place: Place,
    pub kind: RouteKind,
    pub state: RouteState,
    pub clients_max: ClientLimit,
}

/// Where a database is and how to log in there, by engine.
#[derive(Clone, Debug)]
pub enum Place {
    Postgres(PostgresPlace),
}

#[derive(Clone, Debug)]
pub struct PostgresPlace {
    pub server: Arc<ServerEndpoint>,
    /// The database's name on its server; need not be the logical one.
    pub database: String,
    /// The role the session runs as: the database's owner, or its read-only role.
    pub role: String,
    pub secret: SecretString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    Workspace(WorkspaceId),
    Tenant(DatabaseId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteState {
    Active,
    /// By the customer's wish; resuming brings it back.
    Suspended,
    /// Deleted but restorable.
    Deleted,
    /// Being created, restored or removed.
    NotReady,
    /// Its creation has failed several times and is still tried: status `error`.
    Failed,
}

/// Most clients of one database at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientLimit {
    /// None of its own: the proxy's for every database applies.
    Unlimited,
    At(NonZeroU32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_covers_its_own_databases_only() {
        let name = |text: &str| text.parse::<DatabaseName>().unwrap();
        let cases = [
            (Scope::Project, [true, true, true, true]),
            (Scope::Workspace("app".parse().unwrap()), [true, false, false, false]),
            (Scope::Tenant("acme".parse().unwrap()), [false, false, true, true]),
        ];
        for (scope, expected) in cases {
            let found = ["app_dev", "crm_dev", "app__acme", "crm__acme"].map(|database| scope.covers(&name(database)));
            assert_eq!(found, expected, "{scope:?}");
            assert_eq!(scope.covers(&name("app__globex")), scope == Scope::Project);
        }
    }
}
