//! The sessions that wait for a connection to a server, by database. Databases are served in turn. A database that may not
//! have more connections is left out until one of its connections has changed.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use tdb_contract::RouteKind;
use tokio::sync::oneshot;

use super::ServerPool;

/// The queues of one server.
#[derive(Default)]
pub(super) struct Waiting {
    /// The databases with sessions that wait, without those that are left out.
    turns: VecDeque<RouteKind>,
    by_database: HashMap<RouteKind, Queue>,
    /// The sessions that have been woken and have not looked for a connection yet.
    promised: u32,
}

/// The sessions of one database.
#[derive(Default)]
struct Queue {
    sessions: VecDeque<oneshot::Sender<Turn>>,
    promised: u32,
    is_parked: bool,
}

/// The turn of a session that has waited. If it is dropped unused, it goes to the next one.
pub(super) struct Turn {
    server: Rc<ServerPool>,
    database: RouteKind,
    is_used: bool,
}

/// The position in the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    Last,
    First,
}

impl ServerPool {
    /// Whether a session of the database must queue, even if it has an idle connection: others of the database wait, or those
    /// of other databases wait for what it would take.
    pub(super) fn is_waited_for(&self, database: RouteKind) -> bool {
        let waiting = self.waiting.borrow();
        if waiting.by_database.is_empty() {
            return false;
        }
        let others_wait = !waiting.turns.is_empty() || waiting.promised > 0;
        waiting.by_database.contains_key(&database) || others_wait && !self.has_room(&waiting)
    }

    fn has_room(&self, waiting: &Waiting) -> bool {
        self.open.get() + waiting.promised < self.connections_max
    }

    /// A connection of the database was released or closed, or its limits have changed.
    pub(super) fn changed(self: &Rc<Self>, database: RouteKind) {
        self.waiting.borrow_mut().unpark(database);
        self.serve_next();
    }

    /// Gives a turn to the next session that still waits.
    fn serve_next(self: &Rc<Self>) {
        let Some((database, session)) = self.waiting.borrow_mut().next() else {
            return;
        };
        let turn = Turn {
            server: self.clone(),
            database,
            is_used: false,
        };
        // If the session has stopped waiting, the dropped turn goes to the next one.
        let _ = session.send(turn);
    }
}

impl Turn {
    pub(super) fn use_up(turn: Option<Turn>) {
        if let Some(mut turn) = turn {
            turn.is_used = true;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = self.server.waiting.borrow_mut();
        waiting.end_promise(self.database);
        let goes_on = !self.is_used || self.server.has_room(&waiting);
        drop(waiting);
        if goes_on {
            self.server.serve_next();
        }
    }
}

impl Waiting {
    pub(super) fn join(&mut self, database: RouteKind, position: Position) -> oneshot::Receiver<Turn> {
        let (turn, waits) = oneshot::channel();
        let queue = self.by_database.entry(database).or_default();
        if queue.sessions.is_empty() && !queue.is_parked {
            match position {
                Position::Last => self.turns.push_back(database),
                Position::First => self.turns.push_front(database),
            }
        }
        match position {
            Position::Last => queue.sessions.push_back(turn),
            Position::First => queue.sessions.push_front(turn),
        }
        waits
    }

    /// Leaves the database out until one of its connections, or its limit, has changed. A session must join afterwards.
    pub(super) fn park(&mut self, database: RouteKind) {
        let queue = self.by_database.entry(database).or_default();
        if !queue.is_parked && !queue.sessions.is_empty() {
            self.turns.retain(|waiting| *waiting != database);
        }
        queue.is_parked = true;
    }

    fn unpark(&mut self, database: RouteKind) {
        let Some(queue) = self.by_database.get_mut(&database) else {
            return;
        };
        if queue.is_parked && !queue.sessions.is_empty() {
            self.turns.push_back(database);
        }
        queue.is_parked = false;
    }

    fn next(&mut self) -> Option<(RouteKind, oneshot::Sender<Turn>)> {
        loop {
            let database = self.turns.pop_front()?;
            let Some(queue) = self.by_database.get_mut(&database) else {
                continue;
            };
            let session = queue.next();
            if !queue.sessions.is_empty() {
                self.turns.push_back(database);
            }
            if let Some(session) = session {
                queue.promised += 1;
                self.promised += 1;
                return Some((database, session));
            }
            self.remove_unused(database);
        }
    }

    fn end_promise(&mut self, database: RouteKind) {
        self.promised = self.promised.saturating_sub(1);
        if let Some(queue) = self.by_database.get_mut(&database) {
            queue.promised = queue.promised.saturating_sub(1);
        }
        self.remove_unused(database);
    }

    fn remove_unused(&mut self, database: RouteKind) {
        let is_unused = |queue: &Queue| queue.sessions.is_empty() && queue.promised == 0;
        if self.by_database.get(&database).is_some_and(is_unused) {
            self.by_database.remove(&database);
        }
    }
}

impl Queue {
    /// The first session that still waits.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        loop {
            let session = self.sessions.pop_front()?;
            if !session.is_closed() {
                return Some(session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tdb_names::DatabaseId;
    use uuid::Uuid;

    use super::*;

    fn database(number: u128) -> RouteKind {
        RouteKind::Tenant(DatabaseId::from_uuid(Uuid::from_u128(number)))
    }

    fn full_server() -> Rc<ServerPool> {
        Rc::new(ServerPool {
            open: Cell::new(2),
            connections_max: 2,
            kept: RefCell::default(),
            waiting: RefCell::default(),
        })
    }

    #[test]
    fn a_database_at_its_limit_is_left_out_until_one_of_its_connections_changes() {
        let server = full_server();
        let (limited, other) = (database(1), database(2));
        let join = |database| server.waiting.borrow_mut().join(database, Position::Last);
        let [mut first, mut second] = [join(limited), join(limited)];
        server.waiting.borrow_mut().park(limited);
        let mut third = join(other);
        server.changed(other);
        let turn = third.try_recv().unwrap();
        assert!(first.try_recv().is_err());
        // There is no other session to give the turn to.
        drop(turn);
        assert!(first.try_recv().is_err());
        server.changed(limited);
        let turn = first.try_recv().unwrap();
        assert!(second.try_recv().is_err());
        drop(turn);
        Turn::use_up(second.try_recv().ok());
        assert!(!server.is_waited_for(limited) && !server.is_waited_for(other));
    }

    #[test]
    fn a_session_queues_for_its_database_but_not_for_others_while_there_is_room() {
        let server = full_server();
        let (waiting, other) = (database(1), database(2));
        let waits = server.waiting.borrow_mut().join(waiting, Position::Last);
        assert!(server.is_waited_for(waiting) && server.is_waited_for(other));
        server.open.set(1);
        assert!(server.is_waited_for(waiting) && !server.is_waited_for(other));
        // A session that has stopped waiting gets no turn.
        drop(waits);
        server.changed(waiting);
        assert!(!server.is_waited_for(waiting));
    }
}
