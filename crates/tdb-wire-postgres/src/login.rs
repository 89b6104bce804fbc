//! The client's side of a login at a database server: startup message, SCRAM, and everything up to the first
//! ReadyForQuery. A server is not trusted: whatever it sends ends in a state or in an error, never in a panic or an
//! unbounded buffer.

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::backend;
use crate::frame::{HEADER_LEN, Header, parse_header};
use crate::scram::SCRAM;

/// Longest message of a login; PostgreSQL's are a few hundred bytes.
const MESSAGE_LEN_MAX: u32 = 64 * 1024;
/// Most messages of a login; PostgreSQL sends about twenty.
const MESSAGES_MAX: u32 = 1000;

/// Why a login cannot go on.
#[derive(Debug, Error)]
pub enum LoginError {
    /// The server asks for another method than SCRAM-SHA-256.
    #[error("the server asked for the authentication method {0}, which is not supported")]
    Method(i32),
    /// The server offers SASL mechanisms, SCRAM-SHA-256 not among them.
    #[error("the server does not offer SCRAM-SHA-256")]
    NoScram,
    /// The server does not know the secret, or breaks the exchange.
    #[error("the server's part of SCRAM is wrong")]
    Scram(#[source] std::io::Error),
    /// A message that does not belong here.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
}

/// A login that waits for the server's next message, from the startup message to the first ReadyForQuery.
pub struct Login {
    exchange: Exchange,
    authenticated: bool,
    key: Option<Key>,
    messages: u32,
}

/// Pid and cancel secret of a server session (BackendKeyData).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The server process.
    pub pid: i32,
    /// What a cancel request has to show.
    pub secret: i32,
}

/// What a message of the server calls for.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes, then read on.
    Send(Vec<u8>),
    /// Read on.
    Read,
    /// ParameterStatus or NoticeResponse: for whoever uses the session.
    Greeting,
    /// The server's ErrorResponse; the login is over.
    Refused,
    /// ReadyForQuery.
    Ready(Key),
}

/// The authentication within a login.
struct Exchange {
    secret: SecretString,
    scram: Option<ScramSha256>,
    proven: bool,
}

/// What to do with an authentication message.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Send(Vec<u8>),
    Wait,
    /// AuthenticationOk: parameters, key and ReadyForQuery follow.
    Authenticated,
}

/// The startup message (protocol 3.0) with these parameters, `user` and `database` among them.
pub fn startup_message<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Vec<u8>, LoginError> {
    let mut out = BytesMut::new();
    frontend::startup_message(parameters, &mut out)
        .map_err(|_| LoginError::Protocol("a parameter holds a zero byte"))?;
    Ok(out.to_vec())
}

/// SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    out.to_vec()
}

/// CancelRequest of protocol 3.0.
pub fn cancel_request(pid: i32, secret: i32) -> Vec<u8> {
    let mut out = BytesMut::new();
    frontend::cancel_request(pid, secret, &mut out);
    out.to_vec()
}

impl Login {
    /// The startup message has been sent; `secret` is the role's password.
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

    /// Reads the header of the server's next message, whose body is then at most 64 KiB long.
    pub fn header(&mut self, header: [u8; HEADER_LEN]) -> Result<Header, LoginError> {
        let header = parse_header(header).map_err(|_| LoginError::Protocol("an invalid length"))?;
        self.messages += 1;
        if self.messages > MESSAGES_MAX {
            return Err(LoginError::Protocol("too many messages during login"));
        }
        if header.body_len > MESSAGE_LEN_MAX {
            return Err(LoginError::Protocol("a message too long for a login"));
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
            .ok_or(LoginError::Protocol("a short message"))?;
        match (i32::from_be_bytes(*method), &mut self.scram) {
            // `trust`: a server may ask for nothing. A server that began SCRAM must also prove that it knows the secret.
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
    let wrong = LoginError::Protocol("a wrong BackendKeyData");
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

/// Splits the body of a SASLInitialResponse into mechanism and data.
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

    fn login() -> Login {
        Login::new("secret".to_owned().into())
    }

    /// One Authentication message.
    fn ask(login: &mut Login, method: i32, data: &[u8]) -> Result<Step, LoginError> {
        let body = [&method.to_be_bytes()[..], data].concat();
        login.step(backend::AUTHENTICATION, &body)
    }

    #[test]
    fn a_server_that_began_scram_cannot_skip_its_proof() {
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
    fn a_session_is_ready_after_authentication_and_key_only() {
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
