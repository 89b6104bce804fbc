//! A script: what one client of one tenant sends during a session, from its login to its end. Its text is complete: a
//! script that is printed can be sent again.

use std::collections::BTreeMap;
use std::fmt;

/// The longest text that is printed whole.
const PRINTED_LEN_MAX: usize = 160;

/// The sender of a script. Every row that the script selects contains it, so an answer that belongs to another client or
/// tenant is recognised by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    pub tenant: String,
    pub client: usize,
    pub script: u64,
}

/// A message of a client.
#[derive(Clone, PartialEq, Eq)]
pub enum Message {
    Query(String),
    Parse { statement: String, text: String },
    Bind(Bind),
    DescribeStatement(String),
    DescribePortal(String),
    Execute { portal: String, rows_max: u32 },
    CloseStatement(String),
    ClosePortal(String),
    Flush,
    Sync,
    CopyData(String),
    CopyDone,
    CopyFail(String),
    FunctionCall { oid: u32, arguments: Vec<Vec<u8>> },
    Terminate,
}

/// A Bind with text parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    pub portal: String,
    pub statement: String,
    pub values: Vec<Option<String>>,
    /// 0 = text, 1 = binary; 2 is invalid, and the server says so.
    pub result_format: u16,
}

/// A part of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends messages without waiting for their answers.
    Send(Vec<Message>),
    /// Sends Sync and an empty Query, and waits for the EmptyQueryResponse. The server answers this in every state of a
    /// session, failed transactions included, so the test needs no model of the protocol. No other step sends an empty query.
    Barrier,
    /// Sends messages and Flush, and waits for this number of answers or an error. It follows a barrier.
    Flush { messages: Vec<Message>, answers: usize },
    /// Sends a query that runs long, and requests its cancellation until it is answered.
    Cancel(String),
    /// Sends a query and requests its cancellation once, which can be too late. It is between two barriers.
    Race(String),
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Terminate, and everything up to the end of the stream is read.
    Terminate,
    /// After this number of bytes the client ends its direction of the connection, and reads the rest.
    HalfClose(usize),
    /// After this number of bytes the client closes the connection without reading.
    Vanish(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub tag: Tag,
    /// Whether it listens to the notifications of all clients of its tenant.
    pub listening: Listening,
    pub steps: Vec<Step>,
    pub finish: Finish,
    /// The largest number of bytes that are written at once.
    pub write_len_max: usize,
    /// The largest number of bytes that are read at once. A slow client makes the proxy and the server wait.
    pub read_len_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    ToAll,
    No,
}

/// How a query ends whose cancellation is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// With an error; its RowDescription may have been sent.
    Certain,
    /// With an error or its result.
    Possible,
}

impl Script {
    /// The segments with a cancelled query, by their number. A segment is what follows a barrier.
    pub fn cancellations(&self) -> BTreeMap<usize, Cancellation> {
        let mut segment = 1; // The setup ends with a barrier.
        let mut cancellations = BTreeMap::new();
        for step in &self.steps {
            match step {
                Step::Barrier => segment += 1,
                Step::Cancel(_) => drop(cancellations.insert(segment, Cancellation::Certain)),
                Step::Race(_) => drop(cancellations.insert(segment, Cancellation::Possible)),
                Step::Send(_) | Step::Flush { .. } => {}
            }
        }
        cancellations
    }

    /// The messages before the first step: the client's rows, and its LISTEN. What an earlier run of the same script has left in the
    /// database is removed.
    pub fn setup(&self) -> Vec<Message> {
        let (tag, table) = (&self.tag, self.tag.table());
        let rows = format!(
            "DO $$BEGIN
               IF to_regclass('{table}') IS NOT NULL THEN DROP TABLE {table}; END IF;
               DELETE FROM item WHERE owner = '{tag}';
               INSERT INTO item SELECT '{tag}', i, 'row ' || i FROM generate_series(1, 12) i;
             END$$"
        );
        let mut messages = vec![Message::Query(rows)];
        if self.listening == Listening::ToAll {
            messages.push(Message::Query("LISTEN everyone".to_owned()));
        }
        messages
    }

    /// The messages after the last step: they end an open transaction, select a summary of the client's rows, so that what was
    /// committed is compared, and remove them and the script's table.
    pub fn conclusion(&self) -> Vec<Message> {
        let tag = &self.tag;
        let summary = format!(
            "SELECT '{tag}', count(*), md5(string_agg(format('%s %s', id, pad), ',' ORDER BY id)) FROM item WHERE owner = '{tag}'"
        );
        let delete = format!("DELETE FROM item WHERE owner = '{tag}'");
        let drop = format!("DROP TABLE IF EXISTS {}", tag.table());
        let texts = ["ROLLBACK".to_owned(), summary, delete, drop];
        let mut messages = vec![Message::Sync];
        messages.extend(texts.map(Message::Query));
        messages
    }

    /// How many bytes the steps send.
    pub fn len(&self) -> usize {
        self.steps.iter().map(|step| encode(&step.messages()).len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Step {
    /// What it sends.
    pub fn messages(&self) -> Vec<Message> {
        match self {
            Step::Send(messages) => messages.clone(),
            Step::Barrier => vec![Message::Sync, Message::Query(String::new())],
            Step::Flush { messages, .. } => [messages.as_slice(), &[Message::Flush]].concat(),
            Step::Cancel(text) | Step::Race(text) => vec![Message::Query(text.clone())],
        }
    }
}

/// The messages as frames.
pub fn encode(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        message.encode(&mut out);
    }
    out
}

impl Message {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::Query(text) => frame(out, b'Q', |out| string(out, text)),
            Message::Parse { statement, text } => frame(out, b'P', |out| {
                string(out, statement);
                string(out, text);
                out.extend([0, 0]);
            }),
            Message::Bind(bind) => frame(out, b'B', |out| bind.encode(out)),
            Message::DescribeStatement(name) => frame(out, b'D', |out| named(out, b'S', name)),
            Message::DescribePortal(name) => frame(out, b'D', |out| named(out, b'P', name)),
            Message::Execute { portal, rows_max } => frame(out, b'E', |out| {
                string(out, portal);
                out.extend(rows_max.to_be_bytes());
            }),
            Message::CloseStatement(name) => frame(out, b'C', |out| named(out, b'S', name)),
            Message::ClosePortal(name) => frame(out, b'C', |out| named(out, b'P', name)),
            Message::Flush => frame(out, b'H', |_| {}),
            Message::Sync => frame(out, b'S', |_| {}),
            Message::CopyData(data) => frame(out, b'd', |out| out.extend(data.as_bytes())),
            Message::CopyDone => frame(out, b'c', |_| {}),
            Message::CopyFail(reason) => frame(out, b'f', |out| string(out, reason)),
            Message::FunctionCall { oid, arguments } => frame(out, b'F', |out| {
                out.extend(oid.to_be_bytes());
                // All arguments and the result are binary.
                out.extend([0, 1, 0, 1]);
                out.extend(len16(arguments.len()));
                for argument in arguments {
                    bytes(out, Some(argument.as_slice()));
                }
                out.extend([0, 1]);
            }),
            Message::Terminate => frame(out, b'X', |_| {}),
        }
    }
}

impl Bind {
    fn encode(&self, out: &mut Vec<u8>) {
        string(out, &self.portal);
        string(out, &self.statement);
        out.extend([0, 0]);
        out.extend(len16(self.values.len()));
        for value in &self.values {
            bytes(out, value.as_ref().map(|text| text.as_bytes()));
        }
        out.extend([0, 1]);
        out.extend(self.result_format.to_be_bytes());
    }
}

fn frame(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend([0; 4]);
    write(out);
    let len = u32::try_from(out.len() - start).expect("a short message");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

fn named(out: &mut Vec<u8>, kind: u8, name: &str) {
    out.push(kind);
    string(out, name);
}

fn bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let len = value.map_or(-1, |value| i32::try_from(value.len()).expect("a short value"));
    out.extend(len.to_be_bytes());
    out.extend(value.unwrap_or_default());
}

fn len16(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("few values").to_be_bytes()
}

impl Tag {
    /// The name of a table that only this script uses.
    pub fn table(&self) -> String {
        format!("t_{}_{}", self.client, self.script)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}/{}/{}>", self.tenant, self.client, self.script)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "script of {}, listening: {:?}, finish: {:?}, writes of at most {} bytes, reads of {}:",
            self.tag, self.listening, self.finish, self.write_len_max, self.read_len_max
        )?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:4} {step:?}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Query(text) => write!(f, "Query({})", Short(text)),
            Message::Parse { statement, text } => write!(f, "Parse({statement:?}, {})", Short(text)),
            Message::Bind(bind) => {
                write!(f, "Bind({:?} of {:?}", bind.portal, bind.statement)?;
                for value in &bind.values {
                    match value {
                        Some(text) => write!(f, ", {}", Short(text))?,
                        None => write!(f, ", NULL")?,
                    }
                }
                write!(f, ", format {})", bind.result_format)
            }
            Message::DescribeStatement(name) => write!(f, "DescribeStatement({name:?})"),
            Message::DescribePortal(name) => write!(f, "DescribePortal({name:?})"),
            Message::Execute { portal, rows_max } => write!(f, "Execute({portal:?}, {rows_max})"),
            Message::CloseStatement(name) => write!(f, "CloseStatement({name:?})"),
            Message::ClosePortal(name) => write!(f, "ClosePortal({name:?})"),
            Message::Flush => write!(f, "Flush"),
            Message::Sync => write!(f, "Sync"),
            Message::CopyData(data) => write!(f, "CopyData({})", Short(data)),
            Message::CopyDone => write!(f, "CopyDone"),
            Message::CopyFail(reason) => write!(f, "CopyFail({reason:?})"),
            Message::FunctionCall { oid, arguments } => write!(f, "FunctionCall({oid}, {arguments:?})"),
            Message::Terminate => write!(f, "Terminate"),
        }
    }
}

/// A quoted text. Of a long one, the beginning and the length; the seed gives the rest.
struct Short<'a>(&'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= PRINTED_LEN_MAX {
            return write!(f, "{:?}", self.0);
        }
        let start: String = self.0.chars().take(PRINTED_LEN_MAX / 2).collect();
        write!(f, "{start:?}… of {} bytes", self.0.len())
    }
}
