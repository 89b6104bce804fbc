//! An attempt at a request that has an idempotency key: its claim on the key, and the receipt of what it creates.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tdb_problems::ProblemCode;
use tdb_store::idempotency::{self, KeyClaim};
use tdb_store::{Store, StoreError, Tx};

use crate::error::{ControlError, Result};

/// An attempt's claim on its key, and the receipt that an earlier attempt left.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) claim: KeyClaim,
    pub(crate) receipt: Option<Arc<SecretString>>,
}

impl Attempt {
    /// What an earlier attempt created. `None` if there was none, or if it created nothing.
    pub(crate) fn receipt<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let parse = |text: &Arc<SecretString>| serde_json::from_str(text.expose_secret());
        self.receipt
            .as_ref()
            .map(parse)
            .transpose()
            .map_err(ControlError::internal)
    }

    /// Records, in `tx`, what the transaction creates. A conflict if another attempt has taken over the key.
    pub(crate) async fn leave_receipt(&self, tx: &Tx, store: &Store, receipt: &impl Serialize) -> Result<()> {
        let text: SecretString = serde_json::to_string(receipt).map_err(ControlError::internal)?.into();
        let left = idempotency::record_receipt(tx, store, &self.claim, &text).await;
        left.map_err(|error| match error {
            StoreError::Conflict { .. } => in_progress(&self.claim.key),
            other => other.into(),
        })
    }
}

pub(crate) fn in_progress(key: impl fmt::Display) -> ControlError {
    ControlError::Refused {
        code: ProblemCode::IdempotencyInProgress,
        detail: format!("a request with the idempotency key \"{key}\" is still running"),
        hint: Some("Send it again in a moment; it gets the same answer.".to_owned()),
        retry_after: Some(Duration::from_secs(1)),
    }
}
