//! What a database's schema is, as a list of facts. Equal schemas give equal lists, whoever owns them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::postgres::error::EngineError;
use crate::postgres::server::Server;
use crate::postgres::session::{Session, leave};

/// Facts of one schema and their hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Hexadecimal SHA-256 over the facts.
    pub hash: String,
    /// Object → what it is.
    pub facts: BTreeMap<String, String>,
}

/// One fact that two schemas do not share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub object: String,
    /// None: should not be there.
    pub expected: Option<String>,
    /// None: is missing.
    pub found: Option<String>,
}

/// Takes the fingerprint of `database`, whose objects `owner` owns (for an unpublished template: `tdb_template`).
/// Only reads catalogs; fails with a lock timeout while somebody's DDL is under way.
pub async fn take(server: &Server, database: &str, owner: &str) -> Result<Fingerprint, EngineError> {
    let inside = server.dedicated(database).await?;
    let fingerprint = take_in(&inside, owner).await?;
    let outside = server.maintenance().await?;
    leave(&outside, inside, database).await?;
    server.keep_maintenance(outside);
    Ok(fingerprint)
}

/// What the catalogs of a database are: equal states mean equal fingerprints. Much cheaper than one, and says nothing about
/// what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogState(String);

/// The state of `database` now.
pub async fn catalog_state(server: &Server, database: &str, owner: &str) -> Result<CatalogState, EngineError> {
    let session = server.session(database).await?;
    let row = session
        .row(include_str!("../../sql/postgres/catalog_state.sql"), &[&owner])
        .await?;
    server.keep(database, session);
    let row = row.ok_or_else(|| EngineError::Unexpected("no state of the catalogs".to_owned()))?;
    Ok(CatalogState(row.try_get(0)?))
}

/// In a session of the database that nobody has changed, and that is of no other use afterwards.
pub(crate) async fn take_in(inside: &Session, owner: &str) -> Result<Fingerprint, EngineError> {
    // Deparsing a view opens its relations: somebody's uncommitted DDL would make us wait.
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
    // A schema may be called as its owner is.
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

    /// What differs in `found`, object by object; empty when equal.
    pub fn diff(&self, found: &Fingerprint) -> Vec<Difference> {
        diff(&self.facts, &found.facts)
    }
}

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
