//! Secrets: random names and passwords, SCRAM verifiers, API keys, encryption of stored secrets, and TLS settings for
//! connections to servers. No async and no network I/O. No secret appears in `Debug` output or in an error.

mod apikey;
mod password_hash;
mod random;
mod scram;
mod seal;
mod tls;

pub use apikey::{API_KEY_PREFIX_LEN, ApiKey, ApiKeyHash};
pub use password_hash::PasswordHash;
pub use random::{base32, password, unguessable, upstream_secret};
pub use scram::{
    ITERATIONS_PASSWORD, ITERATIONS_RANDOM_SECRET, SALT_LEN, ScramVerifier, VerifierError, equal_in_constant_time,
};
pub use seal::{MasterKey, MasterKeyError, SealError};
pub use tls::{ClientTls, Roots, RootsError};

/// The operating system's random source failed, so no secret can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random source failed")]
pub struct NoRandom;
