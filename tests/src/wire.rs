//! A client that sends exactly the frames that a test specifies, which drivers cannot send: failing pipelines, several
//! Syncs, names with a NUL. Blocking, without TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio_postgres::Config;

const READ_TIME_MAX: Duration = Duration::from_secs(60);

/// A message from the server: its type and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Frame {
    /// A field of an ErrorResponse or NoticeResponse (`C` = SQLSTATE, `M` = message, `H` = hint).
    pub fn field(&self, kind: u8) -> Option<String> {
        let mut fields = self.body.split(|byte| *byte == 0);
        let found = fields.find(|field| field.first() == Some(&kind))?;
        Some(String::from_utf8_lossy(&found[1..]).into_owned())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end_matches('\0').to_owned()
    }
}

#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    out: BytesMut,
}

impl Wire {
    /// Connects to the server of a connection string, without sending anything.
    pub fn dial(url: &str) -> Self {
        let config: Config = url.parse().expect("a connection string");
        let host = match &config.get_hosts()[0] {
            tokio_postgres::config::Host::Tcp(name) => name.clone(),
            other => panic!("not a TCP host: {other:?}"),
        };
        let stream = TcpStream::connect((host.as_str(), config.get_ports()[0])).expect("connect");
        stream.set_read_timeout(Some(READ_TIME_MAX)).expect("set a deadline");
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        Self {
            stream,
            out: BytesMut::new(),
        }
    }

    /// Logs in with a connection string. `Err` is the server's ErrorResponse.
    pub fn login(url: &str) -> Result<Self, Frame> {
        let config: Config = url.parse().expect("a connection string");
        let database = config.get_dbname().expect("a database").to_owned();
        Self::login_to(url, &database)
    }

    /// As [`Wire::login`], for a database name that cannot be in a connection string.
    pub fn login_to(url: &str, database: &str) -> Result<Self, Frame> {
        let config: Config = url.parse().expect("a connection string");
        let mut wire = Self::dial(url);
        let user = config.get_user().expect("a user");
        wire.send(|out| frontend::startup_message([("user", user), ("database", database)], out).expect("startup"));
        wire.authenticate(config.get_password().unwrap_or_default())?;
        loop {
            let frame = wire.read();
            match frame.tag {
                b'Z' => return Ok(wire),
                b'E' => return Err(frame),
                _ => {}
            }
        }
    }

    /// Runs the SCRAM-SHA-256 exchange after a startup message.
    pub fn authenticate(&mut self, password: &[u8]) -> Result<(), Frame> {
        let request = self.read();
        if request.tag == b'E' {
            return Err(request);
        }
        assert_eq!(
            (request.tag, &request.body[..4]),
            (b'R', &[0, 0, 0, 10][..]),
            "a SASL request: {request:?}"
        );
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let first = scram.message().to_vec();
        self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, &first, out).expect("first message"));
        let reply = self.read_or_error()?;
        scram.update(&reply.body[4..]).expect("the server's first message");
        let last = scram.message().to_vec();
        self.send(|out| frontend::sasl_response(&last, out).expect("final message"));
        let reply = self.read_or_error()?;
        scram.finish(&reply.body[4..]).expect("the server's signature");
        let ok = self.read_or_error()?;
        assert_eq!((ok.tag, ok.body), (b'R', vec![0, 0, 0, 0]));
        Ok(())
    }

    /// Sends the messages that `write` appends, as one packet if they fit.
    pub fn send(&mut self, write: impl FnOnce(&mut BytesMut)) {
        self.out.clear();
        write(&mut self.out);
        self.stream.write_all(&self.out).expect("send");
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// The next message.
    pub fn read(&mut self) -> Frame {
        self.try_read().expect("a message from the server")
    }

    /// The next message; `None` if the server closed the connection.
    pub fn try_read(&mut self) -> Option<Frame> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).ok()?;
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; len - 4];
        self.stream.read_exact(&mut body).ok()?;
        Some(Frame { tag: head[0], body })
    }

    /// The messages up to and including the next ReadyForQuery.
    pub fn read_until_ready(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.read();
            let ready = frame.tag == b'Z';
            frames.push(frame);
            if ready {
                return frames;
            }
        }
    }

    /// Sends a simple query and returns the messages up to ReadyForQuery.
    pub fn query(&mut self, sql: &str) -> Vec<Frame> {
        self.send(|out| frontend::query(sql, out).expect("query"));
        self.read_until_ready()
    }

    /// Parse, Bind and Execute of the unnamed statement, without a Sync.
    pub fn extended(out: &mut BytesMut, sql: &str) {
        frontend::parse("", sql, [], out).expect("parse");
        let no_values: [i32; 0] = [];
        let bound = frontend::bind("", "", [], no_values, |_, _| Ok(IsNull::Yes), [], out);
        assert!(bound.is_ok(), "bind");
        frontend::execute("", 0, out).expect("execute");
    }

    fn read_or_error(&mut self) -> Result<Frame, Frame> {
        let frame = self.read();
        if frame.tag == b'E' { Err(frame) } else { Ok(frame) }
    }
}

#[cfg(test)]
mod tests {
    use tdb_testkit::Cluster;

    use super::*;
    use crate::{SCHEMA, psql, schema_dump};

    /// Tests this client with PostgreSQL directly: failures here are failures of the client.
    #[test]
    fn the_harness_speaks_with_postgresql_itself() {
        let cluster = Cluster::start().unwrap();
        let url = cluster.url("postgres");
        let mut wire = Wire::login(&url).unwrap();
        wire.send(|out| {
            Wire::extended(out, "SELECT 1");
            Wire::extended(out, "SELECT 1/0");
            frontend::sync(out);
            Wire::extended(out, "SELECT 2");
            frontend::sync(out);
        });
        let failed = wire.read_until_ready();
        let error = failed.iter().find(|frame| frame.tag == b'E').unwrap();
        assert_eq!(error.field(b'C').as_deref(), Some("22012"));
        assert!(wire.read_until_ready().iter().any(|frame| frame.tag == b'D'));
        let refused = Wire::login_to(&url, "nowhere").unwrap_err();
        assert_eq!(refused.field(b'C').as_deref(), Some("3D000"));
        psql(&url, SCHEMA).ok();
        assert!(schema_dump(&url, "postgres").contains("OWNER TO OWNER"));
        psql(&url, "SELECT 1/0").fails_saying("22012");
    }
}
