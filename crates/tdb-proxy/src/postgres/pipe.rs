//! One direction of a relay: bytes are written from the shared read buffer directly to the destination, and those that it does
//! not accept are buffered.

use std::io;
use std::task::{Context, Poll, ready};

use prometheus::IntCounter;

use crate::stream::Stream;

/// When a buffer is empty, its memory beyond this capacity is released.
const KEEP_CAPACITY_MAX: usize = 8 * 1024;

/// One direction: the bytes that the destination has not accepted yet.
#[derive(Default)]
pub(crate) struct Pipe {
    pub pending: Vec<u8>,
    sent: usize,
    /// TLS can buffer bytes until it is flushed.
    unflushed: Unflushed,
    pub stage: Stage,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Unflushed {
    #[default]
    No,
    Yes,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Open,
    /// The source has ended; pending bytes must still be sent.
    Ended,
    /// The client sent Terminate; pending bytes must still be sent. Bytes after Terminate are not forwarded: the server would
    /// close with unread data, which resets the connection, and its last replies could be lost.
    Terminated,
    /// Nothing more is sent in this direction.
    Closed,
}

impl Pipe {
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn close(&mut self) {
        *self = Self {
            stage: Stage::Closed,
            ..Self::default()
        };
    }

    /// Reads from `stream` and counts the bytes. `None` at the end of the stream, which sets [`Stage::Ended`]. Cancel safe.
    #[inline]
    pub(crate) fn poll_read<'b>(
        &mut self,
        stream: &mut Stream,
        counter: &IntCounter,
        cx: &mut Context<'_>,
        buffer: &'b mut [u8],
    ) -> Poll<io::Result<Option<&'b [u8]>>> {
        let len = ready!(stream.poll_read(cx, buffer))?;
        let bytes = buffer.get(..len).unwrap_or_default();
        if bytes.is_empty() {
            self.stage = Stage::Ended;
            return Poll::Ready(Ok(None));
        }
        counter.inc_by(u64::try_from(len).unwrap_or(0));
        Poll::Ready(Ok(Some(bytes)))
    }

    /// Sends `bytes`, and buffers those that the socket does not accept now. Must not be called while bytes are pending.
    pub(crate) fn send(&mut self, stream: &mut Stream, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
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

    /// Ready when all pending bytes are sent and flushed.
    pub(crate) fn poll_send(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
