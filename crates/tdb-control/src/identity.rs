//! Who is asking. An [`Identity`] comes from authentication only, so holding one is the permission to ask at all.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tdb_names::{KeyId, ProjectId};
use tdb_store::{Store, Tx};

use crate::attempt::Attempt;
use crate::error::{ControlError, Result};

/// What an API key may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyScope {
    /// Look at everything but secrets; queries run in read-only roles.
    Read,
    /// Make, change and delete workspaces, tenants, deployments and credentials.
    Write,
    /// Projects and API keys too.
    Admin,
}

const SCOPES: [(KeyScope, &str); 3] = [
    (KeyScope::Read, "read"),
    (KeyScope::Write, "write"),
    (KeyScope::Admin, "admin"),
];

#[derive(Clone, Debug)]
pub struct Identity {
    project: ProjectId,
    key: KeyId,
    key_name: String,
    scopes: Vec<KeyScope>,
    /// Where the request has an idempotency key.
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

    /// What an earlier attempt at this very request created.
    pub(crate) fn receipt<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.attempt.as_ref().map_or(Ok(None), Attempt::receipt)
    }

    /// Notes what the transaction creates, where the request has an idempotency key.
    pub(crate) async fn leave_receipt(&self, tx: &Tx, store: &Store, receipt: &impl Serialize) -> Result<()> {
        match self.attempt() {
            Some(attempt) => attempt.leave_receipt(tx, store, receipt).await,
            None => Ok(()),
        }
    }

    pub fn project(&self) -> &ProjectId {
        &self.project
    }

    pub fn key(&self) -> KeyId {
        self.key
    }

    pub fn scopes(&self) -> &[KeyScope] {
        &self.scopes
    }

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

    /// How the change log and versions name the key.
    pub(crate) fn author(&self) -> String {
        format!("key:{}", self.key_name)
    }
}

impl KeyScope {
    pub fn as_str(self) -> &'static str {
        SCOPES
            .iter()
            .find(|(scope, _)| *scope == self)
            .map_or("read", |(_, text)| text)
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
        let found = SCOPES.iter().find(|(_, name)| *name == text);
        found.map(|(scope, _)| *scope).ok_or_else(|| ControlError::Invalid {
            field: "scopes",
            rule: "must be \"read\", \"write\" or \"admin\"".to_owned(),
        })
    }
}
