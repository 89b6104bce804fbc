//! The journal in a workspace database: rows that event triggers write, within the developers' transactions, for each DDL
//! statement. This module installs, reads and confirms it; [`super::capture`] interprets it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use time::OffsetDateTime;

use crate::postgres::error::EngineError;
use crate::postgres::ident::quote;
use crate::postgres::server::Server;
use crate::postgres::session::Session;

/// The most transactions that one call reads; the next drain reads the rest. The number of rows has no limit: a transaction can have
/// any number, and the confirmed rows of the same messages are read too.
const TRANSACTIONS_MAX: i64 = 5_000;

/// Settings that can change the meaning of a statement. The journal records those that the client, the role or the database
/// has set.
pub(super) const SETTINGS: [&str; 19] = [
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

/// One row of the journal: the objects that one statement created or altered, or those that it dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The row's number in the journal; rows of a session are numbered in the order in which the statements ran.
    pub seq: i64,
    /// The 64-bit id of its transaction (`pg_current_xact_id`).
    pub xid: u64,
    /// The client's message that ran it. All rows of a message share one value.
    pub message: Arc<Message>,
    /// When its transaction began, relative to its message; `None` if an older journal did not record it.
    pub begun: Option<Begun>,
    /// Which event wrote the row.
    pub kind: EventKind,
    /// The command tag of the statement, such as `CREATE TABLE`.
    pub tag: String,
    /// What was created or altered, or dropped if the kind is `Drop`. Without temporary objects and members of extensions.
    pub objects: Vec<Object>,
    /// Whether the client sent the statement or a function ran it.
    pub caller: Caller,
    /// The names of the session's temporary relations, recorded only for statements that create a table.
    pub temporary: Vec<String>,
    /// The search_path in effect when the statement ended.
    pub search_path: String,
    /// CURRENT_USER: the owner, a role that the session had set, or the owner of a SECURITY DEFINER function.
    pub role: String,
    /// Whether `role` has the rights of a superuser.
    pub rights: Rights,
    /// SESSION_USER: the role that the session had logged in with.
    pub session_role: String,
    /// The recorded settings that the client, the role or the database had set, by name.
    pub settings: BTreeMap<String, String>,
    /// Functions that its context may name and that have a SET clause, or set something or end transactions in their body,
    /// and others with the same names.
    pub functions: Vec<Function>,
    /// Whether the row has been confirmed before.
    pub state: EventState,
}

/// A function of the database, as it was when the row was written; in older journals, when the journal was read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Function {
    /// Its schema, with quotes where necessary.
    pub schema: String,
    /// Its name, without quotes.
    pub name: String,
    /// The settings in its SET clauses.
    pub sets: Vec<String>,
    /// Its body, if it sets a role or a recorded setting, or ends a transaction.
    #[serde(default)]
    pub body: Option<String>,
}

/// A message that a client sent: a simple Query, or one statement of the extended protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The server process of the session.
    pub pid: i32,
    /// When that process started. Together with `pid` it identifies the session.
    pub backend_start: OffsetDateTime,
    /// When the server received the message (`statement_timestamp`).
    pub sent_at: OffsetDateTime,
    /// The whole text of the message.
    pub query: String,
}

/// When a transaction began, relative to the message of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// In an earlier message.
    Before,
    /// In this message.
    Here,
    /// After the message began: a DO or CALL in it had committed the transaction before.
    Within,
}

/// What ran a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The client itself.
    Client,
    /// A function or DO. Contains PostgreSQL's context lines, innermost call first.
    Function(String),
    /// Unknown: an older journal did not record it.
    Unknown,
}

/// The rights that a statement ran with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Those of the owner or of a declared role.
    Role,
    /// Those of a superuser: the script of a trusted extension has them, and a SECURITY DEFINER function of a superuser.
    Superuser,
}

/// Whether the change log contains a row's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// Not yet confirmed.
    New,
    /// Confirmed. The row is kept, and read again, while its message may have other transactions: matching needs it.
    Drained,
}

/// Which event wrote a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// `ddl_command_end`: the objects are those that the statement created or altered.
    End,
    /// `sql_drop`: the objects are those that the statement dropped.
    Drop,
    /// Written by [`super::extensions::create`], not by a trigger: the administrator created an extension.
    Extension,
}

/// An object of a row, as PostgreSQL's event trigger functions describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Object {
    /// PostgreSQL's name for the type of object, such as `table column`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// The schema that contains it; `None` for objects outside schemas. For an extension, the schema of its objects.
    #[serde(default)]
    pub schema: Option<String>,
    /// PostgreSQL's text for the object: qualified, with quotes where necessary.
    #[serde(default, rename = "id")]
    pub identity: Option<String>,
    /// The version, for extensions only.
    #[serde(default)]
    pub version: Option<String>,
}

/// Installs the journal. This is the last step of creating a workspace, after [`super::databases::adopt`] for `owner`.
/// Idempotent.
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
    server.leave(inside, database).await
}

/// Allows declared roles to run captured DDL in a workspace that an older version created. Idempotent.
pub async fn open_to_declared_roles(server: &Server, database: &str) -> Result<(), EngineError> {
    let session = server.session(database).await?;
    session.run(OPEN).await?;
    server.keep(database, session);
    Ok(())
}

const OPEN: &str = include_str!("../../sql/postgres/journal_open.sql");

/// Returns the committed rows that are not yet confirmed (at most 5,000 transactions), in order of `seq`, and the confirmed
/// rows of the same messages. An open transaction does not delay rows of others. Upgrades the journal if an older version
/// installed it for `owner`.
pub async fn read(server: &Server, database: &str, owner: &str) -> Result<Vec<Event>, EngineError> {
    let session = server.session(database).await?;
    let rows = match read_rows(&session).await {
        Err(error) if UNDEFINED.iter().any(|code| error.has(code)) => {
            upgrade(&session, owner).await?;
            read_rows(&session).await
        }
        other => other,
    }?;
    server.keep(database, session);
    events(&rows)
}

/// The procedures of a workspace that can contain COMMIT, by name and body. Of those with one name, the bodies are joined.
pub async fn procedures(server: &Server, database: &str) -> Result<BTreeMap<String, String>, EngineError> {
    let session = server.session(database).await?;
    // A procedure with a SET clause cannot commit.
    let sql = "SELECT p.proname, string_agg(p.prosrc, E'\n') FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
                WHERE p.prokind = 'p' AND l.lanname = 'plpgsql' AND p.proconfig IS NULL GROUP BY p.proname";
    let rows = session.rows(sql, &[]).await?;
    server.keep(database, session);
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The errors for a table, a column and a function that do not exist.
const UNDEFINED: [&str; 3] = ["42P01", "42703", "42883"];

async fn read_rows(session: &Session) -> Result<Vec<tokio_postgres::Row>, EngineError> {
    session
        .rows(
            include_str!("../../sql/postgres/journal_read.sql"),
            &[&TRANSACTIONS_MAX],
        )
        .await
}

async fn upgrade(session: &Session, owner: &str) -> Result<(), EngineError> {
    let oldest = "SELECT WHERE pg_catalog.to_regclass('tdb.ddl_message') IS NULL";
    let text = match session.row(oldest, &[]).await? {
        Some(_) => include_str!("../../sql/postgres/journal_upgrade.sql"),
        None => include_str!("../../sql/postgres/journal_upgrade_functions.sql"),
    };
    session.run(&script(text, owner)).await
}

fn script(text: &str, owner: &str) -> String {
    let values: Vec<String> = SETTINGS
        .iter()
        .map(|name| format!("current_setting('{name}')"))
        .collect();
    text.replace(":functions", include_str!("../../sql/postgres/journal_functions.sql"))
        .replace(":log_event", include_str!("../../sql/postgres/journal_log_event.sql"))
        .replace(":values", &values.join(", "))
        .replace(":names", &format!("'{{{}}}'", SETTINGS.join(",")))
        .replace(":owner", &quote(owner))
}

/// Confirms rows that the change log now contains: deletes them, or marks them as drained while their message may still
/// have other transactions. Rows are identified by number and transaction id, since a database that was created again
/// under the same name starts its row numbers at 1, but never reuses a transaction id.
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

/// The text of a message is in its first row only, and settings are in a row only if they changed: later rows of the
/// message and transaction get them from here.
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
        // A client cannot write it: the logging function fails unless one of the two event triggers calls it.
        "extension" => (EventKind::Extension, "objects"),
        _ => (EventKind::End, "objects"),
    };
    let objects: Option<serde_json::Value> = row.try_get(objects)?;
    let begun: Option<OffsetDateTime> = row.try_get("xact_at")?;
    let context: Option<String> = row.try_get("context")?;
    let temporary: Option<Vec<String>> = row.try_get("temporary")?;
    let functions: Option<serde_json::Value> = row.try_get("functions")?;
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
            // The oldest journals recorded neither context nor begin.
            None if begun.is_none() => Caller::Unknown,
            None => Caller::Client,
        },
        temporary: temporary.unwrap_or_default(),
        search_path: row.try_get("search_path")?,
        role: row.try_get("role_name")?,
        rights: if row.try_get("by_superuser")? {
            Rights::Superuser
        } else {
            Rights::Role
        },
        session_role: row.try_get("session_role")?,
        settings,
        functions: functions
            .map(serde_json::from_value)
            .transpose()
            .map_err(malformed)?
            .unwrap_or_default(),
        state: if drained { EventState::Drained } else { EventState::New },
    })
}
