//! Projects, keys, credentials, servers, and connections to databases.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tdb_contract::Rights;
use tdb_names::{
    BlueprintName, CredentialId, DatabaseName, KeyId, ProjectId, RoleName, ServerName, TenantName, TlsMode, UserName,
};
use time::OffsetDateTime;

use crate::identity::KeyScope;

/// Where clients reach the proxy, as connection strings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyAddress {
    /// A host name or an IP address.
    pub host: String,
    /// The port.
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

/// How a client connects to a database.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The proxy's host.
    pub host: String,
    /// The proxy's port.
    pub port: u16,
    /// `None` for a credential of the whole project, which opens every database of the project.
    pub database: Option<DatabaseName>,
    /// The credential's user name.
    pub user: UserName,
    /// Present only in the answer that created or rotated the credential.
    pub password: Option<SecretString>,
}

impl Connection {
    /// `postgresql://USER[:PASSWORD]@HOST:PORT[/DATABASE]`. User names and passwords consist of characters that need no
    /// escaping.
    pub fn connection_string(&self) -> String {
        let password = self
            .password
            .as_ref()
            .map_or(String::new(), |p| format!(":{}", p.expose_secret()));
        let database = self.database.as_ref().map_or(String::new(), |d| format!("/{d}"));
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        format!("postgresql://{}{password}@{host}:{}{database}", self.user, self.port)
    }
}

/// A project.
#[derive(Clone, Debug)]
pub struct Project {
    /// The project's id.
    pub id: ProjectId,
    /// Its name. Several projects may have the same name.
    pub name: String,
    /// How many API keys it has.
    pub api_keys: u32,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// A role without login that a project's schemas may name.
#[derive(Clone, Debug)]
pub struct DeclaredRole {
    /// The name, which the role also has on servers.
    pub name: RoleName,
    /// When it was declared.
    pub created_at: OffsetDateTime,
    /// A sentence for each server on which it is not as declared.
    pub warnings: Vec<String>,
}

/// A project that was just created.
#[derive(Debug)]
pub struct NewProject {
    /// The project.
    pub project: Project,
    /// Its first key (scope admin), which is shown only now.
    pub api_key: SecretString,
    /// Its credential, with the password, which is shown only now.
    pub connection: Connection,
}

/// The result of a login.
#[derive(Debug)]
pub struct LoggedIn {
    /// The project that the key belongs to: the oldest one of the user's account.
    pub project: ProjectId,
    /// A new key (scope admin), which is shown only now.
    pub api_key: SecretString,
    /// Projects of the user's account, oldest first, at most [`crate::Limit::DEFAULT`].
    pub projects: Vec<Project>,
}

/// An API key without its secret part.
#[derive(Clone, Debug)]
pub struct ApiKeyInfo {
    /// The key's id.
    pub id: KeyId,
    /// Its name.
    pub name: String,
    /// The first characters of the key, by which a user recognizes it.
    pub prefix: String,
    /// What it may do.
    pub scopes: Vec<KeyScope>,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was last used, to within a minute; `None` if never.
    pub last_used_at: Option<OffsetDateTime>,
}

/// A key that was just created.
#[derive(Debug)]
pub struct NewApiKey {
    /// The key's description.
    pub info: ApiKeyInfo,
    /// The key itself, which is shown only now.
    pub key: SecretString,
}

/// What a credential opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialScope {
    /// Every database of the project.
    Project,
    /// The workspace of this blueprint.
    Workspace(BlueprintName),
    /// Every database of this tenant.
    Tenant(TenantName),
}

/// A credential without its password.
#[derive(Clone, Debug)]
pub struct CredentialInfo {
    /// The credential's id.
    pub id: CredentialId,
    /// The user name that clients log in with.
    pub user: UserName,
    /// Its name in lists and in the change log.
    pub name: String,
    /// What it opens.
    pub scope: CredentialScope,
    /// Whether its sessions may write.
    pub rights: Rights,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it stops working; `None` if it does not expire.
    pub expires_at: Option<OffsetDateTime>,
}

/// A credential that was just created or rotated.
#[derive(Debug)]
pub struct NewCredential {
    /// The credential's description.
    pub info: CredentialInfo,
    /// How to connect, with the password. For a workspace or a tenant it names the first database.
    pub connection: Connection,
    /// One connection for each database that the credential opens; empty for a credential of the whole project.
    pub databases: Vec<Connection>,
}

/// A credential to be created.
#[derive(Clone, Debug)]
pub struct CredentialRequest {
    /// What it is to open.
    pub scope: CredentialScope,
    /// Whether its sessions may write.
    pub rights: Rights,
    /// A name of 1 to 64 printable characters; `None` stands for the user name.
    pub name: Option<String>,
    /// When it is to stop working, which must be in the future; `None` if it does not expire.
    pub expires_at: Option<OffsetDateTime>,
}

/// Whether a server takes new databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerStatus {
    /// New databases may be placed on it.
    Active,
    /// No new databases are placed on it; existing ones are not affected.
    Draining,
}

/// The result of a server's test.
#[derive(Clone, Debug)]
pub struct ServerTest {
    /// The server's name.
    pub name: ServerName,
    /// PostgreSQL's version number, such as 150008.
    pub version: i32,
    /// The server's `max_connections`.
    pub connections_max: i32,
    /// The server's `superuser_reserved_connections`.
    pub connections_reserved: i32,
    /// How many databases the server has, including those of others, without templates.
    pub databases: i64,
    /// How long the test took.
    pub took: Duration,
}

/// A database server, as stored.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// The server's name.
    pub name: ServerName,
    /// Its host name or IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How TLS is used for connections to it.
    pub tls: TlsMode,
    /// Whether it takes new databases.
    pub status: ServerStatus,
    /// PostgreSQL's version number, such as 150008; `None` before the first connection.
    pub version: Option<i32>,
    /// Whether databases on it get random names.
    pub opaque_names: bool,
    /// How many workspaces it has.
    pub workspaces: u32,
    /// How many tenant databases it has.
    pub tenant_databases: u32,
    /// When it was registered.
    pub created_at: OffsetDateTime,
    /// When a process last received a reply from it.
    pub answered_at: Option<OffsetDateTime>,
    /// Since when it has not replied; `None` while it does.
    pub silent_since: Option<OffsetDateTime>,
}

impl ServerTest {
    /// The duration in milliseconds, at most one hour.
    pub fn took_ms(&self) -> u64 {
        u64::try_from(self.took.min(Duration::from_secs(3600)).as_millis()).unwrap_or(u64::MAX)
    }
}
