//! The fingerprint of a database's schema: a list of facts, read from the catalogs. Equal schemas have equal lists; the
//! names of their owner roles do not matter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::postgres::error::EngineError;
use crate::postgres::server::Server;
use crate::postgres::session::Session;

/// The facts of a schema and their hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Hexadecimal SHA-256 over the facts.
    pub hash: String,
    /// By object, such as `column public.t.a`: a text with all properties of it that belong to the schema.
    pub facts: BTreeMap<String, String>,
}

/// A fact in which two schemas differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The object that the fact is about.
    pub object: String,
    /// The expected properties; `None` if the object should not exist.
    pub expected: Option<String>,
    /// The actual properties; `None` if the object is missing.
    pub found: Option<String>,
}

/// Takes the fingerprint of `database`, whose objects `owner` owns (for an unpublished template: `tdb_template`).
/// Reads catalogs only. Fails with a lock timeout if it waits 1 s for another session's DDL.
pub async fn take(server: &Server, database: &str, owner: &str) -> Result<Fingerprint, EngineError> {
    let inside = server.dedicated(database).await?;
    let fingerprint = take_in(&inside, owner).await?;
    server.leave(inside, database).await?;
    Ok(fingerprint)
}

/// A value that changes whenever the catalogs of a database change, so equal states mean equal fingerprints. It is much
/// cheaper to read than a fingerprint, but does not show what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogState(String);

/// Reads the current catalog state of `database`, whose owner role is `owner`.
pub async fn catalog_state(server: &Server, database: &str, owner: &str) -> Result<CatalogState, EngineError> {
    let session = server.session(database).await?;
    let row = session
        .row(include_str!("../../sql/postgres/catalog_state.sql"), &[&owner])
        .await?;
    server.keep(database, session);
    let row = row.ok_or_else(|| EngineError::Unexpected("no state of the catalogs".to_owned()))?;
    Ok(CatalogState(row.try_get(0)?))
}

/// Takes the fingerprint in a session without changed settings. Afterwards the session must not be used for anything else.
pub(crate) async fn take_in(inside: &Session, owner: &str) -> Result<Fingerprint, EngineError> {
    // Deparsing a view locks its relations, and could wait for uncommitted DDL of another session.
    inside
        .run(
            "SET search_path = ''; SET lock_timeout = '1s'; SET statement_timeout = '30s'; \
             SET default_transaction_read_only = on; SET jit = off",
        )
        .await?;
    let sql = include_str!("../../sql/postgres/fingerprint.sql").replace(
        ":session_settings",
        include_str!("../../sql/postgres/session_settings.sql"),
    );
    let rows = inside.rows(&sql, &[&owner]).await?;
    // A schema can have the same name as its owner.
    let in_own_schema = format!("{owner}.");
    let mut facts = BTreeMap::new();
    for row in rows {
        let (object, fact): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let object = object.replace(owner, "OWNER");
        let fact = fact.unwrap_or_default().replace(&in_own_schema, "OWNER.");
        if let Some(twice) = facts.insert(object, fact) {
            return Err(EngineError::Unexpected(format!(
                "two facts of one name, one is \"{twice}\""
            )));
        }
    }
    Ok(Fingerprint::from_facts(facts))
}

impl Fingerprint {
    /// Computes the hash of the facts.
    pub fn from_facts(facts: BTreeMap<String, String>) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for text in facts.iter().flat_map(|(object, is)| [object, is]) {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let hash = context
            .finish()
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self { hash, facts }
    }

    /// The differences between this fingerprint, the expected one, and `found`, by object; empty if they are equal.
    pub fn diff(&self, found: &Fingerprint) -> Vec<Difference> {
        diff(&self.facts, &found.facts)
    }
}

/// The differences between two lists of facts, in the order of the objects.
pub fn diff(expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> Vec<Difference> {
    let objects: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let differing = objects
        .into_iter()
        .filter(|object| expected.get(*object) != found.get(*object));
    differing
        .map(|object| Difference {
            object: object.clone(),
            expected: expected.get(object).cloned(),
            found: found.get(object).cloned(),
        })
        .collect()
}
