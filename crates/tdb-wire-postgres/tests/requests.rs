//! Clients whose requests run on changing server connections get the replies that each would get alone, with a server that keeps
//! prepared statements as PostgreSQL does. Random scripts, cut anywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;

use proptest::prelude::*;
use tdb_wire_postgres::flow::Flow;
use tdb_wire_postgres::frame::{Piece, Reader};
use tdb_wire_postgres::requests::{Client, ClientRequests};
use tdb_wire_postgres::statements::ServerStatements;

const CLIENTS: usize = 3;
const SERVERS: usize = 2;
const TEXT_LEN_MAX: u32 = 1024;

/// A request of a client. Names and contents come from small sets, so that they collide.
#[derive(Clone, Debug)]
enum Request {
    Parse(u8, u8),
    /// Of a text with an error.
    ParseFails(u8),
    Bind(u8),
    /// Of a statement, with too many parameters.
    BindFails(u8),
    Describe(u8),
    Close(u8),
    Query,
    QueryFails,
    DeallocateAll,
    Deallocate(u8),
    Sync,
}

/// A server that executes requests in order, and discards them after an error until Sync.
#[derive(Default)]
struct Server {
    reader: Reader,
    statements: HashMap<Vec<u8>, Vec<u8>>,
    discards: bool,
    /// The client whose requests it executes. A statement depends on the settings of the client that has prepared it.
    client: usize,
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &len.to_be_bytes(), body].concat()
}

fn error(message: &str, name: &[u8]) -> Vec<u8> {
    let text = format!("SERROR\0M{message} \"{}\"\0\0", String::from_utf8_lossy(name));
    frame(b'E', text.as_bytes())
}

/// The name number 0 is the unnamed statement.
fn name(number: u8) -> Vec<u8> {
    match number {
        0 => Vec::new(),
        number => format!("s{number}").into_bytes(),
    }
}

impl Request {
    fn encode(&self, client: usize) -> Vec<u8> {
        let body = |parts: &[&[u8]]| parts.concat();
        match self {
            // Half of the texts are those of all clients.
            Request::Parse(number, text) => {
                let text = match text % 2 {
                    0 => format!("shared {text}"),
                    _ => format!("client {client} {text}"),
                };
                frame(b'P', &body(&[&name(*number), b"\0", text.as_bytes(), b"\0\0\0"]))
            }
            Request::ParseFails(number) => frame(b'P', &body(&[&name(*number), b"\0error\0\0\0"])),
            Request::Bind(number) => frame(b'B', &body(&[b"\0", &name(*number), b"\0\0\0\0\0\0\0"])),
            Request::BindFails(number) => frame(b'B', &body(&[b"many\0", &name(*number), b"\0\0\0\0\0\0\0"])),
            Request::Describe(number) => frame(b'D', &body(&[b"S", &name(*number), b"\0"])),
            Request::Close(number) => frame(b'C', &body(&[b"S", &name(*number), b"\0"])),
            Request::Query => frame(b'Q', b"SELECT 1\0"),
            Request::QueryFails => frame(b'Q', b"error\0"),
            Request::DeallocateAll => frame(b'Q', b"DEALLOCATE ALL\0"),
            Request::Deallocate(number) => frame(b'Q', &body(&[b"DEALLOCATE ", &name(*number), b"\0"])),
            Request::Sync => frame(b'S', b""),
        }
    }
}

impl Server {
    fn take(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let (tag, body) = match self.reader.next(&mut bytes, |_| true, drop).unwrap() {
                Piece::Frame(frame) => (frame.tag(), frame.body().to_vec()),
                Piece::Span(_) => panic!("a frame is longer than the limit"),
                Piece::Spent => return out,
            };
            let reply = self.execute(tag, &body);
            out.extend(reply);
        }
    }

    fn execute(&mut self, tag: u8, body: &[u8]) -> Vec<u8> {
        if tag == b'S' {
            self.discards = false;
            return frame(b'Z', b"I");
        }
        if self.discards {
            return Vec::new();
        }
        let ready = frame(b'Z', b"I");
        let reply = match tag {
            b'Q' => {
                self.statements.remove([].as_slice());
                return match body {
                    b"error\0" => [error("syntax error", b""), ready].concat(),
                    b"DEALLOCATE ALL\0" => {
                        self.statements.clear();
                        [frame(b'C', b"DEALLOCATE ALL\0"), ready].concat()
                    }
                    _ => match body.strip_prefix(b"DEALLOCATE ").map(|name| &name[..name.len() - 1]) {
                        None => [frame(b'C', b"SELECT 1\0"), ready].concat(),
                        Some(name) if self.statements.remove(name).is_some() => {
                            [frame(b'C', b"DEALLOCATE\0"), ready].concat()
                        }
                        Some(name) => [error("it does not exist:", name), ready].concat(),
                    },
                };
            }
            b'P' => self.parse(body),
            b'B' => {
                let portal_len = body.iter().position(|byte| *byte == 0).unwrap();
                let found = self.look_up(&body[portal_len + 1..]);
                found.and_then(|(name, content)| match portal_len {
                    0 => Ok([frame(b'2', b""), frame(b'N', &content)].concat()),
                    _ => Err(error("too many parameters for", &name)),
                })
            }
            b'D' => self.look_up(&body[1..]).map(|(_, content)| {
                let described = frame(b't', b"\0\0");
                [described, frame(b'T', &content)].concat()
            }),
            b'C' => {
                let name = body[1..].split(|byte| *byte == 0).next().unwrap();
                self.statements.remove(name);
                Ok(frame(b'3', b""))
            }
            other => panic!("an unexpected request {other}"),
        };
        reply.unwrap_or_else(|error| {
            self.discards = true;
            error
        })
    }

    fn parse(&mut self, body: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        let mut parts = body.split(|byte| *byte == 0);
        let (name, text) = (parts.next().unwrap(), parts.next().unwrap());
        if name.is_empty() {
            self.statements.remove(name);
        }
        if text == b"error" {
            return Err(error("syntax error", b""));
        }
        if self.statements.contains_key(name) {
            return Err(error("it exists:", name));
        }
        let prepared = format!("{} of {}", String::from_utf8_lossy(text), self.client);
        self.statements.insert(name.to_vec(), prepared.into_bytes());
        Ok(frame(b'1', b""))
    }

    fn look_up(&self, body: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Vec<u8>> {
        let name = body.split(|byte| *byte == 0).next().unwrap();
        let content = self.statements.get(name);
        content
            .map(|content| (name.to_vec(), content.clone()))
            .ok_or_else(|| error("it does not exist:", name))
    }
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let name = 0u8..4;
    let request = prop_oneof![
        4 => (name.clone(), 0u8..4).prop_map(|(name, text)| Request::Parse(name, text)),
        1 => name.clone().prop_map(Request::ParseFails),
        6 => name.clone().prop_map(Request::Bind),
        1 => name.clone().prop_map(Request::BindFails),
        2 => name.clone().prop_map(Request::Describe),
        2 => name.prop_map(Request::Close),
        2 => Just(Request::Query),
        1 => Just(Request::QueryFails),
        1 => Just(Request::DeallocateAll),
        1 => (1u8..4).prop_map(Request::Deallocate),
        6 => Just(Request::Sync),
    ];
    prop::collection::vec(request, 1..10).prop_map(|mut exchange| {
        exchange.push(Request::Sync);
        exchange
    })
}

/// A client with its requests, and the flow of the connection that it uses.
struct Roaming {
    requests: ClientRequests,
    flow: Flow,
}

impl Roaming {
    /// Runs bytes of the client on a connection, each direction cut into pieces, until everything is answered.
    fn run(&mut self, bytes: &[u8], server: &mut Server, statements: &mut ServerStatements, cut: usize) -> Vec<u8> {
        let (mut received, mut replies) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(cut) {
            self.requests.hold(piece);
            self.exchange(server, statements, &mut replies);
            // The replies arrive late: after several pieces.
            if replies.len() > cut {
                self.deliver(&mut replies, statements, cut, &mut received);
            }
        }
        let mut attempts = 0;
        while self.requests.has_message() || !replies.is_empty() {
            attempts += 1;
            assert!(attempts < 1000, "no reply comes: {:?} {:?}", self.flow, self.requests);
            self.deliver(&mut replies, statements, cut, &mut received);
            self.exchange(server, statements, &mut replies);
        }
        assert!(self.flow.is_idle() && self.flow.is_certain() && self.requests.is_at_boundary());
        received
    }

    fn exchange(&mut self, server: &mut Server, statements: &mut ServerStatements, replies: &mut Vec<u8>) {
        if !self.requests.can_process(&self.flow) {
            return;
        }
        let mut out = Vec::new();
        let client = self
            .requests
            .process(&mut self.flow, statements, &mut |_| {}, &mut out)
            .unwrap();
        assert_eq!(client, Client::Continues);
        replies.extend(server.take(&out));
    }

    fn deliver(
        &mut self,
        replies: &mut Vec<u8>,
        statements: &mut ServerStatements,
        cut: usize,
        received: &mut Vec<u8>,
    ) {
        for piece in std::mem::take(replies).chunks(cut) {
            let mut out = Vec::new();
            let taken = self
                .requests
                .take_replies(&mut self.flow, statements, piece, &mut out)
                .unwrap();
            received.extend(out);
            received.extend(taken.unchanged);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn each_client_gets_the_replies_of_a_connection_that_it_has_alone(
        script in prop::collection::vec((0..CLIENTS, 0..SERVERS, requests(), 1usize..200), 1..12),
    ) {
        let mut alone: Vec<Server> = (0..CLIENTS).map(|_| Server::default()).collect();
        let mut servers: Vec<(Server, ServerStatements)> = (0..SERVERS).map(|_| Default::default()).collect();
        let mut clients: Vec<Roaming> = (0..CLIENTS)
            .map(|_| Roaming { requests: ClientRequests::new(TEXT_LEN_MAX), flow: Flow::new() })
            .collect();
        for (client, server, requests, cut) in &script {
            let bytes: Vec<u8> = requests.iter().flat_map(|request| request.encode(*client)).collect();
            let (server, statements) = &mut servers[*server];
            (alone[*client].client, server.client) = (*client, *client);
            let expected = alone[*client].take(&bytes);
            let received = clients[*client].run(&bytes, server, statements, *cut);
            prop_assert_eq!(
                String::from_utf8_lossy(&received), String::from_utf8_lossy(&expected),
                "client {} {:?}", client, requests
            );
            let mut known: Vec<usize> = vec![statements.count()];
            known.push(server.statements.keys().filter(|name| !name.is_empty()).count());
            prop_assert_eq!(known[0], known[1], "the number of statements on the connection");
        }
    }
}
