//! Requests that may be repeated without doing anything twice. The key is claimed before the use case begins; the use case
//! writes a receipt in the transaction that creates; a success is kept and given again. An attempt that died leaves its
//! receipt to the next one, which goes on from there instead of creating.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use secrecy::SecretString;
use tdb_problems::ProblemCode;
use tdb_store::idempotency::{self, Claim, Found};
use uuid::Uuid;

use crate::attempt::{Attempt, in_progress};
use crate::core::Core;
use crate::error::{ControlError, Result};
use crate::identity::Identity;

const KEY_LEN_MAX: usize = 255;
/// How long an attempt that died keeps others waiting.
const LEASE: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// What a client names a request by: 1 to 255 printable ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// An answer: its HTTP status and its body, which may hold secrets.
#[derive(Debug)]
pub struct Kept {
    pub status: u16,
    pub body: SecretString,
}

/// What a key says to the request that brings it.
#[derive(Debug)]
pub enum Once {
    /// Do it, as this identity, and end with [`Idempotency::keep_answer`] or [`Idempotency::release_key`].
    Go(Identity),
    /// It was done.
    Done(Kept),
}

impl IdempotencyKey {
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

/// Requests that may be repeated under a key.
#[derive(Clone)]
pub struct Idempotency {
    pub(crate) core: Arc<Core>,
}

impl Idempotency {
    /// Claims a key for a request, described by its `parts`. A conflict while another attempt is at work.
    pub async fn once(&self, identity: &Identity, key: &IdempotencyKey, parts: &[&[u8]]) -> Result<Once> {
        let claim = Claim {
            project: identity.project().clone(),
            key: key.0.clone(),
            attempt: Uuid::new_v4(),
        };
        let request = digest(identity, parts);
        let tx = self.core.store.project(&claim.project).await?;
        let found = idempotency::claim(&tx, &self.core.store, &claim, &request, LEASE).await?;
        tx.commit().await?;
        match found {
            Found::Claimed { receipt } => {
                let receipt = receipt.map(Arc::new);
                Ok(Once::Go(identity.attempting(Attempt { claim, receipt })))
            }
            Found::InProgress => Err(in_progress(key)),
            Found::Reused => Err(reused(key)),
            Found::Answered { status, body } => Ok(Once::Done(Kept { status, body })),
        }
    }

    /// Runs an attempt in a task of its own, so that it goes on when its caller leaves, and keeps its key meanwhile.
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
            tracing::warn!(%error, "an idempotency key could not be kept; another attempt may go on from its receipt");
        }
    }

    /// The attempt succeeded: whoever brings the key again is given this.
    pub async fn keep_answer(&self, identity: &Identity, answer: &Kept) -> Result<()> {
        let Some(attempt) = identity.attempt() else {
            return Ok(());
        };
        let tx = self.core.store.project(&attempt.claim.project).await?;
        idempotency::answer(&tx, &self.core.store, &attempt.claim, answer.status, &answer.body).await?;
        Ok(tx.commit().await?)
    }

    /// The attempt was refused or failed: the next one is judged anew, or goes on where this one created something.
    pub async fn release_key(&self, identity: &Identity) -> Result<()> {
        let Some(attempt) = identity.attempt() else {
            return Ok(());
        };
        let tx = self.core.store.project(&attempt.claim.project).await?;
        idempotency::release(&tx, &attempt.claim).await?;
        Ok(tx.commit().await?)
    }
}

/// Another API key's answer is nobody's business: who asks is part of the request.
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
