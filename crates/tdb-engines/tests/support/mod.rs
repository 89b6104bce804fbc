//! A real cluster with workspaces, templates and tenants, created with the crate's public functions.
#![allow(dead_code)]

use std::process::Command;

use secrecy::{ExposeSecret, SecretString};
use tdb_auth::{ClientTls, Roots};
use tdb_engines::postgres::apply::{self, Applied, ApplyError, BringUp, NumberedChange, TimeLimits};
use tdb_engines::postgres::capture::{self, CapturedChange};
use tdb_engines::postgres::databases::{self, Origin};
use tdb_engines::postgres::fingerprint::{self, Fingerprint};
use tdb_engines::postgres::readers::{self, Readers};
use tdb_engines::postgres::roles::{self, RoleNames, RoleSecrets};
use tdb_engines::postgres::{DatabaseLogin, Server, journal, tenant_side};
use tdb_names::{ServerEndpoint, TlsMode};
use tdb_testkit::{Cluster, ClusterOptions};
use tokio_postgres::Client;
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) server: Server,
}

pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) roles: RoleNames,
    pub(crate) secrets: RoleSecrets,
}

impl World {
    pub(crate) async fn start() -> Self {
        let cluster = Cluster::start_with(ClusterOptions {
            settings: vec!["max_prepared_transactions=5".to_owned()],
            ..ClusterOptions::default()
        })
        .unwrap();
        let endpoint = ServerEndpoint {
            name: "main".parse().unwrap(),
            host: cluster.host().to_owned(),
            port: cluster.port(),
            tls: TlsMode::Prefer,
        };
        let tls = ClientTls::new(&Roots::system()).unwrap();
        let secret = SecretString::from(cluster.password().to_owned());
        let server = Server::new(endpoint, cluster.superuser().to_owned(), secret, tls);
        server.prepare().await.unwrap();
        Self { cluster, server }
    }

    /// With the template `app_v1` of the empty schema.
    pub(crate) async fn with_template() -> Self {
        let world = Self::start().await;
        world.base_template("app_v1").await;
        world
    }

    pub(crate) async fn workspace(&self, name: &str) -> Database {
        let database = self.clone_for(name, Origin::Base).await;
        journal::install(&self.server, &database.name, &database.roles.owner)
            .await
            .unwrap();
        self.rename(database, name).await
    }

    /// A workspace with the oldest form of the journal.
    pub(crate) async fn old_workspace(&self, name: &str) -> Database {
        let database = self.clone_for(name, Origin::Base).await;
        let sql = include_str!("../fixtures/journal_1.sql").replace(":owner", &database.roles.owner);
        let admin = self.cluster.connect(&database.name).await.unwrap();
        admin.batch_execute(&sql).await.unwrap();
        drop(admin);
        self.rename(database, name).await
    }

    /// The first version: the empty schema.
    pub(crate) async fn base_template(&self, name: &str) {
        let making = databases::construction_name("testtest", Uuid::new_v4());
        databases::clone(&self.server, &making, Origin::Base).await.unwrap();
        databases::open_to_administrator(&self.server, &making).await.unwrap();
        tenant_side::install(&self.server, &making).await.unwrap();
        databases::rename(&self.server, &making, name).await.unwrap();
        databases::publish_template(&self.server, name, None).await.unwrap();
    }

    /// A tenant, or a build: both are clones of a template.
    pub(crate) async fn tenant(&self, name: &str, template: &str) -> Database {
        let database = self.clone_for(name, Origin::Template(template)).await;
        self.rename(database, name).await
    }

    async fn clone_for(&self, _name: &str, origin: Origin<'_>) -> Database {
        let database = Database {
            name: databases::construction_name("testtest", Uuid::new_v4()),
            roles: RoleNames::generate().unwrap(),
            secrets: RoleSecrets::generate().unwrap(),
        };
        roles::create(&self.server, &database.roles, &database.secrets)
            .await
            .unwrap();
        databases::clone(&self.server, &database.name, origin).await.unwrap();
        databases::open(&self.server, &database.name, &database.roles)
            .await
            .unwrap();
        databases::adopt(&self.server, &database.name, &database.roles.owner)
            .await
            .unwrap();
        database
    }

    async fn rename(&self, database: Database, name: &str) -> Database {
        databases::rename(&self.server, &database.name, name).await.unwrap();
        Database {
            name: name.to_owned(),
            ..database
        }
    }

    /// Admits readers, as the control plane does before it uses a read-only login.
    pub(crate) async fn admit_readers(&self, database: &Database) {
        readers::admit(&self.server, &database.name, &database.roles, Readers::Admitted)
            .await
            .unwrap();
    }

    pub(crate) fn deployer(&self, database: &Database) -> DatabaseLogin {
        self.login(database, &database.roles.deployer, &database.secrets.deployer)
    }

    pub(crate) fn owner(&self, database: &Database) -> DatabaseLogin {
        self.login(database, &database.roles.owner, &database.secrets.owner)
    }

    pub(crate) fn readonly(&self, database: &Database) -> DatabaseLogin {
        self.login(database, &database.roles.readonly, &database.secrets.readonly)
    }

    fn login(&self, database: &Database, role: &str, secret: &SecretString) -> DatabaseLogin {
        DatabaseLogin {
            endpoint: self.server.endpoint().clone(),
            tls: self.server.tls().clone(),
            database: database.name.clone(),
            role: role.to_owned(),
            secret: secret.clone(),
            application_name: "tdb".to_owned(),
        }
    }

    /// A session of the owner role, like that of a client of the proxy.
    pub(crate) async fn session(&self, database: &Database) -> Client {
        let secret = database.secrets.owner.expose_secret();
        self.cluster
            .connect_as(&database.roles.owner, secret, &database.name)
            .await
            .unwrap()
    }

    /// Reads and confirms the journal, and returns the changes.
    pub(crate) async fn drain(&self, workspace: &Database) -> Vec<CapturedChange> {
        self.drain_of_project(workspace, &[]).await
    }

    /// The same for a project with declared roles.
    pub(crate) async fn drain_of_project(&self, workspace: &Database, declared: &[String]) -> Vec<CapturedChange> {
        let owner = &workspace.roles.owner;
        let events = journal::read(&self.server, &workspace.name, owner).await.unwrap();
        let changes = capture::changes(&events, owner, declared);
        journal::confirm(&self.server, &workspace.name, &events).await.unwrap();
        changes
    }

    pub(crate) async fn fingerprint(&self, database: &Database) -> Fingerprint {
        fingerprint::take(&self.server, &database.name, &database.roles.owner)
            .await
            .unwrap()
    }

    pub(crate) async fn assert_same_schema(&self, one: &Database, other: &Database) {
        let differences = self.fingerprint(one).await.diff(&self.fingerprint(other).await);
        assert_eq!(differences, vec![], "{} and {}", one.name, other.name);
    }

    pub(crate) async fn bring_up(
        &self,
        database: &Database,
        changes: &[NumberedChange],
    ) -> Result<Applied, ApplyError> {
        self.bring_up_within(database, changes, TimeLimits::default()).await
    }

    /// On a server where other roles have the names `taken` of declared roles.
    pub(crate) async fn bring_up_without(
        &self,
        database: &Database,
        changes: &[NumberedChange],
        taken: &[String],
    ) -> Result<Applied, ApplyError> {
        self.bring_up_with(database, changes, taken, TimeLimits::default())
            .await
    }

    pub(crate) async fn bring_up_within(
        &self,
        database: &Database,
        changes: &[NumberedChange],
        limits: TimeLimits,
    ) -> Result<Applied, ApplyError> {
        self.bring_up_with(database, changes, &[], limits).await
    }

    async fn bring_up_with(
        &self,
        database: &Database,
        changes: &[NumberedChange],
        taken: &[String],
        limits: TimeLimits,
    ) -> Result<Applied, ApplyError> {
        let plan = BringUp {
            administrator: &self.server,
            owner: &database.roles.owner,
            attempt: Uuid::new_v4(),
            changes,
            taken,
            limits,
        };
        apply::bring_up(&self.deployer(database), &plan, &|_| {}).await
    }

    /// Runs one of PostgreSQL's programs as the owner of a database.
    pub(crate) fn program(&self, name: &str, database: &Database, arguments: &[&str]) -> std::process::Output {
        Command::new(self.cluster.bin().program(name))
            .args(["-h", self.cluster.host(), "-p", &self.cluster.port().to_string()])
            .args(["-U", &database.roles.owner, "-d", &database.name])
            .args(arguments)
            .env("PGPASSWORD", database.secrets.owner.expose_secret())
            .output()
            .unwrap()
    }
}

pub(crate) fn numbered(changes: &[CapturedChange]) -> Vec<NumberedChange> {
    let numbers = 1..;
    numbers
        .zip(changes)
        .map(|(id, captured)| NumberedChange {
            id,
            change: captured.change.clone(),
        })
        .collect()
}

/// A workspace whose captured changes are replayed in a build.
pub(crate) struct Replay {
    pub(crate) world: World,
    pub(crate) workspace: Database,
    pub(crate) build: Database,
    pub(crate) changes: Vec<CapturedChange>,
}

impl Replay {
    pub(crate) async fn start() -> Self {
        let world = World::start().await;
        let workspace = world.workspace("app_dev").await;
        world.base_template("app_v1").await;
        let build = world.tenant("app_build", "app_v1").await;
        Self {
            world,
            workspace,
            build,
            changes: Vec::new(),
        }
    }

    /// Drains the workspace; no change may be broken.
    pub(crate) async fn drain(&mut self) {
        let captured = self.world.drain(&self.workspace).await;
        for captured in &captured {
            assert_eq!(captured.change.broken, None, "{:?}", captured.change.texts());
        }
        self.changes.extend(captured);
    }

    /// Replays all changes in the build and compares it with the workspace.
    pub(crate) async fn prove(&mut self) {
        self.drain().await;
        self.world
            .bring_up(&self.build, &numbered(&self.changes))
            .await
            .unwrap();
        let workspace = self.world.fingerprint(&self.workspace).await;
        assert_eq!(workspace.diff(&self.world.fingerprint(&self.build).await), vec![]);
    }
}
