//! Requests that may be repeated without being carried out twice. A request claims its key before the use case starts.
//! The use case writes a receipt in the transaction that creates something, and a successful answer is stored and
//! returned to repeated requests. If an attempt dies, the next one continues from its receipt instead of creating
//! again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use secrecy::SecretString;
use tdb_problems::ProblemCode;
use tdb_store::idempotency::{self, ClaimOutcome, KeyClaim};
use uuid::Uuid;

use crate::attempt::{Attempt, in_progress};
use crate::core::Core;
use crate::error::{ControlError, Result};
use crate::identity::Identity;

const KEY_LEN_MAX: usize = 255;
/// How long the claim of an attempt that died blocks other attempts.
const LEASE: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// The value of a client's `Idempotency-Key` header: 1 to 255 printable ASCII characters, spaces included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// A stored answer. The body may contain secrets; it is stored encrypted.
#[derive(Debug)]
pub struct Kept {
    /// The HTTP status.
    pub status: u16,
    /// The body, as it was sent.
    pub body: SecretString,
}

/// The result of claiming a key.
#[derive(Debug)]
pub enum Once {
    /// The request is to be carried out, with this identity. The caller ends with `Idempotency::keep_answer` or
    /// `Idempotency::release_key`.
    Go(Identity),
    /// The request was carried out before; this is its answer.
    Done(Kept),
}

impl IdempotencyKey {
    /// `None` if the text is empty, too long, or contains other characters.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (1..=KEY_LEN_MAX).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b));
        valid.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Requests with an idempotency key.
#[derive(Clone)]
pub struct Idempotency {
    pub(crate) core: Arc<Core>,
}

impl Idempotency {
    /// Claims a key for the request that `parts` describe. Fails with `IdempotencyInProgress` while another attempt
    /// runs, and with `IdempotencyKeyReused` if the key was used for another request or with another API key.
    pub async fn once(&self, identity: &Identity, key: &IdempotencyKey, parts: &[&[u8]]) -> Result<Once> {
        let claim = KeyClaim {
            project: identity.project().clone(),
            key: key.0.clone(),
            attempt: Uuid::new_v4(),
        };
        let request = digest(identity, parts);
        let tx = self.core.store.project(&claim.project).await?;
        let found = idempotency::claim(&tx, &self.core.store, &claim, &request, LEASE).await?;
        tx.commit().await?;
        match found {
            ClaimOutcome::Claimed { receipt } => {
                let receipt = receipt.map(Arc::new);
                Ok(Once::Go(identity.attempting(Attempt { claim, receipt })))
            }
            ClaimOutcome::InProgress => Err(in_progress(key)),
            ClaimOutcome::Reused => Err(reused(key)),
            ClaimOutcome::Answered { status, body } => Ok(Once::Done(Kept { status, body })),
        }
    }

    /// Runs an attempt in a separate task, so that it continues if its caller stops waiting, and renews the claim on
    /// its key until it ends.
    pub async fn run_once<T: Send + 'static>(
        &self,
        identity: Identity,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let idempotency = self.clone();
        let attempt = async move {
            tokio::pin!(work);
            loop {
                tokio::select! {
                    done = &mut work => return done,
                    () = tokio::time::sleep(RENEW_EVERY) => idempotency.renew(&identity).await,
                }
            }
        };
        let task = self.core.tasks.spawn_on(attempt, &self.core.runtime);
        task.await.map_err(ControlError::internal)
    }

    async fn renew(&self, identity: &Identity) {
        let Some(attempt) = identity.attempt() else { return };
        let renewed = async {
            let tx = self.core.store.project(&attempt.claim.project).await?;
            idempotency::renew(&tx, &attempt.claim, LEASE).await?;
            tx.commit().await
        };
        if let Err(error) = renewed.await {
            tracing::warn!(%error, "the claim on an idempotency key could not be renewed; another attempt may continue from its receipt");
        }
    }

    /// Stores the answer of a successful attempt, which repeated requests then get. Does nothing without a key.
    pub async fn keep_answer(&self, identity: &Identity, answer: &Kept) -> Result<()> {
        let Some(attempt) = identity.attempt() else {
            return Ok(());
        };
        let tx = self.core.store.project(&attempt.claim.project).await?;
        idempotency::answer(&tx, &self.core.store, &attempt.claim, answer.status, &answer.body).await?;
        Ok(tx.commit().await?)
    }

    /// Releases the key after a failure. The next attempt starts over, or continues from the receipt if this
    /// one created something. Does nothing without a key.
    pub async fn release_key(&self, identity: &Identity) -> Result<()> {
        let Some(attempt) = identity.attempt() else {
            return Ok(());
        };
        let tx = self.core.store.project(&attempt.claim.project).await?;
        idempotency::release(&tx, &attempt.claim).await?;
        Ok(tx.commit().await?)
    }
}

/// The hash includes the API key: with another API key the same request is a different one, and does not get this
/// answer.
fn digest(identity: &Identity, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(identity.key().as_uuid().as_bytes());
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn reused(key: &IdempotencyKey) -> ControlError {
    ControlError::refused(
        ProblemCode::IdempotencyKeyReused,
        format!("the idempotency key \"{key}\" was used for another request or with another API key"),
        "A key names one request for 24 hours; create a new one for each.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bounded_and_printable() {
        for good in ["a", "order 17/x", &"k".repeat(255)] {
            assert_eq!(IdempotencyKey::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "a\n", "ä", &"k".repeat(256)] {
            assert!(IdempotencyKey::parse(bad).is_none(), "{bad}");
        }
    }
}
