//! Passwords of people: PBKDF2-HMAC-SHA-256 with a random salt, `pbkdf2-sha256$ITERATIONS$SALT$HASH`. Slow on purpose
//! (a tenth of a second and more): never on a thread that serves others.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::pbkdf2::{PBKDF2_HMAC_SHA256, derive, verify};
use secrecy::{ExposeSecret, SecretString};

use crate::NoRandom;
use crate::random::unguessable;

const MARK: &str = "pbkdf2-sha256";
/// OWASP's password storage cheat sheet, for this function.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();
/// A stored hash that asks for more is none of ours.
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;

/// What is stored of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    iterations: NonZeroU32,
    salt: [u8; SALT_LEN],
    hash: [u8; HASH_LEN],
}

impl PasswordHash {
    /// Takes its time.
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

    /// One that no password opens and that takes as long as any other to try: for users that do not exist.
    pub fn mock() -> Result<Self, NoRandom> {
        Ok(Self {
            iterations: ITERATIONS,
            salt: unguessable()?,
            hash: unguessable()?,
        })
    }

    /// Takes as long as [`Self::derive`].
    pub fn opens_with(&self, password: &SecretString) -> bool {
        let text = password.expose_secret().as_bytes();
        verify(PBKDF2_HMAC_SHA256, self.iterations, &self.salt, text, &self.hash).is_ok()
    }

    /// None where the text is no hash of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('$');
        let (mark, iterations) = (parts.next()?, parts.next()?.parse::<NonZeroU32>().ok()?);
        let (salt, hash) = (
            STANDARD_NO_PAD.decode(parts.next()?),
            STANDARD_NO_PAD.decode(parts.next()?),
        );
        let known = mark == MARK && parts.next().is_none() && iterations.get() <= ITERATIONS_MAX;
        known.then_some(Self {
            iterations,
            salt: salt.ok()?.try_into().ok()?,
            hash: hash.ok()?.try_into().ok()?,
        })
    }

    /// The form in which it is stored.
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
    fn what_is_no_hash_is_refused() {
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
