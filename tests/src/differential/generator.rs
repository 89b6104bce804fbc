//! Generates scripts. A script consists of blocks: one exchange each, as drivers have them, or an arbitrary sequence of messages.
//! What it sends is random, also whether it is valid; what the server answers must not depend on time, except in the races.

use super::random::Random;
use super::script::{Bind, Finish, Listening, Message, Script, Step, Tag};
use super::statements::Statements;

const BLOCKS_MIN: usize = 6;
const BLOCKS_MAX: usize = 24;
/// Names are few, and all clients use the same, so that statements and portals of one client can be confused with another's.
const STATEMENTS: [&str; 3] = ["", "s1", "s2"];
const PORTALS: [&str; 3] = ["", "p1", "p2"];
/// int4pl, int4div (fails if the second argument is 0), and no function.
const FUNCTIONS: [u32; 3] = [177, 154, 1];

/// Which scripts are generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    Everything,
    /// Without races and interrupted sessions, so that all messages of all clients are compared.
    Whole,
}

/// A script of one client.
pub fn generate(tag: Tag, random: &mut Random, mix: Mix) -> Script {
    let listening = if random.chance(60) {
        Listening::ToAll
    } else {
        Listening::No
    };
    let mut generator = Generator {
        statements: Statements::new(&tag, listening),
        random,
        steps: Vec::new(),
    };
    let pipelined = generator.random.chance(40);
    let blocks = BLOCKS_MIN + generator.random.below(BLOCKS_MAX - BLOCKS_MIN);
    for _ in 0..blocks {
        generator.block(mix);
        if !pipelined || generator.random.chance(15) {
            generator.steps.push(Step::Barrier);
        }
    }
    if mix == Mix::Everything && generator.random.chance(6) {
        generator.fatal();
    }
    let steps = generator.steps;
    let write_len_max = *random.pick(&[1, 3, 50, 1000, 8192, usize::MAX, usize::MAX]);
    let read_len_max = *random.pick(&[200, 2000, 64 * 1024, 64 * 1024]);
    let mut script = Script {
        tag,
        listening,
        steps,
        finish: Finish::Terminate,
        write_len_max,
        read_len_max,
    };
    if mix == Mix::Everything {
        let len = random.below(script.len());
        script.finish = match (random.below(10), listening) {
            // A notification makes the server send the answers that it has not flushed, which it otherwise drops at the end of
            // the stream.
            (0 | 1, Listening::No) => Finish::HalfClose(len),
            (2, _) => Finish::Vanish(len),
            _ => Finish::Terminate,
        };
    }
    script
}

/// The unnamed portal in a sequence of messages up to Sync.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unnamed {
    Unknown,
    Bound,
}

struct Generator<'a> {
    statements: Statements,
    random: &'a mut Random,
    steps: Vec<Step>,
}

impl Generator<'_> {
    fn block(&mut self, mix: Mix) {
        match self.random.below(100) {
            0..25 => self.simple(),
            25..34 => self.several_statements(),
            34..50 => self.prepared(),
            50..68 => self.anything(),
            68..76 => self.copy_in(),
            76..82 => self.copy_in_extended(),
            82..87 => self.copy_out(),
            87..91 => self.function_call(),
            91..96 => self.flushed(),
            96 => self.cancelled(),
            97 if self.random.chance(25) => self.flood(),
            _ if mix == Mix::Everything => self.raced(),
            _ => self.failing_pipeline(),
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        self.steps.push(Step::Send(messages));
    }

    fn simple(&mut self) {
        let text = self.statements.any(self.random);
        self.send(vec![Message::Query(text)]);
    }

    /// One message with several statements, often with an error between them.
    fn several_statements(&mut self) {
        let count = 2 + self.random.below(4);
        let texts: Vec<String> = (0..count).map(|_| self.statements.any(self.random)).collect();
        self.send(vec![Message::Query(texts.join("; "))]);
    }

    /// Parse, Bind, Describe, several Executes with a row limit, and Sync, as drivers send them.
    fn prepared(&mut self) {
        let (statement, portal) = (self.statement(), self.portal());
        let mut messages = Vec::new();
        if !statement.is_empty() {
            messages.push(Message::CloseStatement(statement.clone()));
        }
        let parse = self.parse(&statement);
        messages.push(parse);
        if self.random.chance(40) {
            messages.push(Message::DescribeStatement(statement.clone()));
        }
        let bind = self.bind(&portal, &statement);
        messages.push(bind);
        if self.random.chance(60) {
            messages.push(Message::DescribePortal(portal.clone()));
        }
        for _ in 0..self.random.below(3) {
            messages.push(self.execute(&portal));
        }
        messages.push(Message::Execute { portal, rows_max: 0 });
        messages.push(Message::Sync);
        self.send(messages);
    }

    /// Messages of the extended protocol in any order. Those that follow an error are discarded until Sync. The unnamed portal is
    /// used only after a Bind without a Sync between: if a Query has failed in a transaction, its portal remains, and PostgreSQL 15
    /// reads freed memory, and can crash, if that is executed.
    fn anything(&mut self) {
        let mut messages = Vec::new();
        let mut unnamed = Unnamed::Unknown;
        for _ in 0..2 + self.random.below(9) {
            let message = self.any_message();
            match &message {
                Message::Bind(bind) if bind.portal.is_empty() => unnamed = Unnamed::Bound,
                Message::Sync => unnamed = Unnamed::Unknown,
                Message::DescribePortal(portal) | Message::Execute { portal, .. }
                    if portal.is_empty() && unnamed == Unnamed::Unknown =>
                {
                    continue;
                }
                _ => {}
            }
            messages.push(message);
        }
        if self.random.chance(85) {
            messages.push(Message::Sync);
        }
        self.send(messages);
    }

    fn any_message(&mut self) -> Message {
        let (statement, portal) = (self.statement(), self.portal());
        match self.random.below(20) {
            0..5 => self.parse(&statement),
            5..10 => self.bind(&portal, &statement),
            10 => Message::DescribeStatement(statement),
            11 => Message::DescribePortal(portal),
            12..16 => self.execute(&portal),
            16 => Message::CloseStatement(statement),
            17 => Message::ClosePortal(portal),
            18 => Message::Flush,
            _ => Message::Sync,
        }
    }

    /// An error with messages after it that are discarded, and several Syncs.
    fn failing_pipeline(&mut self) {
        let failing = self.statements.failing(self.random);
        let mut messages = vec![parse("", failing), bind("", ""), execute("")];
        messages.extend([parse("s1", self.statements.rows(self.random)), Message::Flush]);
        messages.extend([bind("", "s1"), execute(""), Message::Sync, Message::Sync]);
        messages.extend([parse("", self.statements.rows(self.random)), bind("", ""), execute("")]);
        messages.push(Message::Sync);
        self.send(messages);
    }

    fn copy_in(&mut self) {
        let mut messages = vec![Message::Query(self.statements.copy_from(self.random))];
        self.copied(&mut messages);
        self.send(messages);
    }

    fn copy_in_extended(&mut self) {
        let text = self.statements.copy_from(self.random);
        let mut messages = vec![parse("", text), bind("", ""), execute("")];
        self.copied(&mut messages);
        messages.push(Message::Sync);
        self.send(messages);
    }

    /// Data and its end. The server ignores Sync and Flush among the data, and an end after the end.
    fn copied(&mut self, messages: &mut Vec<Message>) {
        for _ in 0..self.random.below(6) {
            messages.push(Message::CopyData(self.statements.data(self.random)));
            match self.random.below(12) {
                0 => messages.push(Message::Sync),
                1 => messages.push(Message::Flush),
                _ => {}
            }
        }
        messages.push(if self.random.chance(80) {
            Message::CopyDone
        } else {
            Message::CopyFail("the client has no more data".to_owned())
        });
        if self.random.chance(15) {
            messages.push(Message::CopyData("late\n".to_owned()));
            messages.push(Message::CopyDone);
        }
    }

    fn copy_out(&mut self) {
        let text = self.statements.copy_to(self.random);
        if self.random.chance(50) {
            self.send(vec![Message::Query(text)]);
        } else {
            let messages = vec![parse("", text), bind("", ""), execute(""), Message::Sync];
            self.send(messages);
        }
    }

    fn function_call(&mut self) {
        let values = [7, i32::try_from(self.random.below(3)).expect("small")];
        let oid = *self.random.pick(&FUNCTIONS);
        self.send(vec![Message::FunctionCall {
            oid,
            arguments: values.iter().map(|value| value.to_be_bytes().to_vec()).collect(),
        }]);
    }

    /// Answers that arrive without a Sync, after which the pipeline continues.
    fn flushed(&mut self) {
        let text = self.statements.rows(self.random);
        let messages = vec![
            parse("", text),
            Message::DescribeStatement(String::new()),
            bind("", ""),
            Message::Execute {
                portal: String::new(),
                rows_max: 2,
            },
        ];
        self.steps.push(Step::Barrier);
        self.steps.push(Step::Flush { messages, answers: 4 });
        self.send(vec![execute(""), Message::ClosePortal(String::new()), Message::Sync]);
    }

    fn cancelled(&mut self) {
        self.steps.push(Step::Barrier);
        self.steps.push(Step::Cancel(self.statements.long()));
        self.steps.push(Step::Barrier);
    }

    /// Not in a transaction, whose state would depend on the outcome.
    fn raced(&mut self) {
        self.send(vec![Message::Sync, Message::Query("ROLLBACK".to_owned())]);
        self.steps.push(Step::Barrier);
        self.steps.push(Step::Race(self.statements.short()));
        self.steps.push(Step::Barrier);
    }

    /// More than the buffers of all sockets between client and server hold, in both directions.
    fn flood(&mut self) {
        let data = self.statements.much_data();
        let mut messages = vec![Message::Query(self.statements.many_rows())];
        messages.push(Message::Query("COPY item FROM STDIN".to_owned()));
        messages.extend(data.into_iter().map(Message::CopyData));
        messages.extend([Message::CopyDone, Message::Query(self.statements.many_rows())]);
        self.send(messages);
    }

    /// What ends a session with a FATAL error. All answers before have arrived: the server resets the connection if it has not read
    /// all messages, and answers on the way are lost.
    fn fatal(&mut self) {
        self.steps.push(Step::Barrier);
        let messages = if self.random.chance(50) {
            vec![Message::Query(
                "SELECT pg_terminate_backend(pg_backend_pid())".to_owned(),
            )]
        } else {
            // The server cannot continue after another message during COPY.
            let text = self.statements.copy_from(self.random);
            vec![
                Message::Sync,
                Message::Query("ROLLBACK".to_owned()),
                Message::Query(text),
                Message::Query("SELECT 1".to_owned()),
            ]
        };
        self.send(messages);
    }

    fn parse(&mut self, statement: &str) -> Message {
        let text = if self.random.chance(50) {
            self.statements.rows(self.random)
        } else {
            self.statements.any(self.random)
        };
        parse(statement, text)
    }

    fn bind(&mut self, portal: &str, statement: &str) -> Message {
        let count = usize::from(self.random.chance(8));
        Message::Bind(Bind {
            portal: portal.to_owned(),
            statement: statement.to_owned(),
            values: (0..count)
                .map(|_| self.random.chance(70).then(|| "7".to_owned()))
                .collect(),
            result_format: *self.random.pick(&[0, 0, 0, 0, 0, 0, 1, 1, 1, 2]),
        })
    }

    fn execute(&mut self, portal: &str) -> Message {
        Message::Execute {
            portal: portal.to_owned(),
            rows_max: *self.random.pick(&[0, 0, 1, 2, 5]),
        }
    }

    fn statement(&mut self) -> String {
        (*self.random.pick(&STATEMENTS)).to_owned()
    }

    fn portal(&mut self) -> String {
        (*self.random.pick(&PORTALS)).to_owned()
    }
}

fn parse(statement: &str, text: String) -> Message {
    Message::Parse {
        statement: statement.to_owned(),
        text,
    }
}

fn bind(portal: &str, statement: &str) -> Message {
    Message::Bind(Bind {
        portal: portal.to_owned(),
        statement: statement.to_owned(),
        values: Vec::new(),
        result_format: 0,
    })
}

fn execute(portal: &str) -> Message {
    Message::Execute {
        portal: portal.to_owned(),
        rows_max: 0,
    }
}
