//! The state of a session, derived from the frames of both directions: which replies the server still has to send and which
//! request each reply answers, whether a transaction is open, whether data is being copied, and whether the server discards
//! messages until Sync. Bodies are not decoded. Sources: PostgreSQL manual, "Message Flow"; for messages during COPY and
//! after errors, the main loop of `postgres.c` and `CopyGetData`.
//!
//! One thing cannot be observed: when a COPY from the client fails, the server has ignored the Syncs that it had read before
//! the failure, and answers those that it reads later. [`Flow`] is then uncertain until the next reply shows which it was.

use std::collections::VecDeque;

use crate::backend::{
    BIND_COMPLETE, CLOSE_COMPLETE, COMMAND_COMPLETE, COPY_BOTH_RESPONSE, COPY_DATA, COPY_DONE, COPY_IN_RESPONSE,
    COPY_OUT_RESPONSE, DATA_ROW, EMPTY_QUERY, ERROR, FUNCTION_CALL_RESPONSE, NO_DATA, NOTICE, NOTIFICATION,
    PARAMETER_DESCRIPTION, PARAMETER_STATUS, PARSE_COMPLETE, PORTAL_SUSPENDED, READY_FOR_QUERY, ROW_DESCRIPTION,
};
use crate::frame::{Frame, FrameError, HEADER_LEN, Piece, READ_LEN_MAX, Reader};
use crate::frontend::{self, Request};
use crate::report::is_fatal;

/// The number of unanswered requests from which on no more should be read from the client. It is far larger than the number
/// of replies in one of the server's writes (8 KiB), so that waiting for replies always ends.
const OWED_MAX: usize = 16 * 1024;
/// When the queue is empty, its memory beyond this capacity is released.
const KEEP_CAPACITY_MAX: usize = 256;

/// Identifies a request of the session; later requests have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// The id of the request before this one.
    pub(crate) fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// The transaction status of the last ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// No transaction is open.
    Idle,
    /// A transaction is open.
    Open,
    /// A transaction has failed; the server accepts only ROLLBACK and ROLLBACK TO.
    Failed,
}

/// The state of a COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// No COPY is running.
    No,
    /// The client sends data. The server ignores Syncs, unless the copy fails before it reads them.
    In {
        /// The number of Syncs since the start of the COPY.
        ignored: u32,
    },
    /// The client has sent all data; the server has not confirmed it.
    Ending {
        /// The number of Syncs during the COPY.
        ignored: u32,
    },
    /// The server sends data.
    Out,
}

/// Whether it is known which request a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Certain,
    /// The server may send up to this number of ReadyForQuery messages that answer no request in the queue.
    Doubt(u32),
    /// The server sent a message that answers no request.
    Lost,
}

/// A request whose reply is not complete.
#[derive(Clone, Copy, Debug)]
struct Owed {
    id: RequestId,
    request: Request,
}

/// The state of one session, from both directions of its messages.
#[derive(Debug)]
pub struct Flow {
    client: Reader,
    server: Reader,
    replies: Replies,
}

/// The state, without the splitting of streams into frames.
#[derive(Debug)]
struct Replies {
    owed: VecDeque<Owed>,
    next: u64,
    front: Front,
    input: Input,
    copy: Copy,
    transaction: Transaction,
    trust: Trust,
    session: Session,
}

/// Whether the server has ended the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    Running,
    /// The server has sent a FATAL error. It closes the connection, and messages that it has not read are lost.
    Ended,
}

/// Whether a part of the reply to the first request in the queue has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Nothing,
    Begun,
}

/// What the server does with the client's next messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Served,
    /// Discarded after an error in the extended protocol, until the client sends Sync.
    Discarded,
    /// Not read after Terminate.
    Over,
}

impl Flow {
    /// The state after the first ReadyForQuery of a session.
    pub fn new() -> Self {
        Self::with_client_read_len(READ_LEN_MAX)
    }

    /// As [`Self::new`], but up to `read_len_max` bytes of a body are read of the client's frames.
    pub fn with_client_read_len(read_len_max: u32) -> Self {
        Self {
            client: Reader::with_read_len(read_len_max),
            server: Reader::default(),
            replies: Replies {
                owed: VecDeque::new(),
                // There is an id before the first one.
                next: 1,
                front: Front::Nothing,
                input: Input::Served,
                copy: Copy::No,
                transaction: Transaction::Idle,
                trust: Trust::Certain,
                session: Session::Running,
            },
        }
    }

    /// Takes the next piece of `bytes` from the client. Frames that `read` selects are returned one by one, as is Terminate,
    /// after which the server reads nothing; all others are returned in spans, as long as possible. The id is that of the
    /// frame; `None` for messages that have no reply and for messages that the server discards.
    pub fn from_client<'s, 'b: 's>(
        &'s mut self,
        bytes: &mut &'b [u8],
        read: impl Fn(u8) -> bool,
    ) -> Result<(Piece<'s>, Option<RequestId>), FrameError> {
        let replies = &mut self.replies;
        let read = |tag| tag == frontend::TERMINATE || read(tag);
        let piece = self.client.next(bytes, read, |header| {
            replies.asked(header.tag);
        })?;
        let id = match &piece {
            Piece::Frame(frame) => replies.asked(frame.tag()),
            Piece::Span(_) | Piece::Spent => None,
        };
        Ok((piece, id))
    }

    /// Records a message with this tag that is sent to the server, if the caller splits the client's stream itself. The id is
    /// as for [`Self::from_client`].
    pub fn sent(&mut self, tag: u8) -> Option<RequestId> {
        self.replies.asked(tag)
    }

    /// Takes the next piece of `bytes` from the server; see [`Self::from_client`]. ReadyForQuery and ErrorResponse are always
    /// returned as frames. The id is that of the request that the frame answers, completely or in part.
    pub fn from_server<'s, 'b: 's>(
        &'s mut self,
        bytes: &mut &'b [u8],
        read: impl Fn(u8) -> bool,
    ) -> Result<(Piece<'s>, Option<RequestId>), FrameError> {
        let replies = &mut self.replies;
        let read = |tag| tag == READY_FOR_QUERY || tag == ERROR || read(tag);
        let piece = self.server.next(bytes, read, |header| {
            replies.answered(header.tag);
        })?;
        let id = match &piece {
            Piece::Frame(frame) if frame.tag() == READY_FOR_QUERY => replies.ready(Transaction::of(frame)),
            Piece::Frame(frame) if frame.tag() == ERROR && is_fatal(frame.body()) => {
                replies.session = Session::Ended;
                replies.answered(ERROR)
            }
            Piece::Frame(frame) => replies.answered(frame.tag()),
            Piece::Span(_) | Piece::Spent => None,
        };
        Ok((piece, id))
    }

    /// Whether all requests are answered, no message is incomplete and no transaction is open.
    pub fn is_idle(&self) -> bool {
        let replies = &self.replies;
        replies.owed.is_empty()
            && replies.transaction == Transaction::Idle
            && replies.input == Input::Served
            && replies.trust != Trust::Lost
            && self.client.is_at_boundary()
            && self.server.is_at_boundary()
    }

    /// Whether it is known for all replies since the session was last idle which request they answer. If not, the server
    /// session must not be given to another client.
    pub fn is_certain(&self) -> bool {
        self.replies.trust == Trust::Certain
    }

    /// Whether the server has sent a message that answers no request.
    pub fn is_lost(&self) -> bool {
        self.replies.trust == Trust::Lost
    }

    /// Whether so many requests are unanswered that no more should be read from the client.
    pub fn is_full(&self) -> bool {
        self.replies.owed.len() >= OWED_MAX
    }

    /// Whether the last request is one that the server answers with ReadyForQuery, and that answer has not arrived.
    pub fn owes_ready(&self) -> bool {
        let last = self.replies.owed.back().map(|owed| owed.request);
        matches!(last, Some(Request::Query | Request::FunctionCall | Request::Sync))
    }

    /// Whether the server has ended the session with a FATAL error. It is the last message of the session.
    pub fn is_ended(&self) -> bool {
        self.replies.session == Session::Ended
    }

    /// The first request that is not answered completely.
    pub fn first_owed(&self) -> Option<RequestId> {
        self.replies.owed.front().map(|owed| owed.id)
    }

    /// Whether the server has not answered all requests.
    pub fn owes_reply(&self) -> bool {
        !self.replies.owed.is_empty()
    }

    /// The number of bytes at the beginning of the server's current frame that are buffered, because it is read.
    pub fn server_buffered_len(&self) -> usize {
        self.server.buffered_len()
    }

    /// Whether the client has sent Terminate.
    pub fn is_terminated(&self) -> bool {
        self.replies.input == Input::Over
    }

    /// Whether the stream from the server is between two frames.
    pub fn is_server_at_boundary(&self) -> bool {
        self.server.is_at_boundary()
    }

    /// The status of the last ReadyForQuery.
    pub fn transaction(&self) -> Transaction {
        self.replies.transaction
    }

    /// The state of the COPY of the first unanswered request.
    pub fn copy(&self) -> Copy {
        self.replies.copy
    }
}

impl Default for Flow {
    fn default() -> Self {
        Self::new()
    }
}

impl Transaction {
    /// The status in a ReadyForQuery frame.
    pub fn of(ready: &Frame<'_>) -> Self {
        match ready.bytes.get(HEADER_LEN) {
            Some(b'I') => Transaction::Idle,
            Some(b'T') => Transaction::Open,
            _ => Transaction::Failed,
        }
    }
}

impl Replies {
    /// Records a message of the client.
    fn asked(&mut self, tag: u8) -> Option<RequestId> {
        if tag == frontend::TERMINATE {
            self.input = Input::Over;
        }
        let request = Request::of(tag)?;
        match (request, &mut self.copy) {
            (Request::Sync, Copy::In { ignored }) => {
                *ignored = ignored.saturating_add(1);
                return None;
            }
            (Request::CopyEnd, Copy::In { ignored }) => {
                self.copy = Copy::Ending { ignored: *ignored };
                return None;
            }
            // The server ignores it outside of COPY.
            (Request::CopyEnd, _) if self.owed.is_empty() => return None,
            (_, Copy::In { ignored }) => {
                // During COPY the server ends the session at this message. If the session continues, the copy had failed
                // before the server read the Syncs.
                let unread = std::mem::take(ignored);
                for _ in 0..unread {
                    self.owe(Request::Sync);
                }
            }
            (_, Copy::No | Copy::Ending { .. } | Copy::Out) => {}
        }
        if request == Request::Sync && self.input == Input::Discarded {
            self.input = Input::Served;
        }
        if self.input != Input::Served || self.trust == Trust::Lost {
            return None;
        }
        Some(self.owe(request))
    }

    fn owe(&mut self, request: Request) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.owed.push_back(Owed { id, request });
        id
    }

    /// Records a message of the server other than ReadyForQuery.
    fn answered(&mut self, tag: u8) -> Option<RequestId> {
        if self.trust == Trust::Lost {
            return None;
        }
        match tag {
            DATA_ROW | COPY_DATA => return self.owed.front().map(|owed| owed.id),
            NOTICE | NOTIFICATION | PARAMETER_STATUS => return None,
            _ => {}
        }
        let Some(Owed { id, request }) = self.owed.front().copied() else {
            // The server sends a FATAL error without a request before it closes the connection.
            if tag != ERROR {
                self.lose();
            }
            return None;
        };
        use Request::{Bind, Close, Describe, Execute, FunctionCall, Parse, Query, Sync};
        match (tag, request) {
            (PARSE_COMPLETE, Parse) | (BIND_COMPLETE, Bind) | (CLOSE_COMPLETE, Close) => self.end_reply(),
            (ROW_DESCRIPTION | NO_DATA, Describe) | (PORTAL_SUSPENDED, Execute) => self.end_reply(),
            (COMMAND_COMPLETE | EMPTY_QUERY, Execute) => {
                self.copy = Copy::No;
                self.end_reply();
            }
            (COMMAND_COMPLETE | EMPTY_QUERY, Query) => {
                self.copy = Copy::No;
                self.begin_reply();
            }
            (ROW_DESCRIPTION, Query) | (PARAMETER_DESCRIPTION, Describe) | (FUNCTION_CALL_RESPONSE, FunctionCall) => {
                self.begin_reply();
            }
            (COPY_IN_RESPONSE | COPY_BOTH_RESPONSE, Query | Execute) => {
                self.begin_reply();
                self.begin_copy();
            }
            (COPY_OUT_RESPONSE, Query | Execute) => {
                self.begin_reply();
                self.copy = Copy::Out;
            }
            (COPY_DONE, Query | Execute) => self.begin_reply(),
            (ERROR, Query | FunctionCall | Sync) => {
                self.begin_reply();
                self.fail_copy();
            }
            (ERROR, Parse | Bind | Describe | Execute | Close) => {
                self.begin_reply();
                self.fail_copy();
                self.discard_until_sync();
            }
            _ => self.lose(),
        }
        Some(id)
    }

    /// Records a ReadyForQuery, the end of the reply to a Query, FunctionCall or Sync.
    fn ready(&mut self, transaction: Transaction) -> Option<RequestId> {
        self.transaction = transaction;
        self.copy = Copy::No;
        if self.input == Input::Discarded {
            self.input = Input::Served;
        }
        let front = self.owed.front().copied();
        let asked = front.filter(|owed| match owed.request {
            Request::Sync => true,
            Request::Query | Request::FunctionCall => self.front == Front::Begun,
            _ => false,
        });
        if let Some(owed) = asked {
            self.pop();
            return Some(owed.id);
        }
        match self.trust {
            Trust::Doubt(0 | 1) => self.trust = Trust::Certain,
            Trust::Doubt(more) => self.trust = Trust::Doubt(more - 1),
            Trust::Certain | Trust::Lost => self.lose(),
        }
        None
    }

    /// The reply to the first request has begun, so all requests before it are answered. This holds for an error too: the
    /// work that an uncertain Sync would commit was rolled back with the copy, so that Sync cannot fail.
    fn begin_reply(&mut self) {
        self.front = Front::Begun;
        if let Trust::Doubt(_) = self.trust {
            self.trust = Trust::Certain;
        }
    }

    fn end_reply(&mut self) {
        self.begin_reply();
        self.pop();
    }

    fn pop(&mut self) {
        self.front = Front::Nothing;
        self.owed.pop_front();
        while self.next_is(Request::CopyEnd) {
            self.owed.pop_front();
        }
        if self.owed.is_empty() && self.owed.capacity() > KEEP_CAPACITY_MAX {
            self.owed.shrink_to(KEEP_CAPACITY_MAX);
        }
    }

    fn next_is(&self, request: Request) -> bool {
        self.owed.front().is_some_and(|owed| owed.request == request)
    }

    /// The first request is a COPY from the client. The server ignores the Syncs that follow it until the end of the data.
    fn begin_copy(&mut self) {
        let after = || self.owed.iter().skip(1);
        let syncs = after().take_while(|owed| owed.request == Request::Sync).count();
        let ignored = u32::try_from(syncs).unwrap_or(u32::MAX);
        match after().nth(syncs).map(|owed| owed.request) {
            None => {
                self.owed.truncate(1);
                self.copy = Copy::In { ignored };
            }
            Some(Request::CopyEnd) => {
                self.owed.drain(1..syncs + 2);
                self.copy = Copy::Ending { ignored };
            }
            // Either the server reads this request during COPY and ends the session, or the copy fails before.
            Some(_) => self.copy = Copy::In { ignored: 0 },
        }
    }

    fn fail_copy(&mut self) {
        if let Copy::In { ignored: 1.. } | Copy::Ending { ignored: 1.. } = self.copy {
            let (Copy::In { ignored } | Copy::Ending { ignored }) = self.copy else {
                return;
            };
            self.trust = Trust::Doubt(ignored);
        }
        self.copy = Copy::No;
    }

    fn discard_until_sync(&mut self) {
        self.front = Front::Nothing;
        while !self.owed.is_empty() && !self.next_is(Request::Sync) {
            self.owed.pop_front();
        }
        if self.owed.is_empty() && self.input == Input::Served {
            self.input = Input::Discarded;
        }
    }

    fn lose(&mut self) {
        self.trust = Trust::Lost;
        self.owed = VecDeque::new();
    }
}
