//! Converts journal rows to changes. Without I/O. The text of a message is split with PostgreSQL's own parser. A
//! transaction that cannot be replayed from its text becomes a `broken` change with the reason; nothing is guessed.

mod alignment;
mod attribution;
mod bodies;
mod committing;
mod context;
mod effects;
mod expected;
pub mod inverse;
mod kind;
mod lexing;
mod matching;
mod outside;
mod prepared;
pub mod repeat;
mod roles;
mod scripts;
mod segments;
mod session_role;
mod split;
mod temporary;
mod tree;
mod units;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use time::OffsetDateTime;

use crate::postgres::change::{Change, ExtensionOwner, LeftOut, LeftOutKind, Mode, Sql, Statement};
use crate::postgres::ident::unquoted;
use crate::postgres::journal::{Caller, Event, EventKind, EventState, Message};
use kind::Kind;
use matching::{GoesOn, Portion, Taken};
use split::Split;
use units::Unit;

/// The change that one committed DDL transaction made.
#[derive(Clone, Debug, PartialEq)]
pub struct CapturedChange {
    /// The 64-bit id of the transaction.
    pub xid: u64,
    /// The server process that ran its last message. With `backend_start` it identifies the session, and so the author.
    pub pid: i32,
    /// When that process started.
    pub backend_start: OffsetDateTime,
    /// The role that the session had logged in with.
    pub session_role: String,
    /// When the server received the last message.
    pub at: OffsetDateTime,
    /// The journal rows to confirm after the change is stored.
    pub seqs: Vec<i64>,
    /// The names of the procedures that its DO or CALL may have called: see [`refuse_commits`].
    pub calls: Vec<String>,
    /// What to replay.
    pub change: Change,
}

/// Returns the changes in `events`, in an order in which they can be replayed: by the highest row number of each
/// transaction, since a statement sees only transactions that committed before it. `owner` is the workspace's owner
/// role. A change that names, or ran as, another role that is not in `declared` is broken.
pub fn changes(events: &[Event], owner: &str, declared: &[String]) -> Vec<CapturedChange> {
    let mut sorted: Vec<&Event> = events
        .iter()
        .filter(|event| !maintains_data(event) && !scripts::is_trusted(event))
        .collect();
    sorted.sort_by_key(|event| (event.xid, event.seq));
    let mut transactions: Vec<&[&Event]> = sorted.chunk_by(|a, b| a.xid == b.xid).collect();
    transactions.sort_by_key(|rows| rows.last().map(|row| row.seq));
    let mut parts = read_messages(&transactions, owner);
    transactions
        .into_iter()
        .filter_map(|rows| captured(rows, &mut parts))
        .map(|mut captured| {
            roles::refuse_undeclared(&mut captured.change, declared);
            captured
        })
        .collect()
}

/// Breaks changes whose DO or CALL calls a procedure that commits after the DDL. `procedures` are those of the workspace that can
/// contain COMMIT, by name and body.
pub fn refuse_commits(captured: &mut [CapturedChange], procedures: &BTreeMap<String, String>) {
    let committing = committing::committing(procedures);
    for one in captured {
        if one.calls.iter().any(|name| committing.contains(name.as_str())) {
            break_with(&mut one.change, matching::COMMITS.to_owned());
        }
    }
}

/// Whether the statement only maintains data: REFRESH MATERIALIZED VIEW and REINDEX (older journals contain the
/// former), or a restart of a sequence by a function.
fn maintains_data(event: &Event) -> bool {
    match event.tag.as_str() {
        "REFRESH MATERIALIZED VIEW" | "REINDEX" => true,
        "ALTER SEQUENCE" | "ALTER TABLE" => context::run_by_function(&event.caller).is_some_and(split::is_data),
        _ => false,
    }
}

/// The part of a change that comes from one message, by transaction and message.
type Parts = HashMap<(u64, *const Message), Change>;

/// A transaction's id, its rows from one message, and whether it continues after the message.
type Left<'a> = (u64, &'a [&'a Event], GoesOn);

fn read_messages(transactions: &[&[&Event]], owner: &str) -> Parts {
    let mut order: Vec<*const Message> = Vec::new();
    let mut messages: HashMap<*const Message, Vec<Left<'_>>> = HashMap::new();
    for rows in transactions {
        let mut left = rows.len();
        for part in rows.chunk_by(|a, b| Arc::ptr_eq(&a.message, &b.message)) {
            left -= part.len();
            let Some(first) = part.first() else { continue };
            let goes_on = if left > 0 { GoesOn::Later } else { GoesOn::Unknown };
            let message = Arc::as_ptr(&first.message);
            let known = messages.entry(message).or_insert_with(|| {
                order.push(message);
                Vec::new()
            });
            known.push((first.xid, part, goes_on));
        }
    }
    let mut parts = Parts::new();
    for message in order {
        let mut portions = messages.remove(&message).unwrap_or_default();
        // Transactions of one message ran one after another, but a prepared one can have been committed much later.
        portions.sort_by_key(|(_, rows, _)| rows.first().map(|row| row.seq));
        let changes = read_message(&portions, owner);
        let keys = portions.iter().map(|(xid, ..)| (*xid, message));
        parts.extend(keys.zip(changes));
    }
    parts
}

fn captured(rows: &[&Event], parts: &mut Parts) -> Option<CapturedChange> {
    let last = rows.last()?;
    if rows.iter().all(|row| row.state == EventState::Drained) {
        return None;
    }
    let mut change = Change::default();
    for message in rows.chunk_by(|a, b| Arc::ptr_eq(&a.message, &b.message)) {
        let part = parts.remove(&(last.xid, Arc::as_ptr(&message.first()?.message)));
        let part = part.unwrap_or_default();
        change.statements.extend(part.statements);
        change.left_out.extend(part.left_out);
        change.roles.extend(part.roles);
        change.broken = change.broken.or(part.broken);
    }
    if change.statements.is_empty() && change.broken.is_none() {
        return None;
    }
    change.created = effects::created(rows);
    change.altered = effects::altered(rows, &change.created);
    change.renamed = effects::renamed(rows);
    let lone = change
        .statements
        .iter()
        .any(|statement| statement.mode != Mode::Transactional);
    if lone && change.statements.len() > 1 {
        break_with(
            &mut change,
            "a statement that cannot run in a transaction is combined with other statements".to_owned(),
        );
    }
    Some(CapturedChange {
        xid: last.xid,
        pid: last.message.pid,
        backend_start: last.message.backend_start,
        session_role: last.session_role.clone(),
        at: last.message.sent_at,
        seqs: rows.iter().map(|row| row.seq).collect(),
        calls: committing::calls(rows),
        change,
    })
}

/// Reads one message: which of its statements each transaction committed, and how to replay them.
fn read_message(portions: &[(u64, &[&Event], GoesOn)], owner: &str) -> Vec<Change> {
    let Some(first) = portions.first().and_then(|(_, rows, _)| rows.first()) else {
        return Vec::new();
    };
    if first.kind == EventKind::Extension {
        return portions.iter().map(|(_, rows, _)| extensions(rows)).collect();
    }
    let rows: Vec<&Event> = portions.iter().flat_map(|(_, rows, _)| rows.iter().copied()).collect();
    let text = &*lexing::independent(&first.message.query, &rows);
    let statements = match split::split(text) {
        Ok(mut statements) => {
            temporary::may_be_about(&mut statements);
            statements
        }
        Err(reason) => {
            return portions
                .iter()
                .map(|(_, rows, _)| broken(rows, reason.clone()))
                .collect();
        }
    };
    let gathered: Vec<Portion<'_>> = portions
        .iter()
        .map(|(_, rows, goes_on)| Portion {
            units: units::gather(rows),
            begun: rows.first().and_then(|row| row.begun),
            goes_on: *goes_on,
        })
        .collect();
    let inlined = prepared::inlined(&statements);
    let matched = matching::matched(&statements, &gathered).into_iter().zip(portions);
    matched
        .map(|(taken, (_, rows, _))| match taken {
            Ok(taken) => {
                let mut change = Change::default();
                for taken in &taken {
                    if let Some(split) = statements.get(taken.statement) {
                        let inlined = inlined.get(taken.statement).and_then(Option::as_deref);
                        let source = Source { text, inlined, owner };
                        take(split, taken, source, &mut change);
                    }
                }
                change
            }
            Err(reason) => broken(rows, reason.to_owned()),
        })
        .collect()
}

fn broken(rows: &[&Event], reason: String) -> Change {
    Change {
        statements: as_written(rows).into_iter().collect(),
        broken: Some(reason),
        ..Change::default()
    }
}

fn extensions(rows: &[&Event]) -> Change {
    let mut change = Change::default();
    for row in rows {
        match administrators(row) {
            Ok(statement) => change.statements.push(statement),
            Err(reason) => {
                change.statements.extend(as_written(&[row]));
                break_with(&mut change, reason);
            }
        }
    }
    change
}

/// What a statement is rendered from, besides its parse tree.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// The text of the message.
    text: &'a str,
    /// For EXECUTE: the text with the prepared statement in its place, if the message contains that.
    inlined: Option<&'a str>,
    /// The workspace's owner role.
    owner: &'a str,
}

fn take(split: &Split<'_>, taken: &Taken<'_>, source: Source<'_>, change: &mut Change) {
    let owner = source.owner;
    let units = if split.runs_script() {
        own(&taken.units)
    } else {
        taken.units.as_slice()
    };
    let Some(row) = units
        .first()
        .or(taken.row.as_ref())
        .filter(|_| !leaves_out(split, units))
    else {
        if let Some(kind) = left_out(split.kind) {
            let sql = split.text.to_owned();
            change.left_out.push(LeftOut { sql, kind });
        }
        return;
    };
    if roles::concerns_groups_of_ours(split) {
        let sql = split.text.to_owned();
        change.left_out.push(LeftOut {
            sql,
            kind: LeftOutKind::NotSchema,
        });
        return;
    }
    let role = roles::ran_as(row.row, owner);
    change.roles.extend(roles::named(split, owner));
    change.roles.extend(role.clone());
    match render(split, row, source) {
        Ok((sql, mode)) => {
            let mut statement = statement(sql, mode, units, row, owner);
            match outside::session(split, units, row) {
                Ok(session) => {
                    statement.search_path = roles::symbolic_path(session.search_path, owner);
                    statement.settings = session.settings;
                }
                Err(reason) => break_with(change, reason),
            }
            let called = units.iter().flat_map(|unit| outside::called(unit.row));
            if let Err(reason) = bodies::refuse_roles(called) {
                break_with(change, reason);
            }
            change.statements.push(Statement { role, ..statement });
        }
        Err(reason) => {
            let sql = Sql::text(split.text);
            change
                .statements
                .push(statement(sql, Mode::Transactional, units, row, owner));
            break_with(change, reason);
        }
    }
}

/// Whether a statement that has rows is left out: a restart of a sequence, or privileges on the journal's schema.
fn leaves_out(split: &Split<'_>, units: &[Unit<'_>]) -> bool {
    let by_function = |unit: &Unit<'_>| matches!(unit.row.caller, Caller::Function(_));
    split.kind == Kind::Journal
        || split.kind == Kind::Data && split.expected.is_some() && !units.iter().any(by_function)
}

/// The row of an extension itself, which comes after those of objects that its script dropped.
fn own<'a, 'b>(units: &'b [Unit<'a>]) -> &'b [Unit<'a>] {
    let own = units.len().saturating_sub(1)..;
    units.get(own).unwrap_or(units)
}

fn statement(sql: Sql, mode: Mode, units: &[Unit<'_>], row: &Unit<'_>, owner: &str) -> Statement {
    Statement {
        sql,
        tags: units.iter().map(|unit| unit.row.tag.clone()).collect(),
        objects: units.iter().flat_map(Unit::identities).map(str::to_owned).collect(),
        search_path: roles::symbolic_path(&row.row.search_path, owner),
        role: None,
        settings: row.row.settings.clone(),
        mode,
    }
}

/// For a broken change: the whole text of the message, so that users see what ran.
fn as_written(rows: &[&Event]) -> Option<Statement> {
    let row = rows.first()?;
    let units = units::gather(rows);
    Some(Statement {
        sql: Sql::text(row.message.query.trim()),
        tags: units.iter().map(|unit| unit.row.tag.clone()).collect(),
        objects: units.iter().flat_map(Unit::identities).map(str::to_owned).collect(),
        search_path: row.search_path.clone(),
        role: None,
        settings: row.settings.clone(),
        mode: Mode::Transactional,
    })
}

/// The text and mode with which to replay a statement, or the reason why it cannot be replayed.
fn render(split: &Split<'_>, unit: &Unit<'_>, source: Source<'_>) -> Result<(Sql, Mode), String> {
    let Source { text, inlined, owner } = source;
    match split.kind {
        Kind::Extension { cascade } => Ok((extension(unit, cascade)?, Mode::Transactional)),
        Kind::CreateIndexConcurrently => {
            let index = unit
                .identities()
                .next()
                .ok_or("the index is not named in the journal")?;
            let index = roles::symbolic_identity(index, owner);
            let sql = match split.with_index_name(unit.row)? {
                Some(named) => rewritten(&named, owner)?,
                None => roles::symbolic(split, text, owner)?,
            };
            Ok((sql, Mode::CreateIndex { index }))
        }
        Kind::DropIndexConcurrently => {
            let indexes = unit
                .identities()
                .map(|index| roles::symbolic_identity(index, owner))
                .collect();
            let sql = match split.if_exists()? {
                Some(sql) => rewritten(&sql, owner)?,
                None => roles::symbolic(split, text, owner)?,
            };
            Ok((sql, Mode::DropIndex { indexes }))
        }
        // CONCURRENTLY leaves a CHECK constraint on the partition; the form without it does not.
        Kind::DetachConcurrently => {
            let table = unit
                .identities()
                .next()
                .ok_or("the table is not named in the journal")?;
            let table = roles::symbolic_identity(table, owner);
            let (sql, partition) = split.detach()?;
            Ok((rewritten(&sql, owner)?, Mode::DetachPartition { table, partition }))
        }
        Kind::Ddl | Kind::Carrier => {
            temporary::refuse(split, unit.row)?;
            if split.kind == Kind::Carrier {
                session_role::refuse(split.text)?;
            }
            let sql = match split.if_exists()?.or(split.without_journal()?) {
                Some(sql) => rewritten(&sql, owner)?,
                None => roles::symbolic(split, text, owner)?,
            };
            Ok((sql, Mode::Transactional))
        }
        Kind::Data => Err("a data statement changed the schema through a function or trigger".to_owned()),
        Kind::Prepared => {
            let executed = prepared::executed(&split.tree)
                .ok_or("EXPLAIN and FETCH that run DDL are not replayed: run what they ran directly")?;
            let inlined = inlined.ok_or_else(|| {
                format!(
                    "it runs the prepared statement \"{executed}\", whose text is in another message: write the query itself \
                     instead of EXECUTE"
                )
            })?;
            prepared(inlined, unit, owner)
        }
        Kind::Control(_) => Err("the end of a transaction changed the schema through a function or trigger".to_owned()),
        Kind::Journal | Kind::NotSchema | Kind::Silent => Err("its effect on the schema is not in its text".to_owned()),
    }
}

/// The same for the text of a statement with a prepared one in the place of EXECUTE.
fn prepared(inlined: &str, unit: &Unit<'_>, owner: &str) -> Result<(Sql, Mode), String> {
    let statements = split::split(inlined)?;
    match statements.as_slice() {
        [statement] if statement.kind != Kind::Prepared => {
            let source = Source {
                text: inlined,
                inlined: None,
                owner,
            };
            render(statement, unit, source)
        }
        _ => Err("the prepared statement cannot be written in the place of EXECUTE".to_owned()),
    }
}

/// The same for the text of a modified parse tree: owner names become placeholders.
fn rewritten(text: &str, owner: &str) -> Result<Sql, String> {
    let statements = split::split(text)?;
    let [statement] = statements.as_slice() else {
        return Err("it cannot be converted back to SQL text".to_owned());
    };
    roles::symbolic(statement, text, owner)
}

/// The statement for an extension that the administrator created, which the administrator also creates at replay.
fn administrators(row: &Event) -> Result<Statement, String> {
    let unknown = || "the extension is not named in the journal".to_owned();
    let made = row.objects.first().ok_or_else(unknown)?;
    let part = |part: &Option<String>| part.as_deref().map(unquoted).ok_or_else(unknown);
    let (name, schema) = (part(&made.identity)?, part(&made.schema)?);
    let version = made.version.clone().ok_or_else(unknown)?;
    Ok(Statement {
        sql: Sql::text(crate::postgres::extensions::statement(&name, &schema, &version)),
        tags: vec![row.tag.clone()],
        objects: made.identity.iter().cloned().collect(),
        search_path: row.search_path.clone(),
        role: None,
        settings: row.settings.clone(),
        mode: Mode::Extension {
            name,
            schema,
            version,
            owner: ExtensionOwner::Owner,
        },
    })
}

/// The statement for an extension that the owner created, with the version and schema that it got.
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
    let made = crate::postgres::extensions::statement(&unquoted(name), &unquoted(schema), version);
    let cascade = if cascade { " CASCADE" } else { "" };
    Ok(Sql::text(format!("{made}{cascade}")))
}

fn left_out(kind: Kind) -> Option<LeftOutKind> {
    match kind {
        Kind::Data => Some(LeftOutKind::Data),
        Kind::NotSchema => Some(LeftOutKind::NotSchema),
        // Without a row they had no effect on the schema, or were rolled back, or were queries.
        Kind::Ddl
        | Kind::Carrier
        | Kind::Extension { .. }
        | Kind::CreateIndexConcurrently
        | Kind::DropIndexConcurrently
        | Kind::DetachConcurrently
        | Kind::Prepared
        | Kind::Journal
        | Kind::Control(_)
        | Kind::Silent => None,
    }
}

/// Marks the change as broken; the first reason stays.
fn break_with(change: &mut Change, reason: String) {
    change.broken.get_or_insert(reason);
}
