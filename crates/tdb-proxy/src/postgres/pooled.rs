//! The relay of a session that shares server connections. Between transactions the connection stays with the session's state,
//! where another session can take it. Texts are forwarded unchanged, except for the names of prepared statements.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use prometheus::IntCounter;
use tdb_contract::PostgresPlace;
use tdb_wire_postgres::flow::{Copy, Flow};
use tdb_wire_postgres::requests::{Client, ClientRequests, Discarded, LastValue, Redescribed};
use tdb_wire_postgres::traces::Trace;

use super::cancel::Running;
use super::pipe::{Pipe, Stage};
use super::pool::{self, Connection, Pins, PoolKey, SessionState};
use super::read_only::TEXT_LEN_MAX;
use super::relay::{End, Grace};
use crate::Plane;
use crate::sessions::LiveSession;
use crate::stream::Stream;

/// The number of custom settings that are restored on another connection.
const CUSTOMS_MAX: usize = 100;

pub(crate) struct Pooled<'a> {
    pub client: Stream,
    plane: &'a Plane,
    key: Rc<PoolKey>,
    place: PostgresPlace,
    state: Rc<SessionState>,
    /// The connection that runs the session's statements, between the first request and the end of the transaction.
    connection: Option<Connection>,
    running: Rc<Running>,
    flow: Flow,
    requests: ClientRequests,
    up: Pipe,
    down: Pipe,
    live: Rc<LiveSession>,
    scratch: &'a RefCell<Box<[u8]>>,
    counters: [&'a IntCounter; 2],
}

/// Why the relay of one transaction has ended.
enum Outcome {
    /// The transaction has ended, and everything is forwarded.
    Idle,
    End(End),
}

impl<'a> Pooled<'a> {
    pub(crate) fn new(
        plane: &'a Plane,
        client: Stream,
        key: Rc<PoolKey>,
        place: PostgresPlace,
        state: Rc<SessionState>,
        running: Rc<Running>,
        live: Rc<LiveSession>,
    ) -> Self {
        Self {
            client,
            plane,
            key,
            place,
            state,
            connection: None,
            running,
            flow: Flow::new(),
            requests: ClientRequests::new(TEXT_LEN_MAX),
            up: Pipe::default(),
            down: Pipe::default(),
            live,
            scratch: &plane.scratch,
            counters: [&plane.metrics.from_clients_bytes, &plane.metrics.to_clients_bytes],
        }
    }

    /// Relays until the session ends. Not cancel safe: bytes are lost when the future is dropped, so the client's socket and the
    /// server connection must be closed.
    pub(crate) async fn run(&mut self) -> End {
        loop {
            if let Some(end) = self.wait_for_request().await {
                return end;
            }
            let connection = match self.acquire().await {
                Ok(connection) => connection,
                Err(end) => return end,
            };
            self.tell(&connection);
            self.running.set(Some(connection.key));
            self.connection = Some(connection);
            let outcome = self.relay().await;
            self.running.set(None);
            match outcome {
                Outcome::Idle => {
                    if let Some(connection) = self.connection.take() {
                        self.state.between_messages.set(true);
                        self.plane.pool.release(&self.state, connection);
                    }
                }
                Outcome::End(end) => return end,
            }
        }
    }

    /// Forwards the messages that arrived while another session examined the connection, and tells the client the settings that
    /// the connection begins with, if they are not those that it knows.
    fn tell(&mut self, connection: &Connection) {
        self.down.pending.append(&mut self.state.asides.borrow_mut());
        let mut told = self.state.told.borrow_mut();
        if !Rc::ptr_eq(&told, &connection.greeting) {
            let changes = pool::changes(&told, &connection.greeting, &self.state.settings.borrow());
            self.down.pending.extend_from_slice(&changes);
            *told = connection.greeting.clone();
        }
    }

    /// Whether the proxy can send the client a message: the last message to it is complete.
    pub(crate) fn can_insert_message(&self) -> bool {
        self.flow.is_server_at_boundary() && self.down.is_empty() && !self.flow.is_ended()
    }

    /// Whether the server has sent a message that answers no request.
    pub(crate) fn is_lost(&self) -> bool {
        self.flow.is_lost()
    }

    /// Gives the idle connection back, or closes it.
    pub(crate) fn end_server(&mut self) {
        // A connection that is still here was in use.
        self.connection = None;
        let idle = self.state.connection.borrow_mut().take();
        let idle = idle.filter(|_| self.flow.is_idle() && self.flow.is_certain());
        self.plane.pool.session_ended(&self.key, &self.state, idle);
    }

    async fn acquire(&mut self) -> Result<Connection, End> {
        let live = self.live.clone();
        let requested = poll_fn(|cx| live.poll_end(cx).map_or(Poll::Pending, Poll::Ready));
        let acquired = self.plane.pool.acquire(self.plane, &self.key, &self.place, &self.state);
        tokio::select! {
            biased;
            reason = requested => Err(End::Requested(reason)),
            acquired = acquired => acquired.map_err(End::NoConnection),
        }
    }

    /// Waits for the client's next bytes, and forwards what the server sends meanwhile.
    async fn wait_for_request(&mut self) -> Option<End> {
        poll_fn(|cx| {
            *self.state.waker.borrow_mut() = Some(cx.waker().clone());
            if let Some(reason) = self.live.poll_end(cx) {
                return Poll::Ready(Some(End::Requested(reason)));
            }
            if self.up.stage != Stage::Open {
                return Poll::Ready(Some(End::Server));
            }
            if let Poll::Ready(end) = self.poll_asides(cx) {
                return Poll::Ready(Some(end));
            }
            let mut scratch = self.scratch.borrow_mut();
            // Not for an incomplete message: a client that sends no more would keep a connection from others.
            while !self.requests.has_message() {
                match ready!(self.up.poll_read(&mut self.client, self.counters[0], cx, &mut scratch)) {
                    Err(error) => return Poll::Ready(Some(End::ClientLost(error))),
                    Ok(None) => return Poll::Ready(Some(End::Server)),
                    Ok(Some(bytes)) => self.requests.hold(bytes),
                }
            }
            let is_last = self.requests.is_terminate_next();
            Poll::Ready(is_last.then_some(End::Server))
        })
        .await
    }

    /// Forwards the messages that answer no request. Ready when the session must end.
    fn poll_asides(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.down.poll_send(&mut self.client, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(End::ClientLost(error)),
                Poll::Pending => return Poll::Pending,
            }
            let asides = std::mem::take(&mut *self.state.asides.borrow_mut());
            if !asides.is_empty() {
                self.down.pending.extend_from_slice(&asides);
                continue;
            }
            let mut idle = self.state.connection.borrow_mut();
            let Some(connection) = idle.as_mut() else {
                return Poll::Pending;
            };
            let mut scratch = self.scratch.borrow_mut();
            match self
                .down
                .poll_read(&mut connection.stream, self.counters[1], cx, &mut scratch)
            {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(End::ServerLost(error)),
                Poll::Ready(Ok(None)) => return Poll::Ready(End::Server),
                Poll::Ready(Ok(Some(mut bytes))) => {
                    self.down.pending.extend_from_slice(bytes);
                    while !bytes.is_empty() {
                        if let Err(error) = self.flow.from_server(&mut bytes, |_| false) {
                            return Poll::Ready(End::ServerDesync(error));
                        }
                    }
                    self.state.between_messages.set(self.flow.is_server_at_boundary());
                }
            }
        }
    }

    /// Relays until the transaction has ended.
    async fn relay(&mut self) -> Outcome {
        let mut grace = Grace::default();
        poll_fn(|cx| {
            let requested = self.live.poll_end(cx);
            if let Poll::Ready(outcome) = self.poll_relay(cx) {
                return Poll::Ready(outcome);
            }
            match requested {
                None => Poll::Pending,
                Some(reason) => grace.poll(reason, cx).map(Outcome::End),
            }
        })
        .await
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let scratch = self.scratch;
        let mut scratch = scratch.borrow_mut();
        loop {
            match self.poll_up(cx, &mut scratch) {
                // The messages that the server sent before it closed must still be read; the last one is the reason.
                Poll::Ready(Err(End::ServerLost(_))) => self.up.close(),
                Poll::Ready(Err(end)) => return Poll::Ready(Outcome::End(end)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            let could_process = self.requests.can_process(&self.flow);
            match self.poll_down(cx, &mut scratch) {
                Poll::Ready(Ok(())) => return Poll::Ready(Outcome::End(End::Server)),
                // The server may reset the connection after its last message.
                Poll::Ready(Err(End::ServerLost(_))) if self.flow.is_ended() || self.up.stage == Stage::Closed => {
                    return Poll::Ready(Outcome::End(End::Server));
                }
                Poll::Ready(Err(end)) => return Poll::Ready(Outcome::End(end)),
                Poll::Pending => {}
            }
            if self.is_idle() {
                return self.running.poll_quiet(cx).map(|()| Outcome::Idle);
            }
            if self.is_over() {
                return Poll::Ready(Outcome::End(End::Server));
            }
            if could_process || !self.requests.can_process(&self.flow) {
                return Poll::Pending;
            }
        }
    }

    /// Whether the transaction has ended and everything is forwarded in both directions.
    fn is_idle(&self) -> bool {
        self.up.stage != Stage::Closed
            && self.requests.is_idle(&self.flow)
            && self.up.is_empty()
            && self.down.is_empty()
    }

    /// Whether the client has sent Terminate, and everything before it is answered.
    fn is_over(&self) -> bool {
        self.up.stage == Stage::Terminated
            && (!self.flow.owes_reply() || matches!(self.flow.copy(), Copy::In { .. }))
            && self.up.is_empty()
            && self.down.is_empty()
            && !self.requests.has_message()
    }

    /// Client to server.
    fn poll_up(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<(), End>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Pending;
        };
        loop {
            ready!(self.up.poll_send(&mut connection.stream, cx)).map_err(End::ServerLost)?;
            if self.up.stage == Stage::Ended && !self.requests.has_message() {
                // As with a direct connection: the server answers all requests and then closes.
                ready!(connection.stream.poll_shutdown(cx)).map_err(End::ServerLost)?;
                self.up.stage = Stage::Closed;
            }
            if self.up.stage != Stage::Open || !self.requests.can_process(&self.flow) {
                return Poll::Pending;
            }
            if !self.requests.has_message() {
                // Once the transaction has ended, the next request belongs to the next one.
                if self.requests.is_idle(&self.flow) {
                    return Poll::Pending;
                }
                let read = self.up.poll_read(&mut self.client, self.counters[0], cx, scratch);
                let Some(bytes) = ready!(read).map_err(End::ClientLost)? else {
                    continue;
                };
                self.requests.hold(bytes);
            }
            let (statements, customs) = (&mut connection.statements, &mut connection.customs);
            let mut found = |trace| {
                if trace == Trace::Sequence {
                    self.plane.pool.uses_sequences(self.key.kind);
                }
                record(&self.state, customs, trace);
            };
            let client = self
                .requests
                .process(&mut self.flow, statements, &mut found, &mut self.up.pending)
                .map_err(End::ClientDesync)?;
            match client {
                Client::Continues => {}
                Client::Terminates => self.up.stage = Stage::Terminated,
                Client::HasTooManyStatements => return Poll::Ready(Err(End::TooManyStatements)),
            }
        }
    }

    /// Server to client. Ready when the server's stream has ended and everything was sent to the client.
    fn poll_down(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<(), End>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Pending;
        };
        loop {
            ready!(self.down.poll_send(&mut self.client, cx)).map_err(End::ClientLost)?;
            if self.down.stage != Stage::Open {
                return Poll::Ready(Ok(()));
            }
            let read = self
                .down
                .poll_read(&mut connection.stream, self.counters[1], cx, scratch);
            let Some(bytes) = ready!(read).map_err(End::ServerLost)? else {
                continue;
            };
            let statements = &mut connection.statements;
            let replies = self
                .requests
                .take_replies(&mut self.flow, statements, bytes, &mut self.down.pending)
                .map_err(End::ServerDesync)?;
            if replies.statement == Redescribed::Differs {
                return Poll::Ready(Err(End::ResultChanged));
            }
            if replies.last_value == LastValue::Missing {
                self.plane.pool.uses_sequences(self.key.kind);
            }
            if replies.discarded == Discarded::All {
                self.state.discarded_all();
            }
            self.down
                .send(&mut self.client, cx, replies.unchanged)
                .map_err(End::ClientLost)?;
        }
    }
}

/// Records what a text may leave behind.
fn record(state: &SessionState, customs: &mut BTreeSet<String>, found: Trace) {
    match found {
        Trace::Custom(name) => {
            customs.insert(name.clone());
            state.customs.borrow_mut().insert(name);
            if state.customs.borrow().len() > CUSTOMS_MAX {
                state.hide(Pins::SETTING);
            }
        }
        Trace::UnknownSetting => state.hide(Pins::SETTING),
        Trace::Seed => state.hide(Pins::SEED),
        Trace::Library => state.hide(Pins::LIBRARY),
        Trace::Sequence => state.hide(Pins::SEQUENCE),
        Trace::UnclearDeallocate => state.hide(Pins::STATEMENT),
        Trace::LongText => state.hide(Pins::LONG_TEXT),
        Trace::StatementName | Trace::StatementList | Trace::Discard => {}
    }
}
