//! Converts journal rows to changes, without a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tdb_engines::postgres::capture::{self, CapturedChange};
use tdb_engines::postgres::change::Mode;
use tdb_engines::postgres::journal::{Begun, Caller, Event, EventKind, EventState, Message, Object, Rights};
use time::OffsetDateTime;

const OWNER: &str = "r_own";

/// A row of a message: (kind, tag, identity). The identity is `f > identity` if function f ran the statement.
type Row<'a> = (EventKind, &'a str, &'a str);

/// A message, its rows, and the expected statements or the reason why the change is broken.
type Case<'a> = (&'a str, &'a [Row<'a>], Result<&'a [&'a str], &'a str>);

fn message(query: &str) -> Arc<Message> {
    Arc::new(Message {
        pid: 7,
        backend_start: OffsetDateTime::UNIX_EPOCH,
        sent_at: OffsetDateTime::UNIX_EPOCH,
        query: query.to_owned(),
    })
}

fn event(seq: i64, xid: u64, message: &Arc<Message>, (kind, tag, identity): Row<'_>) -> Event {
    let (function, identity) = identity.split_once(" > ").unwrap_or(("", identity));
    Event {
        seq,
        xid,
        message: message.clone(),
        begun: Some(Begun::Here),
        kind,
        tag: tag.to_owned(),
        objects: vec![Object {
            identity: Some(identity.to_owned()),
            ..Object::default()
        }],
        caller: if function.is_empty() {
            Caller::Client
        } else {
            Caller::Function(format!("PL/pgSQL function {function} line 1 at EXECUTE"))
        },
        temporary: Vec::new(),
        search_path: "public".to_owned(),
        role: OWNER.to_owned(),
        rights: Rights::Role,
        session_role: OWNER.to_owned(),
        settings: BTreeMap::new(),
        functions: Vec::new(),
        state: EventState::New,
    }
}

fn one(query: &str, rows: &[Row<'_>]) -> CapturedChange {
    let message = message(query);
    let events: Vec<Event> = (1..)
        .zip(rows)
        .map(|(seq, row)| event(seq, 1, &message, *row))
        .collect();
    let mut changes = capture::changes(&events, OWNER, &[]);
    assert_eq!(changes.len(), 1);
    changes.pop().unwrap()
}

const TABLE: &str = "CREATE TABLE";

#[test]
fn statements_of_a_message_are_matched_to_what_the_journal_has() {
    use EventKind::{Drop, End};
    let cases: &[Case<'_>] = &[
        // The first statements are about the temporary table, which hides the other one.
        (
            "CREATE TEMP TABLE a (i int); ALTER TABLE a ADD t int; ALTER TABLE public.a ADD r int",
            &[(End, "ALTER TABLE", "public.a")],
            Ok(&["ALTER TABLE public.a ADD r int"]),
        ),
        (
            "CREATE TABLE pg_temp.a AS SELECT 1; CREATE INDEX ON a (i); DROP TABLE a; DROP TABLE public.a",
            &[(Drop, "DROP TABLE", "public.a")],
            Ok(&["DROP TABLE public.a"]),
        ),
        (
            "CREATE TABLE a ();",
            &[(End, TABLE, "public.a")],
            Ok(&["CREATE TABLE a ()"]),
        ),
        (
            "-- first\nCREATE TABLE a (); /* x */ COMMIT; CREATE TABLE b ()",
            &[(End, TABLE, "public.b")],
            Ok(&["CREATE TABLE b ()"]),
        ),
        (
            "CREATE TABLE \"A;b\" (x text DEFAULT ';'); SELECT 1; DROP TABLE IF EXISTS z",
            &[(End, TABLE, "public.\"A;b\"")],
            Ok(&["CREATE TABLE \"A;b\" (x text DEFAULT ';')"]),
        ),
        (
            "DROP TABLE IF EXISTS a; CREATE TABLE a (); DROP TABLE IF EXISTS a; CREATE TABLE a ()",
            &[
                (End, TABLE, "public.a"),
                (Drop, "DROP TABLE", "public.a"),
                (End, TABLE, "public.a"),
            ],
            Ok(&["CREATE TABLE a ()", "DROP TABLE IF EXISTS a", "CREATE TABLE a ()"]),
        ),
        (
            "BEGIN; SAVEPOINT s; CREATE TABLE a (x int); ROLLBACK TO s; CREATE TABLE a (y int); COMMIT",
            &[(End, TABLE, "public.a")],
            Ok(&["CREATE TABLE a (y int)"]),
        ),
        (
            "CREATE TABLE a (x int); ROLLBACK; CREATE TABLE a (y int)",
            &[(End, TABLE, "public.a")],
            Ok(&["CREATE TABLE a (y int)"]),
        ),
        (
            "CREATE TABLE IF NOT EXISTS a (x int); CREATE TABLE IF NOT EXISTS a (y int)",
            &[(End, TABLE, "public.a")],
            Ok(&[
                "CREATE TABLE IF NOT EXISTS a (x int)",
                "CREATE TABLE IF NOT EXISTS a (y int)",
            ]),
        ),
        (
            "BEGIN; SAVEPOINT s; CREATE TABLE IF NOT EXISTS a (x int); SAVEPOINT s; ALTER TABLE IF EXISTS a ADD y int",
            &[(End, TABLE, "public.a")],
            Ok(&["CREATE TABLE IF NOT EXISTS a (x int)"]),
        ),
        (
            "BEGIN; CREATE TABLE IF NOT EXISTS a (x int); SAVEPOINT s; CREATE TABLE IF NOT EXISTS a (y int)",
            &[(End, TABLE, "public.a")],
            Err("ambiguous"),
        ),
        (
            "alter table t add a int; do $$begin alter table t add b int; end$$;",
            &[
                (End, "ALTER TABLE", "public.t"),
                (End, "ALTER TABLE", "inline_code_block > public.t"),
            ],
            Ok(&["alter table t add a int", "do $$begin alter table t add b int; end$$"]),
        ),
        (
            "do $$begin create type a as enum (); exception when duplicate_object then null; end$$; \
             do $$begin create type b as enum (); exception when duplicate_object then null; end$$",
            &[(End, "CREATE TYPE", "inline_code_block > public.b")],
            Ok(&[
                "do $$begin create type a as enum (); exception when duplicate_object then null; end$$",
                "do $$begin create type b as enum (); exception when duplicate_object then null; end$$",
            ]),
        ),
        (
            "ALTER TABLE a DROP x; ALTER TABLE a ADD x int",
            &[
                (Drop, "ALTER TABLE", "public.a.x"),
                (End, "ALTER TABLE", "public.a"),
                (End, "ALTER TABLE", "public.a"),
            ],
            Ok(&["ALTER TABLE a DROP x", "ALTER TABLE a ADD x int"]),
        ),
        (
            "SELECT f(); CREATE TABLE a (); SELECT 1",
            &[(End, TABLE, "f() > public.hidden"), (End, TABLE, "public.a")],
            Ok(&["SELECT f()", "CREATE TABLE a ()"]),
        ),
        (
            "SELECT f(); SELECT g()",
            &[(End, TABLE, "g() > public.hidden")],
            Ok(&["SELECT g()"]),
        ),
        (
            "SELECT f(); SELECT a FROM v",
            &[(End, TABLE, "h() > public.hidden")],
            Ok(&["SELECT f()", "SELECT a FROM v"]),
        ),
        (
            "SELECT f(); CREATE TABLE a (); DO 'BEGIN NULL; END'",
            &[(End, TABLE, "public.a"), (End, TABLE, "f() > public.hidden")],
            Err("cannot be traced to one of its statements"),
        ),
        (
            "BEGIN; INSERT INTO t VALUES (1); CREATE TABLE a (); COMMIT",
            &[(End, TABLE, "public.a"), (End, TABLE, "f() > public.hidden")],
            Err("a data statement changed the schema through a function or trigger"),
        ),
        (
            "SELECT 1; SELECT 2",
            &[(End, TABLE, "public.hidden")],
            Err("cannot be traced to one of its statements"),
        ),
        ("SELECT f($1)", &[(End, TABLE, "public.hidden")], Err("parameter")),
        (
            "CREATE TABLE a AS SELECT $1",
            &[(End, "CREATE TABLE AS", "public.a")],
            Err("parameter"),
        ),
        (
            "CREATE FUNCTION f(int) RETURNS int RETURN $1",
            &[(End, "CREATE FUNCTION", "public.f(integer)")],
            Ok(&["CREATE FUNCTION f(int) RETURNS int RETURN $1"]),
        ),
        (
            "UPDATE t SET a = 1",
            &[(End, TABLE, "public.hidden")],
            Err("data statement"),
        ),
        ("COMMIT", &[(End, TABLE, "public.hidden")], Err("end of a transaction")),
        ("CREATE TABEL a", &[(End, TABLE, "public.a")], Err("parser")),
        ("", &[(End, TABLE, "public.a")], Err("not known")),
        (
            "ALTER TABLE a OWNER TO session_user",
            &[(End, "ALTER TABLE", "public.a")],
            Ok(&["ALTER TABLE a OWNER TO owner"]),
        ),
        (
            "ALTER TABLE a OWNER TO current_user",
            &[(End, "ALTER TABLE", "public.a")],
            Ok(&["ALTER TABLE a OWNER TO current_user"]),
        ),
        (
            "GRANT ALL ON a TO r_own, public, \"r_own\"",
            &[(End, "GRANT", "")],
            Ok(&["GRANT ALL ON a TO owner, public, owner"]),
        ),
        (
            "ALTER DEFAULT PRIVILEGES FOR ROLE r_own GRANT SELECT ON TABLES TO bob",
            &[(End, "ALTER DEFAULT PRIVILEGES", "")],
            Err("role \"bob\" is not declared in this project"),
        ),
        (
            "ALTER TABLE p DETACH PARTITION c CONCURRENTLY",
            &[(End, "ALTER TABLE", "public.p")],
            Ok(&["ALTER TABLE p DETACH PARTITION c CONCURRENTLY"]),
        ),
        (
            "ALTER TABLE p DETACH PARTITION s.c FINALIZE",
            &[(End, "ALTER TABLE", "public.p")],
            Ok(&["ALTER TABLE p DETACH PARTITION s.c CONCURRENTLY"]),
        ),
        (
            "DROP INDEX i, s.j CASCADE",
            &[(Drop, "DROP INDEX", "public.i")],
            Ok(&["DROP INDEX IF EXISTS i, s.j CASCADE"]),
        ),
        (
            "DROP INDEX CONCURRENTLY i",
            &[(Drop, "DROP INDEX", "public.i")],
            Ok(&["DROP INDEX CONCURRENTLY IF EXISTS i"]),
        ),
    ];
    for (query, rows, expected) in cases {
        let change = one(query, rows).change;
        match expected {
            Ok(texts) => {
                assert_eq!(change.broken, None, "{query}");
                let found: Vec<String> = change
                    .texts()
                    .iter()
                    .map(|text| text.replace("-- first\n", ""))
                    .collect();
                assert_eq!(found, *texts, "{query}");
            }
            Err(reason) => assert!(
                change.broken.as_deref().unwrap_or("").contains(reason),
                "{query}: {:?}",
                change.broken
            ),
        }
    }
}

/// Messages whose transactions have the same tags and names, so that only their number and order decide.
#[test]
fn transactions_of_a_message_are_distinguished_by_their_order() {
    let alter = (EventKind::End, "ALTER TABLE", "public.s");
    let cases: &[(&str, &[&str])] = &[
        (
            "BEGIN; ALTER TABLE s ALTER x SET DEFAULT 1; COMMIT; ALTER TABLE s DROP COLUMN x;",
            &["ALTER TABLE s ALTER x SET DEFAULT 1", "ALTER TABLE s DROP COLUMN x"],
        ),
        // The third failed.
        (
            "ALTER TABLE s ADD a int; COMMIT; SELECT 1; COMMIT; ALTER TABLE s ADD b int; COMMIT; ALTER TABLE s ADD c int",
            &["ALTER TABLE s ADD a int", "ALTER TABLE s ADD b int"],
        ),
        (
            "ALTER TABLE s ADD a int; ROLLBACK; ALTER TABLE s ADD b int",
            &["ALTER TABLE s ADD b int"],
        ),
    ];
    for (query, expected) in cases {
        let message = message(query);
        let rows = (1..).zip(*expected).map(|(n, _)| event(n, n as u64, &message, alter));
        let changes = capture::changes(&rows.collect::<Vec<_>>(), OWNER, &[]);
        let texts: Vec<String> = changes.iter().flat_map(|captured| captured.change.texts()).collect();
        assert_eq!(texts, *expected, "{query}");
        // The first is already drained.
        let mut rows: Vec<Event> = (1..)
            .zip(*expected)
            .map(|(n, _)| event(n, n as u64, &message, alter))
            .collect();
        rows[0].state = EventState::Drained;
        let changes = capture::changes(&rows, OWNER, &[]);
        let texts: Vec<String> = changes.iter().flat_map(|captured| captured.change.texts()).collect();
        assert_eq!(texts, expected[1..], "{query}");
    }
}

#[test]
fn an_index_built_concurrently_keeps_the_name_it_got() {
    let change = one(
        "CREATE INDEX CONCURRENTLY ON t (a)",
        &[(EventKind::End, "CREATE INDEX", "public.t_a_idx")],
    )
    .change;
    assert_eq!(
        change.texts(),
        ["CREATE INDEX CONCURRENTLY t_a_idx ON t USING btree (a)"]
    );
    let index = "public.t_a_idx".to_owned();
    assert_eq!(change.statements[0].mode, Mode::CreateIndex { index });
}

#[test]
fn what_a_change_created_and_renamed_has_its_last_name() {
    let message = message(
        "CREATE TABLE b (); CREATE POLICY p ON a; ALTER TABLE a RENAME TO \"A 2\"; ALTER TABLE b RENAME c TO d; ALTER TABLE b RENAME TO b2",
    );
    let rows = [
        (TABLE, "table", "public.b"),
        ("CREATE POLICY", "policy", "p on public.a"),
        ("ALTER TABLE", "table", "public.\"A 2\""),
        ("ALTER TABLE", "table column", "public.b.d"),
        ("ALTER TABLE", "table", "public.b2"),
    ];
    let events = (1..).zip(rows).map(|(seq, (tag, kind, identity))| {
        let mut event = event(seq, 1, &message, (EventKind::End, tag, identity));
        event.objects[0].kind = Some(kind.to_owned());
        event
    });
    let changes = capture::changes(&events.collect::<Vec<_>>(), OWNER, &[]);
    let created: Vec<&str> = changes[0]
        .change
        .created
        .iter()
        .map(|created| created.identity.as_str())
        .collect();
    assert_eq!(created, ["public.b2", "p on public.\"A 2\""]);
}

#[test]
fn an_extension_becomes_a_constant_statement() {
    let mut row = event(
        1,
        1,
        &message("CREATE EXTENSION \"uuid-ossp\" CASCADE"),
        (EventKind::End, "CREATE EXTENSION", "\"uuid-ossp\""),
    );
    row.objects[0].schema = Some("public".to_owned());
    row.objects[0].version = Some("1.1".to_owned());
    let changes = capture::changes(&[row], OWNER, &[]);
    let expected = "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" SCHEMA \"public\" VERSION '1.1' CASCADE";
    assert_eq!(changes[0].change.texts(), [expected]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Exactly those statements are found that took effect.
    #[test]
    fn any_part_of_a_message_is_found_again(took_effect in proptest::collection::vec(any::<bool>(), 2..20)) {
        let texts: Vec<String> = (0..took_effect.len()).map(|n| format!("CREATE TABLE IF NOT EXISTS t{n} (id int)")).collect();
        let message = texts.join("; ");
        let expected: Vec<String> =
            texts.iter().zip(&took_effect).filter(|(_, took)| **took).map(|(text, _)| text.clone()).collect();
        prop_assume!(!expected.is_empty());
        let names: Vec<String> = (0..took_effect.len()).filter(|n| took_effect[*n]).map(|n| format!("public.t{n}")).collect();
        let rows: Vec<Row<'_>> = names.iter().map(|name| (EventKind::End, TABLE, name.as_str())).collect();
        prop_assert_eq!(one(&message, &rows).change.texts(), expected);
    }

    /// No text causes a panic, and every row is in exactly one change.
    #[test]
    fn no_text_is_too_strange(query in ".{0,80}") {
        let captured = one(&query, &[(EventKind::End, TABLE, "public.a")]);
        prop_assert_eq!(captured.seqs, vec![1]);
        prop_assert!(!captured.change.statements.is_empty());
    }
}
