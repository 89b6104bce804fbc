//! Hashes of users' passwords: PBKDF2-HMAC-SHA-256 with a random salt, as `pbkdf2-sha256$ITERATIONS$SALT$HASH`. Hashing is
//! deliberately slow (at least a tenth of a second), so it must not run on a thread of the async runtime.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::pbkdf2::{PBKDF2_HMAC_SHA256, derive, verify};
use secrecy::{ExposeSecret, SecretString};

use crate::NoRandom;
use crate::random::unguessable;

const MARK: &str = "pbkdf2-sha256";
/// The number that OWASP's Password Storage Cheat Sheet gives for PBKDF2-HMAC-SHA-256.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();
/// A stored hash with more iterations was not written by this module, and would take too long to check.
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;

/// The stored hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    iterations: NonZeroU32,
    salt: [u8; SALT_LEN],
    hash: [u8; HASH_LEN],
}

impl PasswordHash {
    /// Hashes a password with a new random salt. Slow: see the module's documentation.
    pub fn derive(password: &SecretString) -> Result<Self, NoRandom> {
        let salt = unguessable::<SALT_LEN>()?;
        let mut hash = [0; HASH_LEN];
        let text = password.expose_secret().as_bytes();
        derive(PBKDF2_HMAC_SHA256, ITERATIONS, &salt, text, &mut hash);
        Ok(Self {
            iterations: ITERATIONS,
            salt,
            hash,
        })
    }

    /// A hash that no password matches, for users that do not exist. Checking it takes as long as any other.
    pub fn mock() -> Result<Self, NoRandom> {
        Ok(Self {
            iterations: ITERATIONS,
            salt: unguessable()?,
            hash: unguessable()?,
        })
    }

    /// Whether this is the hash of `password`. As slow as [`Self::derive`].
    pub fn opens_with(&self, password: &SecretString) -> bool {
        let text = password.expose_secret().as_bytes();
        verify(PBKDF2_HMAC_SHA256, self.iterations, &self.salt, text, &self.hash).is_ok()
    }

    /// Parses the stored form; `None` if the text is not a hash that this module wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('$');
        let (mark, iterations) = (parts.next()?, parts.next()?.parse::<NonZeroU32>().ok()?);
        let (salt, hash) = (
            STANDARD_NO_PAD.decode(parts.next()?),
            STANDARD_NO_PAD.decode(parts.next()?),
        );
        let valid = mark == MARK && parts.next().is_none() && iterations.get() <= ITERATIONS_MAX;
        valid.then_some(Self {
            iterations,
            salt: salt.ok()?.try_into().ok()?,
            hash: hash.ok()?.try_into().ok()?,
        })
    }

    /// The form that is stored in the metadata store.
    pub fn to_text(&self) -> String {
        let encode = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
        format!(
            "{MARK}${}${}${}",
            self.iterations,
            encode(&self.salt),
            encode(&self.hash)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_hash_opens_with_its_password_only() {
        let password = "correct horse".to_owned().into();
        let stored = PasswordHash::derive(&password).unwrap().to_text();
        assert!(!stored.contains("horse"));
        let read = PasswordHash::parse(&stored).unwrap();
        assert!(read.opens_with(&password));
        assert!(!read.opens_with(&"correct Horse".to_owned().into()));
        assert!(PasswordHash::derive(&password).unwrap().to_text() != stored, "salted");
        assert!(!PasswordHash::mock().unwrap().opens_with(&password));
    }

    #[test]
    fn texts_that_are_not_hashes_are_refused() {
        let good = PasswordHash::mock().unwrap().to_text();
        assert!(PasswordHash::parse(&good).is_some());
        for bad in [
            "",
            "pbkdf2-sha256$600000$AAAA$AAAA",
            &good.replace("sha256", "sha1"),
            &good.replace("600000", "0"),
            &good.replace("600000", "4000000000"),
            &format!("{good}$x"),
        ] {
            assert!(PasswordHash::parse(bad).is_none(), "{bad}");
        }
    }
}
