//! The relay: one task per session polls both sockets. Bytes go from the shared scratch buffer straight to the other
//! socket; only what that does not take is kept, and while it is kept nothing more is read from that side. Rows are
//! never decoded.

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
use super::read_only::{ReadOnly, TEXT_LEN_MAX};
use crate::sessions::{EndReason, Live};
use crate::stream::Stream;

/// What a running transaction gets when its database closes (DESIGN: suspend).
const TRANSACTION_TIME_MAX: Duration = Duration::from_secs(5);
/// A remainder buffer that grew past this is given back when it is empty.
const KEEP_CAPACITY_MAX: usize = 8 * 1024;

pub(crate) struct Relay<'a> {
    pub client: Stream,
    pub server: Stream,
    up: Pipe,
    down: Pipe,
    flow: Flow,
    tap: Tap,
    live: Rc<Live>,
    scratch: &'a RefCell<Box<[u8]>>,
    counters: [&'a IntCounter; 2],
}

/// What is done with the bytes besides passing them on.
pub(crate) enum Tap {
    Nothing,
    Capture(Box<Capture>),
    ReadOnly(Box<ReadOnly>),
}

/// How a session ended.
#[derive(Debug, Error)]
pub(crate) enum End {
    /// The server closed after everything it sent was passed on: Terminate, a FATAL error, or its own end.
    #[error("the server closed the session")]
    Server,
    #[error("the client is gone")]
    ClientLost(#[source] io::Error),
    #[error("the connection to the server was lost")]
    ServerLost(#[source] io::Error),
    #[error("the client broke the protocol")]
    ClientDesync(#[source] FrameError),
    #[error("the server broke the protocol")]
    ServerDesync(#[source] FrameError),
    /// What it should not be.
    #[error("the session may write")]
    MayWrite,
    #[error("told to end")]
    Told(EndReason),
}

/// One direction's remainder.
#[derive(Default)]
struct Pipe {
    pending: Vec<u8>,
    sent: usize,
    /// TLS may hold bytes back until it is flushed.
    unflushed: Unflushed,
    stage: Stage,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Unflushed {
    #[default]
    No,
    Yes,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The reading side has ended; what is pending still has to go.
    Ended,
    /// The client said Terminate. What is pending still has to go; what it says after that is not read, because a server
    /// that closes with something unread resets the connection, and its last replies are lost.
    Terminated,
    /// Nothing more will ever go this way.
    Closed,
}

impl<'a> Relay<'a> {
    /// `counters` count the bytes from and to clients.
    pub(crate) fn new(
        client: Stream,
        server: Stream,
        tap: Tap,
        live: Rc<Live>,
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

    /// Relays until the session ends. Not cancel safe: a dropped relay has lost bytes, so both sockets must be closed.
    pub(crate) async fn run(&mut self) -> End {
        let mut patience: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|cx| {
            let told = self.live.poll_end(cx);
            if let Poll::Ready(end) = self.poll_relay(cx) {
                return Poll::Ready(end);
            }
            match told {
                None => Poll::Pending,
                Some(EndReason::Now) => Poll::Ready(End::Told(EndReason::Now)),
                Some(reason) if self.is_idle() => Poll::Ready(End::Told(reason)),
                // The listener counts the time of a shutdown.
                Some(EndReason::Shutdown) => Poll::Pending,
                Some(
                    reason @ (EndReason::DatabaseClosed | EndReason::CredentialRevoked | EndReason::CredentialExpired),
                ) => {
                    let patience = patience.get_or_insert_with(|| Box::pin(sleep(TRANSACTION_TIME_MAX)));
                    patience.as_mut().poll(cx).map(|()| End::Told(reason))
                }
            }
        })
        .await
    }

    /// A message of ours may follow what the client has got.
    pub(crate) fn may_speak(&self) -> bool {
        self.flow.is_server_at_boundary() && self.down.is_empty() && !self.is_draining()
    }

    /// What the server said did not fit what the client had asked.
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

    /// The client is not read from, nor what is held of it forwarded, before the server has answered.
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
                // What the server said before it went is still to be read: why, most of all.
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
            // The client was not read from because of it.
            cx.waker().wake_by_ref();
        }
        ended.map(|outcome| match outcome {
            Ok(()) => End::Server,
            // It closes in its own way when it was told to.
            Err(End::ServerLost(_)) if self.flow.is_terminated() => End::Server,
            Err(end) => end,
        })
    }

    /// Client to server. Ready when the client has ended and the server knows.
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
                // As a direct client's half close: the server finishes what was asked and then closes.
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
            let len = ready!(self.client.poll_read(cx, scratch)).map_err(End::ClientLost)?;
            let bytes = scratch.get(..len).unwrap_or_default();
            if bytes.is_empty() {
                self.up.stage = Stage::Ended;
                continue;
            }
            self.counters[0].inc_by(u64::try_from(len).unwrap_or(0));
            let read = match &mut self.tap {
                Tap::Nothing => take_requests(&mut self.flow, bytes),
                Tap::Capture(capture) => capture
                    .take_requests(&mut self.flow, bytes)
                    .and_then(|bytes| capture.pass_up(bytes, &mut self.up.pending))
                    .map(|()| [].as_slice()),
                Tap::ReadOnly(guard) => guard
                    .take_requests(&mut self.flow, bytes, &mut self.up.pending)
                    .map(|()| [].as_slice()),
            };
            let bytes = read.map_err(End::ClientDesync)?;
            self.up.send(&mut self.server, cx, bytes).map_err(End::ServerLost)?;
            if self.flow.is_terminated() {
                self.up.stage = Stage::Terminated;
            }
        }
    }

    /// Whether something that was held has been put into the pipe.
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

    /// Server to client. Ready when the server has ended and the client has got everything.
    fn poll_down(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<(), End>> {
        loop {
            ready!(self.down.poll_send(&mut self.client, cx)).map_err(End::ClientLost)?;
            if self.down.stage != Stage::Open {
                return Poll::Ready(Ok(()));
            }
            let len = ready!(self.server.poll_read(cx, scratch)).map_err(End::ServerLost)?;
            let bytes = scratch.get(..len).unwrap_or_default();
            if bytes.is_empty() {
                self.down.stage = Stage::Ended;
                continue;
            }
            take_replies(&mut self.flow, bytes).map_err(End::ServerDesync)?;
            self.counters[1].inc_by(u64::try_from(len).unwrap_or(0));
            self.down.send(&mut self.client, cx, bytes).map_err(End::ClientLost)?;
        }
    }

    /// As [`Self::poll_down`] for a workspace: the capture decides what goes on and when.
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
            let len = ready!(self.server.poll_read(cx, scratch)).map_err(End::ServerLost)?;
            let bytes = scratch.get(..len).unwrap_or_default();
            if bytes.is_empty() {
                self.down.stage = Stage::Ended;
                continue;
            }
            self.counters[1].inc_by(u64::try_from(len).unwrap_or(0));
            capture
                .pass(&mut self.flow, bytes, &mut self.down.pending)
                .map_err(End::ServerDesync)?;
        }
    }

    /// As [`Self::poll_down`] for a session that must only read.
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
            let len = ready!(self.server.poll_read(cx, scratch)).map_err(End::ServerLost)?;
            let bytes = scratch.get(..len).unwrap_or_default();
            if bytes.is_empty() {
                self.down.stage = Stage::Ended;
                continue;
            }
            self.counters[1].inc_by(u64::try_from(len).unwrap_or(0));
            guard
                .pass(&mut self.flow, bytes, &mut self.down.pending)
                .map_err(End::ServerDesync)?;
        }
    }
}

/// What of the client's bytes goes on: up to Terminate, if there is one.
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

impl Pipe {
    fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn close(&mut self) {
        *self = Self {
            stage: Stage::Closed,
            ..Self::default()
        };
    }

    /// Sends `bytes`, keeping what the socket does not take now. Only when nothing is pending.
    fn send(&mut self, stream: &mut Stream, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match stream.poll_write(cx, rest)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(len) => rest = rest.get(len..).unwrap_or_default(),
                Poll::Pending => {
                    self.pending.extend_from_slice(rest);
                    break;
                }
            }
        }
        if stream.is_encrypted() {
            self.unflushed = Unflushed::Yes;
        }
        Ok(())
    }

    /// Ready when nothing is pending and everything is flushed.
    fn poll_send(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.pending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(stream.poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.sent += len,
            }
            if stream.is_encrypted() {
                self.unflushed = Unflushed::Yes;
            }
        }
        if !self.pending.is_empty() {
            self.pending.clear();
            self.pending.shrink_to(KEEP_CAPACITY_MAX);
            self.sent = 0;
        }
        if self.unflushed == Unflushed::Yes {
            ready!(stream.poll_flush(cx))?;
            self.unflushed = Unflushed::No;
        }
        Poll::Ready(Ok(()))
    }
}
