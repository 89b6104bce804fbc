//! The requests of a client whose statements run on changing server connections, from the client's stream to what is sent to
//! the server, and the replies back. Bytes are forwarded unchanged, except for the names of prepared statements (see
//! [`crate::statements`]); requests of the proxy are added, and their replies removed.
//!
//! What a request changes among the prepared statements is assumed until its reply arrives. So the requests after a Sync wait
//! until the changes before it are confirmed.

use std::collections::VecDeque;

use crate::backend::{
    CLOSE_COMPLETE, COMMAND_COMPLETE, ERROR, NO_DATA, PARAMETER_DESCRIPTION, PARSE_COMPLETE, READY_FOR_QUERY,
    ROW_DESCRIPTION,
};
use crate::flow::{Copy, Flow, RequestId, Transaction};
use crate::frame::{Frame, FrameError, Piece, Reader};
use crate::frontend::{self, BIND, CLOSE, DESCRIBE, EXECUTE, PARSE, QUERY, SYNC, TERMINATE};
use crate::report;
use crate::statements::{ClientStatements, Renamed, Sender, ServerStatements, expose, take_request};
use crate::tokens::ScanSettings;
use crate::traces::{self, Trace, deallocated};

/// The number of bytes to send from which on no more requests are processed until they are sent.
const PENDING_MAX: usize = 64 * 1024;

/// The length of a client's prepared statements. The proxy keeps them, so that it can prepare them again.
pub const STATEMENTS_LEN_MAX: usize = 64 * 1024 * 1024;

/// The state of a client's requests.
#[derive(Debug)]
pub struct ClientRequests {
    reader: Reader,
    /// The client's bytes that are not processed yet, from `held_at` on.
    held: Vec<u8>,
    held_at: usize,
    statements: ClientStatements,
    /// The requests of the proxy whose replies the client must not get, in order.
    own: VecDeque<RequestId>,
    /// The Sync that ends an exchange of the proxy.
    own_sync: Option<RequestId>,
    /// All changes to the statements, the client's and the connection's, are confirmed.
    is_settled: bool,
    boundary: Boundary,
    pipeline: Pipeline,
    /// The unanswered requests that were forwarded with another name of their statement.
    renamed: Vec<Renamed>,
    tags: Tags,
    /// The last request whose text can leave behind what the server does not show.
    last_trace: Option<RequestId>,
    editing: Editing,
    /// The number of bytes of the server's current frame that have been forwarded although the frame is buffered.
    forwarded: usize,
    /// The number of bytes of a removed reply that have not arrived yet.
    dropped: usize,
}

/// Whether the client continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// It can send more requests.
    Continues,
    /// It has sent Terminate; the bytes after it are dropped.
    Terminates,
    /// Its prepared statements are longer than [`STATEMENTS_LEN_MAX`]. The session must end.
    HasTooManyStatements,
}

/// What the server's bytes become.
#[derive(Debug, PartialEq, Eq)]
pub struct Replies<'b> {
    /// The bytes to forward unchanged, after those that were appended.
    pub unchanged: &'b [u8],
    /// Whether DISCARD ALL was executed after the last text that left something behind.
    pub discarded: Discarded,
    /// Whether an error says that the session has no last value of a sequence. A function can ask for it too.
    pub last_value: LastValue,
    /// Whether a statement that was prepared again is as the client was told.
    pub statement: Redescribed,
}

/// The description of a statement after it was prepared again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redescribed {
    /// As before, or not known before.
    Same,
    /// The client would misread the values.
    Differs,
}

/// Whether a last value of a sequence was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastValue {
    /// No, or none was asked for.
    Defined,
    /// `currval` or `lastval` has failed.
    Missing,
}

/// What DISCARD ALL has removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// It was not executed, or not last.
    Nothing,
    /// Everything that it removes.
    All,
}

/// Whether the next request belongs to the exchange of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boundary {
    Open,
    /// After a Sync: the statements must be settled first.
    Settling,
    /// After a query that can remove statements, or before one that uses them: everything must be answered first.
    Answering,
}

/// Whether messages of the extended protocol have been sent since the last Sync. A Sync of the proxy would end their implicit
/// transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pipeline {
    Closed,
    Open,
}

/// Whether command tags can concern prepared statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tags {
    Skipped,
    Read,
}

/// Whether the server's last bytes were edited: those that are buffered have not been forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Editing {
    No,
    Yes,
}

impl ClientRequests {
    /// `text_len_max`: how many bytes of a text are examined and kept.
    pub fn new(text_len_max: u32) -> Self {
        Self {
            reader: Reader::with_read_len(text_len_max),
            held: Vec::new(),
            held_at: 0,
            statements: ClientStatements::default(),
            own: VecDeque::new(),
            is_settled: true,
            boundary: Boundary::Open,
            pipeline: Pipeline::Closed,
            renamed: Vec::new(),
            tags: Tags::Skipped,
            last_trace: None,
            own_sync: None,
            editing: Editing::No,
            forwarded: 0,
            dropped: 0,
        }
    }

    /// Whether the client's stream is between two frames.
    pub fn is_at_boundary(&self) -> bool {
        self.reader.is_at_boundary()
    }

    /// Whether the client has sent a message that is not processed yet: a whole one, unless it is so long that it is sent in
    /// pieces.
    pub fn has_message(&self) -> bool {
        !self.reader.is_at_boundary() && !self.held.is_empty() || is_message(self.rest())
    }

    /// Whether the message that is not processed yet is Terminate.
    pub fn is_terminate_next(&self) -> bool {
        self.reader.is_at_boundary() && self.rest().first() == Some(&TERMINATE)
    }

    fn rest(&self) -> &[u8] {
        self.held.get(self.held_at..).unwrap_or_default()
    }

    /// Whether another client can use the connection: everything is answered, no transaction is open, and no message waits for
    /// a Sync. Portals and the implicit transaction of a pipeline last until its Sync, also when everything is answered.
    pub fn is_idle(&self, flow: &Flow) -> bool {
        let is_between = self.reader.is_at_boundary() && !self.has_message() && self.pipeline == Pipeline::Closed;
        is_between && flow.is_idle() && flow.is_certain()
    }

    /// Adds bytes of the client, which [`Self::process`] takes.
    pub fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether more requests can be processed now.
    pub fn can_process(&self, flow: &Flow) -> bool {
        // During COPY, the server ignores a Sync.
        let is_copying = matches!(flow.copy(), Copy::In { .. });
        let is_ready = match self.boundary {
            Boundary::Open => true,
            Boundary::Settling => self.is_settled,
            Boundary::Answering => !flow.owes_reply(),
        };
        !flow.is_full() && (is_ready || is_copying)
    }

    /// Appends to `out` what the client's bytes become on the connection of `server`. `found` is called with what the texts may
    /// leave behind.
    pub fn process(
        &mut self,
        flow: &mut Flow,
        server: &mut ServerStatements,
        found: &mut impl FnMut(Trace),
        out: &mut Vec<u8>,
    ) -> Result<Client, FrameError> {
        let mut held = std::mem::take(&mut self.held);
        let mut rest = held.get(self.held_at..).unwrap_or_default();
        let mut client = Client::Continues;
        self.boundary = Boundary::Open;
        while client == Client::Continues && out.len() < PENDING_MAX && self.can_process(flow) {
            let is_copying = matches!(flow.copy(), Copy::In { .. });
            if self.reader.is_at_boundary() && !is_copying && !is_message(rest) {
                break;
            }
            if self.reader.is_at_boundary()
                && self.pipeline == Pipeline::Closed
                && flow.owes_reply()
                && uses_names(rest)
            {
                self.boundary = Boundary::Answering;
                break;
            }
            self.is_settled = self.statements.names.is_settled() && server.names.is_settled();
            let settled = self.is_settled;
            let read =
                |tag| matches!(tag, QUERY | PARSE | BIND | DESCRIBE | CLOSE | TERMINATE) || (tag == SYNC && !settled);
            let pipeline = &mut self.pipeline;
            let piece = self.reader.next(&mut rest, read, |header| {
                if !is_copying {
                    *pipeline = pipeline.after(header.tag);
                }
                flow.sent(header.tag);
            })?;
            match piece {
                Piece::Spent => break,
                Piece::Span(span) => out.extend_from_slice(span),
                Piece::Frame(frame) if frame.tag() == TERMINATE => client = Client::Terminates,
                Piece::Frame(frame) if frame.tag() == SYNC => {
                    flow.sent(SYNC);
                    out.extend_from_slice(frame.bytes);
                    // During COPY, the server ignores it. The statements can have been settled since its first byte arrived.
                    if !is_copying {
                        self.boundary = if settled { Boundary::Open } else { Boundary::Settling };
                        self.pipeline = Pipeline::Closed;
                    }
                }
                Piece::Frame(frame) => {
                    let effect = examine(&frame, found);
                    if effect.needs != Needs::Nothing {
                        self.tags = Tags::Read;
                    }
                    // A Sync of the proxy would end the implicit transaction of an open pipeline.
                    let exposure = match self.pipeline {
                        _ if effect.needs != Needs::Names => None,
                        Pipeline::Open => Some(Exposure::InPipeline),
                        Pipeline::Closed => Some(Exposure::Separate),
                    };
                    self.pipeline = self.pipeline.after(frame.tag());
                    if let Some(exposure) = exposure {
                        let sync = expose_statements(&self.statements, server, flow, &mut self.own, exposure, out);
                        self.own_sync = self.own_sync.or(sync);
                    }
                    let (own, mut sent) = (&mut self.own, None);
                    let send = |tag, sender| {
                        let id = flow.sent(tag);
                        match sender {
                            Sender::Proxy => own.extend(id),
                            Sender::Client => sent = id,
                        }
                        id
                    };
                    let renamed = take_request(&mut self.statements, server, &frame, send, out);
                    self.renamed.extend(renamed);
                    if let (Some(id), Some(name)) = (sent, &effect.removes) {
                        self.statements.names.removed(id, name);
                        server.names.removed(id, name);
                    }
                    if effect.needs != Needs::Nothing && frame.tag() == QUERY {
                        self.boundary = Boundary::Answering;
                    }
                    if self.statements.names.len() > STATEMENTS_LEN_MAX {
                        client = Client::HasTooManyStatements;
                    }
                    if effect.leaves == Leaves::Hidden {
                        self.last_trace = sent.or(self.last_trace);
                    }
                }
            }
        }
        let taken = held.len() - rest.len();
        if client == Client::Terminates || taken == held.len() {
            held.clear();
            self.held_at = 0;
        } else {
            self.held_at = taken;
        }
        self.held = held;
        Ok(client)
    }

    /// Processes the server's bytes. What becomes of them has been appended to `out`, or is returned.
    pub fn take_replies<'b>(
        &mut self,
        flow: &mut Flow,
        server: &mut ServerStatements,
        bytes: &'b [u8],
        out: &mut Vec<u8>,
    ) -> Result<Replies<'b>, FrameError> {
        let mut rest = bytes;
        let mut discarded = Discarded::Nothing;
        let mut last_value = LastValue::Defined;
        let mut statement = Redescribed::Same;
        let has_own = !self.own.is_empty() || self.own_sync.is_some() || !self.renamed.is_empty();
        let is_edited = has_own || self.dropped > 0 || (self.editing == Editing::Yes && flow.server_buffered_len() > 0);
        self.editing = if is_edited { Editing::Yes } else { Editing::No };
        while !rest.is_empty() {
            let has_own = !self.own.is_empty();
            let reads_tags = self.tags == Tags::Read;
            let is_describing = has_own || self.statements.is_describing();
            let read = |tag| match tag {
                ERROR => true,
                PARSE_COMPLETE | CLOSE_COMPLETE => has_own,
                PARAMETER_DESCRIPTION | ROW_DESCRIPTION | NO_DATA => is_describing,
                COMMAND_COMPLETE => reads_tags,
                _ => false,
            };
            let (piece, id) = flow.from_server(&mut rest, read)?;
            let tag = match piece {
                Piece::Spent => break,
                Piece::Span(span) => {
                    let (dropped, passed) = span.split_at(span.len().min(self.dropped));
                    self.dropped -= dropped.len();
                    if is_edited {
                        out.extend_from_slice(passed);
                    }
                    continue;
                }
                Piece::Frame(frame) => {
                    let is_own = self.is_own(&frame, id);
                    let renamed = self.renamed.iter().find(|renamed| Some(renamed.id) == id);
                    match renamed.filter(|_| frame.tag() == ERROR && self.forwarded == 0) {
                        Some(renamed) if is_edited && !is_own => renamed.restore(&frame, out),
                        _ if is_edited && !is_own => {
                            out.extend_from_slice(frame.bytes.get(self.forwarded..).unwrap_or_default());
                        }
                        _ => {}
                    }
                    if frame.tag() == ERROR && report::is_of_last_value(frame.body()) {
                        last_value = LastValue::Missing;
                    }
                    self.forwarded = 0;
                    if is_own {
                        self.dropped = usize::try_from(frame.rest).unwrap_or(usize::MAX);
                    }
                    if let (PARAMETER_DESCRIPTION | ROW_DESCRIPTION | NO_DATA, Some(id)) = (frame.tag(), id) {
                        self.statements.described(id, &frame);
                        if !server.is_as_described(id, &frame) {
                            statement = Redescribed::Differs;
                        }
                    }
                    if let (COMMAND_COMPLETE, Some(id)) = (frame.tag(), id) {
                        discarded = self.take_tag(frame.body(), id, server);
                    }
                    frame.tag()
                }
            };
            self.settle(tag, id, flow, server);
        }
        let unchanged = if is_edited { &[] } else { bytes };
        if !is_edited {
            self.forwarded = flow.server_buffered_len();
        }
        Ok(Replies {
            unchanged,
            discarded,
            last_value,
            statement,
        })
    }

    /// Whether the reply must not reach the client.
    fn is_own(&self, frame: &Frame<'_>, id: Option<RequestId>) -> bool {
        match frame.tag() {
            READY_FOR_QUERY => id.is_some() && self.own_sync == id,
            ERROR => self.own_sync.is_some_and(|sync| id.is_some_and(|id| id < sync)),
            PARSE_COMPLETE | CLOSE_COMPLETE | PARAMETER_DESCRIPTION | ROW_DESCRIPTION | NO_DATA => {
                id.is_some() && self.own.front().copied() == id
            }
            _ => false,
        }
    }

    /// Records the outcome of requests, after a reply with this tag.
    fn settle(&mut self, tag: u8, id: Option<RequestId>, flow: &Flow, server: &mut ServerStatements) {
        match (tag, id) {
            (READY_FOR_QUERY, id) => {
                let first_owed = flow.first_owed();
                self.statements.names.answered(first_owed);
                server.names.answered(first_owed);
                // Requests before it that were not answered have been discarded after an error.
                self.own.retain(|own| first_owed.is_some_and(|first| *own >= first));
                self.renamed
                    .retain(|renamed| first_owed.is_some_and(|first| renamed.id >= first));
                if id.is_some() && self.own_sync == id {
                    self.own_sync = None;
                }
                if first_owed.is_none() {
                    self.tags = Tags::Skipped;
                    // A Query ends the implicit transaction of the messages before it too.
                    self.pipeline = Pipeline::Closed;
                }
            }
            // After an error of Query, FunctionCall or Sync, the server discards nothing.
            (ERROR, Some(id)) if flow.first_owed() != Some(id) => {
                self.statements.names.failed(id, flow.first_owed());
                server.names.failed(id, flow.first_owed());
            }
            (ERROR, Some(id)) => {
                self.statements.names.query_failed(id);
                server.names.query_failed(id);
            }
            (PARSE_COMPLETE | CLOSE_COMPLETE | ROW_DESCRIPTION | NO_DATA, Some(id))
                if self.own.front() == Some(&id) =>
            {
                self.own.pop_front();
            }
            _ => {}
        }
        self.is_settled = self.statements.names.is_settled() && server.names.is_settled();
    }

    fn take_tag(&mut self, tag: &[u8], id: RequestId, server: &mut ServerStatements) -> Discarded {
        let discards_all = tag == b"DISCARD ALL\0";
        if discards_all || tag == b"DEALLOCATE ALL\0" {
            self.statements.names.cleared(id);
            server.names.cleared(id);
        }
        if discards_all && self.last_trace.is_none_or(|last| last < id) {
            return Discarded::All;
        }
        Discarded::Nothing
    }
}

/// Whether the bytes begin with a whole message, or with so much of one that it is sent in pieces.
fn is_message(bytes: &[u8]) -> bool {
    let len = bytes.get(1..5).and_then(|len| len.try_into().ok());
    // An invalid length is found when the message is processed.
    let is_whole = |len: [u8; 4]| usize::try_from(u32::from_be_bytes(len)).is_ok_and(|len| bytes.len() > len);
    bytes.len() >= PENDING_MAX || len.is_some_and(is_whole)
}

/// Whether the first message is a Query that uses the names of prepared statements.
fn uses_names(bytes: &[u8]) -> bool {
    if bytes.first() != Some(&QUERY) {
        return false;
    }
    let text = bytes.get(5..).and_then(|body| body.split(|byte| *byte == 0).next());
    let mut uses = false;
    let mut take = |trace: Trace| uses |= trace.uses_names();
    traces::examine(
        text.unwrap_or_default(),
        std::iter::once(ScanSettings::USUAL),
        &mut take,
    );
    uses
}

impl Pipeline {
    fn after(self, tag: u8) -> Self {
        match tag {
            SYNC => Pipeline::Closed,
            PARSE | BIND | DESCRIBE | EXECUTE | CLOSE => Pipeline::Open,
            _ => self,
        }
    }
}

/// How the proxy sends the messages that provide statements under their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposure {
    /// With a Sync.
    Separate,
    /// As part of the client's pipeline.
    InPipeline,
}

/// Provides the client's statements under their names. Returns the Sync of the proxy, if there is one.
fn expose_statements(
    statements: &ClientStatements,
    server: &mut ServerStatements,
    flow: &mut Flow,
    own: &mut VecDeque<RequestId>,
    exposure: Exposure,
    out: &mut Vec<u8>,
) -> Option<RequestId> {
    if flow.transaction() == Transaction::Failed {
        return None;
    }
    let begun = out.len();
    let send = |tag, _| {
        let id = flow.sent(tag);
        own.extend(id);
        id
    };
    expose(statements, server, send, out);
    if out.len() == begun || exposure == Exposure::InPipeline {
        return None;
    }
    frontend::sync(out);
    flow.sent(SYNC)
}

/// What a text requires besides being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Its command tags must be read.
    Tags,
    /// The client's prepared statements must have their names on the connection.
    Names,
}

/// Whether a text can leave behind what the server does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    Nothing,
    Hidden,
}

struct Effect {
    needs: Needs,
    leaves: Leaves,
    /// The prepared statement that it removes by DEALLOCATE.
    removes: Option<Vec<u8>>,
}

/// Examines the text of a Query or Parse.
fn examine(frame: &Frame<'_>, found: &mut impl FnMut(Trace)) -> Effect {
    let mut effect = Effect {
        needs: Needs::Nothing,
        leaves: Leaves::Nothing,
        removes: None,
    };
    let mut parts = frame.body().split(|byte| *byte == 0);
    let text = match frame.tag() {
        QUERY => parts.next(),
        PARSE => parts.nth(1),
        _ => return effect,
    };
    let text = text.unwrap_or_default();
    let mut take = |trace: Trace| {
        match &trace {
            _ if trace.uses_names() => effect.needs = Needs::Names,
            Trace::Discard if effect.needs == Needs::Nothing => effect.needs = Needs::Tags,
            _ => {}
        }
        if trace.is_hidden() {
            effect.leaves = Leaves::Hidden;
        }
        found(trace);
    };
    if frame.rest > 0 {
        take(Trace::LongText);
    }
    if ScanSettings::is_irrelevant_to(text) {
        traces::examine(text, std::iter::once(ScanSettings::USUAL), &mut take);
    } else {
        traces::examine(text, ScanSettings::all(), &mut take);
    }
    if effect.needs == Needs::Names && effect.leaves == Leaves::Nothing {
        let removes = deallocated(text, ScanSettings::USUAL);
        match frame.tag() {
            QUERY => effect.removes = removes,
            // It is executed later, or not at all.
            _ if removes.is_some() => found(Trace::UnclearDeallocate),
            _ => {}
        }
    }
    effect
}
