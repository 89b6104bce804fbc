//! Compares the matching of statements and journal rows with an oracle: a model of PostgreSQL runs small messages in every
//! possible way. A result must replay to the model's schema, and `ambiguous` is allowed only if the ways really differ.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use proptest::prelude::*;
use tdb_engines::postgres::capture;
use tdb_engines::postgres::journal::{Begun, Caller, Event, EventKind, EventState, Message, Object, Rights};
use time::OffsetDateTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Create(u8),
    CreateIf(u8, u8),
    Drop(u8),
    DropIf(u8),
    Add(u8, u8),
    AddIf(u8, u8),
    /// A DO that does nothing if the table exists.
    Block(u8),
    /// A function that does the same.
    Call(u8),
    Insert,
    Begin,
    Commit,
    Rollback,
    Savepoint(u8),
    Release(u8),
    RollbackTo(u8),
}

fn text(step: Step) -> String {
    match step {
        Step::Create(t) => format!("CREATE TABLE t{t} ()"),
        Step::CreateIf(t, c) => format!("CREATE TABLE IF NOT EXISTS t{t} (c{c} int)"),
        Step::Drop(t) => format!("DROP TABLE t{t}"),
        Step::DropIf(t) => format!("DROP TABLE IF EXISTS t{t}"),
        Step::Add(t, c) => format!("ALTER TABLE t{t} ADD c{c} int"),
        Step::AddIf(t, c) => format!("ALTER TABLE t{t} ADD COLUMN IF NOT EXISTS c{c} int"),
        Step::Block(t) => {
            format!("DO $$ BEGIN CREATE TABLE t{t} (); EXCEPTION WHEN duplicate_table THEN NULL; END $$")
        }
        Step::Call(t) => format!("SELECT make{t}()"),
        Step::Insert => "INSERT INTO log VALUES (1)".to_owned(),
        Step::Begin => "BEGIN".to_owned(),
        Step::Commit => "COMMIT".to_owned(),
        Step::Rollback => "ROLLBACK".to_owned(),
        Step::Savepoint(s) => format!("SAVEPOINT s{s}"),
        Step::Release(s) => format!("RELEASE s{s}"),
        Step::RollbackTo(s) => format!("ROLLBACK TO s{s}"),
    }
}

/// Tables and their columns.
type Schema = BTreeMap<u8, BTreeSet<u8>>;

/// The row that a statement writes: kind, tag, table and caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    kind: &'static str,
    tag: &'static str,
    table: u8,
    caller: Option<Step>,
    /// The index of the statement that wrote it.
    statement: usize,
}

struct Failed;

/// Runs a schema statement.
fn run(schema: &mut Schema, step: Step) -> Result<Option<(&'static str, &'static str, u8)>, Failed> {
    Ok(match step {
        Step::Create(t) => match schema.insert(t, BTreeSet::new()) {
            None => Some(("end", "CREATE TABLE", t)),
            Some(_) => return Err(Failed),
        },
        Step::CreateIf(t, c) => (!schema.contains_key(&t)).then(|| {
            schema.insert(t, BTreeSet::from([c]));
            ("end", "CREATE TABLE", t)
        }),
        Step::Block(t) | Step::Call(t) => (!schema.contains_key(&t)).then(|| {
            schema.insert(t, BTreeSet::new());
            ("end", "CREATE TABLE", t)
        }),
        Step::Drop(t) => {
            schema.remove(&t).ok_or(Failed)?;
            Some(("drop", "DROP TABLE", t))
        }
        Step::DropIf(t) => schema.remove(&t).map(|_| ("drop", "DROP TABLE", t)),
        Step::Add(t, c) => {
            if !schema.get_mut(&t).ok_or(Failed)?.insert(c) {
                return Err(Failed);
            }
            Some(("end", "ALTER TABLE", t))
        }
        Step::AddIf(t, c) => {
            schema.get_mut(&t).ok_or(Failed)?.insert(c);
            // PostgreSQL reports it even if the column exists.
            Some(("end", "ALTER TABLE", t))
        }
        Step::Insert
        | Step::Begin
        | Step::Commit
        | Step::Rollback
        | Step::Savepoint(_)
        | Step::Release(_)
        | Step::RollbackTo(_) => None,
    })
}

/// Like `run`, but knows only the text and the rows, not what a conditional statement found.
fn run_blindly(step: Step, has_effect: bool) -> Option<(&'static str, &'static str, u8)> {
    match step {
        Step::Create(t) => Some(("end", "CREATE TABLE", t)),
        Step::CreateIf(t, _) | Step::Block(t) | Step::Call(t) => has_effect.then_some(("end", "CREATE TABLE", t)),
        Step::Drop(t) => Some(("drop", "DROP TABLE", t)),
        Step::DropIf(t) => has_effect.then_some(("drop", "DROP TABLE", t)),
        Step::Add(t, _) | Step::AddIf(t, _) => Some(("end", "ALTER TABLE", t)),
        _ => None,
    }
}

/// One way in which a message can run.
#[derive(Clone, Copy, Debug)]
struct Way {
    effects: Effects,
    /// The savepoints of a transaction that is open before it; `None` if no transaction is open.
    open: Option<&'static [u8]>,
    /// The index of a statement that fails for a reason that is not in the text.
    fails: Option<usize>,
    /// What a later message does if a transaction is still open.
    later: Later,
}

#[derive(Clone, Copy, Debug)]
enum Effects {
    /// Whether t0, t1 exist before it.
    Tables([bool; 2]),
    /// Statement n, if it is conditional, has an effect where bit n is set.
    Assumed(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Later {
    Commit,
    RollbackTo(u8),
}

struct Transaction {
    before: Schema,
    rows: Vec<Row>,
    savepoints: Vec<(u8, Schema, usize)>,
    block: bool,
}

#[derive(Debug)]
struct Ran {
    initial: Schema,
    schema: Schema,
    /// The rows of each transaction that committed with rows, and whether it began before the message.
    committed: Vec<(bool, Vec<Row>)>,
}

fn execute(message: &[Step], way: Way) -> Ran {
    let mut schema = Schema::new();
    if let Effects::Tables(tables) = way.effects {
        for (table, _) in (0..).zip(tables).filter(|(_, exists)| *exists) {
            schema.insert(table, BTreeSet::new());
        }
    }
    let mut ran = Ran {
        initial: schema.clone(),
        schema,
        committed: Vec::new(),
    };
    let mut first = way.open.is_some();
    let mut current = begin(&ran.schema, way.open.is_some());
    for savepoint in way.open.into_iter().flatten() {
        current.savepoints.push((*savepoint, ran.schema.clone(), 0));
    }
    let mut aborted = false;
    for (index, step) in message.iter().copied().enumerate() {
        let failed =
            way.fails == Some(index) || one(&mut ran, &mut current, &mut first, way.effects, index, step).is_err();
        if failed {
            aborted = true;
            break;
        }
    }
    if current.block {
        match way.later {
            Later::RollbackTo(s) => {
                if let Some((_, schema, rows)) = current.savepoints.iter().rev().find(|(name, ..)| *name == s) {
                    ran.schema = schema.clone();
                    current.rows.truncate(*rows);
                    aborted = false;
                }
            }
            Later::Commit => {}
        }
    }
    if aborted {
        ran.schema = current.before;
    } else {
        commit(&mut ran, current, first);
    }
    ran
}

fn begin(schema: &Schema, block: bool) -> Transaction {
    Transaction {
        before: schema.clone(),
        rows: Vec::new(),
        savepoints: Vec::new(),
        block,
    }
}

fn commit(ran: &mut Ran, transaction: Transaction, earlier: bool) {
    if !transaction.rows.is_empty() {
        ran.committed.push((earlier, transaction.rows));
    }
}

fn one(
    ran: &mut Ran,
    current: &mut Transaction,
    first: &mut bool,
    effects: Effects,
    index: usize,
    step: Step,
) -> Result<(), Failed> {
    match step {
        Step::Begin => current.block = true,
        Step::Commit => {
            let ended = std::mem::replace(current, begin(&ran.schema, false));
            commit(ran, ended, std::mem::take(first));
        }
        Step::Rollback => {
            ran.schema = current.before.clone();
            *current = begin(&ran.schema, false);
            *first = false;
        }
        Step::Savepoint(s) if current.block => current.savepoints.push((s, ran.schema.clone(), current.rows.len())),
        Step::Release(s) if current.block => {
            let at = current
                .savepoints
                .iter()
                .rposition(|(name, ..)| *name == s)
                .ok_or(Failed)?;
            current.savepoints.truncate(at);
        }
        Step::RollbackTo(s) if current.block => {
            let at = current
                .savepoints
                .iter()
                .rposition(|(name, ..)| *name == s)
                .ok_or(Failed)?;
            current.savepoints.truncate(at + 1);
            let (_, schema, rows) = &current.savepoints[at];
            ran.schema = schema.clone();
            current.rows.truncate(*rows);
        }
        Step::Savepoint(_) | Step::Release(_) | Step::RollbackTo(_) => return Err(Failed),
        _ => {
            let left = match effects {
                Effects::Tables(_) => run(&mut ran.schema, step)?,
                Effects::Assumed(bits) => run_blindly(step, bits >> index & 1 == 1),
            };
            if let Some((kind, tag, table)) = left {
                let caller = matches!(step, Step::Block(_) | Step::Call(_)).then_some(step);
                current.rows.push(Row {
                    kind,
                    tag,
                    table,
                    caller,
                    statement: index,
                });
            }
        }
    }
    Ok(())
}

/// The journal's rows for it.
fn events(query: &str, ran: &Ran) -> Vec<Event> {
    let message = Arc::new(Message {
        pid: 7,
        backend_start: OffsetDateTime::UNIX_EPOCH,
        sent_at: OffsetDateTime::UNIX_EPOCH,
        query: query.to_owned(),
    });
    let mut seq = 0;
    let mut events = Vec::new();
    for (xid, (earlier, rows)) in (1..).zip(&ran.committed) {
        for row in rows {
            seq += 1;
            events.push(Event {
                seq,
                xid,
                message: message.clone(),
                begun: Some(if *earlier { Begun::Before } else { Begun::Here }),
                kind: if row.kind == "drop" {
                    EventKind::Drop
                } else {
                    EventKind::End
                },
                tag: row.tag.to_owned(),
                objects: vec![Object {
                    identity: Some(format!("public.t{}", row.table)),
                    ..Object::default()
                }],
                caller: caller(row.caller),
                temporary: Vec::new(),
                search_path: "public".to_owned(),
                role: "r_own".to_owned(),
                rights: Rights::Role,
                session_role: "r_own".to_owned(),
                settings: BTreeMap::new(),
                functions: Vec::new(),
                state: EventState::New,
            });
        }
    }
    events
}

fn caller(step: Option<Step>) -> Caller {
    match step {
        Some(Step::Block(t)) => Caller::Function(format!(
            "SQL statement \"CREATE TABLE t{t} ()\"\nPL/pgSQL function inline_code_block line 1 at SQL statement"
        )),
        Some(Step::Call(t)) => Caller::Function(format!(
            "SQL statement \"CREATE TABLE t{t} ()\"\nPL/pgSQL function make{t}() line 1 at SQL statement"
        )),
        _ => Caller::Client,
    }
}

/// A row's kind, tag, table and caller.
type SeenRow = (&'static str, &'static str, u8, Option<Step>);

/// The observable part: everything except which statement wrote a row.
fn seen(ran: &Ran) -> Vec<(bool, Vec<SeenRow>)> {
    let rows = |rows: &Vec<Row>| {
        rows.iter()
            .map(|row| (row.kind, row.tag, row.table, row.caller))
            .collect()
    };
    ran.committed.iter().map(|(earlier, of)| (*earlier, rows(of))).collect()
}

/// The texts that took effect.
fn effective(message: &[Step], ran: &Ran) -> Vec<Vec<String>> {
    let texts = |rows: &Vec<Row>| rows.iter().map(|row| text(message[row.statement])).collect();
    ran.committed.iter().map(|(_, rows)| texts(rows)).collect()
}

fn every_way(message: &[Step], effects: &[Effects]) -> Vec<Way> {
    let mut ways = Vec::new();
    for effects in effects.iter().copied() {
        for open in [None, Some([2].as_slice()), Some(&[0, 1, 2])] {
            for fails in (0..message.len()).map(Some).chain([None]) {
                for later in [
                    Later::Commit,
                    Later::RollbackTo(0),
                    Later::RollbackTo(1),
                    Later::RollbackTo(2),
                ] {
                    ways.push(Way {
                        effects,
                        open,
                        fails,
                        later,
                    });
                }
            }
        }
    }
    ways
}

fn check(message: &[Step]) {
    let texts: Vec<String> = message.iter().map(|step| text(*step)).collect();
    let steps: HashMap<&str, Step> = texts.iter().map(String::as_str).zip(message.iter().copied()).collect();
    let query = texts.join("; ");
    let run_all = |effects: &[Effects]| -> Vec<Ran> {
        every_way(message, effects)
            .into_iter()
            .map(|way| execute(message, way))
            .collect()
    };
    let tables = [[false, false], [false, true], [true, false], [true, true]].map(Effects::Tables);
    for ran in &run_all(&tables) {
        if ran.committed.is_empty() {
            continue;
        }
        let changes = capture::changes(&events(&query, ran), "r_own", &[]);
        assert_eq!(changes.len(), ran.committed.len(), "{query}");
        if let Some(reason) = changes.iter().find_map(|captured| captured.change.broken.as_ref()) {
            assert!(reason.starts_with("ambiguous"), "{query}: {reason}: {ran:#?}");
            let assumed: Vec<Effects> = (0..1 << message.len()).map(Effects::Assumed).collect();
            let all = run_all(&assumed);
            let like_it = all.iter().filter(|other| seen(other) == seen(ran));
            let different: BTreeSet<_> = like_it.map(|other| effective(message, other)).collect();
            assert!(different.len() > 1, "{query}: not ambiguous: {different:?} {ran:#?}");
            continue;
        }
        let mut replayed = ran.initial.clone();
        for captured in &changes {
            for sql in captured.change.texts() {
                let step = steps
                    .get(sql.as_str())
                    .unwrap_or_else(|| panic!("{sql} is not of {query}"));
                assert!(
                    run(&mut replayed, *step).is_ok(),
                    "{query}: {sql} fails: {changes:#?} {ran:#?}"
                );
            }
        }
        assert_eq!(replayed, ran.schema, "{query}: {changes:#?} {ran:#?}");
    }
}

fn step() -> impl Strategy<Value = Step> {
    let t = || 0..2_u8;
    prop_oneof![
        t().prop_map(Step::Create),
        (t(), t()).prop_map(|(t, c)| Step::CreateIf(t, c)),
        t().prop_map(Step::Drop),
        t().prop_map(Step::DropIf),
        (t(), t()).prop_map(|(t, c)| Step::Add(t, c)),
        (t(), t()).prop_map(|(t, c)| Step::AddIf(t, c)),
        t().prop_map(Step::Block),
        t().prop_map(Step::Call),
        Just(Step::Insert),
        Just(Step::Begin),
        Just(Step::Begin),
        Just(Step::Commit),
        Just(Step::Commit),
        Just(Step::Rollback),
        t().prop_map(Step::Savepoint),
        t().prop_map(Step::Savepoint),
        t().prop_map(Step::Release),
        (0..3_u8).prop_map(Step::RollbackTo),
    ]
}

/// Found by the test below with other seeds.
#[test]
fn a_repeated_statement_after_a_savepoint_is_not_ambiguous() {
    let call = |t| [Step::Block(t), Step::Call(t)];
    for [one, other] in [[call(1), call(0)], [call(0), call(1)]] {
        for repeated in [one.to_vec(), [other, one].concat()] {
            let message = [&[one[0], other[0], Step::Savepoint(0)], &repeated[..]].concat();
            check(&message);
        }
        check(&[
            Step::DropIf(0),
            one[1],
            Step::Savepoint(0),
            Step::DropIf(0),
            Step::Commit,
        ]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_way_a_message_ran_its_changes_replay_to_the_same_schema(
        message in proptest::collection::vec(step(), 2..8)
    ) {
        check(&message);
    }
}
