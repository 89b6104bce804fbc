//! A server connection that clients share, and the proxy's own queries on it. They run between two clients, when the
//! connection is idle; a connection on which one fails is closed.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tdb_wire_postgres::backend::{
    COMMAND_COMPLETE, DATA_ROW, EMPTY_QUERY, ERROR, NOTICE, NOTIFICATION, PARAMETER_STATUS, READY_FOR_QUERY,
    ROW_DESCRIPTION,
};
use tdb_wire_postgres::flow::Transaction;
use tdb_wire_postgres::frame::{Frame, Piece, Reader};
use tdb_wire_postgres::login::Key;
use tdb_wire_postgres::statements::ServerStatements;
use tdb_wire_postgres::{frontend, report};
use thiserror::Error;
use tokio::time::timeout;

use super::Slot;
use crate::stream::Stream;

/// The time limit for one of the proxy's own queries.
const QUERY_TIME_MAX: Duration = Duration::from_secs(30);
/// How many prepared statements of clients that have left it a connection keeps.
const STATEMENTS_MAX: usize = 200;
/// How long the end of a server process is waited for.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// The maximum length of a message in the reply to the proxy's own queries.
const MESSAGE_LEN_MAX: u32 = 256 * 1024;
/// The maximum number of rows of such a reply: PostgreSQL has fewer than 400 settings.
const ROWS_MAX: usize = 10_000;

pub(crate) struct Connection {
    pub stream: Stream,
    pub key: Key,
    /// What the server has reported at login.
    pub greeting: Rc<[u8]>,
    pub statements: ServerStatements,
    /// The custom settings that exist in the server process. They cannot be removed, only emptied.
    pub customs: BTreeSet<String>,
    pub used_at: Instant,
    /// Dropped after the stream is closed.
    pub slot: Slot,
}

/// Why a query of the proxy failed. The connection must be closed.
#[derive(Debug, Error)]
pub(crate) enum QueryError {
    #[error("the connection to the server was lost")]
    Lost(#[from] std::io::Error),
    #[error("timed out waiting for the server")]
    Deadline,
    #[error("the server violated the protocol")]
    Protocol,
    #[error("the server refused a query of the proxy: {0}")]
    Refused(report::Parsed),
}

/// The reply to a query of the proxy.
#[derive(Default)]
pub(crate) struct Answer {
    /// NULL is empty.
    pub rows: Vec<Vec<Vec<u8>>>,
    /// Notifications and parameters, as frames.
    pub asides: Vec<u8>,
}

impl Connection {
    /// Whether the server has neither closed the idle connection nor sent anything, as it does before it closes it.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        self.stream
            .poll_read(&mut Context::from_waker(Waker::noop()), &mut byte)
            .is_pending()
    }

    /// Whether statements must be removed. Those of clients that have ended remain until then.
    pub(crate) fn has_too_many_statements(&self) -> bool {
        self.statements.count() > STATEMENTS_MAX
    }

    /// Ends the server process, and waits until it has ended: until then it counts.
    pub(crate) async fn end(mut self) {
        let ended = async {
            let mut terminate = Vec::new();
            frontend::terminate(&mut terminate);
            self.stream.write_all(&terminate).await?;
            let mut buffer = [0; 4096];
            while poll_fn(|cx| self.stream.poll_read(cx, &mut buffer)).await? > 0 {}
            Ok::<(), std::io::Error>(())
        };
        // An error is the end too.
        let _ = timeout(END_TIME_MAX, ended).await;
    }

    /// Runs a text in the simple protocol. No transaction may be open before it or after it. Not cancel safe.
    pub(crate) async fn query(&mut self, text: &str) -> Result<Answer, QueryError> {
        let mut message = Vec::new();
        frontend::query(&mut message, text);
        self.statements.forget_unnamed();
        match timeout(QUERY_TIME_MAX, self.exchange(&message)).await {
            Ok(answer) => answer,
            Err(_) => Err(QueryError::Deadline),
        }
    }

    async fn exchange(&mut self, message: &[u8]) -> Result<Answer, QueryError> {
        self.stream.write_all(message).await?;
        let mut reader = Reader::with_read_len(MESSAGE_LEN_MAX);
        let (mut answer, mut refused, mut transaction) = (Answer::default(), None, None);
        let mut buffer = [0; 4096];
        // Notifications can follow ReadyForQuery; the last one must be whole.
        while transaction.is_none() || !reader.is_at_boundary() {
            let len = poll_fn(|cx| self.stream.poll_read(cx, &mut buffer)).await?;
            if len == 0 {
                return Err(QueryError::Lost(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let mut bytes = buffer.get(..len).unwrap_or_default();
            loop {
                match reader
                    .next(&mut bytes, |_| true, drop)
                    .map_err(|_| QueryError::Protocol)?
                {
                    Piece::Frame(frame) if frame.tag() == READY_FOR_QUERY => {
                        transaction = Some(Transaction::of(&frame))
                    }
                    Piece::Frame(frame) if frame.tag() == ERROR => refused = Some(report::parse(frame.body())),
                    Piece::Frame(frame) => answer.take(&frame)?,
                    Piece::Span(_) => return Err(QueryError::Protocol),
                    Piece::Spent => break,
                }
            }
        }
        match (refused, transaction) {
            (Some(refused), _) => Err(QueryError::Refused(refused)),
            (None, Some(Transaction::Idle)) => Ok(answer),
            (None, _) => Err(QueryError::Protocol),
        }
    }
}

impl Answer {
    fn take(&mut self, frame: &Frame<'_>) -> Result<(), QueryError> {
        match frame.tag() {
            _ if frame.rest > 0 => return Err(QueryError::Protocol),
            DATA_ROW if self.rows.len() < ROWS_MAX => {
                let row = columns(frame.body()).ok_or(QueryError::Protocol)?;
                self.rows.push(row);
            }
            // Of the proxy's own query.
            NOTICE => {}
            NOTIFICATION | PARAMETER_STATUS => self.asides.extend_from_slice(frame.bytes),
            ROW_DESCRIPTION | COMMAND_COMPLETE | EMPTY_QUERY => {}
            _ => return Err(QueryError::Protocol),
        }
        Ok(())
    }
}

/// The columns of a DataRow.
fn columns(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let len = usize::try_from(i32::from_be_bytes(*len)).unwrap_or(0);
        let (column, after) = after.split_at_checked(len)?;
        columns.push(column.to_vec());
        rest = after;
    }
    Some(columns)
}
