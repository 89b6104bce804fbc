//! The client's side of a login to a database server: startup message, SCRAM, and all messages up to the first
//! ReadyForQuery. The server is not trusted: any message leads to a state or to an error, never to a panic or an unbounded
//! buffer.

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::backend;
use crate::frame::{HEADER_LEN, Header, parse_header};
use crate::scram::SCRAM;

/// The longest accepted body of a message during a login, in bytes; PostgreSQL's are a few hundred bytes long.
const MESSAGE_LEN_MAX: u32 = 64 * 1024;
/// The largest accepted number of messages during a login; PostgreSQL sends about twenty.
const MESSAGES_MAX: u32 = 1000;

/// Why a login failed, except for errors that the server reports.
#[derive(Debug, Error)]
pub enum LoginError {
    /// The server requires an authentication method other than SCRAM-SHA-256; its code in the Authentication message.
    #[error("the server asked for the authentication method {0}, which is not supported")]
    Method(i32),
    /// The server offers SASL mechanisms, but not SCRAM-SHA-256.
    #[error("the server does not offer SCRAM-SHA-256")]
    NoScram,
    /// A SCRAM message of the server is invalid, or its signature shows that it does not know the role's verifier.
    #[error("the server's SCRAM message is not valid")]
    Scram(#[source] std::io::Error),
    /// A message that the protocol does not allow at this point.
    #[error("the server violated the protocol: {0}")]
    Protocol(&'static str),
}

/// A login that waits for the server's next message, from the startup message to the first ReadyForQuery.
pub struct Handshake {
    exchange: Exchange,
    authenticated: bool,
    key: Option<Key>,
    messages: u32,
}

/// The identity of a server session for cancel requests (BackendKeyData).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The process id of the server process.
    pub pid: i32,
    /// The secret that a cancel request must contain.
    pub secret: i32,
}

/// What to do after a message of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes, then read the next message.
    Send(Vec<u8>),
    /// Read the next message.
    Read,
    /// The message is a ParameterStatus or NoticeResponse for the session's client. Read the next message.
    Greeting,
    /// The message is an ErrorResponse. The login has failed.
    Refused,
    /// The message is ReadyForQuery. The login is complete.
    Ready(Key),
}

/// The authentication during a login.
struct Exchange {
    secret: SecretString,
    scram: Option<ScramSha256>,
    proven: bool,
}

/// What to do after an Authentication message.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Send(Vec<u8>),
    Wait,
    /// AuthenticationOk: parameters, key and ReadyForQuery follow.
    Authenticated,
}

/// Builds the startup message (protocol 3.0) with these parameters, which include `user` and `database`. An error if a
/// parameter contains a zero byte.
pub fn startup_message<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Vec<u8>, LoginError> {
    let mut out = BytesMut::new();
    frontend::startup_message(parameters, &mut out)
        .map_err(|_| LoginError::Protocol("a parameter contains a zero byte"))?;
    Ok(out.to_vec())
}

/// Builds an SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    out.to_vec()
}

/// Builds a CancelRequest (protocol 3.0).
pub fn cancel_request(pid: i32, secret: i32) -> Vec<u8> {
    let mut out = BytesMut::new();
    frontend::cancel_request(pid, secret, &mut out);
    out.to_vec()
}

impl Handshake {
    /// The state after the startup message was sent. `secret` is the role's password.
    pub fn new(secret: SecretString) -> Self {
        Self {
            exchange: Exchange {
                secret,
                scram: None,
                proven: false,
            },
            authenticated: false,
            key: None,
            messages: 0,
        }
    }

    /// Parses the header of the server's next message. An error if the body is longer than 64 KiB, or after 1000 messages.
    pub fn header(&mut self, header: [u8; HEADER_LEN]) -> Result<Header, LoginError> {
        let header = parse_header(header).map_err(|_| LoginError::Protocol("an invalid length"))?;
        self.messages += 1;
        if self.messages > MESSAGES_MAX {
            return Err(LoginError::Protocol("too many messages during login"));
        }
        if header.body_len > MESSAGE_LEN_MAX {
            return Err(LoginError::Protocol("a message is too long"));
        }
        Ok(header)
    }

    /// Takes the server's next message.
    pub fn step(&mut self, tag: u8, body: &[u8]) -> Result<Step, LoginError> {
        match tag {
            backend::AUTHENTICATION if !self.authenticated => Ok(match self.exchange.step(body)? {
                Next::Send(response) => Step::Send(response),
                Next::Wait => Step::Read,
                Next::Authenticated => {
                    self.authenticated = true;
                    Step::Read
                }
            }),
            backend::ERROR => Ok(Step::Refused),
            backend::NOTICE | backend::PARAMETER_STATUS => Ok(Step::Greeting),
            backend::BACKEND_KEY_DATA if self.authenticated => {
                self.key = Some(parse_key(body)?);
                Ok(Step::Read)
            }
            backend::READY_FOR_QUERY if self.authenticated => {
                let key = self.key.ok_or(LoginError::Protocol("no BackendKeyData"))?;
                Ok(Step::Ready(key))
            }
            _ => Err(LoginError::Protocol("an unexpected message during login")),
        }
    }
}

impl Exchange {
    /// Takes the body of an Authentication message.
    fn step(&mut self, body: &[u8]) -> Result<Next, LoginError> {
        let (method, data) = body
            .split_first_chunk::<4>()
            .ok_or(LoginError::Protocol("a message is too short"))?;
        match (i32::from_be_bytes(*method), &mut self.scram) {
            // AuthenticationOk without SCRAM: the server's pg_hba.conf says `trust`. A server that started SCRAM must also
            // finish it, which proves that it knows the role's verifier.
            (0, None) => Ok(Next::Authenticated),
            (0, Some(_)) if self.proven => Ok(Next::Authenticated),
            (10, None) => self.begin(data),
            (11, Some(scram)) if !self.proven => {
                scram.update(data).map_err(LoginError::Scram)?;
                let mut out = BytesMut::new();
                frontend::sasl_response(scram.message(), &mut out).map_err(LoginError::Scram)?;
                Ok(Next::Send(out.to_vec()))
            }
            (12, Some(scram)) if !self.proven => {
                scram.finish(data).map_err(LoginError::Scram)?;
                self.proven = true;
                Ok(Next::Wait)
            }
            (0 | 10..=12, _) => Err(LoginError::Protocol("SCRAM out of order")),
            (method, _) => Err(LoginError::Method(method)),
        }
    }

    fn begin(&mut self, mechanisms: &[u8]) -> Result<Next, LoginError> {
        if !mechanisms
            .split(|byte| *byte == 0)
            .any(|mechanism| mechanism == SCRAM.as_bytes())
        {
            return Err(LoginError::NoScram);
        }
        let scram = ScramSha256::new(self.secret.expose_secret().as_bytes(), ChannelBinding::unsupported());
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(SCRAM, scram.message(), &mut out).map_err(LoginError::Scram)?;
        self.scram = Some(scram);
        Ok(Next::Send(out.to_vec()))
    }
}

/// BackendKeyData as protocol 3.0 has it.
fn parse_key(body: &[u8]) -> Result<Key, LoginError> {
    let wrong = LoginError::Protocol("invalid BackendKeyData");
    match (
        body.first_chunk::<4>(),
        body.get(4..).and_then(|rest| <[u8; 4]>::try_from(rest).ok()),
    ) {
        (Some(pid), Some(secret)) => Ok(Key {
            pid: i32::from_be_bytes(*pid),
            secret: i32::from_be_bytes(secret),
        }),
        _ => Err(wrong),
    }
}

/// Splits the body of a client's SASLInitialResponse into mechanism and data; `None` if it is malformed.
pub fn parse_sasl_initial(body: &[u8]) -> Option<(&str, &[u8])> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let (mechanism, rest) = body.split_at(end);
    let (len, data) = rest.get(1..)?.split_first_chunk::<4>()?;
    let len = usize::try_from(i32::from_be_bytes(*len)).ok()?;
    (len == data.len()).then_some((std::str::from_utf8(mechanism).ok()?, data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login() -> Handshake {
        Handshake::new("secret".to_owned().into())
    }

    /// Passes an Authentication message.
    fn ask(login: &mut Handshake, method: i32, data: &[u8]) -> Result<Step, LoginError> {
        let body = [&method.to_be_bytes()[..], data].concat();
        login.step(backend::AUTHENTICATION, &body)
    }

    #[test]
    fn a_server_that_started_scram_cannot_skip_its_proof() {
        let mut login = login();
        assert!(matches!(
            ask(&mut login, 10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
            Ok(Step::Send(_))
        ));
        assert!(ask(&mut login, 0, b"").is_err());
    }

    #[test]
    fn other_methods_are_refused() {
        for method in [3, 5, 7] {
            assert!(matches!(ask(&mut login(), method, b"salt"), Err(LoginError::Method(_))));
        }
        assert!(matches!(
            ask(&mut login(), 10, b"SCRAM-SHA-1\0\0"),
            Err(LoginError::NoScram)
        ));
        assert!(login().step(backend::AUTHENTICATION, b"").is_err());
    }

    #[test]
    fn a_session_is_ready_only_after_authentication_and_backend_key_data() {
        let key = Key { pid: 7, secret: 9 };
        let body = [7i32.to_be_bytes(), 9i32.to_be_bytes()].concat();
        let mut early = login();
        assert!(early.step(backend::READY_FOR_QUERY, b"I").is_err());
        assert!(early.step(backend::BACKEND_KEY_DATA, &body).is_err());
        let mut login = login();
        assert_eq!(ask(&mut login, 0, b"").unwrap(), Step::Read);
        assert!(login.step(backend::READY_FOR_QUERY, b"I").is_err(), "no key yet");
        assert_eq!(
            login.step(backend::PARAMETER_STATUS, b"a\0b\0").unwrap(),
            Step::Greeting
        );
        assert_eq!(login.step(backend::BACKEND_KEY_DATA, &body).unwrap(), Step::Read);
        assert_eq!(login.step(backend::READY_FOR_QUERY, b"I").unwrap(), Step::Ready(key));
        assert_eq!(login.step(backend::ERROR, b"\0").unwrap(), Step::Refused);
    }

    #[test]
    fn messages_are_bounded_in_length_and_number() {
        let header = |len: u32| [b"S".as_slice(), &len.to_be_bytes()].concat().try_into().unwrap();
        let mut login = login();
        assert!(login.header(header(MESSAGE_LEN_MAX + 5)).is_err());
        assert!(login.header(header(3)).is_err());
        for _ in 0..MESSAGES_MAX - 1 {
            login.header(header(4)).unwrap();
        }
        assert!(login.header(header(4)).is_err());
    }

    proptest! {
        #[test]
        fn hostile_servers_cause_errors_only(
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)), 0..5),
        ) {
            let mut login = login();
            let _ = ask(&mut login, 10, b"SCRAM-SHA-256\0\0");
            for (tag, body) in messages {
                let _ = ask(&mut login, 11, &body);
                let _ = login.step(backend::AUTHENTICATION, &body);
                let _ = login.step(tag, &body);
            }
        }

        #[test]
        fn initial_responses_are_parsed_or_refused(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse_sasl_initial(&body);
            let _ = parse_key(&body);
        }
    }
}
