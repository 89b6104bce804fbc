//! A relay between the clients and the proxy that plants one fault in the answers. It shows that the comparison finds such
//! faults; without a fault it forwards every byte.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::Frame;

/// How long a client's answer is held for the exchange with another client's.
const SWAP_TIME_MAX: Duration = Duration::from_secs(1);
/// From which number of bytes a piece of the stream is large.
const LARGE: usize = 20_000;

/// What is done to one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing; the streams must be the same.
    None,
    ReadyForQueryLost,
    ParseCompleteLost,
    ParameterStatusLost,
    NoticeLost,
    NotificationLost,
    RowDuplicated,
    RowOfAnotherTenant,
    RowsOfTwoClientsSwapped,
    EndOfLargeWriteLost,
    ErrorBeforeCommandComplete,
    ErrorPositionLost,
    CopyDataTruncated,
    ReplyAfterTheNextReadyForQuery,
    TransactionStatusWrong,
}

impl Fault {
    /// All faults, each with its description.
    pub const TABLE: [(Fault, &str); 14] = [
        (Fault::ReadyForQueryLost, "a ReadyForQuery is dropped"),
        (Fault::ParseCompleteLost, "a ParseComplete is dropped"),
        (
            Fault::ParameterStatusLost,
            "a ParameterStatus after the login is dropped",
        ),
        (Fault::NoticeLost, "a NoticeResponse is dropped"),
        (Fault::NotificationLost, "a NotificationResponse is dropped"),
        (Fault::RowDuplicated, "a DataRow is sent twice"),
        (Fault::RowOfAnotherTenant, "a DataRow of another tenant is sent instead"),
        (
            Fault::RowsOfTwoClientsSwapped,
            "two clients of a tenant get each other's rows",
        ),
        (Fault::EndOfLargeWriteLost, "the last bytes of a large write are lost"),
        (
            Fault::ErrorBeforeCommandComplete,
            "an ErrorResponse overtakes the CommandComplete before it",
        ),
        (Fault::ErrorPositionLost, "an ErrorResponse loses its position"),
        (
            Fault::CopyDataTruncated,
            "the last byte of a CopyData is lost, and its length is adjusted",
        ),
        (
            Fault::ReplyAfterTheNextReadyForQuery,
            "a CommandComplete is sent after the next ReadyForQuery",
        ),
        (
            Fault::TransactionStatusWrong,
            "a ReadyForQuery reports that no transaction is open",
        ),
    ];
}

/// Forwards connections until it is dropped.
pub struct FaultyRelay {
    address: SocketAddr,
    plant: Arc<Plant>,
}

/// The fault and what it has done, shared by all connections.
struct Plant {
    fault: Fault,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The clients whose answers were changed: their `application_name`.
    touched: Vec<String>,
    stopped: bool,
    /// The last DataRow of each database.
    rows: Vec<(String, Frame)>,
    /// A complete reply that waits for another client's: connection, database and messages.
    offered: Option<(usize, String, Vec<Frame>)>,
    /// The reply that the waiting connection gets instead.
    returned: Option<Vec<Frame>>,
}

impl State {
    fn has_planted(&self) -> bool {
        !self.touched.is_empty()
    }
}

/// One connection's direction from the proxy to the client.
struct Answers {
    plant: Arc<Plant>,
    connection: usize,
    database: String,
    /// Its `application_name`.
    client: String,
    /// The number of ReadyForQuery messages so far. Before the third, it is the login and the setup.
    ready: usize,
    /// A message that is sent after the next ReadyForQuery.
    late: Option<Frame>,
}

impl FaultyRelay {
    /// Listens for clients and forwards them to `host:port`.
    pub fn start(target: &str, fault: Fault) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let plant = Arc::new(Plant {
            fault,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (target, shared) = (target.to_owned(), plant.clone());
        thread::spawn(move || {
            for (connection, client) in listener.incoming().enumerate() {
                if shared.state.lock().expect("the state").stopped {
                    return;
                }
                let (target, plant) = (target.clone(), shared.clone());
                // An error ends the connection, as the relayed one would.
                thread::spawn(move || client.and_then(|client| forward(client, &target, plant, connection)));
            }
        });
        Ok(Self { address, plant })
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The `application_name` of the clients whose answers were changed.
    pub fn touched(&self) -> Vec<String> {
        self.plant.state.lock().expect("the state").touched.clone()
    }
}

impl Drop for FaultyRelay {
    fn drop(&mut self) {
        self.plant.state.lock().expect("the state").stopped = true;
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn forward(client: TcpStream, target: &str, plant: Arc<Plant>, connection: usize) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let mut startup = vec![0; 8192];
    let len = from_client.read(&mut startup)?;
    to_server.write_all(&startup[..len])?;
    let answers = Answers {
        plant,
        connection,
        database: parameter(&startup[..len], "database"),
        client: parameter(&startup[..len], "application_name"),
        ready: 0,
        late: None,
    };
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    answers.run(server, client)
}

/// A parameter in a startup packet; empty if there is none.
fn parameter(startup: &[u8], name: &str) -> String {
    let texts: Vec<&[u8]> = startup.get(8..).unwrap_or_default().split(|byte| *byte == 0).collect();
    let mut pairs = texts.chunks_exact(2);
    let found = pairs.find(|pair| pair[0] == name.as_bytes());
    found.map_or(String::new(), |pair| String::from_utf8_lossy(pair[1]).into_owned())
}

impl Answers {
    fn run(mut self, mut server: TcpStream, mut client: TcpStream) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let len = server.read(&mut buffer).unwrap_or(0);
            bytes.extend_from_slice(&buffer[..len]);
            let frames = take_frames(&mut bytes);
            let mut out = self.change(frames.into());
            if len == 0 {
                out.append(&mut bytes);
            }
            self.shorten(&mut out);
            client.write_all(&out)?;
            if len == 0 {
                let _ = client.shutdown(Shutdown::Write);
                return Ok(());
            }
        }
    }

    /// The bytes to send for these messages.
    fn change(&mut self, mut frames: VecDeque<Frame>) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(frame) = frames.pop_front() {
            let sent = if self.ready < 3 {
                vec![frame.clone()]
            } else {
                self.replace(frame.clone(), &mut frames)
            };
            for frame in &sent {
                append(&mut out, frame);
            }
            if frame.tag == b'Z' {
                self.ready += 1;
                if let Some(late) = self.late.take() {
                    append(&mut out, &late);
                }
            }
        }
        out
    }

    /// The messages to send instead of this one. `next` are the messages after it that have arrived.
    fn replace(&mut self, frame: Frame, next: &mut VecDeque<Frame>) -> Vec<Frame> {
        match (self.plant.fault, frame.tag) {
            (Fault::ReadyForQueryLost, b'Z')
            | (Fault::ParseCompleteLost, b'1')
            | (Fault::ParameterStatusLost, b'S')
            | (Fault::NoticeLost, b'N')
            | (Fault::NotificationLost, b'A') => self.plant_in(frame, |_| Vec::new()),
            (Fault::RowDuplicated, b'D') => self.plant_in(frame, |frame| vec![frame.clone(), frame]),
            (Fault::RowOfAnotherTenant, b'D') if has_tag(&frame) => self.foreign_row(frame),
            (Fault::RowsOfTwoClientsSwapped, b'T') => self.swapped(frame, next),
            (Fault::ErrorBeforeCommandComplete, b'C') if next.front().is_some_and(|next| next.tag == b'E') => {
                let error = next.pop_front().expect("it was looked at");
                let sent = self.plant_in(frame.clone(), |frame| vec![error.clone(), frame]);
                if sent.len() == 1 { vec![frame, error] } else { sent }
            }
            (Fault::ErrorPositionLost, b'E') if frame.field(b'P').is_some() => self.plant_in(frame, without_position),
            (Fault::CopyDataTruncated, b'd') if frame.body.len() > 4 => self.plant_in(frame, |mut frame| {
                frame.body.pop();
                vec![frame]
            }),
            (Fault::ReplyAfterTheNextReadyForQuery, b'C') => {
                let sent = self.plant_in(frame.clone(), |_| Vec::new());
                self.late = sent.is_empty().then_some(frame).or(self.late.take());
                sent
            }
            (Fault::TransactionStatusWrong, b'Z') if frame.body != b"I" => self.plant_in(frame, |mut frame| {
                frame.body = b"I".to_vec();
                vec![frame]
            }),
            _ => vec![frame],
        }
    }

    /// Changes a message if none was changed before.
    fn plant_in(&self, frame: Frame, change: impl FnOnce(Frame) -> Vec<Frame>) -> Vec<Frame> {
        let mut state = self.plant.state.lock().expect("the state");
        if state.has_planted() {
            return vec![frame];
        }
        state.touched.push(self.client.clone());
        change(frame)
    }

    fn foreign_row(&self, frame: Frame) -> Vec<Frame> {
        let mut state = self.plant.state.lock().expect("the state");
        let foreign = state.rows.iter().find(|(database, _)| *database != self.database);
        if let Some((_, foreign)) = foreign.cloned()
            && !state.has_planted()
        {
            state.touched.push(self.client.clone());
            return vec![foreign];
        }
        state.rows.retain(|(database, _)| *database != self.database);
        state.rows.push((self.database.clone(), frame.clone()));
        vec![frame]
    }

    /// Exchanges rows, up to ReadyForQuery, with those of another client of the same database. If there are none in time, the
    /// client gets its own. Only rows that have arrived completely are exchanged: the client can be waiting for the first of them.
    fn swapped(&self, frame: Frame, next: &mut VecDeque<Frame>) -> Vec<Frame> {
        let Some(end) = next.iter().position(|frame| frame.tag == b'Z') else {
            return vec![frame];
        };
        if !next.iter().take(end).any(has_tag) {
            return vec![frame];
        }
        let reply: Vec<Frame> = std::iter::once(frame).chain(next.drain(..=end)).collect();
        let mut state = self.plant.state.lock().expect("the state");
        if state.has_planted() {
            return reply;
        }
        match state.offered.take() {
            Some((connection, database, other)) if connection != self.connection && database == self.database => {
                state.touched.push(self.client.clone());
                state.returned = Some(reply);
                self.plant.changed.notify_all();
                other
            }
            Some(offered) => {
                state.offered = Some(offered);
                reply
            }
            None => {
                state.offered = Some((self.connection, self.database.clone(), reply));
                let wait = self
                    .plant
                    .changed
                    .wait_timeout_while(state, SWAP_TIME_MAX, |state| state.returned.is_none());
                let (mut state, _) = wait.expect("the state");
                let own = state.offered.take().map(|(_, _, reply)| reply);
                state.returned.take().or(own).unwrap_or_default()
            }
        }
    }

    fn shorten(&self, out: &mut Vec<u8>) {
        if self.plant.fault != Fault::EndOfLargeWriteLost || self.ready < 3 || out.len() < LARGE {
            return;
        }
        let mut state = self.plant.state.lock().expect("the state");
        if !state.has_planted() {
            state.touched.push(self.client.clone());
            out.truncate(out.len() - 3);
        }
    }
}

/// Whether it is a row with the tag of a client.
fn has_tag(frame: &Frame) -> bool {
    frame.tag == b'D' && frame.body.contains(&b'<')
}

fn without_position(mut frame: Frame) -> Vec<Frame> {
    let fields = frame
        .body
        .split(|byte| *byte == 0)
        .filter(|field| field.first() != Some(&b'P'));
    frame.body = fields.collect::<Vec<_>>().join(&0);
    vec![frame]
}

/// Takes the complete messages from the front of `bytes`.
fn take_frames(bytes: &mut Vec<u8>) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut taken = 0;
    while let Some([tag, a, b, c, d]) = bytes[taken..].first_chunk::<5>() {
        let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some(body) = bytes.get(taken + 5..taken + 1 + len) else {
            break;
        };
        frames.push(Frame {
            tag: *tag,
            body: body.to_vec(),
        });
        taken += 1 + len;
    }
    bytes.drain(..taken);
    frames
}

fn append(out: &mut Vec<u8>, frame: &Frame) {
    out.push(frame.tag);
    let len = u32::try_from(frame.body.len() + 4).expect("a short message");
    out.extend(len.to_be_bytes());
    out.extend_from_slice(&frame.body);
}
