//! Settings for new sessions of a workspace (`ALTER ROLE CURRENT_USER SET`), as changes. No event trigger fires for
//! them: each drain compares the catalog with what was captured last, under the lease of the workspace's journal.

use std::collections::BTreeMap;

use tdb_engines::postgres::Server;
use tdb_engines::postgres::session_settings::{self, SessionSetting};
use tdb_names::WorkspaceId;
use tdb_store::changes::{ChangeState, NewChange};
use tdb_store::workspaces::WorkspaceRow;
use tdb_store::{Store, Tx, changes, sessions, workspaces};
use time::OffsetDateTime;

use crate::error::{ControlError, Result, upstream};
use crate::schema::journals::JournalPlace;

/// The settings that were changed since the last drain.
pub(crate) struct NewlySet {
    pub changes: Vec<NewChange>,
    /// Sentences about settings that are not part of the schema.
    pub warnings: Vec<String>,
    /// All current settings.
    pub settings: BTreeMap<String, String>,
}

impl NewlySet {
    pub(crate) fn is_nothing(&self) -> bool {
        self.changes.is_empty() && self.warnings.is_empty()
    }
}

/// Whether the settings differ from those that had been captured when `row` was read.
pub(crate) async fn is_newly_set(row: &WorkspaceRow, server: &Server, place: &JournalPlace) -> Result<bool> {
    Ok(values(&set_now(server, place).await?) != row.session_settings)
}

/// The settings that changed since the last drain. The caller holds the lease of the workspace's journal and stores
/// `settings` together with the changes. `server_pid` is the session that probably made them.
pub(crate) async fn newly_set(
    store: &Store,
    id: WorkspaceId,
    server: &Server,
    place: &JournalPlace,
    server_pid: Option<i32>,
) -> Result<NewlySet> {
    let now = set_now(server, place).await?;
    let tx = store.jobs().await?;
    let newly = compared(&tx, id, place, &now, server_pid).await?;
    tx.rollback().await?;
    if !newly.is_nothing() {
        let shared = session_settings::share(server, &place.database, &place.owner, &now).await;
        shared.map_err(|e| upstream(&place.server, e))?;
    }
    Ok(newly)
}

async fn set_now(server: &Server, place: &JournalPlace) -> Result<BTreeMap<String, SessionSetting>> {
    let read = session_settings::read(server, &place.database, &place.owner).await;
    read.map_err(|e| upstream(&place.server, e))
}

fn values(settings: &BTreeMap<String, SessionSetting>) -> BTreeMap<String, String> {
    let value = |(name, set): (&String, &SessionSetting)| (name.clone(), set.value.clone());
    settings.iter().map(value).collect()
}

async fn compared(
    tx: &Tx,
    id: WorkspaceId,
    place: &JournalPlace,
    now: &BTreeMap<String, SessionSetting>,
    server_pid: Option<i32>,
) -> Result<NewlySet> {
    let before = workspaces::session_settings(tx, id).await?;
    let mut newly = NewlySet {
        changes: Vec::new(),
        warnings: Vec::new(),
        settings: values(now),
    };
    if newly.settings == before {
        return Ok(newly);
    }
    let started = match server_pid {
        Some(pid) => sessions::newest_start(tx, id, pid).await?.map(|start| (pid, start)),
        None => None,
    };
    let session = started.unwrap_or((0, OffsetDateTime::UNIX_EPOCH));
    let length = i64::from(changes::total(tx, id).await?);
    for (name, value) in differing(&before, now, &mut newly.warnings) {
        let change = session_settings::change(name, value);
        // The change belongs to no transaction of the journal, so it gets a number that no transaction has.
        let xid = -(length + i64::try_from(newly.changes.len()).map_err(ControlError::internal)? + 1);
        newly.changes.push(NewChange {
            xid,
            statements: change.texts(),
            tags: change.tags(),
            objects: change.objects(),
            left_out: Vec::new(),
            body: serde_json::to_value(&change).map_err(ControlError::internal)?,
            checksum: change.checksum().as_bytes().to_vec(),
            state: ChangeState::Pending,
            reason: None,
            pid: session.0,
            backend_start: session.1,
            role: place.owner.clone(),
            committed_at: OffsetDateTime::now_utc(),
        });
    }
    Ok(newly)
}

/// The settings whose value differs, with `None` for those that are gone. A setting that is not part of the schema
/// gives a warning instead, once.
fn differing<'a>(
    before: &'a BTreeMap<String, String>,
    now: &'a BTreeMap<String, SessionSetting>,
    warnings: &mut Vec<String>,
) -> Vec<(&'a str, Option<&'a str>)> {
    let mut differing = Vec::new();
    for (name, set) in now.iter().filter(|(name, set)| before.get(*name) != Some(&set.value)) {
        if set.carried {
            differing.push((name.as_str(), Some(set.value.as_str())));
        } else {
            warnings.push(format!(
                "the setting \"{name}\" is not part of the schema: tenants do not get it"
            ));
        }
    }
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    differing.extend(gone.map(|name| (name.as_str(), None)));
    differing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_and_removed_values_differ_and_omitted_ones_are_reported() {
        let set = |value: &str, carried| SessionSetting {
            value: value.to_owned(),
            carried,
        };
        let before = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("same".to_owned(), "x".to_owned())]);
        let now = BTreeMap::from([
            ("b".to_owned(), set("2", true)),
            ("role".to_owned(), set("r", false)),
            ("same".to_owned(), set("x", true)),
        ]);
        let mut warnings = Vec::new();
        assert_eq!(differing(&before, &now, &mut warnings), [("b", Some("2")), ("a", None)]);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
}
