//! Messages a client sends after its login.

pub const QUERY: u8 = b'Q';
pub const PARSE: u8 = b'P';
pub const BIND: u8 = b'B';
pub const DESCRIBE: u8 = b'D';
pub const EXECUTE: u8 = b'E';
pub const CLOSE: u8 = b'C';
pub const SYNC: u8 = b'S';
pub const FUNCTION_CALL: u8 = b'F';
pub const COPY_DATA: u8 = b'd';
pub const COPY_DONE: u8 = b'c';
pub const COPY_FAIL: u8 = b'f';
pub const FLUSH: u8 = b'H';
pub const TERMINATE: u8 = b'X';

/// The messages that the server answers, and the end of copied data, whose place among them matters. Flush and CopyData
/// are neither.
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
    /// CopyDone or CopyFail: no reply of its own.
    CopyEnd,
}

impl Request {
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
