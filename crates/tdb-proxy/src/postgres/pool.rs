//! Server connections that the clients of a database share. A session keeps its last connection while no other session needs
//! it. Before another session gets it, the server is asked what the session has left there: settings are remembered and
//! removed, and restored when the session runs its next statement on another connection; anything that cannot be restored pins
//! the connection to its session.
//!
//! The number of connections to a server is limited. Sessions that must wait are served in turn by database.

mod connection;
mod greeting;
mod share;
mod state;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tdb_contract::{PostgresPlace, RouteKind};
use tdb_names::ServerEndpoint;
use thiserror::Error;
use tokio::time::sleep_until;

use super::dial::{DialError, Dialled};
use super::server_login;
use crate::Plane;

pub(crate) use connection::{Connection, QueryError};
pub(crate) use greeting::changes;
pub(crate) use share::Share;
use share::shrink;
use state::Cleaned;
pub(crate) use state::{Pins, SessionState};
use waiting::{Position, Turn, Waiting};

/// What connections must have in common so that sessions can share them. The startup parameters are the values that RESET
/// restores.
pub(crate) struct PoolKey {
    pub kind: RouteKind,
    pub share: Rc<Share>,
    pub server: ServerEndpoint,
    pub database: String,
    pub role: String,
    pub parameters: Vec<(String, String)>,
}

pub(crate) struct Pool {
    servers: RefCell<HashMap<ServerEndpoint, Rc<ServerPool>>>,
    connections_max: u32,
    /// The server's messages from a login to the first ReadyForQuery, for sessions that log in later.
    greetings: RefCell<lru::LruCache<Rc<PoolKey>, Rc<[u8]>>>,
    /// The databases whose clients use `currval` or `lastval`. Which statement calls `nextval` is not visible in its text.
    sequence_users: RefCell<lru::LruCache<RouteKind, ()>>,
    shares: RefCell<HashMap<RouteKind, Rc<Share>>>,
}

/// The connections to one server.
struct ServerPool {
    open: Cell<u32>,
    connections_max: u32,
    /// The connections that are idle, or belong to a session. At most as many as are open.
    kept: RefCell<Vec<Kept>>,
    waiting: RefCell<Waiting>,
}

struct Kept {
    key: Rc<PoolKey>,
    holder: Holder,
}

enum Holder {
    /// Clean; any session of the key can have it.
    Free(Box<Connection>),
    /// In the session's state, or in use by the session.
    Session(Rc<SessionState>),
}

/// The right to have one connection to a server. Dropping it gives the right to the next session that waits.
pub(crate) struct Slot {
    server: Rc<ServerPool>,
    share: Rc<Share>,
}

/// Why a session gets no connection.
#[derive(Debug, Error)]
pub(crate) enum AcquireError {
    #[error(transparent)]
    Dial(DialError),
    #[error("all connections were in use for {waited:?}: {limit:?}")]
    Full { limit: ConnectionLimit, waited: Duration },
    #[error("the session's state was lost together with its server connection")]
    Lost,
    #[error("the session's settings could not be restored on another server connection")]
    Restore(#[source] QueryError),
}

/// What limits the number of shared connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionLimit {
    /// That of all connections to the server.
    Server(u32),
    /// That of the tenant for one of its databases.
    Tenant(u32),
}

/// The number of greetings that are kept.
const GREETINGS_MAX: std::num::NonZeroUsize = std::num::NonZeroUsize::new(4096).unwrap();

/// The number of such databases that are remembered.
const SEQUENCE_USERS_MAX: std::num::NonZeroUsize = std::num::NonZeroUsize::new(65_536).unwrap();

impl Pool {
    pub(crate) fn new(connections_max: u32) -> Self {
        Self {
            servers: RefCell::default(),
            connections_max,
            greetings: RefCell::new(lru::LruCache::new(GREETINGS_MAX)),
            sequence_users: RefCell::new(lru::LruCache::new(SEQUENCE_USERS_MAX)),
            shares: RefCell::default(),
        }
    }

    pub(crate) fn greeting(&self, key: &Rc<PoolKey>) -> Option<Rc<[u8]>> {
        self.greetings.borrow_mut().get(key).cloned()
    }

    /// A client of the database has used its session's last sequence values. From now on, sessions of this database keep their
    /// connection from their first statement on.
    pub(crate) fn uses_sequences(&self, database: RouteKind) {
        self.sequence_users.borrow_mut().put(database, ());
    }

    fn server(&self, endpoint: &ServerEndpoint) -> Rc<ServerPool> {
        let mut servers = self.servers.borrow_mut();
        if let Some(server) = servers.get(endpoint) {
            return server.clone();
        }
        let server = Rc::new(ServerPool {
            open: Cell::new(0),
            connections_max: self.connections_max,
            kept: RefCell::default(),
            waiting: RefCell::default(),
        });
        servers.insert(endpoint.clone(), server.clone());
        server
    }

    /// A connection with the session's settings. Waits in turn while the server has no free one. Dropping the future closes a
    /// connection that is being prepared.
    pub(crate) async fn acquire(
        &self,
        plane: &Plane,
        key: &Rc<PoolKey>,
        place: &PostgresPlace,
        state: &Rc<SessionState>,
    ) -> Result<Connection, AcquireError> {
        if self.sequence_users.borrow_mut().get(&key.kind).is_some() {
            state.hide(Pins::SEQUENCE);
        }
        let server = self.server(&key.server);
        let begun = Instant::now();
        let time_max = key.share.queue_timeout();
        let deadline = begun + time_max.unwrap_or(plane.settings.server_connection_timeout);
        let mut turn = None;
        let mut position = Position::Last;
        loop {
            while state.examined.get() {
                state.released.notified().await;
            }
            if state.lost.get() {
                return Err(AcquireError::Lost);
            }
            let is_turn = turn.is_some() || !server.is_waited_for(key.kind);
            let mut is_limited = false;
            if is_turn || !state.is_available() {
                let own = state.connection.borrow_mut().take();
                let found = match own {
                    Some(own) => Some(own),
                    None if is_turn => self.find(plane, &server, key, place, state).await?,
                    None => None,
                };
                if let Some(connection) = found {
                    Turn::use_up(turn);
                    return Ok(connection);
                }
                is_limited = is_turn && key.share.is_full();
            }
            if is_limited {
                server.waiting.borrow_mut().park(key.kind);
            }
            let waits = server.waiting.borrow_mut().join(key.kind, position);
            // What this database may not have, others may.
            if !is_limited {
                Turn::use_up(turn.take());
            }
            drop(turn.take());
            // A turn in vain keeps its place.
            position = Position::First;
            let outcome = tokio::select! {
                biased;
                next = waits => Some(next.ok()),
                () = state.released.notified() => Some(None),
                () = sleep_until(deadline.into()) => None,
            };
            match outcome {
                Some(next) => turn = next,
                None => {
                    return Err(AcquireError::Full {
                        limit: server.reached_limit(&key.share),
                        waited: begun.elapsed(),
                    });
                }
            }
        }
    }

    /// A connection that is free, new, or taken from a session that does not use it. `None` if there is none now.
    async fn find(
        &self,
        plane: &Plane,
        server: &Rc<ServerPool>,
        key: &Rc<PoolKey>,
        place: &PostgresPlace,
        state: &Rc<SessionState>,
    ) -> Result<Option<Connection>, AcquireError> {
        let share = &key.share;
        loop {
            if share.is_over()
                && let Some(connection) = server.take_oldest_free(Some(key.kind))
            {
                connection.end().await;
                continue;
            }
            if let Some(connection) = server.take_free(key, state) {
                return prepare(server, key, state, connection).await.map(Some);
            }
            if let Some(slot) = server.slot(share) {
                let dialled = server_login::log_in(plane, key.kind, place, &key.parameters);
                let dialled = dialled.await.map_err(AcquireError::Dial)?;
                let connection = self.welcome(key, dialled, slot);
                return prepare(server, key, state, connection).await.map(Some);
            }
            // A connection of the same key is cleaned; one of another database is closed, which frees its slot.
            let only = share.is_full().then_some(key.kind);
            if let Some(connection) = server.take_oldest_free(only) {
                connection.end().await;
                continue;
            }
            let Some((victim_key, victim)) = server.victim(Some(key), only) else {
                return Ok(None);
            };
            examine(server, &victim_key, victim).await;
        }
    }

    fn welcome(&self, key: &Rc<PoolKey>, dialled: Dialled, slot: Slot) -> Connection {
        let greeting: Rc<[u8]> = dialled.greeting.into();
        self.greetings.borrow_mut().put(key.clone(), greeting.clone());
        Connection {
            stream: dialled.stream,
            key: dialled.key,
            greeting,
            statements: Default::default(),
            customs: Default::default(),
            used_at: Instant::now(),
            slot,
        }
    }

    /// The session keeps the connection until it, or another session, needs it.
    pub(crate) fn release(&self, state: &SessionState, mut connection: Connection) {
        connection.used_at = Instant::now();
        state.shown.set(Pins::NONE);
        let (server, share) = (connection.slot.server.clone(), connection.slot.share.clone());
        *state.connection.borrow_mut() = Some(connection);
        server.changed(share.kind);
        if share.is_over() {
            tokio::task::spawn_local(async move { shrink(&server, &share).await });
        }
    }

    /// The session has ended; `connection` is the one that it used, if it is idle. What it left is removed in the background.
    pub(crate) fn session_ended(&self, key: &Rc<PoolKey>, state: &Rc<SessionState>, connection: Option<Connection>) {
        let server = self.server(&key.server);
        let kept = state.connection.borrow_mut().take();
        server.forget(state);
        let Some(connection) = connection.or(kept) else {
            return;
        };
        // The connection is closed unless it can be cleaned.
        if state.hidden.get() != Pins::NONE {
            return;
        }
        let key = key.clone();
        tokio::task::spawn_local(async move {
            let mut connection = connection;
            match state::clean(&mut connection).await {
                Ok(Cleaned::Reusable) => server.keep_free(key, connection),
                Ok(Cleaned::Spoilt) => {}
                Err(error) => tracing::warn!(%error, "cannot clean a server connection; closing it"),
            }
        });
    }

    /// Closes the free connections to a database.
    pub(crate) fn close(&self, closed: RouteKind) {
        for server in self.servers.borrow().values() {
            server
                .kept
                .borrow_mut()
                .retain(|kept| !(matches!(kept.holder, Holder::Free(_)) && kept.key.kind == closed));
        }
    }

    /// Closes the connections that have been free for this time.
    pub(crate) fn close_idle(&self, idle_max: Duration) {
        for server in self.servers.borrow().values() {
            server.kept.borrow_mut().retain(|kept| match &kept.holder {
                Holder::Free(connection) => connection.used_at.elapsed() < idle_max,
                Holder::Session(_) => true,
            });
        }
    }
}

impl PartialEq for PoolKey {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for PoolKey {}

impl Hash for PoolKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.identity().hash(hasher);
    }
}

impl PoolKey {
    /// Everything but the share, which belongs to the kind.
    fn identity(&self) -> (RouteKind, &ServerEndpoint, &str, &str, &[(String, String)]) {
        (self.kind, &self.server, &self.database, &self.role, &self.parameters)
    }
}

impl Kept {
    fn is_of(&self, database: Option<RouteKind>) -> bool {
        database.is_none_or(|database| self.key.kind == database)
    }
}

impl ServerPool {
    fn slot(self: &Rc<Self>, share: &Rc<Share>) -> Option<Slot> {
        let open = self.open.get();
        (open < self.connections_max && !share.is_full()).then(|| {
            self.open.set(open + 1);
            share.opened();
            Slot {
                server: self.clone(),
                share: share.clone(),
            }
        })
    }

    fn reached_limit(&self, share: &Share) -> ConnectionLimit {
        match share.max() {
            Some(max) if share.is_full() => ConnectionLimit::Tenant(max),
            Some(_) | None => ConnectionLimit::Server(self.connections_max),
        }
    }

    /// A clean connection of the key. Those with custom settings that the session does not know are skipped, since the names
    /// of such settings cannot be removed. Those that the server has closed in the meantime are removed.
    fn take_free(&self, key: &Rc<PoolKey>, state: &SessionState) -> Option<Connection> {
        let mut kept = self.kept.borrow_mut();
        let customs = state.customs.borrow();
        loop {
            let position = kept.iter().rposition(|kept| match &kept.holder {
                Holder::Free(connection) => kept.key == *key && connection.customs.is_subset(&customs),
                Holder::Session(_) => false,
            })?;
            if let Holder::Free(mut connection) = kept.swap_remove(position).holder
                && connection.is_quiet()
            {
                return Some(*connection);
            }
        }
    }

    /// Takes out the free connection that was not used for the longest time, of the database `only` if it is given.
    fn take_oldest_free(&self, only: Option<RouteKind>) -> Option<Connection> {
        let mut kept = self.kept.borrow_mut();
        let free = kept.iter().enumerate().filter_map(|(at, kept)| match &kept.holder {
            Holder::Free(connection) if kept.is_of(only) => Some((connection.used_at, at)),
            Holder::Free(_) | Holder::Session(_) => None,
        });
        let (_, oldest) = free.min()?;
        match kept.swap_remove(oldest).holder {
            Holder::Free(connection) => Some(*connection),
            Holder::Session(_) => None,
        }
    }

    /// The session whose idle connection was not used for the longest time; of the same key if there is one, and of the database
    /// `only` if it is given.
    fn victim(&self, key: Option<&Rc<PoolKey>>, only: Option<RouteKind>) -> Option<(Rc<PoolKey>, Rc<SessionState>)> {
        let kept = self.kept.borrow();
        let idle = kept.iter().filter(|kept| kept.is_of(only));
        let idle = idle.filter_map(|kept| match &kept.holder {
            Holder::Session(state) if state.is_available() => {
                let used_at = state.connection.borrow().as_ref()?.used_at;
                Some(((Some(&kept.key) != key, used_at), kept.key.clone(), state.clone()))
            }
            Holder::Session(_) | Holder::Free(_) => None,
        });
        idle.min_by_key(|(order, ..)| *order)
            .map(|(_, key, state)| (key, state))
    }

    /// Removes a session from those that hold connections.
    fn forget(&self, state: &Rc<SessionState>) {
        self.kept.borrow_mut().retain(|kept| match &kept.holder {
            Holder::Session(held) => !Rc::ptr_eq(held, state),
            Holder::Free(_) => true,
        });
    }

    fn hold(&self, key: &Rc<PoolKey>, state: &Rc<SessionState>) {
        self.kept.borrow_mut().push(Kept {
            key: key.clone(),
            holder: Holder::Session(state.clone()),
        });
    }

    fn keep_free(self: &Rc<Self>, key: Rc<PoolKey>, mut connection: Connection) {
        connection.used_at = Instant::now();
        let database = key.kind;
        self.kept.borrow_mut().push(Kept {
            key,
            holder: Holder::Free(Box::new(connection)),
        });
        self.changed(database);
    }
}

/// Gives a clean connection to the session.
async fn prepare(
    server: &Rc<ServerPool>,
    key: &Rc<PoolKey>,
    state: &Rc<SessionState>,
    mut connection: Connection,
) -> Result<Connection, AcquireError> {
    let settings = state.settings.borrow().clone();
    state::restore(&mut connection, &settings)
        .await
        .map_err(AcquireError::Restore)?;
    connection.customs.extend(state.customs.borrow().iter().cloned());
    state.shown.set(Pins::NONE);
    server.hold(key, state);
    Ok(connection)
}

/// Finds out what a session has left in its idle connection. Without anything that pins it, the connection becomes free. It
/// continues when the caller is dropped: the examined session would lose its state.
async fn examine(server: &Rc<ServerPool>, key: &Rc<PoolKey>, victim: Rc<SessionState>) {
    let (server, key) = (server.clone(), key.clone());
    let examination = tokio::task::spawn_local(async move { run_examination(&server, &key, victim).await });
    if let Err(error) = examination.await {
        tracing::error!(%error, "the examination of a server connection has failed");
    }
}

async fn run_examination(server: &Rc<ServerPool>, key: &Rc<PoolKey>, victim: Rc<SessionState>) {
    let Some(mut connection) = victim.connection.borrow_mut().take() else {
        return;
    };
    let mut guard = Examination::begin(victim.clone());
    let customs = victim.customs.borrow().clone();
    let mut asides = Vec::new();
    let found = state::probe(&mut connection, &customs, &key.role, &mut asides).await;
    victim.asides.borrow_mut().extend_from_slice(&asides);
    let found = match found {
        Ok(found) => found,
        // The session's settings can prevent it, such as a short statement_timeout.
        Err(QueryError::Refused(_)) => state::Found {
            pins: Pins::SETTING,
            ..Default::default()
        },
        Err(error) => {
            tracing::warn!(%error, "cannot examine a server connection; closing it");
            return;
        }
    };
    if found.pins != Pins::NONE {
        victim.shown.set(found.pins);
        *victim.connection.borrow_mut() = Some(connection);
        guard.keeps_state();
        return;
    }
    if found.statements != connection.statements.count() {
        tracing::warn!("the prepared statements of a server connection are not those that were expected; closing it");
        *victim.settings.borrow_mut() = found.settings;
        server.forget(&victim);
        guard.keeps_state();
        return;
    }
    match state::clean(&mut connection).await {
        Ok(cleaned) => {
            *victim.settings.borrow_mut() = found.settings;
            server.forget(&victim);
            guard.keeps_state();
            if cleaned == Cleaned::Reusable {
                server.keep_free(key.clone(), connection);
            }
        }
        Err(error) => tracing::warn!(%error, "cannot clean a server connection; closing it"),
    }
}

/// While it exists, the session does not use its connection. If it is dropped early, the session's state is lost.
struct Examination {
    state: Rc<SessionState>,
}

impl Examination {
    fn begin(state: Rc<SessionState>) -> Self {
        state.examined.set(true);
        state.lost.set(true);
        Self { state }
    }

    fn keeps_state(&mut self) {
        self.state.lost.set(false);
    }
}

impl Drop for Examination {
    fn drop(&mut self) {
        self.state.examined.set(false);
        self.state.released.notify_waiters();
        self.state.wake();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.server.open.set(self.server.open.get().saturating_sub(1));
        self.share.closed();
        self.server.changed(self.share.kind);
    }
}
