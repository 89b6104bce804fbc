//! Compares [`Flow`] with a model of PostgreSQL's main loop. The model creates the replies, so it knows which request each
//! one answers; the flow sees only frames. Messages and replies are interleaved in any order that a network allows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::VecDeque;

use proptest::prelude::*;
use tdb_wire_postgres::flow::{Copy, Flow, RequestId, Transaction};
use tdb_wire_postgres::frame::Piece;

/// A message of the client, and how the server will answer it.
#[derive(Clone, Debug)]
enum Message {
    Query(Vec<Statement>),
    /// A message of the extended protocol with one reply of this tag.
    Simple(u8, Outcome),
    Describe(Outcome),
    Execute(Statement),
    Function(Outcome),
    Sync(Outcome),
    Flush,
    Data(Outcome),
    CopyDone,
    CopyFail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Good,
    Bad,
}

#[derive(Clone, Copy, Debug)]
enum Statement {
    Rows(u8),
    Begin,
    Commit,
    Empty,
    Fails,
    /// `Bad`: fails before any data is read.
    CopyIn(Outcome),
    CopyOut,
}

impl Message {
    fn tag(&self) -> u8 {
        match self {
            Message::Query(_) => b'Q',
            Message::Simple(tag, _) => *tag,
            Message::Describe(_) => b'D',
            Message::Execute(_) => b'E',
            Message::Function(_) => b'F',
            Message::Sync(_) => b'S',
            Message::Flush => b'H',
            Message::Data(_) => b'd',
            Message::CopyDone => b'c',
            Message::CopyFail => b'f',
        }
    }
}

/// A server that reads one message at a time. Each reply has the number of the message that it answers.
struct Server {
    unread: VecDeque<(usize, Message)>,
    replies: Vec<(u8, Option<usize>)>,
    discarding: bool,
    copying: Option<Copying>,
    transaction: Transaction,
    /// A statement ran since the last ReadyForQuery. Otherwise a Sync has nothing to commit and cannot fail.
    work: bool,
    /// A copy failed, and the frames do not show which Syncs the server had read.
    ambiguous: bool,
    ended: bool,
}

struct Copying {
    owner: usize,
    /// Statements of the same Query that follow; none for an Execute.
    then: Option<Vec<Statement>>,
    ignored: usize,
}

impl Server {
    fn new() -> Self {
        Self {
            unread: VecDeque::new(),
            replies: Vec::new(),
            discarding: false,
            copying: None,
            transaction: Transaction::Idle,
            work: false,
            ambiguous: false,
            ended: false,
        }
    }

    fn say(&mut self, tag: u8, answers: usize) {
        self.work = tag != b'Z' && (self.work || tag == b'C');
        self.replies.push((tag, Some(answers)));
    }

    fn step(&mut self) {
        let Some((number, message)) = self.unread.pop_front() else {
            return;
        };
        if let Some(copying) = self.copying.take() {
            return self.copy(copying, message);
        }
        if self.discarding && !matches!(message, Message::Sync(_)) {
            return;
        }
        match message {
            Message::Query(statements) => self.run(number, &statements),
            Message::Simple(tag, Outcome::Good) => {
                let reply = match tag {
                    b'P' => b'1',
                    b'B' => b'2',
                    _ => b'3',
                };
                self.say(reply, number);
            }
            Message::Describe(Outcome::Good) => {
                if number.is_multiple_of(2) {
                    self.say(b't', number);
                }
                self.say(if number.is_multiple_of(3) { b'T' } else { b'n' }, number);
            }
            Message::Execute(statement) => match self.statement(number, statement) {
                Ok(Done::Yes) => {}
                Ok(Done::Copying) => self.begin_copy(number, None, statement),
                Err(()) => self.fail(number, true),
            },
            Message::Simple(_, Outcome::Bad) | Message::Describe(Outcome::Bad) => self.fail(number, true),
            Message::Function(outcome) => {
                match outcome {
                    Outcome::Good => self.say(b'V', number),
                    Outcome::Bad => self.fail(number, false),
                }
                self.say(b'Z', number);
            }
            Message::Sync(outcome) => {
                self.discarding = false;
                if outcome == Outcome::Bad && self.work {
                    self.fail(number, false);
                }
                self.say(b'Z', number);
            }
            Message::Flush | Message::Data(_) | Message::CopyDone | Message::CopyFail => {}
        }
    }

    fn run(&mut self, number: usize, statements: &[Statement]) {
        for (index, statement) in statements.iter().enumerate() {
            match self.statement(number, *statement) {
                Ok(Done::Yes) => {}
                Ok(Done::Copying) => {
                    return self.begin_copy(number, Some(statements[index + 1..].to_vec()), *statement);
                }
                Err(()) => {
                    self.fail(number, false);
                    break;
                }
            }
        }
        if statements.is_empty() {
            self.say(b'I', number);
        }
        self.say(b'Z', number);
    }

    fn statement(&mut self, number: usize, statement: Statement) -> Result<Done, ()> {
        match statement {
            Statement::Rows(count) => (0..count).for_each(|_| self.say(b'D', number)),
            Statement::Begin => self.transaction = Transaction::Open,
            Statement::Commit => self.transaction = Transaction::Idle,
            Statement::Empty => {
                self.say(b'I', number);
                return Ok(Done::Yes);
            }
            Statement::Fails => return Err(()),
            Statement::CopyIn(_) => {
                self.say(b'G', number);
                return Ok(Done::Copying);
            }
            Statement::CopyOut => [b'H', b'd', b'c'].into_iter().for_each(|tag| self.say(tag, number)),
        }
        self.say(b'C', number);
        Ok(Done::Yes)
    }

    fn begin_copy(&mut self, owner: usize, then: Option<Vec<Statement>>, statement: Statement) {
        let copying = Copying {
            owner,
            then,
            ignored: 0,
        };
        match statement {
            Statement::CopyIn(Outcome::Bad) => self.fail_copy(copying),
            _ => self.copying = Some(copying),
        }
    }

    fn copy(&mut self, mut copying: Copying, message: Message) {
        match message {
            Message::Sync(_) => {
                copying.ignored += 1;
                self.copying = Some(copying);
            }
            Message::Flush | Message::Data(Outcome::Good) => self.copying = Some(copying),
            Message::Data(Outcome::Bad) | Message::CopyFail => self.fail_copy(copying),
            Message::CopyDone => {
                self.say(b'C', copying.owner);
                if let Some(then) = copying.then {
                    if then.is_empty() {
                        self.say(b'Z', copying.owner);
                    } else {
                        self.run(copying.owner, &then);
                    }
                }
            }
            _ => {
                self.replies.push((b'E', None));
                self.ended = true;
            }
        }
    }

    fn fail_copy(&mut self, copying: Copying) {
        let end = |message: &Message| matches!(message, Message::CopyDone | Message::CopyFail);
        let unread = self.unread.iter().map(|(_, message)| message);
        let syncs = unread
            .take_while(|message| !end(message))
            .filter(|m| matches!(m, Message::Sync(_)));
        self.ambiguous |= copying.ignored > 0 || syncs.count() > 0;
        self.fail(copying.owner, copying.then.is_none());
        if copying.then.is_some() {
            self.say(b'Z', copying.owner);
        }
    }

    fn fail(&mut self, number: usize, extended: bool) {
        self.say(b'E', number);
        self.work = false;
        self.discarding = extended;
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::Failed;
        }
    }
}

enum Done {
    Yes,
    Copying,
}

/// A server, and the flow that observes its messages.
struct Observed {
    server: Server,
    flow: Flow,
    sent: usize,
    /// The request id of each message, by its number.
    ids: Vec<Option<RequestId>>,
    chunk: usize,
}

impl Observed {
    fn new(chunk: usize) -> Self {
        Self {
            server: Server::new(),
            flow: Flow::new(),
            sent: 0,
            ids: Vec::new(),
            chunk,
        }
    }

    fn send(&mut self, message: Message) {
        let bytes = frame(message.tag(), &vec![b'x'; self.sent % 9]);
        let mut ids = Vec::new();
        for mut part in bytes.chunks(self.chunk) {
            loop {
                match self.flow.from_client(&mut part, |_| true).unwrap() {
                    (Piece::Frame(_), id) => ids.push(id),
                    (Piece::Span(_), _) => panic!("every frame is read"),
                    (Piece::Spent, _) => break,
                }
            }
        }
        assert_eq!(ids.len(), 1);
        self.ids.push(ids[0]);
        self.server.unread.push_back((self.sent, message));
        self.sent += 1;
    }

    /// Lets the server read a message, and passes its replies to the flow.
    fn serve(&mut self) {
        self.server.step();
        for (tag, answers) in std::mem::take(&mut self.server.replies) {
            let status = match self.server.transaction {
                Transaction::Idle => b"I",
                Transaction::Open => b"T",
                Transaction::Failed => b"E",
            };
            let before = self.flow.is_certain();
            let id = self.pass(&frame(tag, if tag == b'Z' { status } else { b"body" }));
            if tag == b'Z' {
                assert_eq!(self.flow.transaction(), self.server.transaction);
            }
            if !self.server.ambiguous {
                assert!(self.flow.is_certain(), "lost at {}", char::from(tag));
            }
            let expected = answers.map(|number| self.ids[number]);
            match (self.flow.is_certain(), before, expected) {
                // The answer to a Sync that the server could also have ignored.
                (true, false, _) if tag == b'Z' => assert_eq!(id, None),
                (true, _, Some(expected)) => assert_eq!(id, expected, "{}", char::from(tag)),
                _ => {}
            }
            assert_eq!(self.pass(&frame(b'N', b"notice")), None);
        }
    }

    fn pass(&mut self, bytes: &[u8]) -> Option<RequestId> {
        let mut found = None;
        for mut part in bytes.chunks(self.chunk) {
            loop {
                match self.flow.from_server(&mut part, |_| true).unwrap() {
                    (Piece::Frame(_), id) => found = id,
                    (Piece::Span(_), _) => panic!("every frame is read"),
                    (Piece::Spent, _) => break,
                }
            }
        }
        found
    }
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![5 => Just(Outcome::Good), 1 => Just(Outcome::Bad)]
}

fn statement() -> impl Strategy<Value = Statement> {
    prop_oneof![
        4 => (0u8..3).prop_map(Statement::Rows),
        1 => Just(Statement::Begin),
        1 => Just(Statement::Commit),
        1 => Just(Statement::Empty),
        1 => Just(Statement::Fails),
        1 => Just(Statement::CopyOut),
    ]
}

/// Messages that belong together: a COPY is followed by its data, with the Syncs that libpq and other clients send.
fn unit() -> impl Strategy<Value = Vec<Message>> {
    let data = || prop::collection::vec(outcome().prop_map(Message::Data), 0..3);
    let end = || prop_oneof![3 => Just(Message::CopyDone), 1 => Just(Message::CopyFail)];
    let sync = || outcome().prop_map(Message::Sync);
    let syncs = || prop::collection::vec(sync(), 0..2);
    let extended = prop_oneof![
        (prop::sample::select(b"PBC".to_vec()), outcome()).prop_map(|(tag, outcome)| Message::Simple(tag, outcome)),
        outcome().prop_map(Message::Describe),
        statement().prop_map(Message::Execute),
        Just(Message::Flush),
    ];
    let stray = prop_oneof![
        data().prop_map(|_| Message::Data(Outcome::Good)),
        end(),
        Just(Message::Flush)
    ];
    prop_oneof![
        4 => prop::collection::vec(statement(), 0..4).prop_map(|statements| vec![Message::Query(statements)]),
        6 => (prop::collection::vec(extended, 0..7), sync()).prop_map(|(messages, sync)| [messages, vec![sync]].concat()),
        2 => (outcome(), prop::collection::vec(statement(), 0..3), syncs(), data(), end(), syncs()).prop_map(
            |(outcome, then, early, data, end, late)| {
                let statements = [vec![Statement::CopyIn(outcome)], then].concat();
                [vec![Message::Query(statements)], early, data, vec![end], late].concat()
            }
        ),
        2 => (outcome(), syncs(), data(), end(), sync()).prop_map(|(outcome, early, data, end, sync)| {
            [vec![Message::Execute(Statement::CopyIn(outcome))], early, data, vec![end, sync]].concat()
        }),
        1 => outcome().prop_map(|outcome| vec![Message::Function(outcome)]),
        1 => stray.prop_map(|message| vec![message]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn each_reply_is_given_to_its_request(
        units in prop::collection::vec(unit(), 1..8),
        order in prop::collection::vec(any::<bool>(), 1..40),
        chunk in 1usize..12,
    ) {
        let mut session = Observed::new(chunk);
        let mut messages: VecDeque<_> = units.into_iter().flatten().collect();
        let mut order = order.iter().cycle();
        while !session.server.ended && (!messages.is_empty() || !session.server.unread.is_empty()) {
            match messages.front() {
                Some(message) if *order.next().unwrap() || session.server.unread.is_empty() => {
                    session.send(message.clone());
                    messages.pop_front();
                }
                _ => session.serve(),
            }
        }
        let server = &session.server;
        let at_rest = !server.ended && server.copying.is_none() && !server.discarding;
        if at_rest && !server.ambiguous {
            prop_assert_eq!(session.flow.is_idle(), server.transaction == Transaction::Idle);
            prop_assert_eq!(session.flow.copy(), Copy::No);
        }
    }
}

fn passed(flow: &mut Flow, client: &[u8], server: &[(u8, &[u8])]) -> Vec<Option<RequestId>> {
    for tag in client {
        let bytes = frame(*tag, b"");
        let mut bytes = bytes.as_slice();
        while flow.from_client(&mut bytes, |_| false).unwrap().0 != Piece::Spent {}
    }
    let mut found = Vec::new();
    for (tag, body) in server {
        let bytes = frame(*tag, body);
        found.push(flow.from_server(&mut bytes.as_slice(), |_| true).unwrap().1);
    }
    found
}

#[test]
fn a_failed_copy_is_uncertain_until_the_next_reply() {
    // libpq sends Sync with the Execute, then the data, then another Sync.
    let mut flow = Flow::new();
    passed(&mut flow, b"PBES", &[(b'1', b""), (b'2', b""), (b'G', b"")]);
    assert_eq!(flow.copy(), Copy::In { ignored: 1 });
    passed(&mut flow, b"d", &[(b'E', b"")]);
    passed(&mut flow, b"cS", &[(b'Z', b"I")]);
    assert!(flow.is_idle() && !flow.is_certain(), "another ReadyForQuery may come");
    passed(&mut flow, b"Q", &[(b'C', b"")]);
    assert!(flow.is_certain());
    // The copy failed before the server had read anything, so it answers both Syncs.
    let mut flow = Flow::new();
    passed(&mut flow, b"ES", &[(b'G', b""), (b'E', b"")]);
    passed(&mut flow, b"dcS", &[(b'Z', b"I")]);
    assert!(!flow.is_certain());
    passed(&mut flow, b"", &[(b'Z', b"I")]);
    assert!(flow.is_certain() && flow.is_idle());
}

#[test]
fn a_reply_that_no_request_explains_makes_it_uncertain_for_good() {
    let mut flow = Flow::new();
    passed(&mut flow, b"P", &[(b'2', b"")]);
    assert!(!flow.is_certain() && flow.is_lost() && !flow.is_idle());
    passed(&mut flow, b"SQ", &[(b'Z', b"I"), (b'C', b""), (b'Z', b"I")]);
    assert!(!flow.is_certain() && !flow.is_idle());
}

#[test]
fn notices_and_the_servers_last_error_need_no_request() {
    let mut flow = Flow::new();
    let said: [(u8, &[u8]); 4] = [(b'N', b""), (b'S', b""), (b'A', b""), (b'E', b"")];
    assert_eq!(passed(&mut flow, b"", &said), [None; 4]);
    assert!(flow.is_certain());
}

#[test]
fn a_fatal_error_ends_the_session_and_others_do_not() {
    for (body, ended) in [
        (b"SERROR\0VERROR\0C57014\0\0", false),
        (b"SFATAL\0VFATAL\0C57P01\0\0", true),
    ] {
        let mut flow = Flow::new();
        passed(&mut flow, b"Q", &[(b'E', body)]);
        assert_eq!(flow.is_ended(), ended);
    }
}

#[test]
fn terminate_is_the_last_frame_of_a_client() {
    let mut flow = Flow::new();
    let bytes = [frame(b'Q', b"x"), frame(b'X', b""), frame(b'Q', b"y")].concat();
    let mut rest = bytes.as_slice();
    assert!(matches!(
        flow.from_client(&mut rest, |_| false),
        Ok((Piece::Span(_), None))
    ));
    assert!(!flow.is_terminated());
    assert!(matches!(
        flow.from_client(&mut rest, |_| false),
        Ok((Piece::Frame(_), None))
    ));
    assert!(flow.is_terminated());
    assert_eq!(rest, frame(b'Q', b"y"));
}

#[test]
fn the_queue_of_replies_reports_when_it_is_full_and_releases_memory() {
    let mut flow = Flow::new();
    let parse = frame(b'P', b"");
    let mut sent = 0;
    while !flow.is_full() {
        flow.from_client(&mut parse.as_slice(), |_| false).unwrap();
        sent += 1;
    }
    assert!(sent > 10_000);
    let reply = frame(b'1', b"");
    for _ in 0..sent {
        flow.from_server(&mut reply.as_slice(), |_| false).unwrap();
    }
    assert!(flow.is_idle() && !flow.is_full());
}
