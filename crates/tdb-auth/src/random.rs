//! Random text and bytes. Letters are drawn from their alphabet without modulo bias.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::SecretString;

use crate::NoRandom;

const BASE32: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
const BASE62: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// In characters; 32 characters of base62 have 190 bits.
const PASSWORD_LEN: usize = 32;

/// `len` random characters of `a-z2-7`, for suffixes of names and ids.
pub fn base32(len: usize) -> Result<String, NoRandom> {
    draw(BASE32, len)
}

/// A password for a credential: 32 letters and digits, which need no escaping in a connection string.
pub fn password() -> Result<SecretString, NoRandom> {
    Ok(draw(BASE62, PASSWORD_LEN)?.into())
}

/// The password of a database role that the proxy logs in with: 256 random bits as base64url.
pub fn upstream_secret() -> Result<SecretString, NoRandom> {
    Ok(URL_SAFE_NO_PAD.encode(unguessable::<32>()?).into())
}

/// Random bytes of the operating system, for salts, nonces and cancel keys.
pub fn unguessable<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

fn draw(alphabet: &[u8], len: usize) -> Result<String, NoRandom> {
    // Bytes from the largest multiple of the alphabet's length on would favour the first letters; they are discarded.
    let limit = 256 - 256 % alphabet.len();
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let bytes = unguessable::<64>()?
            .into_iter()
            .map(usize::from)
            .filter(|byte| *byte < limit);
        let letters = bytes.filter_map(|byte| alphabet.get(byte % alphabet.len()));
        text.extend(letters.take(len - text.len()).map(|letter| char::from(*letter)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn random_texts_have_the_length_and_use_the_whole_alphabet() {
        let text = draw(BASE62, 10_000).unwrap();
        assert_eq!(text.len(), 10_000);
        assert_eq!(text.bytes().collect::<HashSet<_>>(), BASE62.iter().copied().collect());
        assert!(base32(13).unwrap().bytes().all(|b| BASE32.contains(&b)));
        assert_ne!(base32(13).unwrap(), base32(13).unwrap());
    }
}
