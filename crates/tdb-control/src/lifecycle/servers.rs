//! Database servers: enrolment by the configuration, choice of a server for a new database, and the administrator's
//! connections.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use secrecy::SecretString;
use serde_json::{Value, json};
use tdb_auth::ClientTls;
use tdb_engines::postgres::{EngineError, Lack, Probe, Server};
use tdb_names::{BlueprintName, ProjectId, ServerEndpoint, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::Tx;
use tdb_store::servers::{self, Looked, Revision, Twin};
use tokio::time::{Instant, timeout};

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};

/// A server with its administrator's login.
#[derive(Clone, Debug)]
pub struct ServerEnrolment {
    /// The server's name and address.
    pub endpoint: ServerEndpoint,
    /// The administrator's user name.
    pub admin_user: String,
    /// The administrator's password.
    pub admin_secret: SecretString,
    /// Databases get random names, so that their names on the server do not identify tenants.
    pub opaque_names: bool,
    /// The extensions that the administrator may create for developers. `*` stands for all except those that reach
    /// beyond their database.
    pub extensions: Vec<String>,
}

/// After this time a cached handle is compared with the store: another process may have changed the server.
pub(crate) const REMEMBERED_MAX: Duration = Duration::from_secs(1);

/// A server that does not answer a periodic ping within this time counts as silent.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// The same for a ping that a caller waits for.
const CALLER_TIME_MAX: Duration = Duration::from_secs(3);

/// After this time, work that a caller waits for checks whether the server answers at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the start of a process waits for a server that was prepared before.
const START_TIME_MAX: Duration = Duration::from_secs(2);

/// What this process caches about servers.
#[derive(Debug, Default)]
struct ServerCache {
    /// Handles with idle connections, as long as the stored record is the same.
    known: Mutex<HashMap<ServerName, Remembered>>,
    /// Servers that did not answer the last ping, and how it failed.
    silent: Mutex<HashMap<ServerName, Silence>>,
    /// Servers that were not available when this process started: this release has not prepared them.
    unprepared: Mutex<HashSet<ServerName>>,
}

#[derive(Clone, Debug)]
struct Silence {
    code: ProblemCode,
    reason: String,
}

#[derive(Clone, Debug)]
struct Remembered {
    server: Server,
    opaque_names: bool,
    /// `None` before the first connection.
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

    /// Forgets a server: another one may get its name.
    fn remove(&self, name: &ServerName) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.note_answer(name);
        self.note_prepared(name);
    }

    fn set_major(&self, name: &ServerName, revision: &Revision, pg_major: u32) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remembered) = all.get_mut(name).filter(|known| known.revision == *revision) {
            remembered.pg_major = Some(pg_major);
        }
    }

    /// `true` if the server did not answer before.
    fn note_answer(&self, name: &ServerName) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.remove(name).is_some()
    }

    /// `true` if the server answered before.
    fn note_silence(&self, name: &ServerName, silence: Silence) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.insert(name.clone(), silence).is_none()
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

    /// How the last ping failed, if the server did not answer it.
    fn silence(&self, name: &ServerName) -> Option<Silence> {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.get(name).cloned()
    }
}

/// The registered database servers, with the handles that this process caches.
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

    /// Prepares the server (roles, base database) and records it, or updates its record. A server that was prepared
    /// before may be unavailable: the start does not wait for it, and it is prepared when it responds.
    pub async fn enrol(&self, enrolment: ServerEnrolment) -> Result<()> {
        let administrator = enrolment.administrator();
        let name = &administrator.endpoint.name;
        let server = self.handle(&administrator);
        let enrolled = self.is_enrolled(name).await?;
        let probe = if enrolled {
            self.prepared_in_time(&server).await?
        } else {
            Some(prepared(&server).await?)
        };
        let tx = self.core.store.jobs().await?;
        if let Some(probe) = probe.as_ref().filter(|_| !enrolled) {
            require_new(&tx, &administrator.endpoint, probe).await?;
        }
        let revision = servers::upsert(&tx, &self.core.store, &administrator).await?;
        servers::set_extensions(&tx, name, &enrolment.extensions).await?;
        if let Some(probe) = &probe {
            servers::record_facts(&tx, name, probe.version, &facts(probe)).await?;
        }
        tx.commit().await?;
        self.remember(server, administrator.opaque_names, probe.as_ref(), revision);
        Ok(())
    }

    /// `None` if the server is not available now; it is prepared when it responds.
    async fn prepared_in_time(&self, server: &Server) -> Result<Option<Probe>> {
        let name = &server.endpoint().name;
        let silence = match timeout(START_TIME_MAX, prepared(server)).await {
            Ok(Ok(probe)) => return Ok(Some(probe)),
            Ok(Err(ControlError::Upstream { code, reason, .. })) => Silence { code, reason },
            Ok(Err(error)) => return Err(error),
            Err(_) => Silence::after(START_TIME_MAX),
        };
        tracing::warn!(server = %name, error = %silence.reason, "the server cannot be used now");
        self.cache.note_unprepared(name);
        self.cache.note_silence(name, silence);
        Ok(None)
    }

    /// Prepares a server that was not available when this process started.
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

    /// The server for a new database of this blueprint: the emptiest one that answers now. Servers that did not answer
    /// the last ping are tried last. Fails within a few seconds if no server answers.
    pub(crate) async fn place_for(&self, project: &ProjectId, blueprint: &BlueprintName) -> Result<ServerName> {
        let tx = self.core.store.jobs().await?;
        let candidates = servers::emptiest(&tx, project, blueprint).await?;
        tx.rollback().await?;
        let (mut answering, silent): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .partition(|name| self.cache.silence(name).is_none());
        let others = answering.split_off(answering.len().min(1));
        let mut failure = None;
        for group in [answering, others, silent] {
            let pings = group.iter().map(|name| self.require_answer_now(name));
            for (name, answer) in group.iter().zip(join_all(pings).await) {
                match answer {
                    Ok(()) => return Ok(name.clone()),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        Err(match failure {
            Some(error) => unanswered(blueprint, &error),
            None => {
                let detail = format!("there is no database server for \"{blueprint}\"");
                let hint = "Register one with POST /servers, or in proxy.toml; a drained server gets no new databases.";
                ControlError::refused(ProblemCode::NoServer, detail, hint)
            }
        })
    }

    /// The administrator's handle on a server. Its sessions run constant SQL only.
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
                return Err(ControlError::not_found(EntryKind::Server, name));
            }
        };
        self.cache.insert(name, remembered.clone());
        Ok(remembered)
    }

    /// Pings a server and records the result.
    pub(crate) async fn look_after(&self, name: &ServerName) -> Result<()> {
        let server = self.admin(name).await?;
        match self.ping(&server, ANSWER_TIME_MAX).await {
            Ok(()) => {
                if self.cache.is_unprepared(name) {
                    self.prepare_late(&server).await?;
                }
                if self.cache.note_answer(name) {
                    tracing::info!(server = %name, "the database server answers again");
                }
                Ok(servers::record_answer(&self.core.store, name).await?)
            }
            // The failure is logged. It is not one of this task.
            Err(_) => Ok(()),
        }
    }

    /// Pings a server, and notes if it does not answer. A server that has no free connection for the ping does answer.
    async fn ping(&self, server: &Server, limit: Duration) -> Result<()> {
        let name = &server.endpoint().name;
        let silence = match timeout(limit, server.ping()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => match upstream(name, error) {
                ControlError::Upstream { code, reason, .. } if code != ProblemCode::ServerBusy => {
                    Silence { code, reason }
                }
                error => return Err(error),
            },
            Err(_) => Silence::after(limit),
        };
        let error = silence.of(name);
        if self.cache.note_silence(name, silence) {
            tracing::warn!(server = %name, error = %error.explained(), "the database server does not answer");
        }
        Err(error)
    }

    /// Fails within a few seconds if the server does not answer now.
    pub(crate) async fn require_answer_now(&self, name: &ServerName) -> Result<()> {
        let server = self.admin(name).await?;
        self.ping(&server, CALLER_TIME_MAX).await
    }

    /// Runs `work` on a server for a caller that waits. If the server does not answer, fails within a few seconds; at once, if
    /// that is known already.
    pub(crate) async fn patiently<T>(&self, name: &ServerName, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.require_answered(name)?;
        let mut work = pin!(work);
        if let Ok(done) = timeout(PATIENCE, work.as_mut()).await {
            return done;
        }
        // It may take long because there is much to do.
        tokio::select! {
            biased;
            done = work.as_mut() => return done,
            answered = self.require_answer_now(name) => answered?,
        }
        work.await
    }

    /// Fails if the server did not answer the last ping. Does not contact the server.
    pub(crate) fn require_answered(&self, name: &ServerName) -> Result<()> {
        match self.cache.silence(name) {
            Some(silence) => Err(silence.of(name)),
            None => Ok(()),
        }
    }

    /// Whether the server did not answer the last ping.
    pub(crate) fn is_silent(&self, name: &ServerName) -> bool {
        self.cache.silence(name).is_some()
    }

    pub(crate) fn forget(&self, name: &ServerName) {
        self.cache.remove(name);
    }
}

impl Silence {
    fn after(limit: Duration) -> Self {
        Self {
            code: ProblemCode::DatabaseTimedOut,
            reason: format!("no answer within {limit:?}"),
        }
    }

    fn of(&self, server: &ServerName) -> ControlError {
        ControlError::Upstream {
            code: self.code,
            server: server.to_string(),
            reason: self.reason.clone(),
        }
    }
}

/// The error for a new database when no server answers. Nothing is created then.
fn unanswered(blueprint: &BlueprintName, error: &ControlError) -> ControlError {
    let detail = format!("no database server that may hold \"{blueprint}\" answers: {error}");
    let hint = "Nothing was created. Try again when GET /servers shows a server that answers.";
    ControlError::refused(error.code(), detail, hint)
}

/// Fails if the server is registered under another name. Until the end of the transaction, no other server is
/// registered.
pub(crate) async fn require_new(tx: &Tx, endpoint: &ServerEndpoint, probe: &Probe) -> Result<()> {
    let identifier = &probe.system_identifier;
    let address = format!("{}:{}", endpoint.host, endpoint.port);
    let (detail, hint) = match servers::twin(tx, endpoint, identifier).await? {
        None => return Ok(()),
        Some(Twin::Address(name)) => (
            format!("the server at {address} is already registered as \"{name}\""),
            "Use the existing server, or remove it first with DELETE /servers/{name}.",
        ),
        Some(Twin::Identifier(name)) => (
            format!(
                "the server at {address} is already registered as \"{name}\", or is a standby or a copy of it: both have the system identifier {identifier}"
            ),
            "Register the primary only. After a failover, give the existing server its new address in proxy.toml.",
        ),
    };
    Err(ControlError::refused(ProblemCode::AlreadyExists, detail, hint))
}

/// Checks a server, and prepares it if it is suitable.
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

/// What is stored of a check of a server.
pub(crate) fn facts(probe: &Probe) -> Value {
    json!({
        "max_connections": probe.max_connections,
        "superuser_reserved_connections": probe.superuser_reserved,
        "system_identifier": probe.system_identifier,
    })
}

/// The error for a server that cannot be used: the code and the hint depend on whether the server, its administrator or
/// the network has to be changed.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_server_leaves_nothing_for_the_next_one_of_its_name() {
        let (cache, name) = (ServerCache::default(), "east".parse().unwrap());
        cache.note_silence(&name, Silence::after(ANSWER_TIME_MAX));
        cache.note_unprepared(&name);
        cache.remove(&name);
        assert!(cache.silence(&name).is_none());
        assert!(!cache.is_unprepared(&name));
    }
}
