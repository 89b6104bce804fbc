//! The capture tap of workspace sessions. The journal says in band, by a notice with a private SQLSTATE, that something
//! was written to it; the tap swallows that notice and holds the next ReadyForQuery after a commit back until the journal
//! has been drained into the change log, or until that takes too long. Tags are never trusted to tell DDL.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tdb_contract::{ChangeSink, DataStatements, Drained};
use tdb_names::WorkspaceId;
use tdb_wire_postgres::backend::{COMMAND_COMPLETE, NOTICE, READY_FOR_QUERY};
use tdb_wire_postgres::frame::{FrameError, parse_header};
use tdb_wire_postgres::report::{Report, is_journal_marker};
use tokio::time::timeout;

use super::data_tap::DataTap;
use super::tracker::{COPY_IN_RESPONSE, IDLE};
use crate::metrics::Metrics;

/// Past it the reply goes out with a notice; the journal keeps the change.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(250);
/// So much of a frame is looked at. Tags are shorter; a notice has its SQLSTATE in its first bytes, and the marker of a
/// statement that a function ran has that statement's whole text at its end.
const READ_LEN_MAX: u32 = 1024;
const HEADER_LEN: usize = 5;

pub struct Capture {
    sink: Arc<dyn ChangeSink>,
    workspace: WorkspaceId,
    metrics: Metrics,
    state: State,
    /// Bytes of the frame that is being read: its header, and its body where we look at it.
    frame: Vec<u8>,
    /// The journal has been written to since the last drain.
    journaled: Journaled,
    /// A CommandComplete said COMMIT since the last ReadyForQuery.
    committed: Committed,
    data: DataTap,
    /// What came after the ReadyForQuery that is held back. At most one read.
    held: Vec<u8>,
    drain: Option<Drain>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    /// So many bytes of a body that goes on unread.
    Pass(u32),
    /// So many bytes of a body that is read first, and the bytes after them that are not.
    Read(u32, u32),
    /// So many bytes of the journal's marker, which go nowhere.
    Swallow(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Journaled {
    No,
    Yes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Committed {
    No,
    Yes,
}

struct Drain {
    outcome: Pin<Box<dyn Future<Output = Option<Drained>>>>,
    ready_frame: Vec<u8>,
}

impl Capture {
    pub fn new(sink: Arc<dyn ChangeSink>, workspace: WorkspaceId, server_pid: i32, metrics: Metrics) -> Self {
        Self {
            sink,
            workspace,
            metrics,
            state: State::Header,
            frame: Vec::new(),
            journaled: Journaled::No,
            committed: Committed::No,
            data: DataTap::new(server_pid),
            held: Vec::new(),
            drain: None,
        }
    }

    pub fn saw_from_client(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        self.data.saw_from_client(bytes)
    }

    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Appends to `out` what may go to the client. Only while not draining.
    pub fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Header => self.read_header(bytes, out)?,
                State::Pass(left) => {
                    let (now, rest) = split(bytes, left);
                    out.extend_from_slice(now);
                    self.state = after(left, now, State::Pass);
                    rest
                }
                State::Read(left, unread) => {
                    let (now, rest) = split(bytes, left);
                    self.frame.extend_from_slice(now);
                    self.state = after(left, now, |left| State::Read(left, unread));
                    if self.state == State::Header {
                        self.complete(unread, out);
                    }
                    rest
                }
                State::Swallow(left) => {
                    let (now, rest) = split(bytes, left);
                    self.state = after(left, now, State::Swallow);
                    rest
                }
            };
            if self.is_draining() {
                self.held.extend_from_slice(bytes);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ready when the drain is over; `out` then has notices, the ReadyForQuery and what followed it.
    pub fn poll_drained(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<(), FrameError>> {
        let Some(drain) = &mut self.drain else {
            return Poll::Ready(Ok(()));
        };
        match ready!(drain.outcome.as_mut().poll(cx)) {
            Some(drained) => drained
                .warnings
                .into_iter()
                .for_each(|warning| Report::warning(warning).write(out)),
            None => {
                self.metrics.drains_late.inc();
                Report::notice("captured, not yet in the change log").write(out);
            }
        }
        if let Some(drain) = self.drain.take() {
            out.extend_from_slice(&drain.ready_frame);
        }
        let held = std::mem::take(&mut self.held);
        Poll::Ready(self.pass(&held, out))
    }

    fn read_header<'b>(&mut self, bytes: &'b [u8], out: &mut Vec<u8>) -> Result<&'b [u8], FrameError> {
        let (now, rest) = bytes.split_at(bytes.len().min(HEADER_LEN - self.frame.len()));
        self.frame.extend_from_slice(now);
        let Ok(header) = <[u8; HEADER_LEN]>::try_from(self.frame.as_slice()) else {
            return Ok(rest);
        };
        let header = parse_header(header)?;
        if header.tag == COPY_IN_RESPONSE {
            self.data.saw_copy_in();
        }
        let looked_at = matches!(header.tag, NOTICE | COMMAND_COMPLETE | READY_FOR_QUERY);
        if looked_at && header.body_len > 0 {
            let read = header.body_len.min(READ_LEN_MAX);
            self.state = State::Read(read, header.body_len - read);
        } else {
            out.append(&mut self.frame);
            self.state = if header.body_len == 0 {
                State::Header
            } else {
                State::Pass(header.body_len)
            };
        }
        Ok(rest)
    }

    /// A frame that we look at, whole but for `unread` bytes at its end.
    fn complete(&mut self, unread: u32, out: &mut Vec<u8>) {
        let frame = std::mem::take(&mut self.frame);
        let body = frame.get(HEADER_LEN..).unwrap_or_default();
        match frame.first() {
            Some(&NOTICE) if is_journal_marker(body) => {
                self.journaled = Journaled::Yes;
                self.data.saw_journal_marker();
                if unread > 0 {
                    self.state = State::Swallow(unread);
                }
                return;
            }
            Some(&COMMAND_COMPLETE) => {
                self.data.saw_tag(body);
                self.saw_tag(body);
            }
            Some(&READY_FOR_QUERY) => {
                let idle = body.first() == Some(&IDLE);
                let committed = idle || self.committed == Committed::Yes;
                self.committed = Committed::No;
                let data = self.data.saw_ready(committed, idle);
                if committed && self.journaled == Journaled::Yes {
                    // With AND CHAIN the next transaction may have written to the journal already.
                    if idle {
                        self.journaled = Journaled::No;
                    }
                    return self.begin_drain(frame, data);
                }
            }
            _ => {}
        }
        out.extend_from_slice(&frame);
        if unread > 0 {
            self.state = State::Pass(unread);
        }
    }

    fn saw_tag(&mut self, body: &[u8]) {
        if body.starts_with(b"COMMIT") {
            self.committed = Committed::Yes;
            // The change may be another session's, prepared long ago.
            if body.starts_with(b"COMMIT PREPARED") {
                self.journaled = Journaled::Yes;
            }
        }
    }

    fn begin_drain(&mut self, ready_frame: Vec<u8>, data: Option<DataStatements>) {
        self.metrics.drains.inc();
        let (sink, workspace) = (self.sink.clone(), self.workspace);
        let outcome = Box::pin(async move {
            match timeout(DRAIN_TIME_MAX, sink.drain(workspace, data)).await {
                Ok(Ok(drained)) => Some(drained),
                Ok(Err(error)) => {
                    tracing::warn!(%workspace, %error, "cannot drain the journal now");
                    None
                }
                Err(_) => None,
            }
        });
        self.drain = Some(Drain { outcome, ready_frame });
    }
}

fn split(bytes: &[u8], left: u32) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)))
}

fn after(left: u32, taken: &[u8], state: impl Fn(u32) -> State) -> State {
    match left.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX)) {
        0 => State::Header,
        left => state(left),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use async_trait::async_trait;
    use prometheus::Registry;
    use tdb_contract::{SessionStart, Unavailable};

    use super::*;

    struct Log;

    #[async_trait]
    impl ChangeSink for Log {
        async fn session_started(&self, _: SessionStart) -> Result<(), Unavailable> {
            Ok(())
        }
        async fn drain(&self, _: WorkspaceId, data: Option<DataStatements>) -> Result<Drained, Unavailable> {
            let said = data.map_or_else(|| "W".to_owned(), |data| data.statements.join("; "));
            Ok(Drained {
                changes: 1,
                warnings: vec![said],
            })
        }
    }

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &len.to_be_bytes(), body].concat()
    }

    /// What the client gets of `stream`, cut after `cut` bytes, and how often the journal was drained.
    async fn relayed(stream: &[u8], cut: usize) -> (Vec<u8>, u64) {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let workspace = WorkspaceId::from_uuid("00000000-0000-0000-0000-000000000001".parse().unwrap());
        let mut capture = Capture::new(Arc::new(Log), workspace, 7, metrics.clone());
        let mut out = Vec::new();
        for part in [&stream[..cut], &stream[cut..]] {
            capture.pass(part, &mut out).unwrap();
            while capture.is_draining() {
                poll_fn(|cx| capture.poll_drained(cx, &mut out)).await.unwrap();
            }
        }
        (out, metrics.drains.get())
    }

    fn warning() -> Vec<u8> {
        let mut out = Vec::new();
        Report::warning("W").write(&mut out);
        out
    }

    #[tokio::test]
    async fn drains_before_each_ready_for_query_of_a_pipeline_wherever_the_stream_is_cut() {
        let context = vec![b'x'; 3000];
        let marker = frame(
            b'N',
            &[b"SNOTICE\0CTD001\0Mddl 1\0W", context.as_slice(), b"\0\0"].concat(),
        );
        let (done, ready) = (frame(b'C', b"CREATE TABLE\0"), frame(b'Z', b"I"));
        let other = frame(
            b'N',
            &[b"SNOTICE\0C00000\0M", vec![b'x'; 3000].as_slice(), b"\0\0"].concat(),
        );
        let row = frame(b'D', &[7; 9000]);
        let stream = [&marker, &done, &ready, &other, &row, &ready, &marker, &done, &ready]
            .map(Vec::as_slice)
            .concat();
        let expected = [
            &done,
            &warning(),
            &ready,
            &other,
            &row,
            &ready,
            &done,
            &warning(),
            &ready,
        ]
        .map(Vec::as_slice)
        .concat();
        for cut in (0..stream.len()).step_by(7).chain([stream.len()]) {
            assert_eq!(relayed(&stream, cut).await, (expected.clone(), 2), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn drains_at_the_commit_not_before_and_at_a_chained_one_too() {
        let marker = frame(b'N', b"SNOTICE\0CTD001\0Mddl 1\0\0");
        let (open, commit) = (frame(b'Z', b"T"), frame(b'C', b"COMMIT\0"));
        assert_eq!(relayed(&[marker.clone(), open.clone()].concat(), 0).await.1, 0);
        assert_eq!(relayed(&[marker, commit, open.clone(), open].concat(), 0).await.1, 1);
        assert_eq!(
            relayed(&[frame(b'C', b"COMMIT PREPARED\0"), frame(b'Z', b"I")].concat(), 0)
                .await
                .1,
            1
        );
    }
}
