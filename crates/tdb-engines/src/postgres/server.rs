//! Connections to a database server as its administrator. They run constant SQL with `search_path = pg_catalog`, never SQL
//! that a user wrote, and call no code of users.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use secrecy::SecretString;
use tdb_auth::ClientTls;
use tdb_names::ServerEndpoint;

use crate::postgres::error::{CONNECTIONS_MIN, EngineError, Lack};
use crate::postgres::ident::quote;
use crate::postgres::session::{ConnectOptions, Session, connect, leave};

/// The database for statements that are not about one database.
const MAINTENANCE: &str = "postgres";
/// Contains no customer data, since every role can read it in `pg_stat_activity`.
const APPLICATION_NAME: &str = "tdb";
const LOGIN_TIME_MAX: Duration = Duration::from_secs(10);
/// The first version with `CREATE DATABASE … STRATEGY`.
const VERSION_MIN: i32 = 150_000;
/// The most idle administrator sessions per database and per server. Without idle sessions, each drain of a journal would
/// need a login; each one occupies a connection of the server, whose default limit is 100. Beyond the limit, the database
/// that was used least recently loses its sessions.
const IDLE_PER_DATABASE_MAX: usize = 2;
const IDLE_MAX: usize = 40;

/// The template of new workspaces and of the first template of a workspace.
pub(crate) const BASE: &str = "tdb_base";
/// Owns the objects in templates. It has no members, owns no database and has no privileges on databases.
pub(crate) const TEMPLATE_ROLE: &str = "tdb_template";
/// The group of deployers. It can write `tdb.deployed_change`.
pub(crate) const MIGRATORS_ROLE: &str = "tdb_migrators";
/// The group of all read-only roles. In each database with a read-only credential, the right to read is granted to it.
pub(crate) const READERS_ROLE: &str = "tdb_readers";
/// The group of all owner roles. It can call PostgreSQL's functions that write, which are revoked from PUBLIC.
pub(crate) const WRITERS_ROLE: &str = "tdb_writers";

/// Revokes the functions that write without any privilege on an object (large objects, WAL messages) from PUBLIC in a
/// database. Idempotent.
pub(crate) const CLOSE_WRITERS: &str = include_str!("../../sql/postgres/close_writers.sql");

/// The administrator of one database server. Clones share the idle sessions. It connects when first used.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    endpoint: ServerEndpoint,
    user: String,
    secret: SecretString,
    tls: ClientTls,
    /// By database. An entry has at least one session, so their number is limited by `IDLE_MAX`.
    idle: Mutex<LruCache<String, Vec<Session>>>,
}

/// The properties of a server that [`Server::probe`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `server_version_num`, such as 150008.
    pub version: i32,
    /// The setting `max_connections`.
    pub max_connections: i32,
    /// The setting `superuser_reserved_connections`.
    pub superuser_reserved: i32,
    /// The number of databases that are not templates, whichever program created them.
    pub databases: i64,
    /// The identifier that `initdb` gave to the cluster. A physical standby and a copy of the data directory have the
    /// same one.
    pub system_identifier: String,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.0.endpoint.name).finish()
    }
}

impl Server {
    /// Stores how to connect; does not connect. `user` must be a superuser for [`Self::probe`] to succeed.
    pub fn new(endpoint: ServerEndpoint, user: String, secret: SecretString, tls: ClientTls) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            user,
            secret,
            tls,
            idle: Mutex::new(LruCache::unbounded()),
        }))
    }

    /// Where the server is.
    pub fn endpoint(&self) -> &ServerEndpoint {
        &self.0.endpoint
    }

    /// The TLS settings of its connections.
    pub fn tls(&self) -> &ClientTls {
        &self.0.tls
    }

    /// Checks version, attributes of the administrator and `max_connections`. Fails with [`EngineError::Lacks`] if one
    /// of them is not sufficient.
    pub async fn probe(&self) -> Result<Probe, EngineError> {
        let session = self.maintenance().await?;
        self.probe_in(session).await
    }

    /// Like [`Self::probe`], but always with a new connection, so that it also checks that the server can be reached.
    pub async fn probe_anew(&self) -> Result<Probe, EngineError> {
        let session = self.dedicated(MAINTENANCE).await?;
        self.probe_in(session).await
    }

    /// Checks that the server answers. Cancel safe: a session without an answer is closed.
    pub async fn ping(&self) -> Result<(), EngineError> {
        let session = self.maintenance().await?;
        session.row("SELECT 1", &[]).await?;
        self.keep_maintenance(session);
        Ok(())
    }

    async fn probe_in(&self, session: Session) -> Result<Probe, EngineError> {
        let row = session.row(include_str!("../../sql/postgres/probe.sql"), &[]).await?;
        let row = row.ok_or_else(|| EngineError::Unexpected("the probe gave no row".to_owned()))?;
        let probe = Probe {
            version: row.try_get(0)?,
            max_connections: row.try_get(1)?,
            superuser_reserved: row.try_get(2)?,
            databases: row.try_get(7)?,
            system_identifier: row.try_get(8)?,
        };
        let (superuser, creates_databases, creates_roles): (bool, bool, bool) =
            (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
        let standby: bool = row.try_get(6)?;
        self.keep(MAINTENANCE, session);
        let lack = match () {
            () if probe.version < VERSION_MIN => Lack::Version {
                major: probe.version / 10_000,
            },
            () if standby => Lack::Primary,
            () if !creates_databases => Lack::Right("create databases (CREATEDB)"),
            () if !creates_roles => Lack::Right("create roles (CREATEROLE)"),
            () if !superuser => Lack::EventTriggers,
            () if probe.max_connections < CONNECTIONS_MIN => Lack::Connections {
                max: probe.max_connections,
            },
            () => return Ok(probe),
        };
        Err(EngineError::Lacks(lack))
    }

    /// Creates the group roles and the base database on the server. Idempotent; several processes may call it at the same
    /// time, and a call continues where a killed process stopped.
    pub async fn prepare(&self) -> Result<(), EngineError> {
        let session = self.dedicated(MAINTENANCE).await?;
        // A lock of the session: the server releases it if the process ends.
        session.run(include_str!("../../sql/postgres/prepare_lock.sql")).await?;
        session
            .run(include_str!("../../sql/postgres/prepare_server.sql"))
            .await?;
        let found = session
            .row(include_str!("../../sql/postgres/database.sql"), &[&BASE])
            .await?;
        let (ready, usable) = match &found {
            Some(row) => (row.try_get::<_, bool>("template")?, !row.try_get::<_, bool>("invalid")?),
            None => (false, false),
        };
        if ready && usable {
            return Ok(());
        }
        let base = quote(BASE);
        if found.is_some() && !usable {
            session.run(&format!("DROP DATABASE {base}")).await?;
        }
        if !usable {
            session
                .run(&format!(
                    "CREATE DATABASE {base} TEMPLATE template0 ALLOW_CONNECTIONS false"
                ))
                .await?;
        }
        crate::fault::point("server.prepare.base_created");
        session
            .run(&format!(
                "BEGIN; REVOKE ALL ON DATABASE {base} FROM PUBLIC; ALTER DATABASE {base} ALLOW_CONNECTIONS true; COMMIT"
            ))
            .await?;
        let inside = self.dedicated(BASE).await?;
        inside.run(include_str!("../../sql/postgres/prepare_base.sql")).await?;
        inside.run(CLOSE_WRITERS).await?;
        leave(&session, inside, BASE).await?;
        session
            .run(&format!(
                "ALTER DATABASE {base} IS_TEMPLATE true ALLOW_CONNECTIONS false"
            ))
            .await
    }

    /// A session in the maintenance database. Return it with [`Self::keep_maintenance`].
    pub(crate) async fn maintenance(&self) -> Result<Session, EngineError> {
        self.session(MAINTENANCE).await
    }

    /// Keeps a session of [`Self::maintenance`] for the next user.
    pub(crate) fn keep_maintenance(&self, session: Session) {
        self.keep(MAINTENANCE, session);
    }

    /// An idle session of a database, or a new one.
    pub(crate) async fn session(&self, database: &str) -> Result<Session, EngineError> {
        let idle = {
            let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let session = idle.get_mut(database).and_then(|sessions| sessions.pop());
            if idle.peek(database).is_some_and(Vec::is_empty) {
                idle.pop(database);
            }
            session
        };
        match idle.filter(|session| !session.is_closed()) {
            Some(session) => Ok(session),
            None => self.dedicated(database).await,
        }
    }

    /// Keeps a session for the next user. It must not be in a transaction and must have no changed settings; drop it
    /// otherwise.
    pub(crate) fn keep(&self, database: &str, session: Session) {
        if session.is_closed() {
            return;
        }
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = idle.get_or_insert_mut(database.to_owned(), Vec::new);
        if sessions.len() < IDLE_PER_DATABASE_MAX {
            sessions.push(session);
        }
        if idle.iter().map(|(_, sessions)| sessions.len()).sum::<usize>() > IDLE_MAX {
            idle.pop_lru();
        }
    }

    /// Closes the idle sessions of a database, which would prevent renaming or dropping it.
    pub(crate) fn forget(&self, database: &str) {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop(database);
    }

    /// Closes a session of a database, and waits until its server process has ended.
    pub(crate) async fn leave(&self, inside: Session, database: &str) -> Result<(), EngineError> {
        let outside = self.maintenance().await?;
        leave(&outside, inside, database).await?;
        self.keep_maintenance(outside);
        Ok(())
    }

    /// A new session, which is not shared.
    pub(crate) async fn dedicated(&self, database: &str) -> Result<Session, EngineError> {
        // row_security: policies are code of users, and a superuser bypasses them anyway. jit: the planner
        // overestimates the cost of catalog queries, and compiling them takes longer than running them.
        let options = "-c search_path=pg_catalog -c row_security=off -c jit=off";
        self.dedicated_with(database, options).await
    }

    /// Like [`Self::dedicated`], for the script of an extension. A script can reset search_path to its value at login:
    /// that is `public` here, and never a schema that the database's settings name.
    pub(crate) async fn for_a_script(&self, database: &str) -> Result<Session, EngineError> {
        let options = "-c search_path=public -c row_security=off -c jit=off";
        let session = self.dedicated_with(database, options).await?;
        session.run("SET search_path = pg_catalog").await?;
        Ok(session)
    }

    async fn dedicated_with(&self, database: &str, options: &str) -> Result<Session, EngineError> {
        connect(&ConnectOptions {
            endpoint: &self.0.endpoint,
            tls: &self.0.tls,
            database,
            user: &self.0.user,
            secret: &self.0.secret,
            application_name: APPLICATION_NAME,
            options,
            deadline: LOGIN_TIME_MAX,
        })
        .await
    }
}
