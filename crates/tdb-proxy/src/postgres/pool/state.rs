//! The state that a client's session leaves in a server connection: what the server reports about it, and how it is removed
//! there and restored on another connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::task::Waker;

use tokio::sync::Notify;

use super::connection::{Connection, QueryError};

/// Why a session keeps its server connection: a set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins(u16);

impl Pins {
    pub(crate) const NONE: Pins = Pins(0);
    pub(crate) const ADVISORY_LOCK: Pins = Pins(1);
    pub(crate) const TEMPORARY_OBJECT: Pins = Pins(1 << 1);
    pub(crate) const LISTEN: Pins = Pins(1 << 2);
    pub(crate) const CURSOR: Pins = Pins(1 << 3);
    pub(crate) const STATEMENT: Pins = Pins(1 << 4);
    pub(crate) const AUTHORIZATION: Pins = Pins(1 << 5);
    pub(crate) const SETTING: Pins = Pins(1 << 6);
    pub(crate) const SEED: Pins = Pins(1 << 7);
    pub(crate) const LIBRARY: Pins = Pins(1 << 8);
    pub(crate) const SEQUENCE: Pins = Pins(1 << 9);
    pub(crate) const LONG_TEXT: Pins = Pins(1 << 10);

    pub(crate) fn with(self, other: Pins) -> Pins {
        Pins(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Pins) -> Pins {
        Pins(self.0 & !other.0)
    }
}

/// The state of one client's session, shared with the sessions that need its server connection.
#[derive(Default)]
pub(crate) struct SessionState {
    /// The idle connection that the client used last and no other client since.
    pub connection: RefCell<Option<Connection>>,
    /// The settings to restore on another connection, as read when the session last left one.
    pub settings: RefCell<Vec<(String, String)>>,
    /// The names of the custom settings in the client's texts.
    pub customs: RefCell<BTreeSet<String>>,
    /// The greeting that the client was told, or what it was told since.
    pub told: RefCell<Rc<[u8]>>,
    /// From the client's texts: what the server does not show. Holds until the session ends.
    pub hidden: Cell<Pins>,
    /// From the server, when another session last asked for the connection.
    pub shown: Cell<Pins>,
    /// Whether the server's stream is between two messages, so that another session may use the connection.
    pub between_messages: Cell<bool>,
    /// Another session examines the connection.
    pub examined: Cell<bool>,
    pub released: Notify,
    /// The state was lost with the connection, or could not be removed from it.
    pub lost: Cell<bool>,
    /// Frames for the client that arrived while another session examined the connection.
    pub asides: RefCell<Vec<u8>>,
    pub waker: RefCell<Option<Waker>>,
}

/// What the server reports about a session. Everything is qualified: the session may have changed `search_path`. The rows are
/// kind, name and value. 2615 is the oid of `pg_namespace`: every object of a schema depends on it.
const PROBE: &str = "\
SELECT 'setting', name, setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session'
UNION ALL SELECT 'role', pg_catalog.current_setting('role'), ''
UNION ALL SELECT 'user', SESSION_USER::pg_catalog.text, ''
UNION ALL SELECT 'lock', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks
  WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())
UNION ALL SELECT 'namespace', '', '' WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0
UNION ALL SELECT 'temporary', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend
  WHERE refclassid OPERATOR(pg_catalog.=) 2615 AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())
UNION ALL SELECT 'channel', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
UNION ALL SELECT 'cursor', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE name OPERATOR(pg_catalog.<>) '')
UNION ALL SELECT 'statement', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)
UNION ALL SELECT 'statements', pg_catalog.count(*)::pg_catalog.text, '' FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql";

/// Independent of the session's defaults: a deferrable transaction can wait for others.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE;";

/// Removes everything that a session can leave, except prepared statements. The last row says whether the process has ever had
/// temporary objects (`temp_buffers` can then no longer be changed), and the number of prepared statements.
const CLEAN: &str = "\
CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;
SELECT pg_catalog.pg_advisory_unlock_all(), pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0,
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements)";

/// They can be set outside of a transaction, without an effect on the next one.
const OF_TRANSACTION: [&str; 3] = [
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
];

/// What the server reports about a session.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub pins: Pins,
    pub settings: Vec<(String, String)>,
    pub statements: usize,
}

/// Whether a connection can be used again after it was cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cleaned {
    Reusable,
    Spoilt,
}

/// Reads what the session has left in its connection. `asides` receives the frames for its client. Not cancel safe.
pub(crate) async fn probe(
    connection: &mut Connection,
    customs: &BTreeSet<String>,
    role: &str,
    asides: &mut Vec<u8>,
) -> Result<Found, QueryError> {
    let mut text = format!("{BEGIN} {PROBE}");
    for name in customs {
        let name = literal(name);
        text.push_str(&format!(
            " UNION ALL SELECT 'setting', {name}, pg_catalog.current_setting({name}, true)
              WHERE pg_catalog.current_setting({name}, true) IS NOT NULL"
        ));
    }
    text.push_str("; COMMIT");
    let answer = connection.query(&text).await?;
    asides.extend_from_slice(&answer.asides);
    let mut found = Found::default();
    for row in &answer.rows {
        found.take(row, role).ok_or(QueryError::Protocol)?;
    }
    Ok(found)
}

/// Removes what a session has left in the connection, and all prepared statements if there are too many. Not cancel safe.
pub(crate) async fn clean(connection: &mut Connection) -> Result<Cleaned, QueryError> {
    let deallocate = match connection.has_too_many_statements() {
        true => "DEALLOCATE ALL;",
        false => "",
    };
    if !deallocate.is_empty() {
        connection.statements.forget_all();
    }
    let answer = connection
        .query(&format!("{BEGIN} {deallocate} {CLEAN}; COMMIT"))
        .await?;
    let expected = connection.statements.count().to_string();
    match answer.rows.as_slice() {
        [row] => match row.as_slice() {
            [_, had_temporary, statements] if had_temporary == b"f" && *statements == expected.as_bytes() => {
                Ok(Cleaned::Reusable)
            }
            _ => Ok(Cleaned::Spoilt),
        },
        _ => Ok(Cleaned::Spoilt),
    }
}

/// Restores a session's settings on a clean connection. Not cancel safe.
pub(crate) async fn restore(connection: &mut Connection, settings: &[(String, String)]) -> Result<(), QueryError> {
    if settings.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for (name, value) in settings {
        let separator = if text.is_empty() { "SELECT" } else { "," };
        text.push_str(&format!(
            "{separator} pg_catalog.set_config({}, {}, false)",
            literal(name),
            literal(value)
        ));
        if name.contains('.') {
            connection.customs.insert(name.clone());
        }
    }
    connection.query(&format!("{BEGIN} {text}; COMMIT")).await.map(drop)
}

impl Found {
    fn take(&mut self, row: &[Vec<u8>], role: &str) -> Option<()> {
        let [kind, name, value] = row else {
            return None;
        };
        let (kind, name) = (std::str::from_utf8(kind).ok()?, std::str::from_utf8(name).ok()?);
        match kind {
            "setting" => self.take_setting(name, value),
            "role" if name == "none" => {}
            "role" => self.settings.push(("role".to_owned(), name.to_owned())),
            "user" if name == role => {}
            "user" => self.pin(Pins::AUTHORIZATION),
            "lock" => self.pin(Pins::ADVISORY_LOCK),
            "namespace" => {}
            "temporary" => self.pin(Pins::TEMPORARY_OBJECT),
            "channel" => self.pin(Pins::LISTEN),
            "cursor" => self.pin(Pins::CURSOR),
            "statement" => self.pin(Pins::STATEMENT),
            "statements" => self.statements = name.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    /// The settings of the current transaction end with it, although the server reports them as the session's. Values are sent in
    /// the client's encoding; only those that are the same in each can be restored.
    fn take_setting(&mut self, name: &str, value: &[u8]) {
        match std::str::from_utf8(value) {
            _ if OF_TRANSACTION.contains(&name) => {}
            Ok(value) if value.is_ascii() => self.settings.push((name.to_owned(), value.to_owned())),
            _ => self.pin(Pins::SETTING),
        }
    }

    fn pin(&mut self, reason: Pins) {
        self.pins = self.pins.with(reason);
    }
}

impl SessionState {
    /// Whether another session may examine the connection now. What arrived at the last examination must have been sent to the
    /// client, so that it cannot grow without limit.
    pub(crate) fn is_available(&self) -> bool {
        let is_quiet = self.between_messages.get() && self.asides.borrow().is_empty();
        is_quiet && !self.is_pinned() && !self.examined.get()
    }

    /// Whether the connection must stay with the session.
    pub(crate) fn is_pinned(&self) -> bool {
        self.hidden.get().with(self.shown.get()) != Pins::NONE
    }

    pub(crate) fn hide(&self, reason: Pins) {
        self.hidden.set(self.hidden.get().with(reason));
    }

    /// DISCARD ALL resets neither the state of `random()` nor loaded libraries, and leaves the names of custom settings.
    pub(crate) fn discarded_all(&self) {
        let remaining = self.hidden.get().without(Pins::STATEMENT.with(Pins::SEQUENCE));
        self.hidden.set(remaining);
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A string literal that is read alike with each value of `standard_conforming_strings`.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_cannot_be_left() {
        assert_eq!(literal("a'b\\c"), "E'a''b\\\\c'");
        assert_eq!(literal("\\'"), "E'\\\\'''");
    }
}
