//! The journal inside a workspace database: what the event triggers wrote in the developers' own transactions.

use std::collections::BTreeMap;

use serde::Deserialize;
use time::OffsetDateTime;

use crate::postgres::error::EngineError;
use crate::postgres::ident::quote;
use crate::postgres::server::Server;

/// Transactions read at a time: bounds memory; the rest comes with the next drain.
const TRANSACTIONS_MAX: i64 = 5_000;

/// One row: what one statement did, or dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub seq: i64,
    pub xid: u64,
    pub pid: i32,
    /// With the pid: whose session it was.
    pub backend_start: OffsetDateTime,
    /// When the client's message began.
    pub stmt_at: OffsetDateTime,
    pub kind: EventKind,
    pub tag: String,
    pub objects: Vec<Object>,
    /// The client's whole message.
    pub query: String,
    pub search_path: String,
    pub session_role: String,
    pub settings: BTreeMap<String, String>,
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
        let sql = include_str!("../../sql/postgres/journal.sql").replace(":owner", &quote(owner));
        inside.run(&sql).await?;
    }
    let outside = server.maintenance().await?;
    crate::postgres::databases::leave(&outside, inside, database).await?;
    server.keep_maintenance(outside);
    Ok(())
}

/// All rows that can be seen now, oldest first. No horizon: an open transaction elsewhere delays nothing.
pub async fn read(server: &Server, database: &str) -> Result<Vec<Event>, EngineError> {
    let session = server.session(database).await?;
    let rows = session
        .rows(
            include_str!("../../sql/postgres/journal_read.sql"),
            &[&TRANSACTIONS_MAX],
        )
        .await?;
    server.keep(database, session);
    rows.iter().map(event).collect()
}

/// Deletes rows that the change log has.
pub async fn confirm(server: &Server, database: &str, seqs: &[i64]) -> Result<(), EngineError> {
    if seqs.is_empty() {
        return Ok(());
    }
    let session = server.session(database).await?;
    session
        .execute("DELETE FROM tdb.ddl_event WHERE seq = ANY ($1)", &[&seqs])
        .await?;
    server.keep(database, session);
    Ok(())
}

fn event(row: &tokio_postgres::Row) -> Result<Event, EngineError> {
    let malformed = |e: serde_json::Error| EngineError::Unexpected(format!("journal row: {e}"));
    let xid: String = row.try_get("xid")?;
    let kind: String = row.try_get("event")?;
    let objects: Option<serde_json::Value> = row.try_get("objects")?;
    let dropped: Option<serde_json::Value> = row.try_get("dropped")?;
    let settings: serde_json::Value = row.try_get("settings")?;
    let (kind, objects) = match kind.as_str() {
        "sql_drop" => (EventKind::Drop, dropped),
        // No client can write it: the logger fails outside of the two events that it is called for.
        "extension" => (EventKind::Extension, objects),
        _ => (EventKind::End, objects),
    };
    Ok(Event {
        seq: row.try_get("seq")?,
        xid: xid
            .parse()
            .map_err(|_| EngineError::Unexpected(format!("journal xid {xid}")))?,
        pid: row.try_get("pid")?,
        backend_start: row.try_get("backend_start")?,
        stmt_at: row.try_get("stmt_at")?,
        kind,
        tag: row.try_get("tag")?,
        objects: objects
            .map(serde_json::from_value)
            .transpose()
            .map_err(malformed)?
            .unwrap_or_default(),
        query: row.try_get("query")?,
        search_path: row.try_get("search_path")?,
        session_role: row.try_get("session_role")?,
        settings: serde_json::from_value(settings).map_err(malformed)?,
    })
}
