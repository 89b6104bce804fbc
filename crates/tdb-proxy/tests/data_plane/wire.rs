//! A client that sends exactly the bytes that a test specifies.

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Lab, PASSWORD, TIME_MAX};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Frame {
    /// A field of an error or notice: `C` is the SQLSTATE, `M` the message.
    pub(crate) fn field(&self, kind: u8) -> Option<String> {
        let found = self
            .body
            .split(|byte| *byte == 0)
            .find(|field| field.first() == Some(&kind))?;
        Some(String::from_utf8(found[1..].to_vec()).unwrap())
    }
}

pub(crate) struct Wire {
    pub stream: TcpStream,
    pub pid: i32,
    pub secret: Vec<u8>,
}

impl Wire {
    pub(crate) async fn dial(lab: &Lab) -> Self {
        let stream = TcpStream::connect(lab.proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            pid: 0,
            secret: Vec::new(),
        }
    }

    pub(crate) async fn login(lab: &Lab, user: &str, database: &str) -> Result<Self, Frame> {
        let mut wire = Self::dial(lab).await;
        wire.send_raw(&startup(3 << 16, &["user", user, "database", database]))
            .await;
        wire.authenticate(PASSWORD).await?;
        wire.until_ready().await?;
        Ok(wire)
    }

    /// Runs the SCRAM exchange after a startup packet, up to AuthenticationOk. `Err`: the server's error.
    pub(crate) async fn authenticate(&mut self, password: &str) -> Result<(), Frame> {
        self.reply().await?;
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let first = scram.message().to_vec();
        self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, &first, out).unwrap())
            .await;
        let answer = self.reply().await?;
        scram.update(&answer.body[4..]).unwrap();
        let last = scram.message().to_vec();
        self.send(|out| frontend::sasl_response(&last, out).unwrap()).await;
        let answer = self.reply().await?;
        scram.finish(&answer.body[4..]).unwrap();
        let ok = self.reply().await?;
        assert_eq!((ok.tag, ok.body), (b'R', vec![0; 4]));
        Ok(())
    }

    pub(crate) async fn until_ready(&mut self) -> Result<Vec<Frame>, Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.reply().await?;
            if frame.tag == b'K' {
                self.pid = i32::from_be_bytes(frame.body[..4].try_into().unwrap());
                self.secret = frame.body[4..].to_vec();
            }
            let ready = frame.tag == b'Z';
            frames.push(frame);
            if ready {
                return Ok(frames);
            }
        }
    }

    /// Sends a simple query and returns the frames up to ReadyForQuery.
    pub(crate) async fn query(&mut self, sql: &str) -> Vec<Frame> {
        self.send(|out| frontend::query(sql, out).unwrap()).await;
        self.until_end_of_exchange().await
    }

    /// The frames up to the next ReadyForQuery.
    pub(crate) async fn until_end_of_exchange(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.read().await.expect("the connection"));
            if frames.last().unwrap().tag == b'Z' {
                return frames;
            }
        }
    }

    pub(crate) async fn send(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        write(&mut out);
        self.send_raw(&out).await;
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        timeout(TIME_MAX, self.stream.write_all(bytes)).await.unwrap().unwrap();
    }

    async fn reply(&mut self) -> Result<Frame, Frame> {
        let frame = self.read().await.expect("the connection");
        if frame.tag == b'E' { Err(frame) } else { Ok(frame) }
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        self.read_within(TIME_MAX).await.expect("a frame in time")
    }

    /// As [`Self::read`]; an error if no frame arrives within `limit`.
    pub(crate) async fn read_within(&mut self, limit: Duration) -> Result<Option<Frame>, tokio::time::error::Elapsed> {
        let mut header = [0; 5];
        if timeout(limit, self.stream.read_exact(&mut header)).await?.is_err() {
            return Ok(None);
        }
        let [tag, length @ ..] = header;
        let len = usize::try_from(u32::from_be_bytes(length)).unwrap() - 4;
        let mut body = vec![0; len];
        timeout(TIME_MAX, self.stream.read_exact(&mut body)).await?.unwrap();
        Ok(Some(Frame { tag, body }))
    }
}

pub(crate) fn startup(version: u32, texts: &[&str]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for text in texts {
        body.extend(text.bytes());
        body.push(0);
    }
    body.push(0);
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], &body].concat()
}

pub(crate) fn cancel_request(pid: i32, secret: &[u8]) -> Vec<u8> {
    let len = u32::try_from(12 + secret.len()).unwrap();
    [
        &len.to_be_bytes()[..],
        &80_877_102_u32.to_be_bytes(),
        &pid.to_be_bytes(),
        secret,
    ]
    .concat()
}
