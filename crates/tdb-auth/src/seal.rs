//! Sealing: encryption of secrets in the metadata store with ChaCha20-Poly1305, a random nonce, and a master key that is
//! kept outside the store. The row's identity is authenticated too, so a sealed secret copied to another row cannot be
//! opened.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::NoRandom;
use crate::random::unguessable;

const KEY_LEN: usize = 32;
/// The version of the sealed format, its first byte, so that the algorithm can be replaced later.
const VERSION: u8 = 1;

/// The installation's master key: 32 bytes, given as base64 in a file or an environment variable.
pub struct MasterKey {
    seal: LessSafeKey,
    mock_secret: [u8; KEY_LEN],
}

/// The text is not a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the master key must be 32 bytes in base64, such as `openssl rand -base64 32` prints")]
pub struct MasterKeyError;

/// Why a secret cannot be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// The secret was sealed with another key or for another context, or it was changed.
    #[error("the sealed secret cannot be opened with this master key")]
    DoesNotOpen,
    /// No nonce could be generated.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

impl MasterKey {
    /// Parses the base64 form; surrounding white space is ignored.
    pub fn parse(text: &SecretString) -> Result<Self, MasterKeyError> {
        let bytes = STANDARD
            .decode(text.expose_secret().trim())
            .map_err(|_| MasterKeyError)?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| MasterKeyError)?;
        let mut mock_secret = [0; KEY_LEN];
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), b"tdb mock verifier");
        mock_secret.copy_from_slice(derived.as_ref());
        Ok(Self {
            seal: LessSafeKey::new(key),
            mock_secret,
        })
    }

    /// Generates a key, in its base64 form.
    pub fn generate() -> Result<SecretString, NoRandom> {
        Ok(STANDARD.encode(unguessable::<KEY_LEN>()?).into())
    }

    /// The secret for [`crate::ScramVerifier::mock`]. It is derived from the key and reveals nothing about it.
    pub fn mock_secret(&self) -> &[u8] {
        &self.mock_secret
    }

    /// Seals `secret` for the row that `context` names (`role:<name>`, …).
    pub fn seal(&self, context: &str, secret: &SecretString) -> Result<Vec<u8>, SealError> {
        let nonce = unguessable::<NONCE_LEN>()?;
        let mut text = secret.expose_secret().as_bytes().to_vec();
        let tag = self
            .seal
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context.as_bytes()),
                &mut text,
            )
            .map_err(|_| SealError::DoesNotOpen)?;
        Ok([&[VERSION][..], &nonce, &text, tag.as_ref()].concat())
    }

    /// Opens a secret that [`Self::seal`] sealed for the same `context`.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<SecretString, SealError> {
        let Some((&VERSION, rest)) = sealed.split_first() else {
            return Err(SealError::DoesNotOpen);
        };
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::DoesNotOpen)?;
        let mut text = text.to_vec();
        let plain = self
            .seal
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(context.as_bytes()),
                &mut text,
            )
            .map_err(|_| SealError::DoesNotOpen)?;
        let plain = std::str::from_utf8(plain).map_err(|_| SealError::DoesNotOpen)?;
        Ok(plain.to_owned().into())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_with_the_same_key_and_context() {
        let key = MasterKey::parse(&MasterKey::generate().unwrap()).unwrap();
        let other = MasterKey::parse(&MasterKey::generate().unwrap()).unwrap();
        let sealed = key.seal("role:r_a", &"s3cret".to_owned().into()).unwrap();
        assert_eq!(key.open("role:r_a", &sealed).unwrap().expose_secret(), "s3cret");
        assert_eq!(key.open("role:r_b", &sealed).unwrap_err(), SealError::DoesNotOpen);
        assert_eq!(other.open("role:r_a", &sealed).unwrap_err(), SealError::DoesNotOpen);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(key.open("role:r_a", &bad).is_err(), "byte {at}");
            assert!(key.open("role:r_a", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn keys_of_another_length_are_refused() {
        for text in ["", "abc", &STANDARD.encode([0; 16]), &STANDARD.encode([0; 33])] {
            assert!(MasterKey::parse(&text.to_owned().into()).is_err());
        }
    }
}
