//! From journal rows to changes. Pure: the text is split with PostgreSQL's own parser; what cannot be replayed from its
//! text is `broken` with the reason, never guessed.

pub mod inverse;
mod matching;
mod roles;
mod split;
mod units;

use std::sync::Arc;

use time::OffsetDateTime;

use crate::postgres::change::{Change, LeftOut, LeftOutKind, Mode, Sql, Statement};
use crate::postgres::journal::{Event, EventKind, EventState};
use matching::Committed;
use split::{Kind, Split};
use units::Unit;

/// One committed DDL transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct CapturedChange {
    pub xid: u64,
    /// Server process and its start: find the session, and so the author, by these.
    pub pid: i32,
    pub backend_start: OffsetDateTime,
    pub session_role: String,
    /// When its last message began.
    pub at: OffsetDateTime,
    /// The rows to confirm once the change log has it.
    pub seqs: Vec<i64>,
    pub change: Change,
}

/// The changes of `events`, in an order in which they replay: by the highest number of each transaction, since a
/// statement sees only transactions that committed before it. `owner` is the workspace's owner role.
pub fn changes(events: &[Event], owner: &str) -> Vec<CapturedChange> {
    let mut sorted: Vec<&Event> = events.iter().filter(|event| !maintains_data(event)).collect();
    sorted.sort_by_key(|event| (event.xid, event.seq));
    let mut transactions: Vec<&[&Event]> = sorted.chunk_by(|a, b| a.xid == b.xid).collect();
    transactions.sort_by_key(|rows| rows.last().map(|row| row.seq));
    transactions
        .into_iter()
        .filter(|rows| rows.iter().any(|row| row.state == EventState::New))
        .filter_map(|rows| captured(rows, owner))
        .collect()
}

/// REFRESH MATERIALIZED VIEW and REINDEX change no schema. Journals of the first milestone have the former.
fn maintains_data(event: &Event) -> bool {
    ["REFRESH MATERIALIZED VIEW", "REINDEX"].contains(&event.tag.as_str())
}

fn captured(rows: &[&Event], owner: &str) -> Option<CapturedChange> {
    let last = rows.last()?;
    let mut change = Change::default();
    for message in rows.chunk_by(|a, b| Arc::ptr_eq(&a.message, &b.message)) {
        read_message(message, owner, &mut change);
    }
    let lone = change
        .statements
        .iter()
        .any(|statement| statement.mode != Mode::Transactional);
    if lone && change.statements.len() > 1 {
        break_with(
            &mut change,
            "a statement that cannot run in a transaction stands among others".to_owned(),
        );
    }
    Some(CapturedChange {
        xid: last.xid,
        pid: last.message.pid,
        backend_start: last.message.backend_start,
        session_role: last.session_role.clone(),
        at: last.message.sent_at,
        seqs: rows.iter().map(|row| row.seq).collect(),
        change,
    })
}

/// One message of the client: which of its statements committed, and in what form they replay.
fn read_message(rows: &[&Event], owner: &str, change: &mut Change) {
    let Some(first) = rows.first() else { return };
    if first.kind == EventKind::Extension {
        match administrators(first) {
            Ok(statement) => change.statements.push(statement),
            Err(reason) => {
                change.statements.push(as_written(first));
                break_with(change, reason);
            }
        }
        return;
    }
    let units = units::gather(rows);
    let committed = split::split(&first.message.query).and_then(|statements| matching::committed(statements, units));
    match committed {
        Err(reason) => {
            change.statements.push(as_written(first));
            break_with(change, reason);
        }
        Ok(committed) => {
            for statement in &committed {
                take(statement, &first.message.query, owner, change);
            }
        }
    }
}

fn take(committed: &Committed<'_>, text: &str, owner: &str, change: &mut Change) {
    let split = &committed.statement;
    let units = match split.kind {
        Kind::Extension { .. } => own(&committed.units),
        _ => committed.units.as_slice(),
    };
    let Some(unit) = units.first() else {
        if let Some(kind) = left_out(split.kind) {
            let sql = split.text.to_owned();
            change.left_out.push(LeftOut { sql, kind });
        }
        return;
    };
    match render(split, unit, text, owner) {
        Ok((sql, mode)) => change.statements.push(statement(sql, mode, units)),
        Err(reason) => {
            let sql = Sql::text(split.text);
            change.statements.push(statement(sql, Mode::Transactional, units));
            break_with(change, reason);
        }
    }
}

/// Of an extension: its own row. An update script that it ran leaves rows too, of what it altered and dropped.
fn own<'a, 'b>(units: &'b [Unit<'a>]) -> &'b [Unit<'a>] {
    let made = |unit: &Unit<'_>| unit.row.objects.iter().any(|object| object.version.is_some());
    match units.iter().position(made) {
        Some(at) => units.get(at..=at).unwrap_or(units),
        None => units,
    }
}

fn statement(sql: Sql, mode: Mode, units: &[Unit<'_>]) -> Statement {
    let row = units.first().map(|unit| unit.row);
    Statement {
        sql,
        tags: units.iter().map(|unit| unit.row.tag.clone()).collect(),
        objects: units.iter().flat_map(Unit::identities).map(str::to_owned).collect(),
        search_path: row.map(|row| row.search_path.clone()).unwrap_or_default(),
        settings: row.map(|row| row.settings.clone()).unwrap_or_default(),
        mode,
    }
}

/// For a broken change: the message whole, so that people see what it was.
fn as_written(row: &Event) -> Statement {
    Statement {
        sql: Sql::text(row.message.query.trim()),
        tags: vec![row.tag.clone()],
        objects: row
            .objects
            .iter()
            .filter_map(|object| object.identity.clone())
            .collect(),
        search_path: row.search_path.clone(),
        settings: row.settings.clone(),
        mode: Mode::Transactional,
    }
}

/// The form in which a statement replays, or why it cannot.
fn render(split: &Split<'_>, unit: &Unit<'_>, text: &str, owner: &str) -> Result<(Sql, Mode), String> {
    match split.kind {
        Kind::Extension { cascade } => Ok((extension(unit, cascade)?, Mode::Transactional)),
        Kind::CreateIndexConcurrently => {
            let index = unit
                .identities()
                .next()
                .ok_or("the index is not named in the journal")?
                .to_owned();
            let sql = match split.with_index_name(unit.row)? {
                Some(named) => Sql::text(named),
                None => roles::symbolic(split, text, owner)?,
            };
            Ok((sql, Mode::CreateIndex { index }))
        }
        Kind::DropIndexConcurrently => {
            let indexes = unit.identities().map(str::to_owned).collect();
            Ok((roles::symbolic(split, text, owner)?, Mode::DropIndex { indexes }))
        }
        // CONCURRENTLY cannot be redone safely after a crash; the plain form shares its transaction with our row.
        Kind::DetachConcurrently => Ok((Sql::text(split.without_concurrently()?), Mode::Transactional)),
        Kind::Ddl | Kind::Carrier => Ok((roles::symbolic(split, text, owner)?, Mode::Transactional)),
        Kind::Data => Err("a data statement changed the schema through a function".to_owned()),
        Kind::Prepared => Err("it runs a prepared statement whose text is not known".to_owned()),
        Kind::Control(_) => Err("the end of a transaction changed the schema through a function".to_owned()),
        Kind::NotSchema | Kind::Silent => Err("its effect on the schema is not in its text".to_owned()),
    }
}

/// An extension that the administrator made: at replay it is the administrator again.
fn administrators(row: &Event) -> Result<Statement, String> {
    let unknown = || "the extension is not named in the journal".to_owned();
    let made = row.objects.first().ok_or_else(unknown)?;
    let part = |part: &Option<String>| part.as_deref().map(units::unquoted).ok_or_else(unknown);
    let (name, schema) = (part(&made.identity)?, part(&made.schema)?);
    let version = made.version.clone().ok_or_else(unknown)?;
    Ok(Statement {
        sql: Sql::text(crate::postgres::extensions::statement(&name, &schema, &version)),
        tags: vec![row.tag.clone()],
        objects: made.identity.iter().cloned().collect(),
        search_path: row.search_path.clone(),
        settings: row.settings.clone(),
        mode: Mode::Extension { name, schema, version },
    })
}

/// Our own constant statement: the extension's script is the server's, not the user's.
fn extension(unit: &Unit<'_>, cascade: bool) -> Result<Sql, String> {
    let unknown = || "the extension is not named in the journal".to_owned();
    let mut objects = unit
        .row
        .objects
        .iter()
        .chain(unit.dropped.iter().flat_map(|row| row.objects.iter()));
    let made = objects.find(|object| object.version.is_some()).ok_or_else(unknown)?;
    let name = made.identity.as_deref().ok_or_else(unknown)?;
    let version = made.version.as_deref().ok_or_else(unknown)?;
    let schema = made.schema.as_deref().ok_or_else(unknown)?;
    let made = crate::postgres::extensions::statement(&units::unquoted(name), &units::unquoted(schema), version);
    let cascade = if cascade { " CASCADE" } else { "" };
    Ok(Sql::text(format!("{made}{cascade}")))
}

fn left_out(kind: Kind) -> Option<LeftOutKind> {
    match kind {
        Kind::Data => Some(LeftOutKind::Data),
        Kind::NotSchema => Some(LeftOutKind::NotSchema),
        // Without a row they did nothing: a no-op, rolled back, a plain query.
        Kind::Ddl
        | Kind::Carrier
        | Kind::Extension { .. }
        | Kind::CreateIndexConcurrently
        | Kind::DropIndexConcurrently
        | Kind::DetachConcurrently
        | Kind::Prepared
        | Kind::Control(_)
        | Kind::Silent => None,
    }
}

/// The first reason is the one that is told.
fn break_with(change: &mut Change, reason: String) {
    change.broken.get_or_insert(reason);
}
