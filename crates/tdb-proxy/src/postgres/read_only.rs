//! Keeps the sessions of read-only credentials read-only. Their transactions begin `READ ONLY` because of a setting that any
//! client can change, also in ways that the text of a statement does not show (`set_config` with a computed name). However,
//! the server reports the setting before each ReadyForQuery. So the guard forwards one exchange at a time, up to its
//! ReadyForQuery, ends the session if the setting is then off, and refuses messages that could write earlier: see
//! [`tdb_wire_postgres::reading`].
//!
//! A refused message is replaced by one that fails on the server with a syntax error, and the server's error by the proxy's.
//! The transaction and the pipeline are then in the same state as after any failed statement.

use std::collections::HashSet;

use tdb_wire_postgres::backend::{COPY_BOTH_RESPONSE, COPY_IN_RESPONSE, ERROR, PARAMETER_STATUS, READY_FOR_QUERY};
use tdb_wire_postgres::flow::{Flow, RequestId};
use tdb_wire_postgres::frame::{Frame, FrameError, Piece, Reader};
use tdb_wire_postgres::frontend::{self, BIND, DESCRIBE, EXECUTE, FUNCTION_CALL, PARSE, QUERY, SYNC};
use tdb_wire_postgres::reading::{Effect, Release, Writing, examine};
use tdb_wire_postgres::report::parse_parameter;
use tdb_wire_postgres::tokens::{Encoding, ScanSettings, Strings};

use super::render::refused_statement;
use crate::metrics::Metrics;

/// The setting that makes transactions begin `READ ONLY`. The proxy sets it at login.
pub(crate) const SETTING: &str = "default_transaction_read_only";
/// The maximum length of a message whose text is examined; longer ones are refused. It limits the memory of a session.
pub(crate) const TEXT_LEN_MAX: u32 = 4 * 1024 * 1024;
/// The maximum number of a session's prepared statements that end a transaction. Drivers prepare about three.
const ENDING_STATEMENTS_MAX: usize = 1024;
/// The length to which PostgreSQL truncates statement names (NAMEDATALEN).
const NAME_LEN_MAX: usize = 63;
/// A text that fails in the server's parser, whatever the state of the session.
const FAILING: &str = "refused by the proxy: the session is read-only";
/// The name for a failing Parse. No statement is created with it.
const FAILING_NAME: &str = "tdb_refused";

pub(crate) struct ReadOnly {
    /// The client's bytes after the end of the current exchange, from `held_at` on. At most one read.
    held: Vec<u8>,
    held_at: usize,
    /// The rest of the client's last frame, if it is longer than the part that is examined.
    tail: Tail,
    /// The number of bytes of a replaced server error that have not arrived yet.
    dropped: usize,
    exchange: Exchange,
    /// How the server interprets texts, from its last reports.
    scan: ScanSettings,
    release: Release,
    writes: Writes,
    /// Named prepared statements that may end a transaction. Names are never removed, since it is not known here whether a
    /// Close, or a Parse with a name that exists, succeeds on the server.
    ending: HashSet<Box<[u8]>>,
    statement: Slot,
    portal: Slot,
    refused: Option<(RequestId, Writing)>,
    confirmed: Confirmed,
    metrics: Metrics,
}

/// The messages since the last ReadyForQuery.
#[derive(Default)]
struct Exchange {
    effect: Effect,
    settings: Settings,
    outcome: Outcome,
}

/// Whether a message of this exchange may have changed how the server interprets the next text.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Settings {
    #[default]
    Reported,
    InDoubt,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Outcome {
    #[default]
    Fine,
    Failed,
}

#[derive(Clone, Copy)]
enum Tail {
    Forwarded(usize),
    Dropped(usize),
}

/// Whether new transactions can write, from the server's last report of [`SETTING`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Off,
    On,
}

/// Whether the session is still certain to be read-only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Confirmed {
    Yes,
    No,
}

/// The unnamed statement or portal. After an error, the server may have discarded the last definition of it.
#[derive(Default)]
struct Slot {
    last: Effect,
    worst: Effect,
}

impl ReadOnly {
    /// `greeting`: the frames that the server sent during the login. `None` unless they report that the session is read-only.
    pub(crate) fn new(greeting: &[u8], metrics: Metrics) -> Option<Self> {
        let mut session = Self {
            held: Vec::new(),
            held_at: 0,
            tail: Tail::Forwarded(0),
            dropped: 0,
            exchange: Exchange::default(),
            scan: ScanSettings::USUAL,
            release: Release::Resets,
            writes: Writes::On,
            ending: HashSet::new(),
            statement: Slot::default(),
            portal: Slot::default(),
            refused: None,
            confirmed: Confirmed::Yes,
            metrics,
        };
        let (mut reader, mut rest) = (Reader::with_read_len(TEXT_LEN_MAX), greeting);
        while let Ok(Piece::Frame(frame)) = reader.next(&mut rest, |_| true, drop) {
            if frame.tag() == PARAMETER_STATUS {
                session.parameter_reported(frame.body());
            }
        }
        (session.writes == Writes::Off).then_some(session)
    }

    /// Whether the client's next bytes must wait for the server's reply.
    pub(crate) fn must_wait(&self, flow: &Flow) -> bool {
        self.has_ended() || (flow.owes_ready() && self.tail.len() == 0)
    }

    /// Whether the session must end, because it is no longer certain to be read-only.
    pub(crate) fn has_ended(&self) -> bool {
        self.confirmed == Confirmed::No
    }

    /// Whether no bytes of the client wait to be forwarded.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Appends to `out` the client's bytes that can be sent to the server now, and holds the others. Must not be called while
    /// bytes are held.
    pub(crate) fn take_requests(&mut self, flow: &mut Flow, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        let taken = self.take(flow, bytes, out)?;
        if !flow.is_terminated() {
            self.held.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        }
        Ok(())
    }

    /// As [`Self::take_requests`], for the held bytes.
    pub(crate) fn take_held(&mut self, flow: &mut Flow, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let mut held = std::mem::take(&mut self.held);
        self.held_at += self.take(flow, held.get(self.held_at..).unwrap_or_default(), out)?;
        if self.held_at == held.len() || flow.is_terminated() {
            held.clear();
            self.held_at = 0;
        }
        self.held = held;
        Ok(())
    }

    /// Returns the number of bytes taken: at most up to the end of the exchange.
    fn take(&mut self, flow: &mut Flow, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, FrameError> {
        let read = |tag| matches!(tag, QUERY | PARSE | BIND | DESCRIBE | EXECUTE | FUNCTION_CALL | SYNC);
        let mut rest = bytes;
        while !self.must_wait(flow) && !flow.is_terminated() {
            match flow.from_client(&mut rest, read)? {
                (Piece::Span(span), _) => out.extend_from_slice(self.tail.cut(span)),
                (Piece::Frame(frame), id) => self.take_request(&frame, id, out),
                (Piece::Spent, _) => break,
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn take_request(&mut self, frame: &Frame<'_>, id: Option<RequestId>, out: &mut Vec<u8>) {
        let effect = self.effect(frame);
        let so_far = self.exchange.effect;
        // Parse and Bind can plan a statement, and planning can call functions: only Sync may follow the end of a transaction.
        let follows_end = so_far == Effect::Ends && frame.tag() != SYNC;
        let effect = if follows_end {
            so_far.then(Effect::Reads.max(effect))
        } else {
            effect
        };
        let rest = usize::try_from(frame.rest).unwrap_or(usize::MAX);
        if frame.tag() != PARSE {
            self.exchange.settings = Settings::InDoubt;
        }
        if let Effect::Refused(writing) = effect {
            self.tail = Tail::Dropped(rest);
            // The server answers the first refused message with an error, and discards the following ones.
            self.refused = self.refused.or(id.map(|id| (id, writing)));
            return match frame.tag() {
                QUERY | FUNCTION_CALL => frontend::query(out, FAILING),
                _ => frontend::parse(out, FAILING_NAME, FAILING),
            };
        }
        if matches!(frame.tag(), QUERY | EXECUTE) {
            self.exchange.effect = so_far.then(effect);
        }
        self.tail = Tail::Forwarded(rest);
        out.extend_from_slice(frame.bytes);
    }

    /// The effect of a message on the server. For Parse and Bind, the effect of executing the statement.
    fn effect(&mut self, frame: &Frame<'_>) -> Effect {
        let mut texts = Texts(frame.body());
        match frame.tag() {
            QUERY => match texts.next() {
                _ if frame.rest > 0 => Effect::Refused(Writing::TooLong),
                Some(text) => self.examine(text),
                None => Effect::Refused(Writing::Unclear),
            },
            PARSE => match (texts.next(), texts.next()) {
                _ if frame.rest > 0 => Effect::Refused(Writing::TooLong),
                (Some(name), Some(text)) => self.prepare(name, text),
                _ => Effect::Refused(Writing::Unclear),
            },
            BIND => match (texts.next(), texts.next()) {
                (Some(portal), Some(statement)) => self.bind(portal, statement),
                _ => Effect::Refused(Writing::Unclear),
            },
            // The message identifies the function only by its oid.
            FUNCTION_CALL if self.release == Release::Resets => Effect::Refused(Writing::Reset),
            EXECUTE => match texts.next() {
                Some(b"") => self.portal.last,
                Some(_) => Effect::Reads,
                None => Effect::Refused(Writing::Unclear),
            },
            _ => Effect::Nothing,
        }
    }

    fn examine(&self, text: &[u8]) -> Effect {
        if ScanSettings::is_irrelevant_to(text) || self.exchange.settings == Settings::Reported {
            return examine(text, self.release, std::iter::once(self.scan));
        }
        examine(text, self.release, ScanSettings::all())
    }

    fn prepare(&mut self, name: &[u8], text: &[u8]) -> Effect {
        let effect = self.examine(text);
        if name.is_empty() {
            self.statement.set(effect);
        } else if effect == Effect::Ends {
            if self.ending.len() == ENDING_STATEMENTS_MAX {
                return Effect::Refused(Writing::Unclear);
            }
            self.ending.insert(truncated(name).into());
        }
        effect
    }

    /// Refuses to bind the end of a transaction to a named portal, which could be executed at any later time.
    fn bind(&mut self, portal: &[u8], statement: &[u8]) -> Effect {
        let effect = match statement {
            b"" => self.statement.last,
            name if self.ending.contains(truncated(name)) => Effect::Ends,
            _ => Effect::Reads,
        };
        if portal.is_empty() {
            self.portal.set(effect);
        } else if effect == Effect::Ends {
            return Effect::Refused(Writing::Unclear);
        }
        effect
    }

    /// Appends to `out` the server's bytes that are sent to the client.
    pub(crate) fn pass(&mut self, flow: &mut Flow, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        let read = |tag| matches!(tag, PARAMETER_STATUS | ERROR | COPY_IN_RESPONSE | COPY_BOTH_RESPONSE);
        while !self.has_ended() {
            match flow.from_server(&mut bytes, read)? {
                (Piece::Span(span), _) => {
                    let (dropped, passed) = span.split_at(span.len().min(self.dropped));
                    self.dropped -= dropped.len();
                    out.extend_from_slice(passed);
                }
                (Piece::Frame(frame), id) => self.take_reply(&frame, id, out),
                (Piece::Spent, _) => break,
            }
            if flow.is_lost() {
                self.confirmed = Confirmed::No;
            }
        }
        Ok(())
    }

    fn take_reply(&mut self, frame: &Frame<'_>, id: Option<RequestId>, out: &mut Vec<u8>) {
        match frame.tag() {
            PARAMETER_STATUS => self.parameter_reported(frame.body()),
            ERROR => {
                self.exchange.outcome = Outcome::Failed;
                if let Some((_, writing)) = self.refused.take_if(|(refused, _)| Some(*refused) == id) {
                    self.dropped = usize::try_from(frame.rest).unwrap_or(usize::MAX);
                    let report = refused_statement(writing);
                    self.metrics.refusal(report.state.code());
                    return report.write(out);
                }
            }
            READY_FOR_QUERY => {
                if self.writes == Writes::On {
                    self.confirmed = Confirmed::No;
                    return;
                }
                let exchange = std::mem::take(&mut self.exchange);
                self.statement.settle(exchange.outcome);
                self.portal.settle(exchange.outcome);
                self.refused = None;
            }
            // In a READ ONLY transaction only temporary tables accept COPY, and none can be created.
            COPY_IN_RESPONSE | COPY_BOTH_RESPONSE => {
                self.confirmed = Confirmed::No;
                return;
            }
            _ => {}
        }
        out.extend_from_slice(frame.bytes);
    }

    fn parameter_reported(&mut self, body: &[u8]) {
        match parse_parameter(body) {
            Some((name, value)) if name == SETTING.as_bytes() => {
                self.writes = if value == b"on" { Writes::Off } else { Writes::On };
            }
            Some((b"server_version", value)) => self.release = Release::of(value),
            Some((b"client_encoding", value)) => self.scan.encoding = Encoding::of(value),
            Some((b"standard_conforming_strings", value)) => self.scan.strings = Strings::of(value),
            _ => {}
        }
    }
}

impl Tail {
    fn len(self) -> usize {
        match self {
            Tail::Forwarded(len) | Tail::Dropped(len) => len,
        }
    }

    /// The part of `span` to forward.
    fn cut<'b>(&mut self, span: &'b [u8]) -> &'b [u8] {
        match self {
            Tail::Forwarded(len) => {
                *len = len.saturating_sub(span.len());
                span
            }
            Tail::Dropped(len) => {
                let (dropped, passed) = span.split_at(span.len().min(*len));
                *len -= dropped.len();
                passed
            }
        }
    }
}

impl Slot {
    fn set(&mut self, effect: Effect) {
        self.last = effect;
        self.worst = self.worst.max(effect);
    }

    /// Called at the end of an exchange.
    fn settle(&mut self, outcome: Outcome) {
        if outcome == Outcome::Failed {
            self.last = self.worst;
        }
        self.worst = self.last;
    }
}

/// The zero-terminated strings of a message body.
struct Texts<'b>(&'b [u8]);

impl<'b> Iterator for Texts<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Some(text)
    }
}

fn truncated(name: &[u8]) -> &[u8] {
    name.get(..NAME_LEN_MAX).unwrap_or(name)
}
