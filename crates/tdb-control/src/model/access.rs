//! Projects, keys, credentials, servers, and how to connect.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tdb_contract::Rights;
use tdb_names::{
    BlueprintName, CredentialId, DatabaseName, KeyId, ProjectId, RoleName, ServerName, TenantName, TlsMode, UserName,
};
use time::OffsetDateTime;

use crate::identity::KeyScope;

/// Where clients find the proxy; what connection strings show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyAddress {
    pub host: String,
    pub port: u16,
}

impl ProxyAddress {
    pub(crate) fn connection(&self, user: UserName, database: Option<DatabaseName>) -> Connection {
        Connection {
            host: self.host.clone(),
            port: self.port,
            database,
            user,
            password: None,
        }
    }
}

/// How a client connects. The password is present only in the answer that made it.
#[derive(Clone, Debug)]
pub struct Connection {
    pub host: String,
    pub port: u16,
    /// None for a credential of the whole project: it opens every database of it.
    pub database: Option<DatabaseName>,
    pub user: UserName,
    pub password: Option<SecretString>,
}

impl Connection {
    /// `postgresql://USER[:PASSWORD]@HOST:PORT[/DATABASE]`. Users and passwords of ours need no escaping.
    pub fn connection_string(&self) -> String {
        let password = self
            .password
            .as_ref()
            .map_or(String::new(), |p| format!(":{}", p.expose_secret()));
        let database = self.database.as_ref().map_or(String::new(), |d| format!("/{d}"));
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        format!("postgresql://{}{password}@{host}:{}{database}", self.user, self.port)
    }
}

#[derive(Clone, Debug)]
pub struct Project {
    pub id: ProjectId,
    pub name: String,
    pub api_keys: u32,
    pub created_at: OffsetDateTime,
}

/// A role without login that a project's schemas may name.
#[derive(Clone, Debug)]
pub struct DeclaredRole {
    pub name: RoleName,
    pub created_at: OffsetDateTime,
}

/// A role just declared, and which servers do not have it yet.
#[derive(Clone, Debug)]
pub struct NewDeclaredRole {
    pub role: DeclaredRole,
    pub warnings: Vec<String>,
}

/// A project just made: its first key (scope admin) and its credential, each shown once.
#[derive(Debug)]
pub struct NewProject {
    pub project: Project,
    pub api_key: SecretString,
    pub connection: Connection,
}

/// What a login gives: a key for the user's project, shown once.
#[derive(Debug)]
pub struct Session {
    pub project: ProjectId,
    pub api_key: SecretString,
    /// All of the user's account, oldest first.
    pub projects: Vec<Project>,
}

#[derive(Clone, Debug)]
pub struct ApiKeyInfo {
    pub id: KeyId,
    pub name: String,
    pub prefix: String,
    pub scopes: Vec<KeyScope>,
    pub created_at: OffsetDateTime,
    pub last_used_at: Option<OffsetDateTime>,
}

#[derive(Debug)]
pub struct NewApiKey {
    pub info: ApiKeyInfo,
    pub key: SecretString,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialScope {
    Project,
    Workspace(BlueprintName),
    Tenant(TenantName),
}

#[derive(Clone, Debug)]
pub struct CredentialInfo {
    pub id: CredentialId,
    pub user: UserName,
    pub name: String,
    pub scope: CredentialScope,
    pub rights: Rights,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
}

#[derive(Debug)]
pub struct NewCredential {
    pub info: CredentialInfo,
    /// For a tenant and for a workspace it names a database, the first one.
    pub connection: Connection,
    /// One for each database that it opens, but none for the whole project's.
    pub databases: Vec<Connection>,
}

/// What a credential is to be.
#[derive(Clone, Debug)]
pub struct CredentialRequest {
    pub scope: CredentialScope,
    pub rights: Rights,
    /// The user name where absent.
    pub name: Option<String>,
    pub expires_at: Option<OffsetDateTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerStatus {
    Active,
    /// Takes no new databases.
    Draining,
}

/// What a look at a server found.
#[derive(Clone, Debug)]
pub struct ServerTest {
    pub name: ServerName,
    /// PostgreSQL's version number such as 150008.
    pub version: i32,
    pub connections_max: i32,
    pub connections_reserved: i32,
    /// Of anybody, templates left out.
    pub databases: i64,
    pub took: Duration,
}

#[derive(Clone, Debug)]
pub struct ServerInfo {
    pub name: ServerName,
    pub host: String,
    pub port: u16,
    pub tls: TlsMode,
    pub status: ServerStatus,
    /// PostgreSQL's version number such as 150008; none before the first contact.
    pub version: Option<i32>,
    pub opaque_names: bool,
    pub workspaces: u32,
    pub tenant_databases: u32,
    pub created_at: OffsetDateTime,
    /// When it last gave a sign of life.
    pub answered_at: Option<OffsetDateTime>,
}

impl ServerTest {
    pub fn took_ms(&self) -> u64 {
        u64::try_from(self.took.min(Duration::from_secs(3600)).as_millis()).unwrap_or(u64::MAX)
    }
}
