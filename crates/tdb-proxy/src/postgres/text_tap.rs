//! Forwards the texts of a workspace session to the server. A text that may contain CREATE EXTENSION, or that is an ALTER
//! DATABASE, waits until the control plane has prepared it: only superusers can create some extensions, so the administrator
//! creates these first, and only the owner of a database can set what its sessions begin with. SQL is not parsed here; two
//! words decide.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tdb_contract::{ChangeSink, Prepared, WorkspaceText};
use tdb_names::WorkspaceId;
use tdb_wire_postgres::frame::{FrameError, parse_header};
use tdb_wire_postgres::frontend::{PARSE, QUERY};
use tdb_wire_postgres::report::Report;
use tokio::time::timeout;

/// The time limit for preparing a text; the scripts of large extensions run for seconds. After it, the text is sent unchanged.
const PREPARE_TIME_MAX: Duration = Duration::from_secs(75);
/// Longer texts are forwarded without a check: they contain data.
const TEXT_LEN_MAX: u32 = 1024 * 1024;
const HEADER_LEN: usize = 5;
const WORDS: [&[u8]; 2] = [b"create", b"extension"];

pub(crate) struct TextTap {
    sink: Arc<dyn ChangeSink>,
    workspace: WorkspaceId,
    server_pid: i32,
    state: State,
    /// The bytes of the current message: its header, and also its body if that is collected.
    message: Vec<u8>,
    preparation: Option<Preparation>,
    /// The bytes after the message that waits. At most one read.
    held: Vec<u8>,
}

#[derive(Clone, Copy)]
enum State {
    Header,
    /// The number of bytes of the body that are still to be forwarded.
    Pass(u32),
    /// The number of bytes of the body that are still to be collected.
    Collect(u32),
}

type Preparation = Pin<Box<dyn Future<Output = Option<Prepared>>>>;

impl TextTap {
    pub(crate) fn new(sink: Arc<dyn ChangeSink>, workspace: WorkspaceId, server_pid: i32) -> Self {
        Self {
            sink,
            workspace,
            server_pid,
            state: State::Header,
            message: Vec::new(),
            preparation: None,
            held: Vec::new(),
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.preparation.is_some()
    }

    /// Appends to `out` the bytes to send to the server. Must not be called while a text waits.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            let left = match self.state {
                State::Header => u32::try_from(HEADER_LEN.saturating_sub(self.message.len())).unwrap_or(0),
                State::Pass(left) | State::Collect(left) => left,
            };
            let (now, rest) = bytes.split_at(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            let left = left.saturating_sub(u32::try_from(now.len()).unwrap_or(u32::MAX));
            bytes = rest;
            match self.state {
                State::Header => {
                    self.message.extend_from_slice(now);
                    self.read_header(out)?;
                }
                State::Pass(_) => {
                    out.extend_from_slice(now);
                    self.state = if left == 0 { State::Header } else { State::Pass(left) };
                }
                State::Collect(_) => {
                    self.message.extend_from_slice(now);
                    self.state = State::Collect(left);
                    if left == 0 {
                        self.complete(out);
                    }
                }
            }
            if self.is_waiting() {
                self.held.extend_from_slice(bytes);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ready when the waiting message is prepared: the message and the bytes after it have been appended to `out`, and the
    /// warnings for the client to `notices`.
    pub(crate) fn poll_prepared(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
        notices: &mut Vec<u8>,
    ) -> Poll<Result<(), FrameError>> {
        let Some(preparation) = &mut self.preparation else {
            return Poll::Ready(Ok(()));
        };
        let prepared = ready!(preparation.as_mut().poll(cx)).unwrap_or_default();
        self.preparation = None;
        for warning in prepared.warnings {
            Report::warning(warning).write(notices);
        }
        let message = std::mem::take(&mut self.message);
        let replaced = prepared.text.and_then(|text| with_text(&message, &text));
        out.extend_from_slice(replaced.as_deref().unwrap_or(&message));
        let held = std::mem::take(&mut self.held);
        Poll::Ready(self.pass(&held, out))
    }

    fn read_header(&mut self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let Ok(header) = <[u8; HEADER_LEN]>::try_from(self.message.as_slice()) else {
            return Ok(());
        };
        let header = parse_header(header)?;
        let text = matches!(header.tag, QUERY | PARSE) && (1..=TEXT_LEN_MAX).contains(&header.body_len);
        if text {
            self.state = State::Collect(header.body_len);
            return Ok(());
        }
        out.append(&mut self.message);
        if header.body_len > 0 {
            self.state = State::Pass(header.body_len);
        }
        Ok(())
    }

    fn complete(&mut self, out: &mut Vec<u8>) {
        self.state = State::Header;
        match text_of(&self.message).filter(|text| may_need_an_administrator(text)) {
            Some(text) => self.preparation = Some(self.prepare(text.to_owned())),
            None => out.append(&mut self.message),
        }
    }

    fn prepare(&self, text: String) -> Preparation {
        let sink = self.sink.clone();
        let text = WorkspaceText {
            workspace: self.workspace,
            server_pid: self.server_pid,
            text,
        };
        Box::pin(async move {
            match timeout(PREPARE_TIME_MAX, sink.prepare(text)).await {
                Ok(Ok(prepared)) => Some(prepared),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot prepare a text that may create an extension");
                    None
                }
                Err(_) => None,
            }
        })
    }
}

/// The position of the text in a Query or Parse message.
fn text_range(message: &[u8]) -> Option<std::ops::Range<usize>> {
    let zero = |from: usize| Some(from + message.get(from..)?.iter().position(|byte| *byte == 0)?);
    let from = match message.first() {
        Some(&PARSE) => zero(HEADER_LEN)? + 1,
        _ => HEADER_LEN,
    };
    Some(from..zero(from)?)
}

/// The text of a Query or Parse message; `None` if it is not UTF-8, which the control plane could not read.
fn text_of(message: &[u8]) -> Option<&str> {
    std::str::from_utf8(message.get(text_range(message)?)?).ok()
}

fn with_text(message: &[u8], text: &str) -> Option<Vec<u8>> {
    let range = text_range(message)?;
    let mut out = Vec::with_capacity(message.len() + text.len());
    out.extend_from_slice(message.get(..range.start)?);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(message.get(range.end..)?);
    // The length includes itself, but not the tag.
    let len = u32::try_from(out.len() - 1).ok()?;
    out.get_mut(1..HEADER_LEN)?.copy_from_slice(&len.to_be_bytes());
    Some(out)
}

/// Whether it may create an extension, or set what sessions of the database begin with.
fn may_need_an_administrator(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let mut next_is = |word: &str| words.next().is_some_and(|next| next.eq_ignore_ascii_case(word));
    WORDS.iter().all(|word| has_word(text, word)) || next_is("alter") && next_is("database")
}

fn has_word(text: &str, word: &[u8]) -> bool {
    text.as_bytes()
        .windows(word.len())
        .any(|part| part.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use async_trait::async_trait;
    use tdb_contract::{DataStatements, Drained, Repair, RouteKind, SessionStart, Unavailable};

    use super::*;

    struct Preparing;

    #[async_trait]
    impl ChangeSink for Preparing {
        async fn session_started(&self, _: SessionStart) -> Result<(), Unavailable> {
            Ok(())
        }
        async fn drain(&self, _: WorkspaceId, _: Option<DataStatements>) -> Result<Drained, Unavailable> {
            Ok(Drained::default())
        }
        async fn login_refused(&self, _: RouteKind) -> Result<Repair, Unavailable> {
            Ok(Repair::NotNeeded)
        }
        async fn prepare(&self, text: WorkspaceText) -> Result<Prepared, Unavailable> {
            if text.text.contains("down") {
                return Err(Unavailable { reason: String::new() });
            }
            Ok(Prepared {
                text: Some(format!("prepared: {}", text.text)),
                warnings: vec!["W".to_owned()],
            })
        }
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &len.to_be_bytes(), body].concat()
    }

    /// The bytes that the server and the client receive when `stream` arrives in two parts, split after `cut` bytes.
    async fn sent(stream: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>) {
        let workspace = WorkspaceId::from_uuid("00000000-0000-0000-0000-000000000001".parse().unwrap());
        let mut tap = TextTap::new(Arc::new(Preparing), workspace, 7);
        let (mut out, mut notices) = (Vec::new(), Vec::new());
        for part in [&stream[..cut], &stream[cut..]] {
            tap.pass(part, &mut out).unwrap();
            while tap.is_waiting() {
                poll_fn(|cx| tap.poll_prepared(cx, &mut out, &mut notices))
                    .await
                    .unwrap();
            }
        }
        (out, notices)
    }

    #[tokio::test]
    async fn texts_that_may_create_an_extension_are_prepared_wherever_the_stream_is_split() {
        let untouched = [
            message(b'Q', b"SELECT 1\0"),
            message(b'S', b""),
            message(b'd', b"create extension"),
            message(b'Q', b"create extension \xff\0"),
            message(b'Q', b"CREATE EXTENSION down\0"),
        ]
        .concat();
        let stream = [
            untouched.clone(),
            message(b'Q', b"Create /**/ Extension x\0"),
            message(b'P', b"s1\0create extension y\0\0\x01\0\0\0\x17"),
            message(b'B', b"\0s1\0"),
        ]
        .concat();
        let expected = [
            untouched,
            message(b'Q', b"prepared: Create /**/ Extension x\0"),
            message(b'P', b"s1\0prepared: create extension y\0\0\x01\0\0\0\x17"),
            message(b'B', b"\0s1\0"),
        ]
        .concat();
        let mut notices = Vec::new();
        Report::warning("W").write(&mut notices);
        Report::warning("W").write(&mut notices);
        for cut in 0..stream.len() {
            assert_eq!(
                sent(&stream, cut).await,
                (expected.clone(), notices.clone()),
                "split at {cut}"
            );
        }
    }

    #[tokio::test]
    async fn a_long_text_is_forwarded_without_a_check() {
        let body = [b"create extension ".repeat(70_000).as_slice(), b"\0"].concat();
        let stream = message(b'Q', &body);
        assert_eq!(sent(&stream, 9).await, (stream.clone(), Vec::new()));
    }
}
