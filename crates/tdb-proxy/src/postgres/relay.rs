//! The relay: one task per session polls both sockets. Bytes are written from the shared read buffer directly to the other
//! socket. Bytes that it does not accept are buffered, and nothing more is read in this direction until they are sent. Rows
//! are never decoded.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounter;
use tdb_wire_postgres::flow::Flow;
use tdb_wire_postgres::frame::FrameError;
use thiserror::Error;
use tokio::time::{Sleep, sleep};

use super::capture::Capture;
use super::pipe::{Pipe, Stage};
use super::pool::AcquireError;
use super::read_only::{ReadOnly, TEXT_LEN_MAX};
use crate::sessions::{EndReason, LiveSession};
use crate::stream::Stream;

/// How long a running transaction may continue after its session was asked to end, except on shutdown.
const TRANSACTION_TIME_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Relay<'a> {
    pub client: Stream,
    pub server: Stream,
    up: Pipe,
    down: Pipe,
    flow: Flow,
    tap: Tap,
    live: Rc<LiveSession>,
    scratch: &'a RefCell<Box<[u8]>>,
    counters: [&'a IntCounter; 2],
}

/// How messages are processed besides forwarding.
pub(crate) enum Tap {
    /// They are only forwarded.
    Nothing,
    Capture(Box<Capture>),
    ReadOnly(Box<ReadOnly>),
}

/// How a session ended.
#[derive(Debug, Error)]
pub(crate) enum End {
    /// The server closed the connection, and everything it sent was forwarded: after Terminate, a FATAL error or a shutdown.
    #[error("the server closed the session")]
    Server,
    #[error("the connection to the client was lost")]
    ClientLost(#[source] io::Error),
    #[error("the connection to the server was lost")]
    ServerLost(#[source] io::Error),
    #[error("the client violated the protocol")]
    ClientDesync(#[source] FrameError),
    #[error("the server violated the protocol")]
    ServerDesync(#[source] FrameError),
    /// The session's credential is read-only.
    #[error("the session is no longer certain to be read-only")]
    MayWrite,
    #[error("the end of the session was requested")]
    Requested(EndReason),
    #[error("the client's prepared statements are too long")]
    TooManyStatements,
    #[error("a prepared statement has other parameters or columns than the client was told")]
    ResultChanged,
    /// The session shares server connections.
    #[error("the session got no server connection")]
    NoConnection(#[source] AcquireError),
}

/// How long a transaction may continue after its session was asked to end.
#[derive(Default)]
pub(crate) struct Grace(Option<Pin<Box<Sleep>>>);

impl Grace {
    /// Ready when the transaction has no more time. The listener enforces the time limit of a shutdown.
    pub(crate) fn poll(&mut self, reason: EndReason, cx: &mut Context<'_>) -> Poll<End> {
        match reason {
            EndReason::Shutdown => return Poll::Pending,
            EndReason::Now => {}
            EndReason::DatabaseClosed | EndReason::CredentialRevoked | EndReason::CredentialExpired => {
                let timer = self.0.get_or_insert_with(|| Box::pin(sleep(TRANSACTION_TIME_MAX)));
                ready!(timer.as_mut().poll(cx));
            }
        }
        Poll::Ready(End::Requested(reason))
    }
}

impl<'a> Relay<'a> {
    /// `counters`: the bytes from clients, and to clients.
    pub(crate) fn new(
        client: Stream,
        server: Stream,
        tap: Tap,
        live: Rc<LiveSession>,
        scratch: &'a RefCell<Box<[u8]>>,
        counters: [&'a IntCounter; 2],
    ) -> Self {
        let (up, down) = (Pipe::default(), Pipe::default());
        let flow = match tap {
            Tap::Nothing | Tap::Capture(_) => Flow::new(),
            Tap::ReadOnly(_) => Flow::with_client_read_len(TEXT_LEN_MAX),
        };
        Self {
            client,
            server,
            up,
            down,
            flow,
            tap,
            live,
            scratch,
            counters,
        }
    }

    /// Relays until the session ends. Not cancel safe: bytes are lost when the future is dropped, so both sockets must be
    /// closed.
    pub(crate) async fn run(&mut self) -> End {
        let mut grace = Grace::default();
        poll_fn(|cx| {
            let requested = self.live.poll_end(cx);
            if let Poll::Ready(end) = self.poll_relay(cx) {
                return Poll::Ready(end);
            }
            match requested {
                None => Poll::Pending,
                Some(reason) if self.is_idle() => Poll::Ready(End::Requested(reason)),
                Some(reason) => grace.poll(reason, cx),
            }
        })
        .await
    }

    /// Whether the proxy can send the client a message: the last message to it is complete, and was not the server's reason for
    /// ending the session.
    pub(crate) fn can_insert_message(&self) -> bool {
        let is_complete = self.flow.is_server_at_boundary() && self.down.is_empty() && !self.is_draining();
        is_complete && !self.flow.is_ended()
    }

    /// Whether the server has sent a message that answers no request.
    pub(crate) fn is_lost(&self) -> bool {
        self.flow.is_lost()
    }

    fn is_idle(&self) -> bool {
        let is_forwarded = match &self.tap {
            Tap::Nothing => true,
            Tap::Capture(capture) => !capture.is_text_waiting(),
            Tap::ReadOnly(guard) => guard.is_empty(),
        };
        self.flow.is_idle() && self.down.is_empty() && self.up.is_empty() && is_forwarded && !self.is_draining()
    }

    fn is_draining(&self) -> bool {
        match &self.tap {
            Tap::Nothing | Tap::ReadOnly(_) => false,
            Tap::Capture(capture) => capture.is_draining(),
        }
    }

    /// Whether nothing may be read from the client, and no held bytes may be forwarded, until the server has answered.
    fn must_wait(&self) -> bool {
        match &self.tap {
            Tap::Nothing | Tap::Capture(_) => self.flow.is_full(),
            Tap::ReadOnly(guard) => guard.must_wait(&self.flow) || self.flow.is_full(),
        }
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let scratch = self.scratch;
        let mut scratch = scratch.borrow_mut();
        if self.up.stage != Stage::Closed {
            match self.poll_up(cx, &mut scratch) {
                // The messages that the server sent before it closed must still be read; the last one is the reason.
                Poll::Ready(Err(End::ServerLost(_))) => self.up.close(),
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        let waits = self.must_wait();
        let ended = match self.tap {
            Tap::Nothing => self.poll_down(cx, &mut scratch),
            Tap::Capture(_) => self.poll_down_captured(cx, &mut scratch),
            Tap::ReadOnly(_) => self.poll_down_read_only(cx, &mut scratch),
        };
        if waits && !self.must_wait() {
            // The client can be read again, but no other event would wake this task for it.
            cx.waker().wake_by_ref();
        }
        ended.map(|outcome| match outcome {
            Ok(()) => End::Server,
            // The server resets the connection if it has not read all messages when it ends the session, and may do so after
            // Terminate.
            Err(End::ServerLost(_)) if self.flow.is_terminated() || self.flow.is_ended() => End::Server,
            Err(end) => end,
        })
    }

    /// Client to server. Ready when the client's stream has ended and that was forwarded to the server.
    fn poll_up(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<(), End>> {
        loop {
            ready!(self.up.poll_send(&mut self.server, cx)).map_err(End::ServerLost)?;
            if let Tap::Capture(capture) = &mut self.tap
                && capture.is_text_waiting()
            {
                ready!(capture.poll_text(cx, &mut self.up.pending)).map_err(End::ClientDesync)?;
                continue;
            }
            match self.up.stage {
                // As with a direct connection: the server answers all requests and then closes.
                Stage::Ended => {
                    ready!(self.server.poll_shutdown(cx)).map_err(End::ServerLost)?;
                    self.up.stage = Stage::Closed;
                }
                Stage::Terminated => self.up.stage = Stage::Closed,
                Stage::Open | Stage::Closed => {}
            }
            if self.up.stage == Stage::Closed {
                return Poll::Ready(Ok(()));
            }
            if self.must_wait() {
                return Poll::Pending;
            }
            if self.take_held()? {
                continue;
            }
            let read = self.up.poll_read(&mut self.client, self.counters[0], cx, scratch);
            let Some(bytes) = ready!(read).map_err(End::ClientLost)? else {
                continue;
            };
            let forwarded = match &mut self.tap {
                Tap::Nothing => take_requests(&mut self.flow, bytes),
                Tap::Capture(capture) => capture
                    .take_requests(&mut self.flow, bytes)
                    .and_then(|bytes| capture.pass_up(bytes, &mut self.up.pending))
                    .map(|()| [].as_slice()),
                Tap::ReadOnly(guard) => guard
                    .take_requests(&mut self.flow, bytes, &mut self.up.pending)
                    .map(|()| [].as_slice()),
            };
            let bytes = forwarded.map_err(End::ClientDesync)?;
            self.up.send(&mut self.server, cx, bytes).map_err(End::ServerLost)?;
            if self.flow.is_terminated() {
                self.up.stage = Stage::Terminated;
            }
        }
    }

    /// Forwards held bytes of a read-only session to the pipe. False if there were none.
    fn take_held(&mut self) -> Result<bool, End> {
        let Tap::ReadOnly(guard) = &mut self.tap else {
            return Ok(false);
        };
        if guard.is_empty() {
            return Ok(false);
        }
        guard
            .take_held(&mut self.flow, &mut self.up.pending)
            .map_err(End::ClientDesync)?;
        if self.flow.is_terminated() {
            self.up.stage = Stage::Terminated;
        }
        Ok(true)
    }

    /// Server to client. Ready when the server's stream has ended and everything was sent to the client.
    fn poll_down(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<(), End>> {
        loop {
            ready!(self.down.poll_send(&mut self.client, cx)).map_err(End::ClientLost)?;
            if self.down.stage != Stage::Open {
                return Poll::Ready(Ok(()));
            }
            let read = self.down.poll_read(&mut self.server, self.counters[1], cx, scratch);
            let Some(bytes) = ready!(read).map_err(End::ServerLost)? else {
                continue;
            };
            take_replies(&mut self.flow, bytes).map_err(End::ServerDesync)?;
            self.down.send(&mut self.client, cx, bytes).map_err(End::ClientLost)?;
        }
    }

    /// As [`Self::poll_down`] for a workspace: the capture can hold messages back, and removes and adds notices.
    fn poll_down_captured(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<(), End>> {
        loop {
            ready!(self.down.poll_send(&mut self.client, cx)).map_err(End::ClientLost)?;
            let Tap::Capture(capture) = &mut self.tap else {
                return Poll::Ready(Ok(()));
            };
            if capture.is_draining() {
                ready!(capture.poll_drained(cx, &mut self.flow, &mut self.down.pending)).map_err(End::ServerDesync)?;
                continue;
            }
            if self.down.stage != Stage::Open {
                return Poll::Ready(Ok(()));
            }
            let read = self.down.poll_read(&mut self.server, self.counters[1], cx, scratch);
            let Some(bytes) = ready!(read).map_err(End::ServerLost)? else {
                continue;
            };
            capture
                .pass(&mut self.flow, bytes, &mut self.down.pending)
                .map_err(End::ServerDesync)?;
        }
    }

    /// As [`Self::poll_down`] for a session that must be read-only.
    fn poll_down_read_only(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<(), End>> {
        loop {
            ready!(self.down.poll_send(&mut self.client, cx)).map_err(End::ClientLost)?;
            let Tap::ReadOnly(guard) = &mut self.tap else {
                return Poll::Ready(Ok(()));
            };
            if guard.has_ended() {
                return Poll::Ready(Err(End::MayWrite));
            }
            if self.down.stage != Stage::Open {
                return Poll::Ready(Ok(()));
            }
            let read = self.down.poll_read(&mut self.server, self.counters[1], cx, scratch);
            let Some(bytes) = ready!(read).map_err(End::ServerLost)? else {
                continue;
            };
            guard
                .pass(&mut self.flow, bytes, &mut self.down.pending)
                .map_err(End::ServerDesync)?;
        }
    }
}

/// Processes the client's bytes. Returns those to forward: up to Terminate, if there is one.
fn take_requests<'b>(flow: &mut Flow, bytes: &'b [u8]) -> Result<&'b [u8], FrameError> {
    let mut rest = bytes;
    while !rest.is_empty() && !flow.is_terminated() {
        flow.from_client(&mut rest, |_| false)?;
    }
    Ok(bytes.split_at(bytes.len() - rest.len()).0)
}

fn take_replies(flow: &mut Flow, mut bytes: &[u8]) -> Result<(), FrameError> {
    while !bytes.is_empty() {
        flow.from_server(&mut bytes, |_| false)?;
    }
    Ok(())
}
