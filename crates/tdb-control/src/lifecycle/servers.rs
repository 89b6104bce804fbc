//! Database servers: enrolled by the composition root, chosen for databases, and the administrator's handle on each.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use tdb_auth::ClientTls;
use tdb_engines::postgres::{EngineError, Lack, Probe, Server};
use tdb_names::{BlueprintName, ProjectId, ServerEndpoint, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::servers::{self, Looked, Revision};
use tokio::time::{Instant, timeout};

use crate::core::Core;
use crate::error::{ControlError, Result, upstream};

/// An administrator's way into a database server.
#[derive(Clone, Debug)]
pub struct ServerEnrolment {
    pub endpoint: ServerEndpoint,
    pub admin_user: String,
    pub admin_secret: SecretString,
    /// Physical names tell nothing about tenants.
    pub opaque_names: bool,
    /// Extensions that developers may have made by the administrator; `*`: all but those that reach too far.
    pub extensions: Vec<String>,
}

/// Past this age, what is remembered of a server is compared with the store: another process may have registered it
/// anew.
pub(crate) const REMEMBERED_MAX: Duration = Duration::from_secs(1);

/// A server that works answers within this time.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// How long the start of a process waits for a server that was prepared before.
const START_TIME_MAX: Duration = Duration::from_secs(2);

/// What this process remembers of servers.
#[derive(Debug, Default)]
struct ServerCache {
    /// Handles with idle sessions, as long as the store's record is the same.
    known: Mutex<HashMap<ServerName, Remembered>>,
    /// Those that did not answer when they were asked last.
    silent: Mutex<HashSet<ServerName>>,
    /// Those that this process did not wait for when it started: they may lack what this program prepares.
    unprepared: Mutex<HashSet<ServerName>>,
}

#[derive(Clone, Debug)]
struct Remembered {
    server: Server,
    opaque_names: bool,
    /// None before the first look.
    pg_major: Option<u32>,
    revision: Revision,
    compared: Instant,
}

impl ServerCache {
    fn of(&self, name: &ServerName) -> Option<Remembered> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    fn insert(&self, name: &ServerName, remembered: Remembered) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.clone(), remembered);
    }

    fn remove(&self, name: &ServerName) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn set_major(&self, name: &ServerName, revision: &Revision, pg_major: u32) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remembered) = all.get_mut(name).filter(|known| known.revision == *revision) {
            remembered.pg_major = Some(pg_major);
        }
    }

    /// True where the server did not answer before.
    fn note_answer(&self, name: &ServerName) -> bool {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// True where the server answered before.
    fn note_silence(&self, name: &ServerName) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.insert(name.clone())
    }

    fn note_unprepared(&self, name: &ServerName) {
        let mut unprepared = self.unprepared.lock().unwrap_or_else(PoisonError::into_inner);
        unprepared.insert(name.clone());
    }

    fn note_prepared(&self, name: &ServerName) {
        let mut unprepared = self.unprepared.lock().unwrap_or_else(PoisonError::into_inner);
        unprepared.remove(name);
    }

    fn is_unprepared(&self, name: &ServerName) -> bool {
        let unprepared = self.unprepared.lock().unwrap_or_else(PoisonError::into_inner);
        unprepared.contains(name)
    }

    /// Whether it did not answer when it was asked last.
    fn is_silent(&self, name: &ServerName) -> bool {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.contains(name)
    }
}

/// The registered database servers, with the handles that this process keeps.
#[derive(Clone)]
pub struct Servers {
    core: Arc<Core>,
    pub(crate) tls: ClientTls,
    cache: Arc<ServerCache>,
}

impl Servers {
    pub(crate) fn new(core: &Arc<Core>, tls: ClientTls) -> Self {
        Self {
            core: core.clone(),
            tls,
            cache: Arc::default(),
        }
    }

    /// Prepares the server (roles, base database) and records it; again with changed facts: updates it. One that was
    /// prepared before may be away: the others' tenants do not wait for it, and it is prepared when it answers.
    pub async fn enrol(&self, enrolment: ServerEnrolment) -> Result<()> {
        let administrator = enrolment.administrator();
        let name = &administrator.endpoint.name;
        let server = self.handle(&administrator);
        let probe = if self.is_enrolled(name).await? {
            self.prepared_in_time(&server).await?
        } else {
            Some(prepared(&server).await?)
        };
        let tx = self.core.store.jobs().await?;
        let revision = servers::upsert(&tx, &self.core.store, &administrator).await?;
        servers::set_extensions(&tx, name, &enrolment.extensions).await?;
        if let Some(probe) = &probe {
            servers::record_facts(&tx, name, probe.version, &facts(probe)).await?;
        }
        tx.commit().await?;
        self.remember(server, administrator.opaque_names, probe.as_ref(), revision);
        Ok(())
    }

    /// None where the server does not answer now: it is prepared when it does.
    async fn prepared_in_time(&self, server: &Server) -> Result<Option<Probe>> {
        let name = &server.endpoint().name;
        let reason = match timeout(START_TIME_MAX, prepared(server)).await {
            Ok(Ok(probe)) => return Ok(Some(probe)),
            Ok(Err(error @ ControlError::Upstream { .. })) => error.explained(),
            Ok(Err(error)) => return Err(error),
            Err(_) => format!("no answer within {START_TIME_MAX:?}"),
        };
        tracing::warn!(server = %name, error = %reason, "the server cannot be used now");
        self.cache.note_unprepared(name);
        self.cache.note_silence(name);
        Ok(None)
    }

    /// Prepares a server that answers and was not waited for when this process started.
    async fn prepare_late(&self, server: &Server) -> Result<()> {
        let name = &server.endpoint().name;
        let probe = prepared(server).await?;
        let tx = self.core.store.jobs().await?;
        servers::record_facts(&tx, name, probe.version, &facts(&probe)).await?;
        tx.commit().await?;
        self.cache.note_prepared(name);
        Ok(())
    }

    pub(crate) fn handle(&self, administrator: &servers::Administrator) -> Server {
        Server::new(
            administrator.endpoint.clone(),
            administrator.user.clone(),
            administrator.secret.clone(),
            self.tls.clone(),
        )
    }

    pub(crate) fn remember(&self, server: Server, opaque_names: bool, probe: Option<&Probe>, revision: Revision) {
        let name = server.endpoint().name.clone();
        let remembered = Remembered {
            server,
            opaque_names,
            pg_major: probe.and_then(|probe| u32::try_from(probe.version / 10_000).ok()),
            revision,
            compared: Instant::now(),
        };
        self.cache.insert(&name, remembered);
    }

    async fn is_enrolled(&self, name: &ServerName) -> Result<bool> {
        let tx = self.core.store.jobs().await?;
        let row = servers::administrator(&tx, &self.core.store, name).await?;
        tx.rollback().await?;
        Ok(row.is_some())
    }

    /// Where a blueprint's next database goes.
    pub(crate) async fn place_for(&self, project: &ProjectId, blueprint: &BlueprintName) -> Result<ServerName> {
        let tx = self.core.store.jobs().await?;
        let found = servers::emptiest(&tx, project, blueprint).await?;
        tx.rollback().await?;
        found.ok_or_else(|| {
            let detail = format!("there is no database server for \"{blueprint}\"");
            let hint = "Register one with POST /servers, or in proxy.toml; a drained server gets no new databases.";
            ControlError::refused(ProblemCode::NoServer, detail, hint)
        })
    }

    /// The administrator of a server; its sessions run constant SQL only.
    pub(crate) async fn admin(&self, name: &ServerName) -> Result<Server> {
        Ok(self.remembered(name).await?.server)
    }

    pub(crate) async fn names_are_opaque(&self, name: &ServerName) -> Result<bool> {
        Ok(self.remembered(name).await?.opaque_names)
    }

    pub(crate) async fn pg_major(&self, server: &Server) -> Result<u32> {
        let name = &server.endpoint().name;
        let remembered = self.remembered(name).await?;
        if let Some(major) = remembered.pg_major {
            return Ok(major);
        }
        let probe = server.probe().await.map_err(|e| upstream(name, e))?;
        let major = u32::try_from(probe.version / 10_000).map_err(ControlError::internal)?;
        self.cache.set_major(name, &remembered.revision, major);
        Ok(major)
    }

    async fn remembered(&self, name: &ServerName) -> Result<Remembered> {
        let known = self.cache.of(name);
        if let Some(known) = &known
            && known.compared.elapsed() < REMEMBERED_MAX
        {
            return Ok(known.clone());
        }
        let compared = Instant::now();
        let revision = known.as_ref().map(|known| &known.revision);
        let remembered = match (servers::look(&self.core.store, name, revision).await?, known) {
            (Looked::Same, Some(known)) => Remembered { compared, ..known },
            (Looked::Other(revision, administrator), _) => Remembered {
                server: self.handle(&administrator),
                opaque_names: administrator.opaque_names,
                pg_major: None,
                revision,
                compared,
            },
            (Looked::Gone | Looked::Same, _) => {
                self.cache.remove(name);
                return Err(ControlError::not_found("server", name));
            }
        };
        self.cache.insert(name, remembered.clone());
        Ok(remembered)
    }

    /// Asks a server for a sign of life and records it.
    pub(crate) async fn look_after(&self, name: &ServerName) -> Result<()> {
        let server = self.admin(name).await?;
        let answer = match timeout(ANSWER_TIME_MAX, server.ping()).await {
            Ok(answer) => answer.map_err(|e| upstream(name, e)),
            Err(_) => Err(ControlError::Upstream {
                code: ProblemCode::DatabaseTimedOut,
                server: name.to_string(),
                reason: format!("no answer within {ANSWER_TIME_MAX:?}"),
            }),
        };
        match answer {
            Ok(()) => {
                if self.cache.is_unprepared(name) {
                    self.prepare_late(&server).await?;
                }
                if self.cache.note_answer(name) {
                    tracing::info!(server = %name, "the database server answers again");
                }
                Ok(servers::record_answer(&self.core.store, name).await?)
            }
            Err(error) => {
                if self.cache.note_silence(name) {
                    tracing::warn!(server = %name, error = %error.explained(), "the database server does not answer");
                }
                Ok(())
            }
        }
    }

    /// Whether it did not answer when it was asked last.
    pub(crate) fn is_silent(&self, name: &ServerName) -> bool {
        self.cache.is_silent(name)
    }

    pub(crate) fn forget(&self, name: &ServerName) {
        self.cache.remove(name);
    }
}

/// Looks at a server, and makes it ready where it is fit.
pub(crate) async fn prepared(server: &Server) -> Result<Probe> {
    let name = &server.endpoint().name;
    let probe = server.probe().await.map_err(|e| unfit(name, e))?;
    server.prepare().await.map_err(|e| upstream(name, e))?;
    Ok(probe)
}

impl ServerEnrolment {
    pub(crate) fn administrator(&self) -> servers::Administrator {
        servers::Administrator {
            endpoint: self.endpoint.clone(),
            user: self.admin_user.clone(),
            secret: self.admin_secret.clone(),
            opaque_names: self.opaque_names,
        }
    }
}

/// What is kept of a look at a server.
pub(crate) fn facts(probe: &Probe) -> Value {
    json!({
        "max_connections": probe.max_connections,
        "superuser_reserved_connections": probe.superuser_reserved,
    })
}

/// Why a server cannot be used, by what has to be changed: the server itself, its administrator, or the network.
pub(crate) fn unfit(server: &ServerName, error: EngineError) -> ControlError {
    let (code, hint) = match &error {
        EngineError::Lacks(Lack::Version { .. }) => (
            ProblemCode::ServerVersion,
            "Register a server of PostgreSQL 15 or newer.",
        ),
        EngineError::Lacks(Lack::Primary) => (ProblemCode::ServerStandby, "Register the primary."),
        EngineError::Lacks(Lack::Right(_)) => (
            ProblemCode::ServerRights,
            "Give the administrator SUPERUSER, or name another.",
        ),
        EngineError::Lacks(Lack::EventTriggers) => (
            ProblemCode::ServerEventTriggers,
            "Give the administrator SUPERUSER, or name another.",
        ),
        EngineError::Lacks(Lack::Connections { .. }) => {
            (ProblemCode::ServerCapacity, "Raise max_connections and restart it.")
        }
        EngineError::Sql { sqlstate, .. } if sqlstate.as_str().starts_with("28") => (
            ProblemCode::ServerLogin,
            "Check admin_user, admin_password and the server's pg_hba.conf.",
        ),
        _ => return upstream(server, error),
    };
    ControlError::refused(
        code,
        format!("database server \"{server}\" cannot be used: {error}"),
        hint,
    )
}
