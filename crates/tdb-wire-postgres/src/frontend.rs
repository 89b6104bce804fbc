//! Messages that a client sends after its login.

use crate::backend::frame;

/// Query: runs a text of one or more statements.
pub const QUERY: u8 = b'Q';
/// Prepares a statement.
pub const PARSE: u8 = b'P';
/// Creates a portal from a prepared statement.
pub const BIND: u8 = b'B';
/// Requests the columns of a statement or portal.
pub const DESCRIBE: u8 = b'D';
/// Runs a portal.
pub const EXECUTE: u8 = b'E';
/// Closes a statement or portal.
pub const CLOSE: u8 = b'C';
/// Ends a sequence of messages and its implicit transaction.
pub const SYNC: u8 = b'S';
/// Calls a function by its oid.
pub const FUNCTION_CALL: u8 = b'F';
/// A piece of copied data.
pub const COPY_DATA: u8 = b'd';
/// The end of copied data.
pub const COPY_DONE: u8 = b'c';
/// The client cannot continue copying.
pub const COPY_FAIL: u8 = b'f';
/// Requests the replies that the server has buffered.
pub const FLUSH: u8 = b'H';
/// The end of the session.
pub const TERMINATE: u8 = b'X';

/// The messages that the server answers, and the end of copied data, whose position among them matters. Flush and CopyData
/// are not requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Answered up to ReadyForQuery.
    Query,
    /// Answered up to ReadyForQuery.
    FunctionCall,
    /// Answered with ParseComplete.
    Parse,
    /// Answered with BindComplete.
    Bind,
    /// Answered up to RowDescription or NoData.
    Describe,
    /// Answered up to CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Answered with CloseComplete.
    Close,
    /// Answered with ReadyForQuery, after an error if the commit fails.
    Sync,
    /// CopyDone or CopyFail: not answered separately.
    CopyEnd,
}

impl Request {
    /// The request with this tag; `None` for other messages.
    pub fn of(tag: u8) -> Option<Self> {
        match tag {
            QUERY => Some(Request::Query),
            FUNCTION_CALL => Some(Request::FunctionCall),
            PARSE => Some(Request::Parse),
            BIND => Some(Request::Bind),
            DESCRIBE => Some(Request::Describe),
            EXECUTE => Some(Request::Execute),
            CLOSE => Some(Request::Close),
            SYNC => Some(Request::Sync),
            COPY_DONE | COPY_FAIL => Some(Request::CopyEnd),
            _ => None,
        }
    }
}

/// Appends a Query.
pub fn query(out: &mut Vec<u8>, text: &str) {
    frame(out, QUERY, |out| string(out, text));
}

/// Appends a Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    frame(out, TERMINATE, |_| {});
}

/// Appends a Parse without parameter types.
pub fn parse(out: &mut Vec<u8>, name: &str, text: &str) {
    frame(out, PARSE, |out| {
        string(out, name);
        string(out, text);
        out.extend_from_slice(&[0, 0]);
    });
}

/// Appends a Sync.
pub fn sync(out: &mut Vec<u8>) {
    frame(out, SYNC, |_| {});
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}
