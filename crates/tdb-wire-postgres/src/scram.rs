//! The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677, RFC 5929 `tls-server-end-point`).
//! A state consumes itself and returns the next. The exchange does not reveal whether a user exists: for an unknown user
//! the caller passes a mock verifier, and the exchange fails at the same point as with a wrong password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tdb_auth::{NoRandom, ScramVerifier, unguessable};
use thiserror::Error;

/// The mechanism without channel binding.
pub const SCRAM: &str = "SCRAM-SHA-256";
/// The mechanism that binds to the TLS connection.
pub const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";
const NONCE_LEN: usize = 18;

/// The channel binding data of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The connection has no TLS, or its certificate has no hash for `tls-server-end-point`.
    None,
    /// `tls-server-end-point` (RFC 5929): the hash of the proxy's certificate.
    ServerEndPoint(Vec<u8>),
}

/// Why an exchange failed before the password could be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScramError {
    /// A message that RFC 5802 does not allow.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// A mechanism that was not offered.
    #[error("the client selected an authentication mechanism that was not offered")]
    Mechanism,
    /// The client supports channel binding and did not receive the offer of SCRAM-SHA-256-PLUS.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    /// The client's channel binding data is not that of this connection.
    #[error("SCRAM channel binding check failed")]
    Binding,
    /// No nonce could be generated.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

/// The exchange after the server's first message; it waits for the client's final message.
pub struct AwaitProof {
    verifier: ScramVerifier,
    client_first_bare: String,
    server_first: String,
    nonce: String,
    /// The required value of `c=`, in base64.
    channel: String,
}

/// The result of checking the client's proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The proof is correct. Contains the server's final message.
    Genuine(Vec<u8>),
    /// The client does not know the password.
    WrongPassword,
}

/// The mechanisms to offer on a connection with this binding, in order of preference.
pub fn mechanisms(binding: &Binding) -> &'static [&'static str] {
    match binding {
        Binding::None => &[SCRAM],
        Binding::ServerEndPoint(_) => &[SCRAM_PLUS, SCRAM],
    }
}

/// Takes the client's first message. Returns the next state and the server's first message.
pub fn begin(
    mechanism: &str,
    client_first: &[u8],
    binding: &Binding,
    verifier: ScramVerifier,
) -> Result<(AwaitProof, Vec<u8>), ScramError> {
    let text = std::str::from_utf8(client_first).map_err(|_| ScramError::Malformed("not UTF-8"))?;
    let (header, bare) = split_header(text)?;
    let channel = channel(mechanism, header, binding)?;
    let client_nonce = client_nonce(bare)?;
    let nonce = format!("{client_nonce}{}", STANDARD.encode(unguessable::<NONCE_LEN>()?));
    let server_first = format!(
        "r={nonce},s={},i={}",
        STANDARD.encode(verifier.salt()),
        verifier.iterations()
    );
    let reply = server_first.clone().into_bytes();
    Ok((
        AwaitProof {
            verifier,
            client_first_bare: bare.to_owned(),
            server_first,
            nonce,
            channel,
        },
        reply,
    ))
}

impl AwaitProof {
    /// Takes the client's final message.
    pub fn finish(self, client_final: &[u8]) -> Result<Outcome, ScramError> {
        let text = std::str::from_utf8(client_final).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof"))?;
        let mut attributes = without_proof.split(',');
        let channel = attributes
            .next()
            .and_then(|a| a.strip_prefix("c="))
            .ok_or(ScramError::Malformed("no channel binding"))?;
        let nonce = attributes
            .next()
            .and_then(|a| a.strip_prefix("r="))
            .ok_or(ScramError::Malformed("no nonce"))?;
        if channel != self.channel {
            return Err(ScramError::Binding);
        }
        if nonce != self.nonce {
            return Err(ScramError::Malformed("wrong nonce"));
        }
        let proof: [u8; 32] = STANDARD
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or(ScramError::Malformed("the proof is not 32 bytes of base64"))?;
        let message = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        Ok(match self.verifier.verify(message.as_bytes(), &proof) {
            Some(signature) => Outcome::Genuine(format!("v={}", STANDARD.encode(signature)).into_bytes()),
            None => Outcome::WrongPassword,
        })
    }
}

/// Splits `n,,n=user,r=nonce` into the gs2-header, with its trailing comma, and the rest.
fn split_header(text: &str) -> Result<(&str, &str), ScramError> {
    let mut commas = text.match_indices(',').map(|(at, _)| at);
    let (_, Some(second)) = (commas.next(), commas.next()) else {
        return Err(ScramError::Malformed("no header"));
    };
    let (header, bare) = text.split_at(second + 1);
    match header.split(',').nth(1) {
        Some("") => Ok((header, bare)),
        _ => Err(ScramError::Malformed("authorization identities are not supported")),
    }
}

/// The value that `c=` of the final message must have for this mechanism and header.
fn channel(mechanism: &str, header: &str, binding: &Binding) -> Result<String, ScramError> {
    let flag = header.split(',').next().unwrap_or_default();
    let data: &[u8] = match (mechanism, flag, binding) {
        (SCRAM, "n", _) | (SCRAM, "y", Binding::None) => &[],
        // The client supports channel binding and did not see that the proxy does: the offer of PLUS was removed on the
        // way.
        (SCRAM, "y", Binding::ServerEndPoint(_)) => return Err(ScramError::Downgrade),
        (SCRAM_PLUS, "p=tls-server-end-point", Binding::ServerEndPoint(hash)) => hash,
        (SCRAM_PLUS, _, Binding::ServerEndPoint(_)) => {
            return Err(ScramError::Malformed("unsupported channel binding"));
        }
        (SCRAM, _, _) => return Err(ScramError::Malformed("channel binding without -PLUS")),
        _ => return Err(ScramError::Mechanism),
    };
    Ok(STANDARD.encode([header.as_bytes(), data].concat()))
}

/// The nonce of `n=user,r=nonce[,extensions]`. As in PostgreSQL, the user name is ignored; the startup packet has it.
fn client_nonce(bare: &str) -> Result<&str, ScramError> {
    let mut attributes = bare.split(',');
    match attributes.next() {
        Some(user) if user.starts_with("n=") => {}
        _ => return Err(ScramError::Malformed("no user name")),
    }
    let nonce = attributes
        .next()
        .and_then(|a| a.strip_prefix("r="))
        .ok_or(ScramError::Malformed("no nonce"))?;
    let printable = !nonce.is_empty() && nonce.bytes().all(|b| b.is_ascii_graphic());
    if printable {
        Ok(nonce)
    } else {
        Err(ScramError::Malformed("unprintable nonce"))
    }
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;
    use tdb_auth::ITERATIONS_RANDOM_SECRET;

    use super::*;

    fn verifier(password: &str) -> ScramVerifier {
        ScramVerifier::derive(&password.to_owned().into(), ITERATIONS_RANDOM_SECRET).unwrap()
    }

    /// Runs the whole exchange with the client of another implementation.
    fn exchange(
        password: &str,
        mechanism: &str,
        client: ChannelBinding,
        server: &Binding,
    ) -> Result<Outcome, ScramError> {
        let mut client = ScramSha256::new(password.as_bytes(), client);
        let (state, reply) = begin(mechanism, client.message(), server, verifier("right"))?;
        client.update(&reply).unwrap();
        let outcome = state.finish(client.message())?;
        if let Outcome::Genuine(last) = &outcome {
            client.finish(last).unwrap();
        }
        Ok(outcome)
    }

    #[test]
    fn the_right_password_is_genuine_and_proves_the_server() {
        let hash = vec![7; 32];
        let end_point = Binding::ServerEndPoint(hash.clone());
        let genuine = |outcome| matches!(outcome, Ok(Outcome::Genuine(_)));
        assert!(genuine(exchange(
            "right",
            SCRAM,
            ChannelBinding::unsupported(),
            &Binding::None
        )));
        assert!(genuine(exchange(
            "right",
            SCRAM,
            ChannelBinding::unrequested(),
            &Binding::None
        )));
        assert!(genuine(exchange(
            "right",
            SCRAM,
            ChannelBinding::unsupported(),
            &end_point
        )));
        assert!(genuine(exchange(
            "right",
            SCRAM_PLUS,
            ChannelBinding::tls_server_end_point(hash),
            &end_point
        )));
        assert_eq!(
            exchange("wrong", SCRAM, ChannelBinding::unsupported(), &Binding::None),
            Ok(Outcome::WrongPassword)
        );
    }

    #[test]
    fn downgrades_and_foreign_bindings_are_refused() {
        let end_point = Binding::ServerEndPoint(vec![7; 32]);
        let other = || ChannelBinding::tls_server_end_point(vec![8; 32]);
        assert_eq!(
            exchange("right", SCRAM, ChannelBinding::unrequested(), &end_point),
            Err(ScramError::Downgrade)
        );
        assert_eq!(
            exchange("right", SCRAM_PLUS, other(), &end_point),
            Err(ScramError::Binding)
        );
        assert_eq!(
            exchange("right", SCRAM_PLUS, other(), &Binding::None),
            Err(ScramError::Mechanism)
        );
        assert!(exchange("right", SCRAM, other(), &end_point).is_err());
        assert!(exchange("right", SCRAM_PLUS, ChannelBinding::unsupported(), &end_point).is_err());
        assert_eq!(
            exchange("right", "PLAIN", ChannelBinding::unsupported(), &Binding::None),
            Err(ScramError::Mechanism)
        );
    }

    proptest! {
        #[test]
        fn any_messages_are_refused_without_panic(first in "\\PC{0,60}", last in "\\PC{0,60}") {
            let _ = begin(SCRAM, first.as_bytes(), &Binding::None, verifier("x"));
            let (state, _) = begin(SCRAM, b"n,,n=,r=abc", &Binding::None, verifier("x")).unwrap();
            prop_assert!(!matches!(state.finish(last.as_bytes()), Ok(Outcome::Genuine(_))));
        }
    }
}
