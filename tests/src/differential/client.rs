//! A client that logs in, sends a script and records every message of the answer. It interprets nothing: what a script waits for
//! is in the script. It reads on a separate thread, so that neither direction blocks the other.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tdb_wire_postgres::frame::{HEADER_LEN, parse_header};
use tdb_wire_postgres::login::{self, Handshake, Key, Step as LoginStep};
use tokio_postgres::Config;

use super::script::{Finish, Message, Script, Step, encode};
use crate::Frame;

/// How much is allocated for a message before it has arrived.
const ALLOCATED_LEN_MAX: usize = 64 * 1024;
/// The time between two cancel requests for the same query.
const CANCEL_EVERY: Duration = Duration::from_millis(50);

/// Everything that a client received.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The messages of the login up to the first ReadyForQuery, without Authentication and BackendKeyData.
    pub greeting: Vec<Frame>,
    pub frames: Vec<Frame>,
    pub end: Ending,
    /// The process id in BackendKeyData; 0 if the login failed.
    pub pid: i32,
}

/// How the stream of a recording ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server closed the connection after a complete message.
    Closed,
    /// The server closed the connection within a message; the number of bytes of it that were received.
    Within(usize),
    /// A message has an invalid length.
    Invalid(u8),
    /// No message arrived in time, and the script waited for one.
    Silent,
    /// The client closed the connection.
    Vanished,
    LoginFailed(String),
}

/// The points at which all clients of a round wait for each other, so that all listen before one notifies, and all have
/// notified before one stops to listen.
pub struct Meeting<'a> {
    pub ready: &'a Barrier,
    pub finished: &'a Barrier,
}

enum Event {
    Frame(Frame),
    End(Ending),
}

/// Runs a script as a session of the connection string. `patience` is how long it waits for a message.
pub fn record(url: &str, script: &Script, patience: Duration, meeting: &Meeting<'_>) -> Recording {
    match Session::open(url, script, patience) {
        Ok(mut session) => {
            session.run(script, meeting);
            session.close()
        }
        Err(error) => {
            meeting.ready.wait();
            meeting.finished.wait();
            Recording {
                greeting: Vec::new(),
                frames: Vec::new(),
                end: Ending::LoginFailed(error.to_string()),
                pid: 0,
            }
        }
    }
}

struct Session {
    address: (String, u16),
    stream: TcpStream,
    key: Key,
    events: Receiver<Event>,
    recording: Recording,
    /// How the stream ended, if it has.
    end: Option<Ending>,
    /// The number of barriers that were sent, and that were answered.
    barriers: usize,
    passed: usize,
    /// How many bytes the client may still send; it ends when this is 0.
    bytes_left: usize,
    write_len_max: usize,
    patience: Duration,
}

impl Session {
    fn open(url: &str, script: &Script, patience: Duration) -> io::Result<Self> {
        let config: Config = url.parse().expect("a connection string");
        let tokio_postgres::config::Host::Tcp(host) = &config.get_hosts()[0] else {
            panic!("not a TCP host: {url}");
        };
        let address = (host.clone(), config.get_ports()[0]);
        let mut stream = TcpStream::connect((address.0.as_str(), address.1))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let (greeting, key) = log_in(&mut stream, &config, &script.tag.to_string())?;
        stream.set_read_timeout(None)?;
        let events = read_frames(stream.try_clone()?, script.read_len_max);
        Ok(Self {
            address,
            stream,
            key,
            events,
            recording: Recording {
                greeting,
                frames: Vec::new(),
                end: Ending::Silent,
                pid: key.pid,
            },
            end: None,
            barriers: 0,
            passed: 0,
            bytes_left: usize::MAX,
            write_len_max: usize::MAX,
            patience,
        })
    }

    fn run(&mut self, script: &Script, meeting: &Meeting<'_>) {
        self.send(&script.setup());
        self.barrier();
        meeting.ready.wait();
        self.write_len_max = script.write_len_max;
        if let Finish::HalfClose(len) | Finish::Vanish(len) = script.finish {
            self.bytes_left = len;
        }
        for step in &script.steps {
            if self.end.is_some() || self.bytes_left == 0 {
                break;
            }
            self.step(step);
        }
        match script.finish {
            Finish::Terminate => self.conclude(script, meeting),
            Finish::HalfClose(_) => {
                let _ = self.stream.shutdown(Shutdown::Write);
                self.read_to_end();
                meeting.finished.wait();
            }
            Finish::Vanish(_) => {
                let _ = self.stream.shutdown(Shutdown::Both);
                meeting.finished.wait();
                self.end = Some(Ending::Vanished);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Send(messages) => self.send(messages),
            Step::Barrier => self.barrier(),
            Step::Flush { answers, .. } => {
                let start = self.recording.frames.len();
                self.send(&step.messages());
                self.wait(|recording, _| {
                    let new = &recording.frames[start..];
                    new.iter().filter(|frame| b"123TnCsI".contains(&frame.tag)).count() >= *answers
                        || new.iter().any(|frame| frame.tag == b'E')
                });
            }
            Step::Cancel(_) => {
                let start = self.recording.frames.len();
                let is_whole = encode(&step.messages()).len() <= self.bytes_left;
                self.send(&step.messages());
                let deadline = Instant::now() + self.patience;
                while is_whole
                    && self.end.is_none()
                    && Instant::now() < deadline
                    && !is_answered(&self.recording.frames[start..])
                {
                    self.request_cancel();
                    self.wait_for(CANCEL_EVERY, |recording, _| is_answered(&recording.frames[start..]));
                }
            }
            Step::Race(_) => {
                self.send(&step.messages());
                self.request_cancel();
            }
        }
    }

    /// Waits for the notifications of the other clients and ends the session.
    fn conclude(&mut self, script: &Script, meeting: &Meeting<'_>) {
        self.send(&script.conclusion());
        self.barrier();
        meeting.finished.wait();
        self.barrier();
        self.send(&[Message::Terminate]);
        self.read_to_end();
    }

    fn barrier(&mut self) {
        self.send(&Step::Barrier.messages());
        self.barriers += 1;
        let barriers = self.barriers;
        self.wait(|_, passed| passed >= barriers);
    }

    /// An error is that of a closed connection; the stream of the answers shows it.
    fn send(&mut self, messages: &[Message]) {
        let bytes = encode(messages);
        let bytes = &bytes[..bytes.len().min(self.bytes_left)];
        // Large messages in few writes.
        let len = self.write_len_max.max(bytes.len() / 64);
        for part in bytes.chunks(len) {
            if self.stream.write_all(part).is_err() {
                return;
            }
        }
        self.bytes_left -= bytes.len();
    }

    /// As libpq does, waits until the server has closed the connection: then it has sent the signal.
    fn request_cancel(&self) {
        let send = || -> io::Result<()> {
            let mut stream = TcpStream::connect((self.address.0.as_str(), self.address.1))?;
            stream.set_read_timeout(Some(self.patience))?;
            stream.write_all(&login::cancel_request(self.key.pid, self.key.secret))?;
            stream.read_to_end(&mut Vec::new()).map(|_| ())
        };
        let _ = send();
    }

    fn wait(&mut self, is_complete: impl Fn(&Recording, usize) -> bool) {
        // A client that may send no more gets no answer to the rest.
        if self.bytes_left > 0 && !self.wait_for(self.patience, is_complete) {
            self.end = Some(Ending::Silent);
        }
    }

    /// Reads until `is_complete` or the end of the stream. False if `limit` passed without a message.
    fn wait_for(&mut self, limit: Duration, is_complete: impl Fn(&Recording, usize) -> bool) -> bool {
        while self.end.is_none() && !is_complete(&self.recording, self.passed) {
            match self.events.recv_timeout(limit) {
                Ok(Event::Frame(frame)) => {
                    self.passed += usize::from(frame.tag == b'I');
                    self.recording.frames.push(frame);
                }
                Ok(Event::End(end)) => self.end = Some(end),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    fn read_to_end(&mut self) {
        self.wait_for(self.patience, |_, _| false);
    }

    /// Ends the thread that reads.
    fn close(self) -> Recording {
        let _ = self.stream.shutdown(Shutdown::Both);
        Recording {
            end: self.end.unwrap_or(Ending::Silent),
            ..self.recording
        }
    }
}

/// Whether a query has been completed or has failed. Not its ReadyForQuery: that of the barrier before it can follow later.
fn is_answered(frames: &[Frame]) -> bool {
    frames.iter().any(|frame| b"CE".contains(&frame.tag))
}

fn log_in(stream: &mut TcpStream, config: &Config, application_name: &str) -> io::Result<(Vec<Frame>, Key)> {
    let parameters = [
        ("user", config.get_user().expect("a user")),
        ("database", config.get_dbname().expect("a database")),
        ("application_name", application_name),
    ];
    let startup = login::startup_message(parameters.into_iter()).map_err(io::Error::other)?;
    stream.write_all(&startup)?;
    let password = String::from_utf8(config.get_password().unwrap_or_default().to_vec()).expect("UTF-8");
    let mut handshake = Handshake::new(password.into());
    let mut greeting = Vec::new();
    loop {
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header)?;
        let header = handshake.header(header).map_err(io::Error::other)?;
        let mut body = vec![0; header.body_len as usize];
        stream.read_exact(&mut body)?;
        let frame = Frame { tag: header.tag, body };
        match handshake.step(frame.tag, &frame.body).map_err(io::Error::other)? {
            LoginStep::Send(response) => stream.write_all(&response)?,
            LoginStep::Read => {}
            LoginStep::Greeting => greeting.push(frame),
            LoginStep::Refused => return Err(io::Error::other(frame.text())),
            LoginStep::Ready(key) => {
                greeting.push(frame);
                return Ok((greeting, key));
            }
        }
    }
}

/// Reads at most this number of bytes at once.
struct Slowly {
    stream: TcpStream,
    read_len_max: usize,
}

impl Read for Slowly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.read_len_max);
        self.stream.read(&mut buffer[..len])
    }
}

/// Reads frames on a separate thread until the stream ends.
fn read_frames(stream: TcpStream, read_len_max: usize) -> Receiver<Event> {
    let (send, events) = channel();
    thread::spawn(move || {
        let mut stream = BufReader::new(Slowly { stream, read_len_max });
        loop {
            match read_frame(&mut stream) {
                Ok(frame) => {
                    if send.send(Event::Frame(frame)).is_err() {
                        return;
                    }
                }
                Err(end) => {
                    let _ = send.send(Event::End(end));
                    return;
                }
            }
        }
    });
    events
}

/// A connection that was reset has ended like one that was closed: which of them the client sees depends on what the server
/// had not read.
fn read_frame(stream: &mut impl Read) -> Result<Frame, Ending> {
    let mut header = [0; HEADER_LEN];
    match read_all(stream, &mut header) {
        0 => return Err(Ending::Closed),
        HEADER_LEN => {}
        some => return Err(Ending::Within(some)),
    }
    let header = parse_header(header).map_err(|_| Ending::Invalid(header[0]))?;
    let len = header.body_len as usize;
    let mut body = Vec::new();
    // Not allocated in advance: the length can be wrong.
    while body.len() < len {
        let start = body.len();
        body.resize(len.min(start + ALLOCATED_LEN_MAX), 0);
        let read = read_all(stream, &mut body[start..]);
        if start + read < body.len() {
            return Err(Ending::Within(HEADER_LEN + start + read));
        }
    }
    Ok(Frame { tag: header.tag, body })
}

/// Fills `buffer`; fewer bytes at the end of the stream.
fn read_all(stream: &mut impl Read, buffer: &mut [u8]) -> usize {
    let mut len = 0;
    while len < buffer.len() {
        match stream.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    len
}
