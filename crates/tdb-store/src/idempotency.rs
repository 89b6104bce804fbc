//! Table `idempotency_keys`: the outcome of a request that its sender may repeat. One attempt at a time holds a key,
//! under a lease. It records what it creates in the transaction that creates it (the receipt), so that no other attempt
//! creates it again.

use std::time::Duration;

use secrecy::SecretString;
use tdb_names::ProjectId;
use uuid::Uuid;

use crate::Store;
use crate::error::{Result, StoreError};
use crate::row::column;
use crate::tx::Tx;

/// How long a key is kept.
const KEPT_HOURS: i32 = 24;

/// The hold of one attempt on a key.
#[derive(Clone, Debug)]
pub struct KeyClaim {
    /// The project of the request.
    pub project: ProjectId,
    /// The key as the client sent it.
    pub key: String,
    /// A random id of this attempt.
    pub attempt: Uuid,
}

/// The outcome of claiming a key.
#[derive(Debug)]
pub enum ClaimOutcome {
    /// This attempt holds the key. There is a receipt if an earlier attempt created something and ended without an
    /// answer.
    Claimed {
        /// What the earlier attempt created, as it recorded it.
        receipt: Option<SecretString>,
    },
    /// Another attempt holds the key.
    InProgress,
    /// The key was used with a different request.
    Reused,
    /// The request has been answered; the answer is to be repeated.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The response body.
        body: SecretString,
    },
}

/// Claims the key if it is free. In a transaction of the claim's project, which must be committed at once.
pub async fn claim(tx: &Tx, store: &Store, claim: &KeyClaim, request: &[u8], lease: Duration) -> Result<ClaimOutcome> {
    let (project, key, lease) = (claim.project.as_str(), &claim.key, lease.as_secs_f64());
    let forget = "DELETE FROM idempotency_keys WHERE project_id = $1 AND key = $2 AND lease_until < now()
                  AND created_at < now() - make_interval(hours => $3)";
    tx.execute(forget, &[&project, key, &KEPT_HOURS]).await?;
    let insert = "INSERT INTO idempotency_keys (project_id, key, request, attempt, lease_until)
                  VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5)) ON CONFLICT DO NOTHING";
    if tx
        .execute(insert, &[&project, key, &request, &claim.attempt, &lease])
        .await?
        == 1
    {
        return Ok(ClaimOutcome::Claimed { receipt: None });
    }
    let look = "SELECT request, status, answer, receipt, lease_until > now() AS held FROM idempotency_keys
                WHERE project_id = $1 AND key = $2 FOR UPDATE";
    let Some(row) = tx.query_opt(look, &[&project, key]).await? else {
        // The key was released between the two statements.
        return Ok(ClaimOutcome::InProgress);
    };
    if column::<&[u8]>(&row, "request")? != request {
        return Ok(ClaimOutcome::Reused);
    }
    let (status, answer): (Option<i16>, Option<&[u8]>) = (column(&row, "status")?, column(&row, "answer")?);
    if let (Some(status), Some(sealed)) = (status, answer) {
        return Ok(ClaimOutcome::Answered {
            status: u16::try_from(status).map_err(|_| StoreError::corrupt("status"))?,
            body: store.master_key().open(&context(claim, "answer"), sealed)?,
        });
    }
    if column(&row, "held")? {
        return Ok(ClaimOutcome::InProgress);
    }
    let take = "UPDATE idempotency_keys SET attempt = $3, lease_until = now() + make_interval(secs => $4)
                WHERE project_id = $1 AND key = $2";
    tx.execute(take, &[&project, key, &claim.attempt, &lease]).await?;
    let sealed: Option<&[u8]> = column(&row, "receipt")?;
    let receipt = sealed.map(|sealed| store.master_key().open(&context(claim, "receipt"), sealed));
    Ok(ClaimOutcome::Claimed {
        receipt: receipt.transpose()?,
    })
}

/// Records what was created, in the transaction that creates it. [`StoreError::Conflict`] if another attempt has taken
/// the key over.
pub async fn record_receipt(tx: &Tx, store: &Store, claim: &KeyClaim, receipt: &SecretString) -> Result<()> {
    let sealed = store.master_key().seal(&context(claim, "receipt"), receipt)?;
    let sql = "UPDATE idempotency_keys SET receipt = $4 WHERE project_id = $1 AND key = $2 AND attempt = $3";
    let parameters = (claim.project.as_str(), &claim.key, &claim.attempt);
    match tx
        .execute(sql, &[&parameters.0, parameters.1, parameters.2, &sealed])
        .await?
    {
        1 => Ok(()),
        _ => Err(StoreError::Conflict {
            constraint: "idempotency_keys_attempt".to_owned(),
        }),
    }
}

/// Extends the lease of an attempt.
pub async fn renew(tx: &Tx, claim: &KeyClaim, lease: Duration) -> Result<()> {
    let sql = "UPDATE idempotency_keys SET lease_until = now() + make_interval(secs => $4)
               WHERE project_id = $1 AND key = $2 AND attempt = $3";
    tx.execute(
        sql,
        &[
            &claim.project.as_str(),
            &claim.key,
            &claim.attempt,
            &lease.as_secs_f64(),
        ],
    )
    .await?;
    Ok(())
}

/// Stores the answer to a successful request, to be repeated.
pub async fn answer(tx: &Tx, store: &Store, claim: &KeyClaim, status: u16, body: &SecretString) -> Result<()> {
    let sealed = store.master_key().seal(&context(claim, "answer"), body)?;
    let status = i16::try_from(status).map_err(|_| StoreError::corrupt("status"))?;
    let sql = "UPDATE idempotency_keys SET status = $4, answer = $5, receipt = NULL
               WHERE project_id = $1 AND key = $2 AND attempt = $3";
    tx.execute(
        sql,
        &[&claim.project.as_str(), &claim.key, &claim.attempt, &status, &sealed],
    )
    .await?;
    Ok(())
}

/// Ends an attempt that has no answer to store. If nothing was created, the key is free; else the next attempt
/// continues.
pub async fn release(tx: &Tx, claim: &KeyClaim) -> Result<()> {
    let parameters: (&str, &str, &Uuid) = (claim.project.as_str(), &claim.key, &claim.attempt);
    let free = "DELETE FROM idempotency_keys WHERE project_id = $1 AND key = $2 AND attempt = $3 AND receipt IS NULL";
    tx.execute(free, &[&parameters.0, &parameters.1, parameters.2]).await?;
    let hand_over =
        "UPDATE idempotency_keys SET lease_until = now() WHERE project_id = $1 AND key = $2 AND attempt = $3";
    tx.execute(hand_over, &[&parameters.0, &parameters.1, parameters.2])
        .await?;
    Ok(())
}

/// Deletes expired keys and returns their number. In a transaction of [`Store::jobs`].
pub async fn forget_old(tx: &Tx) -> Result<u64> {
    let sql =
        "DELETE FROM idempotency_keys WHERE lease_until < now() AND created_at < now() - make_interval(hours => $1)";
    tx.execute(sql, &[&KEPT_HOURS]).await
}

fn context(claim: &KeyClaim, what: &str) -> String {
    format!("idempotency:{}:{}:{what}", claim.project, claim.key)
}
