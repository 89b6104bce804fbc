//! Attacks on the restriction of read-only sessions, by clients whose role owns the database and could write otherwise.

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tdb_contract::Rights;
use tdb_testkit::read_only::{REFUSED, SCHEMA};
use tdb_wire_postgres::reading::{Effect, Release, examine};
use tdb_wire_postgres::tokens::ScanSettings;
use tokio_postgres::Client;

use crate::support::{Lab, Options, TENANT, TENANT_USER, WORKSPACE, WORKSPACE_USER};
use crate::wire::{Frame, Wire};

const OFF: &str = "SELECT set_config('default_' || 'transaction_read_only', 'off', false)";
const WRITE: &str = "INSERT INTO t VALUES (1)";

/// The result of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The text fails, and the session continues.
    Refused,
    /// The session ends with 25006.
    Ended,
    /// The text succeeds.
    Accepted,
}
use Verdict::{Accepted, Ended, Refused};

async fn lab() -> (Lab, Client) {
    let options = Options {
        cluster_settings: vec!["max_prepared_transactions=5".to_owned()],
        ..Options::default()
    };
    let lab = Lab::start_with(options).await;
    lab.directory.set_rights(TENANT_USER, Rights::ReadOnly);
    lab.directory.set_rights(WORKSPACE_USER, Rights::ReadOnly);
    let admin = lab.superuser().await;
    admin
        .batch_execute(&format!("SET ROLE r_acme; {SCHEMA}; RESET ROLE"))
        .await
        .unwrap();
    (lab, admin)
}

/// A summary of the database's state, of everything that a client of the role could change.
async fn state(admin: &Client) -> String {
    let sql = "SELECT concat_ws(' ', (SELECT count(*) FROM t), (SELECT is_called FROM s), (SELECT count(*) FROM pg_class),
                 (SELECT count(*) FROM pg_prepared_xacts), (SELECT count(*) FROM pg_proc), (SELECT relacl FROM pg_class WHERE relname = 't'),
                 (SELECT string_agg(rolconfig::text, ',') FROM pg_roles), (SELECT count(*) FROM pg_statistic WHERE starelid = 't'::regclass))";
    let row = admin.query_one(sql, &[]);
    row.await.unwrap().get(0)
}

fn parse(out: &mut BytesMut, name: &str, sql: &str) {
    frontend::parse(name, sql, [], out).unwrap();
}

fn bind(out: &mut BytesMut, portal: &str, name: &str) {
    let no_values: [i32; 0] = [];
    let bound = frontend::bind(portal, name, [], no_values, |_, _| Ok(IsNull::Yes), [], out);
    assert!(bound.is_ok());
}

fn run(out: &mut BytesMut, sql: &str) {
    parse(out, "", sql);
    bind(out, "", "");
    frontend::execute("", 0, out).unwrap();
}

fn query(out: &mut BytesMut, sql: &str) {
    frontend::query(sql, out).unwrap();
}

/// Sends messages at once and reads up to `ready` ReadyForQuery; `None` if the session has ended.
async fn exchange(wire: &mut Wire, ready: usize, write: impl FnOnce(&mut BytesMut)) -> Option<Vec<Frame>> {
    wire.send(write).await;
    let (mut frames, mut left) = (Vec::new(), ready);
    while left > 0 {
        let frame = wire.read().await?;
        left -= usize::from(frame.tag == b'Z');
        if frame.field(b'S').as_deref() == Some("FATAL") {
            assert_eq!(frame.field(b'C').as_deref(), Some("25006"), "{:?}", frame.field(b'M'));
            return None;
        }
        frames.push(frame);
    }
    Some(frames)
}

fn errors(frames: &[Frame]) -> Vec<String> {
    let errors = frames.iter().filter(|frame| frame.tag == b'E');
    errors.map(|frame| frame.field(b'C').unwrap()).collect()
}

/// Texts that run and end the session before the next message.
const ENDED: &[&str] = &[
    "SELECT turn()",
    "SELECT 1::turning",
    "SELECT run('SET default_transaction_read_only = off')",
    "SELECT run('SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE')",
    "BEGIN; SELECT turn(); COMMIT",
    "BEGIN; SELECT turn(); SELECT set_config('default_transaction_read_only', 'on', true); COMMIT",
    "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT turn(); COMMIT",
];

/// Texts that must run.
const ACCEPTED: &[&str] = &[
    "SELECT set_config('search_path', '', false), set_config('app.user', '1', true)",
    "SET default_transaction_read_only = on",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SAVEPOINT a; SELECT 1; ROLLBACK TO a; COMMIT",
    "SELECT 'BEGIN READ WRITE; DO; it''s'; SELECT \"t\".id AS \"DO\" FROM t",
    "SELECT $$;DO$$, $a$ $$ ; CALL $a$; -- ; DO\n/* ; CALL */ SELECT 1",
    "SET search_path = public; SET client_encoding = 'UTF8'; SHOW search_path; RESET ALL",
    "PREPARE p AS SELECT 1; EXECUTE p; EXECUTE p; DEALLOCATE p",
    "COPY (SELECT 1) TO STDOUT; EXPLAIN ANALYZE SELECT * FROM t",
    "DISCARD ALL",
    "LISTEN x; NOTIFY x; UNLISTEN *; SELECT pg_advisory_lock(1)",
    "",
    " ; ",
];

fn is_refused_by_text(text: &str, release: Release) -> bool {
    let effect = examine(text.as_bytes(), release, std::iter::once(ScanSettings::USUAL));
    matches!(effect, Effect::Refused(_))
}

#[tokio::test]
async fn no_text_makes_a_read_only_session_write() {
    let (lab, admin) = lab().await;
    let version = admin.query_one("SHOW server_version", &[]).await.unwrap();
    let release = Release::of(version.get::<_, &str>(0).as_bytes());
    let before = state(&admin).await;
    let texts = [(REFUSED, Refused), (ENDED, Ended), (ACCEPTED, Accepted)];
    let texts = texts
        .iter()
        .flat_map(|(texts, expected)| texts.iter().map(|text| (*text, *expected)));
    for (text, expected) in texts {
        let is_one = !text.trim_end_matches(';').contains(';');
        for extended in [false, true] {
            if extended && !is_one {
                continue;
            }
            let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
            let replied = exchange(&mut wire, 2, |out| {
                if extended {
                    run(out, text);
                    frontend::sync(out);
                } else {
                    query(out, text);
                }
                query(out, WRITE);
            })
            .await;
            let verdict = match &replied {
                None => Ended,
                Some(frames) => match errors(frames).len() {
                    0 => panic!("{text}: written"),
                    1 => Accepted,
                    _ => Refused,
                },
            };
            assert_eq!(verdict, expected, "{text} extended: {extended} {replied:?}");
            if let Some(frames) = replied.filter(|_| is_refused_by_text(text, release)) {
                assert_eq!(errors(&frames)[0], "25006", "{text}");
            }
            assert_eq!(state(&admin).await, before, "after {text}");
        }
    }
}

#[tokio::test]
async fn no_pipeline_makes_a_read_only_session_write() {
    let (lab, admin) = lab().await;
    let before = state(&admin).await;
    let long = |last: char| format!("{}{last}", "x".repeat(63));
    type Attack = Box<dyn Fn(&mut BytesMut)>;
    let mut attacks: Vec<(String, Attack)> = Vec::new();
    for end in [
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
        "COMMIT AND CHAIN",
        "VACUUM t",
        "CLUSTER",
        "DISCARD ALL",
        "PREPARE TRANSACTION 'x'",
        "CALL later('SELECT 1')",
        "DO $$ BEGIN COMMIT; END $$",
        "CREATE INDEX CONCURRENTLY ON t (id)",
        "CHECKPOINT",
    ] {
        attacks.push((
            format!("pipeline {end}"),
            Box::new(move |out| {
                run(out, OFF);
                run(out, end);
                run(out, WRITE);
                frontend::sync(out);
                query(out, WRITE);
            }),
        ));
        attacks.push((
            format!("pipeline in a block {end}"),
            Box::new(move |out| {
                run(out, "BEGIN");
                run(out, OFF);
                run(out, end);
                query(out, WRITE);
                frontend::sync(out);
            }),
        ));
    }
    attacks.push((
        "a named COMMIT whose name differs after 63 bytes".to_owned(),
        Box::new(move |out| {
            parse(out, &long('a'), "COMMIT");
            run(out, OFF);
            bind(out, "", &long('b'));
            frontend::execute("", 0, out).unwrap();
            run(out, WRITE);
            frontend::sync(out);
        }),
    ));
    attacks.push((
        "a COMMIT in a portal of an earlier exchange".to_owned(),
        Box::new(|out| {
            query(out, "BEGIN");
            parse(out, "", "COMMIT");
            bind(out, "p", "");
            frontend::sync(out);
            run(out, OFF);
            frontend::execute("p", 0, out).unwrap();
            run(out, WRITE);
            frontend::sync(out);
        }),
    ));
    attacks.push((
        "an unnamed COMMIT that a discarded Parse would replace".to_owned(),
        Box::new(|out| {
            parse(out, "", "COMMIT");
            frontend::sync(out);
            bind(out, "", "nonesuch");
            parse(out, "", "SELECT 1");
            frontend::sync(out);
            bind(out, "", "");
            frontend::execute("", 0, out).unwrap();
            run(out, WRITE);
            frontend::sync(out);
        }),
    ));
    attacks.push((
        "EXECUTE of a prepared COMMIT".to_owned(),
        Box::new(|out| {
            parse(out, "c", "COMMIT");
            frontend::sync(out);
            run(out, OFF);
            run(out, "EXECUTE c");
            run(out, WRITE);
            frontend::sync(out);
            query(out, &format!("{OFF}; EXECUTE c; {WRITE}"));
        }),
    ));
    attacks.push((
        "strings that end elsewhere after a setting changed in the pipeline".to_owned(),
        Box::new(|out| {
            run(out, "SET standard_conforming_strings = off");
            run(out, "SELECT 'a\\''; BEGIN READ WRITE; --'");
            frontend::sync(out);
            run(out, "SET standard_conforming_strings = off");
            parse(out, "", "BEGIN /* '\\'*/ READ WRITE --'*/");
            bind(out, "", "");
            frontend::execute("", 0, out).unwrap();
            run(out, WRITE);
            run(out, "COMMIT");
            frontend::sync(out);
        }),
    ));
    attacks.push((
        "a setting turned off and its use in the next message of the same packet".to_owned(),
        Box::new(|out| {
            query(
                out,
                "BEGIN; SELECT turn(); SAVEPOINT a; SET default_transaction_read_only = on",
            );
            query(out, "ROLLBACK TO a");
            query(out, "COMMIT");
            query(out, WRITE);
        }),
    ));
    for (name, attack) in attacks {
        let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
        wire.send(|out| {
            attack(out);
            frontend::terminate(out);
        })
        .await;
        while wire.read().await.is_some() {}
        assert_eq!(state(&admin).await, before, "after {name}");
    }
}

#[tokio::test]
async fn multibyte_characters_that_contain_a_quote_do_not_hide_statements() {
    let (lab, admin) = lab().await;
    let before = state(&admin).await;
    // 0x95 0x5c is one character of SJIS whose second byte is a backslash; 0x81 0x7b is one character of GBK.
    let quote = b"SELECT E'\x95\x5c'; BEGIN READ WRITE; INSERT INTO t VALUES (1); COMMIT; --'\0".as_slice();
    let dollar = b"SELECT $\x81\x7b$'$\x81\x7b$; BEGIN READ WRITE; INSERT INTO t VALUES (1); COMMIT; --'\0".as_slice();
    for (encoding, text) in [("SJIS", quote), ("GBK", dollar), ("GB18030", dollar), ("UTF8", quote)] {
        for together in [false, true] {
            let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
            let message = [b"Q", &u32::try_from(text.len() + 4).unwrap().to_be_bytes()[..], text].concat();
            let set = format!("SET client_encoding = '{encoding}'");
            if together {
                wire.send(|out| {
                    run(out, &set);
                    out.extend_from_slice(&message);
                })
                .await;
                assert_eq!(errors(&wire.until_end_of_exchange().await).len(), 1, "{encoding}");
            } else {
                wire.query(&set).await;
                wire.send_raw(&message).await;
                assert_eq!(errors(&wire.until_end_of_exchange().await).len(), 1, "{encoding}");
            }
            assert_eq!(state(&admin).await, before, "{encoding} {together}");
        }
    }
}

#[tokio::test]
async fn a_refused_statement_leaves_the_session_as_any_failed_statement() {
    let (lab, _) = lab().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    let tags = |frames: &[Frame]| frames.iter().map(|frame| char::from(frame.tag)).collect::<String>();
    let frames = wire.query("BEGIN READ WRITE").await;
    assert_eq!(
        (tags(&frames).as_str(), frames[1].body.as_slice()),
        ("EZ", b"I".as_slice())
    );
    let field = |kind| frames[0].field(kind).unwrap();
    assert_eq!((field(b'S').as_str(), field(b'C').as_str()), ("ERROR", "25006"));
    assert_eq!(
        field(b'M'),
        "cannot begin a read-write transaction with a read-only credential"
    );
    assert_eq!(field(b'H'), "Use a credential that is not read-only.");
    let frames = wire.query("BEGIN; SELECT 1").await;
    assert_eq!(tags(&frames), "CTDCZ");
    let frames = wire.query("SET TRANSACTION READ WRITE").await;
    assert_eq!(
        (tags(&frames).as_str(), frames[1].body.as_slice()),
        ("EZ", b"E".as_slice())
    );
    assert_eq!(errors(&wire.query("SELECT 1").await), ["25P02"]);
    assert_eq!(tags(&wire.query("ROLLBACK").await), "CZ");
    // In a pipeline, the messages up to Sync are discarded, and those after it run.
    let frames = exchange(&mut wire, 3, |out| {
        run(out, "SELECT 1");
        run(out, "CALL later('')");
        run(out, "SELECT 2");
        query(out, "SELECT 3");
        frontend::sync(out);
        run(out, "SELECT 4");
        frontend::sync(out);
        query(out, "DO $$ BEGIN END $$");
    })
    .await;
    assert_eq!(tags(&frames.unwrap()), "12DCEZ12DCZEZ");
    // As JDBC does: BEGIN with the first statement, and a named COMMIT.
    let frames = exchange(&mut wire, 3, |out| {
        parse(out, "S_1", "BEGIN");
        bind(out, "", "S_1");
        frontend::execute("", 0, out).unwrap();
        run(out, "SELECT 1");
        frontend::sync(out);
        parse(out, "S_2", "COMMIT");
        bind(out, "", "S_2");
        frontend::execute("", 0, out).unwrap();
        frontend::sync(out);
        bind(out, "", "S_1");
        frontend::execute("", 0, out).unwrap();
        run(out, "SELECT 1");
        bind(out, "", "S_2");
        frontend::execute("", 0, out).unwrap();
        frontend::sync(out);
    })
    .await;
    assert_eq!(tags(&frames.unwrap()), "12C12DCZ12CZ2C12DC2CZ");
}

#[tokio::test]
async fn a_text_that_is_too_long_to_examine_is_refused_and_long_parameters_are_not() {
    let (lab, _) = lab().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    let text = format!("SELECT length('{}')", "x".repeat(5 << 20));
    assert_eq!(errors(&wire.query(&text).await), ["54000"]);
    assert_eq!(errors(&wire.query("SELECT 1").await), Vec::<String>::new());
    let value = "x".repeat(9 << 20);
    wire.send(|out| {
        frontend::parse("", "SELECT length($1)", [], out).unwrap();
        let bound = frontend::bind(
            "",
            "",
            [],
            [&value],
            |value, out| {
                out.extend_from_slice(value.as_bytes());
                Ok(IsNull::No)
            },
            [],
            out,
        );
        assert!(bound.is_ok());
        frontend::execute("", 0, out).unwrap();
        frontend::sync(out);
    })
    .await;
    let frames = wire.until_end_of_exchange().await;
    assert!(
        frames.iter().any(|frame| frame.body.ends_with(b"9437184")),
        "{frames:?}"
    );
}

#[tokio::test]
async fn drivers_and_function_calls_can_read_and_cannot_write() {
    let (lab, admin) = lab().await;
    let before = state(&admin).await;
    let client = lab.connect(TENANT_USER, TENANT).await.unwrap();
    for n in 0..100_i32 {
        let row = client
            .query_one("SELECT $1::int4, count(*) FROM t", &[&n])
            .await
            .unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i64>(1)), (n, 0));
    }
    let both = tokio::join!(client.query_one("SELECT 1", &[]), client.query_one("SELECT 2", &[]));
    assert_eq!(
        (both.0.unwrap().get::<_, i32>(0), both.1.unwrap().get::<_, i32>(0)),
        (1, 2)
    );
    let version: i32 = admin
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .unwrap()
        .get(0);
    // Before PostgreSQL 16, the function call message is refused.
    let turned = if version < 160_000 { Refused } else { Ended };
    let oid = |name: &'static str| {
        let admin = &admin;
        async move {
            let sql = "SELECT oid FROM pg_proc WHERE proname = $1";
            admin.query_one(sql, &[&name]).await.unwrap().get::<_, u32>(0)
        }
    };
    for (function, expected) in [
        (oid("put").await, Refused),
        (oid("loosen").await, Refused),
        (oid("turn").await, turned),
    ] {
        let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
        let body = [&function.to_be_bytes()[..], &[0; 6]].concat();
        let message = [b"F", &u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], &body].concat();
        let replied = exchange(&mut wire, 2, |out| {
            out.extend_from_slice(&message);
            query(out, WRITE);
        })
        .await;
        assert_eq!(
            replied.map_or(Ended, |frames| if errors(&frames).len() == 2 {
                Refused
            } else {
                Accepted
            }),
            expected
        );
    }
    assert_eq!(state(&admin).await, before);
    let workspace = lab.connect(WORKSPACE_USER, WORKSPACE).await.unwrap();
    let refused = workspace.batch_execute("BEGIN READ WRITE").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");
    workspace.batch_execute("SELECT 1").await.unwrap();
}
