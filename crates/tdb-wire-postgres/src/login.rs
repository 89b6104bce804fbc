//! The client's side of a login at a database server: startup message, SCRAM, and reading what comes back. A server is
//! not trusted: whatever it sends ends in a state or in an error, never in a panic or an unbounded buffer.

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::scram::SCRAM;

#[derive(Debug, Error)]
pub enum LoginError {
    #[error("the server asked for the authentication method {0}, which is not supported")]
    Method(i32),
    #[error("the server does not offer SCRAM-SHA-256")]
    NoScram,
    #[error("the server's part of SCRAM is wrong")]
    Scram(#[source] std::io::Error),
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
}

/// Where a login stands.
pub struct Login {
    secret: SecretString,
    scram: Option<ScramSha256>,
    proven: bool,
}

/// What to do with an authentication message.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
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

pub fn ssl_request() -> Vec<u8> {
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    out.to_vec()
}

pub fn cancel_request(pid: i32, secret: i32) -> Vec<u8> {
    let mut out = BytesMut::new();
    frontend::cancel_request(pid, secret, &mut out);
    out.to_vec()
}

impl Login {
    pub fn new(secret: SecretString) -> Self {
        Self {
            secret,
            scram: None,
            proven: false,
        }
    }

    /// Takes the body of an Authentication message.
    pub fn step(&mut self, body: &[u8]) -> Result<Next, LoginError> {
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

/// Pid and secret of BackendKeyData as protocol 3.0 has them.
pub fn parse_key(body: &[u8]) -> Result<(i32, i32), LoginError> {
    let wrong = LoginError::Protocol("a wrong BackendKeyData");
    match (
        body.first_chunk::<4>(),
        body.get(4..).and_then(|rest| <[u8; 4]>::try_from(rest).ok()),
    ) {
        (Some(pid), Some(secret)) => Ok((i32::from_be_bytes(*pid), i32::from_be_bytes(secret))),
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

    fn message(method: i32, data: &[u8]) -> Vec<u8> {
        [&method.to_be_bytes()[..], data].concat()
    }

    #[test]
    fn a_server_that_began_scram_cannot_skip_its_proof() {
        let mut login = login();
        assert!(matches!(
            login.step(&message(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")),
            Ok(Next::Send(_))
        ));
        assert!(login.step(&message(0, b"")).is_err());
    }

    #[test]
    fn other_methods_are_refused() {
        for method in [3, 5, 7] {
            assert!(matches!(
                login().step(&message(method, b"salt")),
                Err(LoginError::Method(_))
            ));
        }
        assert!(matches!(
            login().step(&message(10, b"SCRAM-SHA-1\0\0")),
            Err(LoginError::NoScram)
        ));
        assert!(login().step(b"").is_err());
    }

    proptest! {
        #[test]
        fn hostile_servers_cause_errors_only(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..5)) {
            let mut login = login();
            let _ = login.step(&message(10, b"SCRAM-SHA-256\0\0"));
            for body in bodies {
                let _ = login.step(&message(11, &body));
                let _ = login.step(&body);
            }
        }

        #[test]
        fn initial_responses_are_parsed_or_refused(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse_sasl_initial(&body);
            let _ = parse_key(&body);
        }
    }
}
