//! API keys: `tdb_sk_` and 43 characters of base64url (256 random bits). The metadata store has a key's SHA-256 hash and
//! its prefix, by which the row is looked up. A random key does not need a slow hash.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};

use crate::NoRandom;
use crate::random::unguessable;

const MARK: &str = "tdb_sk_";
/// The length of a key's prefix, which is stored in clear text to look the key up and to show it in lists.
pub const API_KEY_PREFIX_LEN: usize = MARK.len() + 8;
const LEN: usize = MARK.len() + 43;

/// An API key in clear text.
pub struct ApiKey(SecretString);

/// The stored hash of an API key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyHash([u8; 32]);

impl ApiKey {
    /// Generates a key from the operating system's random source.
    pub fn generate() -> Result<Self, NoRandom> {
        Ok(Self(
            format!("{MARK}{}", URL_SAFE_NO_PAD.encode(unguessable::<32>()?)).into(),
        ))
    }

    /// Parses a key; `None` if the text does not have the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(MARK)?;
        let valid = text.len() == LEN
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        valid.then(|| Self(text.to_owned().into()))
    }

    /// The key's prefix, by which its row is looked up. It is not secret.
    pub fn prefix(&self) -> &str {
        // Both constructors give ASCII of a fixed length.
        self.0.expose_secret().get(..API_KEY_PREFIX_LEN).unwrap_or_default()
    }

    /// The SHA-256 hash of the whole key.
    pub fn hash(&self) -> ApiKeyHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, self.0.expose_secret().as_bytes()).as_ref());
        ApiKeyHash(hash)
    }

    /// The key in clear text, for the one response that may contain it.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }
}

impl ApiKeyHash {
    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares this hash with a stored one in constant time.
    pub fn matches(&self, stored: &[u8]) -> bool {
        crate::scram::equal_in_constant_time(&self.0, stored)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}…)", self.prefix())
    }
}

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeyHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_parses_and_matches_only_itself() {
        let key = ApiKey::generate().unwrap();
        let again = ApiKey::parse(key.reveal()).unwrap();
        assert_eq!(again.prefix(), key.prefix());
        assert!(key.hash().matches(again.hash().as_bytes()));
        assert!(!key.hash().matches(ApiKey::generate().unwrap().hash().as_bytes()));
        assert!(!format!("{key:?} {:?}", key.hash()).contains(&key.reveal()[API_KEY_PREFIX_LEN..]));
    }

    #[test]
    fn texts_that_are_not_keys_are_refused() {
        let good = ApiKey::generate().unwrap();
        for text in [
            "",
            "tdb_sk_",
            "sk_123",
            &good.reveal()[1..],
            &format!("{}x", good.reveal()),
            &good.reveal().replace("tdb_sk_", "tdb_pk_"),
        ] {
            assert!(ApiKey::parse(text).is_none(), "{text}");
        }
    }
}
