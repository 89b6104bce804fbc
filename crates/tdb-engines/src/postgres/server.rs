//! A database server as its administrator sees it. Its sessions run constant SQL under `search_path = pg_catalog`; no
//! text of a user and no call of a user's code ever gets here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tdb_auth::ClientTls;
use tdb_names::ServerEndpoint;

use crate::postgres::error::{CONNECTIONS_MIN, EngineError, Lack};
use crate::postgres::ident::quote;
use crate::postgres::session::{Session, Target, connect, leave};

/// Where the administrator goes when no particular database is meant.
const MAINTENANCE: &str = "postgres";
/// Nothing of a customer: `pg_stat_activity` shows it to everybody.
const APPLICATION_NAME: &str = "tdb";
const LOGIN_TIME_MAX: Duration = Duration::from_secs(10);
/// `STRATEGY` of CREATE DATABASE and `ALLOW_CONNECTIONS` beside it.
const VERSION_MIN: i32 = 150_000;
/// Idle administrator sessions kept per database, and databases they are kept for. Draining a journal would otherwise
/// pay for a login each time.
const IDLE_PER_DATABASE_MAX: usize = 2;
const IDLE_DATABASES_MAX: usize = 16;

/// The database that every first version is cloned from.
pub(crate) const BASE: &str = "tdb_base";
/// Owns what templates hold. Nobody is a member, it owns no database, it has no grant on one.
pub(crate) const TEMPLATE_ROLE: &str = "tdb_template";
/// May write `tdb.deployed_change`.
pub(crate) const MIGRATORS_ROLE: &str = "tdb_migrators";
/// Every database's read-only role is a member; what it may read is granted to the group, database by database.
pub(crate) const READERS_ROLE: &str = "tdb_readers";
/// Every owner is a member: may call the functions of PostgreSQL that write, which PUBLIC may not.
pub(crate) const WRITERS_ROLE: &str = "tdb_writers";

/// Takes the right to write from everybody who is not in `tdb_writers`; what was closed before stays so.
pub(crate) const CLOSE_WRITERS: &str = include_str!("../../sql/postgres/close_writers.sql");

/// The administrator of one database server. Cheap to clone; nothing is dialled before it is used.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    endpoint: ServerEndpoint,
    user: String,
    secret: SecretString,
    tls: ClientTls,
    idle: Mutex<HashMap<String, Vec<Session>>>,
}

/// What was found out about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// PostgreSQL's number, such as 150008.
    pub version: i32,
    pub max_connections: i32,
    pub superuser_reserved: i32,
    pub databases: i64,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.0.endpoint.name).finish()
    }
}

impl Server {
    pub fn new(endpoint: ServerEndpoint, user: String, secret: SecretString, tls: ClientTls) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            user,
            secret,
            tls,
            idle: Mutex::default(),
        }))
    }

    pub fn endpoint(&self) -> &ServerEndpoint {
        &self.0.endpoint
    }

    pub fn tls(&self) -> &ClientTls {
        &self.0.tls
    }

    /// Version, rights and room. [`EngineError::Lacks`] says what is missing.
    pub async fn probe(&self) -> Result<Probe, EngineError> {
        let session = self.maintenance().await?;
        self.probe_in(session).await
    }

    /// As [`Self::probe`], in a new connection: whether the server is reached now.
    pub async fn probe_anew(&self) -> Result<Probe, EngineError> {
        let session = self.dedicated(MAINTENANCE).await?;
        self.probe_in(session).await
    }

    /// The server answers. Cancel safe: a session that did not is closed.
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

    /// Makes the server ready for databases of ours: idempotent, safe when two do it at once, goes on where a killed
    /// one stopped.
    pub async fn prepare(&self) -> Result<(), EngineError> {
        let session = self.dedicated(MAINTENANCE).await?;
        // Held by the session, so that the end of the process lets go of it.
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

    /// A session in the maintenance database; give it back with [`Self::keep`].
    pub(crate) async fn maintenance(&self) -> Result<Session, EngineError> {
        self.session(MAINTENANCE).await
    }

    pub(crate) fn keep_maintenance(&self, session: Session) {
        self.keep(MAINTENANCE, session);
    }

    /// An idle session of a database, or a new one.
    pub(crate) async fn session(&self, database: &str) -> Result<Session, EngineError> {
        let idle = {
            let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.get_mut(database).and_then(|sessions| sessions.pop())
        };
        match idle.filter(|session| !session.is_closed()) {
            Some(session) => Ok(session),
            None => self.dedicated(database).await,
        }
    }

    /// Keeps a session for the next user. Only ones that are in no transaction and changed no setting: others are dropped
    /// by their user.
    pub(crate) fn keep(&self, database: &str, session: Session) {
        if session.is_closed() {
            return;
        }
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= IDLE_DATABASES_MAX && !idle.contains_key(database) {
            idle.retain(|name, _| name == MAINTENANCE);
        }
        let sessions = idle.entry(database.to_owned()).or_default();
        if sessions.len() < IDLE_PER_DATABASE_MAX {
            sessions.push(session);
        }
    }

    /// Drops the idle sessions of a database, which would stand in the way of renaming it.
    pub(crate) fn forget(&self, database: &str) {
        self.0
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(database);
    }

    /// A session that nobody else gets.
    pub(crate) async fn dedicated(&self, database: &str) -> Result<Session, EngineError> {
        // row_security: a policy is code of its user and a superuser bypasses it anyway. jit: our catalog queries look
        // expensive to the planner and are over before their machine code would be made.
        let options = "-c search_path=pg_catalog -c row_security=off -c jit=off";
        self.dedicated_with(database, options).await
    }

    /// As [`Self::dedicated`], for the script of an extension, which may go back to the search_path of a new session: it
    /// finds `public` and nothing that the database's settings name.
    pub(crate) async fn for_a_script(&self, database: &str) -> Result<Session, EngineError> {
        let options = "-c search_path=public -c row_security=off -c jit=off";
        let session = self.dedicated_with(database, options).await?;
        session.run("SET search_path = pg_catalog").await?;
        Ok(session)
    }

    async fn dedicated_with(&self, database: &str, options: &str) -> Result<Session, EngineError> {
        connect(&Target {
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
