//! SCRAM-SHA-256 verifiers in PostgreSQL's text form (RFC 5802, RFC 7677; PostgreSQL manual, "pg_authid"):
//! `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`. The proxy's login and `CREATE ROLE` use the same text.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::{hmac, pbkdf2};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::NoRandom;
use crate::random::unguessable;

/// PostgreSQL's default for `scram_iterations`, for passwords that people may choose.
pub const ITERATIONS_PASSWORD: NonZeroU32 = NonZeroU32::new(4096).unwrap();
/// One iteration, for secrets of 256 random bits: they cannot be guessed even if each guess is cheap, and connections to
/// servers do not need to compute thousands of HMACs.
pub const ITERATIONS_RANDOM_SECRET: NonZeroU32 = NonZeroU32::MIN;
/// Bytes of salt in a verifier, as in PostgreSQL.
pub const SALT_LEN: usize = 16;
const KEY_LEN: usize = 32;
const MECHANISM: &str = "SCRAM-SHA-256";

/// The server's data for SCRAM. It does not reveal the password, and a client cannot log in with it.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: [u8; KEY_LEN],
    server_key: [u8; KEY_LEN],
}

/// The text is not a SCRAM-SHA-256 verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a SCRAM-SHA-256 verifier")]
pub struct VerifierError;

impl ScramVerifier {
    /// Derives a verifier with a new random salt. Computes `iterations` HMACs.
    pub fn derive(password: &SecretString, iterations: NonZeroU32) -> Result<Self, NoRandom> {
        Ok(Self::derive_with_salt(
            password,
            iterations,
            unguessable::<SALT_LEN>()?.to_vec(),
        ))
    }

    fn derive_with_salt(password: &SecretString, iterations: NonZeroU32, salt: Vec<u8>) -> Self {
        let normal = normalise(password.expose_secret());
        let mut salted = [0; KEY_LEN];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            &salt,
            normal.as_bytes(),
            &mut salted,
        );
        let client_key = hmac_sha256(&salted, b"Client Key");
        Self {
            iterations,
            salt,
            stored_key: sha256(&client_key),
            server_key: hmac_sha256(&salted, b"Server Key"),
        }
    }

    /// Whether this is the verifier of `password` with this number of iterations. A verifier with another number is not
    /// checked: an attacker may have stored a number that takes hours to compute.
    pub fn is_of(&self, password: &SecretString, iterations: NonZeroU32) -> bool {
        if self.iterations != iterations {
            return false;
        }
        let expected = Self::derive_with_salt(password, iterations, self.salt.clone());
        equal_in_constant_time(&expected.stored_key, &self.stored_key)
            && equal_in_constant_time(&expected.server_key, &self.server_key)
    }

    /// The verifier for a user that does not exist. As in PostgreSQL, the salt for a name is always the same, and no password
    /// matches. `secret` is the installation's ([`crate::MasterKey::mock_secret`]).
    pub fn mock(user: &str, secret: &[u8]) -> Self {
        let part = |label: &str| hmac_sha256(secret, format!("{label}\0{user}").as_bytes());
        Self {
            iterations: ITERATIONS_PASSWORD,
            salt: part("salt").into_iter().take(SALT_LEN).collect(),
            stored_key: part("stored"),
            server_key: part("server"),
        }
    }

    /// The number of PBKDF2 iterations that the client has to compute.
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// The salt that the client uses with the password.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Checks a client's proof over `auth_message` (RFC 5802, section 3) in constant time. Returns the server's signature for
    /// the final message, or `None` if the proof is wrong.
    pub fn verify(&self, auth_message: &[u8], proof: &[u8; KEY_LEN]) -> Option<[u8; KEY_LEN]> {
        let signature = hmac_sha256(&self.stored_key, auth_message);
        let mut client_key = [0; KEY_LEN];
        for (key, (proof, signature)) in client_key.iter_mut().zip(proof.iter().zip(signature)) {
            *key = proof ^ signature;
        }
        let genuine = equal_in_constant_time(&sha256(&client_key), &self.stored_key);
        genuine.then(|| hmac_sha256(&self.server_key, auth_message))
    }
}

impl FromStr for ScramVerifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let mut parts = text.split('$');
        let (Some(MECHANISM), Some(salting), Some(keys), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(VerifierError);
        };
        let (iterations, salt) = salting.split_once(':').ok_or(VerifierError)?;
        let (stored, server) = keys.split_once(':').ok_or(VerifierError)?;
        let key = |text: &str| -> Result<[u8; KEY_LEN], VerifierError> {
            STANDARD
                .decode(text)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(VerifierError)
        };
        let salt = STANDARD
            .decode(salt)
            .ok()
            .filter(|salt| !salt.is_empty())
            .ok_or(VerifierError)?;
        Ok(Self {
            iterations: iterations.parse().map_err(|_| VerifierError)?,
            salt,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }
}

impl fmt::Display for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b64 = |bytes: &[u8]| STANDARD.encode(bytes);
        let (salt, stored, server) = (b64(&self.salt), b64(&self.stored_key), b64(&self.server_key));
        write!(f, "{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(…)")
    }
}

/// SASLprep (RFC 4013). Like PostgreSQL, this uses the raw bytes if a password cannot be normalised.
fn normalise(password: &str) -> std::borrow::Cow<'_, str> {
    stringprep::saslprep(password).unwrap_or(std::borrow::Cow::Borrowed(password))
}

fn sha256(data: &[u8]) -> [u8; KEY_LEN] {
    fixed(digest(&SHA256, data).as_ref())
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; KEY_LEN] {
    fixed(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref())
}

fn fixed(bytes: &[u8]) -> [u8; KEY_LEN] {
    let mut out = [0; KEY_LEN];
    out.copy_from_slice(bytes);
    out
}

/// Compares two secrets in constant time. It compares their HMACs, which `ring` does in constant time for any content.
pub fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"tdb equality");
    hmac::verify(&key, left, hmac::sign(&key, right).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7677 section 3: user "user", password "pencil".
    #[test]
    fn verifies_the_example_of_rfc_7677() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = ScramVerifier::derive_with_salt(&"pencil".to_owned().into(), ITERATIONS_PASSWORD, salt);
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof: [u8; 32] = STANDARD
            .decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
            .unwrap()
            .try_into()
            .unwrap();
        let signature = verifier.verify(message.as_bytes(), &proof).unwrap();
        assert_eq!(
            STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        let mut wrong = proof;
        wrong[31] ^= 1;
        assert!(verifier.verify(message.as_bytes(), &wrong).is_none());
    }

    #[test]
    fn mock_verifiers_are_stable_per_name_and_differ_between_names_and_installations() {
        let mock = |user, secret: &[u8]| ScramVerifier::mock(user, secret).to_string();
        assert_eq!(mock("ann", b"k"), mock("ann", b"k"));
        assert_ne!(mock("ann", b"k"), mock("bob", b"k"));
        assert_ne!(mock("ann", b"k"), mock("ann", b"l"));
    }

    #[test]
    fn broken_verifiers_are_refused() {
        let good = ScramVerifier::mock("a", b"b").to_string();
        for text in [
            "",
            "md5abc",
            "SCRAM-SHA-256$4096",
            &good.replace("4096", "0"),
            &good.replace("4096", "x"),
            &format!("{good}$"),
            &good[..good.len() - 4],
        ] {
            assert!(text.parse::<ScramVerifier>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_form_round_trips(password in "\\PC{0,40}") {
            let verifier = ScramVerifier::derive(&password.into(), ITERATIONS_RANDOM_SECRET).unwrap();
            prop_assert_eq!(verifier.to_string().parse::<ScramVerifier>().unwrap(), verifier);
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<ScramVerifier>();
        }
    }
}
