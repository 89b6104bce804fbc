//! The capture of workspace sessions. The journal's triggers raise a notice with a private SQLSTATE when they record DDL.
//! The capture removes that notice, and holds the first ReadyForQuery after the commit back until the journal has been
//! drained to the change log, or a time limit has passed. DDL is never recognized by command tags.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tdb_contract::{ChangeSink, DataStatements, Drained};
use tdb_names::WorkspaceId;
use tdb_wire_postgres::backend::{COMMAND_COMPLETE, COPY_IN_RESPONSE, ERROR, NOTICE, READY_FOR_QUERY};
use tdb_wire_postgres::flow::{Flow, Transaction};
use tdb_wire_postgres::frame::{Frame, FrameError, Piece};
use tdb_wire_postgres::report::{Report, is_journal_marker};
use tokio::time::timeout;

use super::data_tap::DataTap;
use super::text_tap::TextTap;
use crate::metrics::Metrics;

/// The time limit for a drain. After it, the reply is sent with a notice; the change stays in the journal. Debug builds are
/// slower, and so are the machines that test them.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 3_000 } else { 250 });
/// CLUSTER fires no event trigger.
const CLUSTER_WARNING: &str =
    "not captured: CLUSTER may have marked an index; use ALTER TABLE ... CLUSTER ON to mark it for tenants too";

pub(crate) struct Capture {
    sink: Arc<dyn ChangeSink>,
    workspace: WorkspaceId,
    server_pid: i32,
    metrics: Metrics,
    /// The number of bytes of the journal's marker that have not arrived yet; they are not forwarded. Markers can be long:
    /// that of a statement run by a function contains the statement's whole text.
    swallow: usize,
    /// The journal has been written to since the last drain.
    journaled: Journaled,
    /// A COMMIT has completed since the last ReadyForQuery.
    committed: Committed,
    data: DataTap,
    texts: TextTap,
    /// Notices to send to the client before the server's next message.
    notices: Vec<u8>,
    /// The bytes after the ReadyForQuery that is held back. At most one read.
    held: Vec<u8>,
    drain: Option<Drain>,
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
    pub(crate) fn new(sink: Arc<dyn ChangeSink>, workspace: WorkspaceId, server_pid: i32, metrics: Metrics) -> Self {
        let texts = TextTap::new(sink.clone(), workspace, server_pid);
        Self {
            sink,
            workspace,
            server_pid,
            metrics,
            swallow: 0,
            journaled: Journaled::No,
            committed: Committed::No,
            data: DataTap::new(server_pid),
            texts,
            notices: Vec::new(),
            held: Vec::new(),
            drain: None,
        }
    }

    /// Processes the client's bytes. Returns those to forward: up to Terminate, if there is one.
    pub(crate) fn take_requests<'b>(&mut self, flow: &mut Flow, bytes: &'b [u8]) -> Result<&'b [u8], FrameError> {
        let mut rest = bytes;
        loop {
            match flow.from_client(&mut rest, DataTap::reads)?.0 {
                Piece::Frame(frame) => self.data.on_request(&frame),
                Piece::Span(_) => {}
                Piece::Spent => break,
            }
            if flow.is_terminated() {
                break;
            }
        }
        Ok(bytes.split_at(bytes.len() - rest.len()).0)
    }

    /// Appends to `out` the client's bytes that can be sent to the server now. Must not be called while a text waits.
    pub(crate) fn pass_up(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        self.texts.pass(bytes, out)
    }

    /// Whether a text waits until the control plane has prepared it.
    pub(crate) fn is_text_waiting(&self) -> bool {
        self.texts.is_waiting()
    }

    /// Ready when the waiting text has been appended to `out`.
    pub(crate) fn poll_text(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<(), FrameError>> {
        self.texts.poll_prepared(cx, out, &mut self.notices)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Appends to `out` the server's bytes that can be sent to the client now. Must not be called while draining.
    pub(crate) fn pass(&mut self, flow: &mut Flow, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        let read = |tag| matches!(tag, NOTICE | ERROR | COMMAND_COMPLETE | COPY_IN_RESPONSE);
        while !self.is_draining() {
            match flow.from_server(&mut bytes, read)?.0 {
                Piece::Span(span) => {
                    let (swallowed, passed) = span.split_at(span.len().min(self.swallow));
                    self.swallow -= swallowed.len();
                    out.extend_from_slice(passed);
                }
                Piece::Frame(frame) => self.take_reply(&frame, out),
                Piece::Spent => return Ok(()),
            }
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// Ready when the drain has ended: notices, the held ReadyForQuery and the bytes after it have been appended to `out`.
    pub(crate) fn poll_drained(
        &mut self,
        cx: &mut Context<'_>,
        flow: &mut Flow,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), FrameError>> {
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
        Poll::Ready(self.pass(flow, &held, out))
    }

    /// Processes a frame that was selected for reading.
    fn take_reply(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        out.append(&mut self.notices);
        match frame.tag() {
            NOTICE if is_journal_marker(frame.body()) => {
                self.journaled = Journaled::Yes;
                self.data.on_journal_marker();
                self.swallow = usize::try_from(frame.rest).unwrap_or(usize::MAX);
                return;
            }
            COMMAND_COMPLETE => {
                if frame.body().starts_with(b"CLUSTER\0") {
                    Report::warning(CLUSTER_WARNING).write(out);
                }
                self.data.on_tag(frame.body());
                self.on_tag(frame.body());
            }
            COPY_IN_RESPONSE => self.data.on_copy_in(),
            READY_FOR_QUERY => {
                let idle = Transaction::of(frame) == Transaction::Idle;
                let committed = idle || self.committed == Committed::Yes;
                self.committed = Committed::No;
                let data = self.data.on_ready(committed, idle);
                if committed && self.journaled == Journaled::Yes {
                    // With AND CHAIN, the next transaction may already have written to the journal.
                    if idle {
                        self.journaled = Journaled::No;
                    }
                    return self.begin_drain(frame.bytes.to_vec(), data);
                }
            }
            _ => {}
        }
        out.extend_from_slice(frame.bytes);
    }

    fn on_tag(&mut self, body: &[u8]) {
        if body.starts_with(b"COMMIT") {
            self.committed = Committed::Yes;
            // The change may have been made by another session.
            if body.starts_with(b"COMMIT PREPARED") {
                self.journaled = Journaled::Yes;
            }
        }
        // Settings of roles and databases are not recorded in the journal; the drain reads them from the catalog.
        if body.starts_with(b"ALTER ROLE") || body.starts_with(b"ALTER DATABASE") {
            self.journaled = Journaled::Yes;
        }
    }

    fn begin_drain(&mut self, ready_frame: Vec<u8>, data: Option<DataStatements>) {
        self.metrics.drains.inc();
        let (sink, workspace) = (self.sink.clone(), self.workspace);
        let data = data.or_else(|| {
            Some(DataStatements {
                server_pid: self.server_pid,
                statements: Vec::new(),
            })
        });
        let outcome = Box::pin(async move {
            match timeout(DRAIN_TIME_MAX, sink.drain(workspace, data)).await {
                Ok(Ok(drained)) => Some(drained),
                Ok(Err(error)) => {
                    tracing::warn!(%workspace, %error, "cannot drain the journal");
                    None
                }
                Err(_) => None,
            }
        });
        self.drain = Some(Drain { outcome, ready_frame });
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use async_trait::async_trait;
    use prometheus::Registry;
    use tdb_contract::{Prepared, Repair, RouteKind, SessionStart, Unavailable, WorkspaceText};

    use super::*;

    struct Log;

    #[async_trait]
    impl ChangeSink for Log {
        async fn session_started(&self, _: SessionStart) -> Result<(), Unavailable> {
            Ok(())
        }
        async fn drain(&self, _: WorkspaceId, data: Option<DataStatements>) -> Result<Drained, Unavailable> {
            let warning = match data {
                Some(data) if !data.statements.is_empty() => data.statements.join("; "),
                _ => "W".to_owned(),
            };
            Ok(Drained {
                changes: 1,
                warnings: vec![warning],
            })
        }

        async fn login_refused(&self, _: RouteKind) -> Result<Repair, Unavailable> {
            Ok(Repair::NotNeeded)
        }

        async fn prepare(&self, _: WorkspaceText) -> Result<Prepared, Unavailable> {
            Ok(Prepared::default())
        }
    }

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &len.to_be_bytes(), body].concat()
    }

    /// The bytes that the client receives when `stream` arrives in two parts, split after `cut` bytes, and the number of
    /// drains.
    async fn relayed(stream: &[u8], cut: usize) -> (Vec<u8>, u64) {
        let metrics = Metrics::register(&Registry::new(), tdb_names::Engine::PostgreSql).unwrap();
        let workspace = WorkspaceId::from_uuid("00000000-0000-0000-0000-000000000001".parse().unwrap());
        let mut capture = Capture::new(Arc::new(Log), workspace, 7, metrics.clone());
        let (mut flow, mut out) = (Flow::new(), Vec::new());
        for part in [&stream[..cut], &stream[cut..]] {
            capture.pass(&mut flow, part, &mut out).unwrap();
            while capture.is_draining() {
                poll_fn(|cx| capture.poll_drained(cx, &mut flow, &mut out))
                    .await
                    .unwrap();
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
    async fn drains_before_each_ready_for_query_of_a_pipeline_wherever_the_stream_is_split() {
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
            assert_eq!(relayed(&stream, cut).await, (expected.clone(), 2), "split at {cut}");
        }
    }

    #[tokio::test]
    async fn cluster_gives_a_warning_that_it_is_not_captured() {
        let done = frame(b'C', b"CLUSTER\0");
        let mut expected = Vec::new();
        Report::warning(CLUSTER_WARNING).write(&mut expected);
        expected.extend_from_slice(&done);
        assert_eq!(relayed(&done, 0).await, (expected, 0));
    }

    #[tokio::test]
    async fn drains_at_a_commit_also_a_chained_one_and_not_before() {
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
