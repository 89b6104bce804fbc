//! The journal inside a workspace database: what the event triggers wrote in the developers' own transactions.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use time::OffsetDateTime;

use crate::postgres::error::EngineError;
use crate::postgres::ident::quote;
use crate::postgres::server::Server;
use crate::postgres::session::{Session, leave};

/// Transactions read at a time: bounds memory; the rest comes with the next drain.
const TRANSACTIONS_MAX: i64 = 5_000;

/// Settings that change what a statement means; recorded where a client, a role or a database has set them.
const SETTINGS: [&str; 19] = [
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "check_function_bodies",
    "default_table_access_method",
    "default_tablespace",
    "default_toast_compression",
    "extra_float_digits",
    "lc_monetary",
    "quote_all_identifiers",
    "row_security",
    "standard_conforming_strings",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmlbinary",
    "xmloption",
];

/// One row: what one statement did, or dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub seq: i64,
    pub xid: u64,
    pub message: Arc<Message>,
    /// Whether its transaction began before, with or after its message; `None` where the journal does not say.
    pub begun: Option<Begun>,
    pub kind: EventKind,
    pub tag: String,
    pub objects: Vec<Object>,
    pub caller: Caller,
    /// Names of the session's temporary objects, where a table was created.
    pub temporary: Vec<String>,
    pub search_path: String,
    /// What it ran as: the owner, or a role that the session had set.
    pub role: String,
    pub session_role: String,
    pub settings: BTreeMap<String, String>,
    pub state: EventState,
}

/// What the client sent at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub pid: i32,
    /// With the pid: whose session it was.
    pub backend_start: OffsetDateTime,
    pub sent_at: OffsetDateTime,
    pub query: String,
}

/// When a transaction began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// In an earlier message.
    Before,
    /// In this one.
    Here,
    /// In a DO or CALL of this message that committed.
    Within,
}

/// Who ran a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The client itself.
    Client,
    /// A function or DO: PostgreSQL's lines of context, innermost call first.
    Function(String),
    /// The journal does not say.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    New,
    /// The change log has it already; it explains other transactions of its message.
    Drained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    End,
    Drop,
    /// Written by the administrator, who made an extension.
    Extension,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Object {
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub schema: Option<String>,
    #[serde(default, rename = "id")]
    pub identity: Option<String>,
    /// Extensions only.
    #[serde(default)]
    pub version: Option<String>,
}

/// Installs the journal; the last step of making a workspace, after it was adopted by `owner`. Again: nothing is done.
pub async fn install(server: &Server, database: &str, owner: &str) -> Result<(), EngineError> {
    let inside = server.dedicated(database).await?;
    let known = inside
        .row("SELECT FROM pg_namespace WHERE nspname = 'tdb'", &[])
        .await?;
    if known.is_none() {
        inside
            .run(&script(include_str!("../../sql/postgres/journal.sql"), owner))
            .await?;
    }
    inside.run(OPEN).await?;
    let outside = server.maintenance().await?;
    leave(&outside, inside, database).await?;
    server.keep_maintenance(outside);
    Ok(())
}

/// Lets declared roles run DDL that is captured, in a workspace that an earlier program made. Again: nothing is done.
pub async fn open_to_declared_roles(server: &Server, database: &str) -> Result<(), EngineError> {
    let session = server.session(database).await?;
    session.run(OPEN).await?;
    server.keep(database, session);
    Ok(())
}

const OPEN: &str = include_str!("../../sql/postgres/journal_open.sql");

/// All new rows that can be seen now, oldest first, with the drained ones that explain them. No horizon: an open
/// transaction elsewhere delays nothing. Upgrades a journal that an earlier program installed for `owner`.
pub async fn read(server: &Server, database: &str, owner: &str) -> Result<Vec<Event>, EngineError> {
    let session = server.session(database).await?;
    let rows = match read_rows(&session).await {
        Err(error) if error.has(UNDEFINED_TABLE) || error.has(UNDEFINED_COLUMN) => {
            upgrade(&session, owner).await?;
            read_rows(&session).await
        }
        other => other,
    }?;
    server.keep(database, session);
    events(&rows)
}

const UNDEFINED_TABLE: &str = "42P01";
const UNDEFINED_COLUMN: &str = "42703";

async fn read_rows(session: &Session) -> Result<Vec<tokio_postgres::Row>, EngineError> {
    session
        .rows(
            include_str!("../../sql/postgres/journal_read.sql"),
            &[&TRANSACTIONS_MAX],
        )
        .await
}

async fn upgrade(session: &Session, owner: &str) -> Result<(), EngineError> {
    session
        .run(&script(include_str!("../../sql/postgres/journal_upgrade.sql"), owner))
        .await
}

fn script(text: &str, owner: &str) -> String {
    let values: Vec<String> = SETTINGS
        .iter()
        .map(|name| format!("current_setting('{name}')"))
        .collect();
    text.replace(":functions", include_str!("../../sql/postgres/journal_functions.sql"))
        .replace(":values", &values.join(", "))
        .replace(":names", &format!("'{{{}}}'", SETTINGS.join(",")))
        .replace(":owner", &quote(owner))
}

/// Lets go of rows that the change log has. They are named with their transactions: a database that has been made anew
/// under the same name numbers its rows from 1 again, and its transactions never.
pub async fn confirm(server: &Server, database: &str, events: &[Event]) -> Result<(), EngineError> {
    if events.is_empty() {
        return Ok(());
    }
    let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
    let xids: Vec<String> = events.iter().map(|event| event.xid.to_string()).collect();
    let session = server.session(database).await?;
    session
        .execute(include_str!("../../sql/postgres/journal_confirm.sql"), &[&seqs, &xids])
        .await?;
    server.keep(database, session);
    Ok(())
}

/// Text and settings come once; later rows of a message and transaction refer to the ones before.
fn events(rows: &[tokio_postgres::Row]) -> Result<Vec<Event>, EngineError> {
    let mut messages: HashMap<(i32, OffsetDateTime), Arc<Message>> = HashMap::new();
    let mut settings: HashMap<(u64, i32, OffsetDateTime), BTreeMap<String, String>> = HashMap::new();
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let (pid, sent_at) = (row.try_get("pid")?, row.try_get("stmt_at")?);
        let known = messages.get(&(pid, sent_at)).cloned();
        let message = match known {
            Some(message) => message,
            None => {
                let message = Arc::new(message(row)?);
                messages.insert((pid, sent_at), message.clone());
                message
            }
        };
        let xid = xid(row)?;
        let at = (xid, pid, sent_at);
        if let Some(own) = row.try_get::<_, Option<serde_json::Value>>("settings")? {
            settings.insert(at, serde_json::from_value(own).map_err(malformed)?);
        }
        let settings = settings.get(&at).cloned().unwrap_or_default();
        events.push(event(row, xid, message, settings)?);
    }
    Ok(events)
}

fn malformed(error: serde_json::Error) -> EngineError {
    EngineError::Unexpected(format!("journal row: {error}"))
}

fn xid(row: &tokio_postgres::Row) -> Result<u64, EngineError> {
    let xid: String = row.try_get("xid")?;
    xid.parse()
        .map_err(|_| EngineError::Unexpected(format!("journal xid {xid}")))
}

fn message(row: &tokio_postgres::Row) -> Result<Message, EngineError> {
    let query: Option<String> = row.try_get("query")?;
    Ok(Message {
        pid: row.try_get("pid")?,
        backend_start: row.try_get("backend_start")?,
        sent_at: row.try_get("stmt_at")?,
        query: query.ok_or_else(|| EngineError::Unexpected("a journal row without its message".to_owned()))?,
    })
}

fn event(
    row: &tokio_postgres::Row,
    xid: u64,
    message: Arc<Message>,
    settings: BTreeMap<String, String>,
) -> Result<Event, EngineError> {
    let kind: String = row.try_get("event")?;
    let (kind, objects) = match kind.as_str() {
        "sql_drop" => (EventKind::Drop, "dropped"),
        // No client can write it: the logger fails outside of the two events that it is called for.
        "extension" => (EventKind::Extension, "objects"),
        _ => (EventKind::End, "objects"),
    };
    let objects: Option<serde_json::Value> = row.try_get(objects)?;
    let begun: Option<OffsetDateTime> = row.try_get("xact_at")?;
    let context: Option<String> = row.try_get("context")?;
    let temporary: Option<Vec<String>> = row.try_get("temporary")?;
    let drained: bool = row.try_get("drained")?;
    Ok(Event {
        seq: row.try_get("seq")?,
        xid,
        begun: begun.map(|at| match at.cmp(&message.sent_at) {
            Ordering::Less => Begun::Before,
            Ordering::Equal => Begun::Here,
            Ordering::Greater => Begun::Within,
        }),
        message,
        kind,
        tag: row.try_get("tag")?,
        objects: objects
            .map(serde_json::from_value)
            .transpose()
            .map_err(malformed)?
            .unwrap_or_default(),
        caller: match context {
            Some(context) => Caller::Function(context),
            // The journal of the first milestone said neither.
            None if begun.is_none() => Caller::Unknown,
            None => Caller::Client,
        },
        temporary: temporary.unwrap_or_default(),
        search_path: row.try_get("search_path")?,
        role: row.try_get("role_name")?,
        session_role: row.try_get("session_role")?,
        settings,
        state: if drained { EventState::Drained } else { EventState::New },
    })
}
