//! The authenticated caller. Only authentication creates an [`Identity`], so a function that takes one cannot be called
//! by an unauthenticated caller.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tdb_names::{KeyId, ProjectId};
use tdb_store::{Store, Tx};

use crate::attempt::Attempt;
use crate::error::{ControlError, Result};

/// What an API key may do. Each scope includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyScope {
    /// Read everything except secrets. Queries run in read-only roles.
    Read,
    /// Create, change and delete workspaces, tenants, deployments and credentials.
    Write,
    /// Also manage projects, API keys, declared roles and, for the operator's account, servers.
    Admin,
}

const SCOPES: [KeyScope; 3] = [KeyScope::Read, KeyScope::Write, KeyScope::Admin];

/// The API key that a request was authenticated with, and its project.
#[derive(Clone, Debug)]
pub struct Identity {
    project: ProjectId,
    key: KeyId,
    key_name: String,
    scopes: Vec<KeyScope>,
    /// Set if the request has an idempotency key.
    attempt: Option<Attempt>,
}

impl Identity {
    pub(crate) fn new(project: ProjectId, key: KeyId, key_name: String, scopes: Vec<KeyScope>) -> Self {
        Self {
            project,
            key,
            key_name,
            scopes,
            attempt: None,
        }
    }

    pub(crate) fn attempting(&self, attempt: Attempt) -> Self {
        Self {
            attempt: Some(attempt),
            ..self.clone()
        }
    }

    pub(crate) fn attempt(&self) -> Option<&Attempt> {
        self.attempt.as_ref()
    }

    /// What an earlier attempt at this request created. `None` without an idempotency key.
    pub(crate) fn receipt<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.attempt.as_ref().map_or(Ok(None), Attempt::receipt)
    }

    /// Records, in `tx`, what the transaction creates, if the request has an idempotency key.
    pub(crate) async fn leave_receipt(&self, tx: &Tx, store: &Store, receipt: &impl Serialize) -> Result<()> {
        match self.attempt() {
            Some(attempt) => attempt.leave_receipt(tx, store, receipt).await,
            None => Ok(()),
        }
    }

    /// The project that the key belongs to.
    pub fn project(&self) -> &ProjectId {
        &self.project
    }

    /// The key's id.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// The key's scopes, as they were given at its creation.
    pub fn scopes(&self) -> &[KeyScope] {
        &self.scopes
    }

    /// Whether the key has this scope, or one that includes it.
    pub fn may(&self, needed: KeyScope) -> bool {
        self.scopes.iter().any(|scope| *scope >= needed)
    }

    pub(crate) fn require(&self, needed: KeyScope) -> Result<()> {
        if self.may(needed) {
            Ok(())
        } else {
            Err(ControlError::Forbidden { needs: needed.as_str() })
        }
    }

    /// The name of the key in the change log and in versions: `key:` and its name.
    pub(crate) fn author(&self) -> String {
        format!("key:{}", self.key_name)
    }
}

impl KeyScope {
    /// The scope in JSON and in the store: `read`, `write` or `admin`.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyScope::Read => "read",
            KeyScope::Write => "write",
            KeyScope::Admin => "admin",
        }
    }
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyScope {
    type Err = ControlError;

    fn from_str(text: &str) -> Result<Self> {
        let found = SCOPES.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| ControlError::Invalid {
            field: "scopes",
            rule: "must be \"read\", \"write\" or \"admin\"".to_owned(),
        })
    }
}
