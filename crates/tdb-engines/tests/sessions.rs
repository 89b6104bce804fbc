//! What a statement of a workspace's session depends on besides its text: the role, how strings are read, and what was
//! prepared. It is replayed with the same effect, or the change says at once why it cannot be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::Replay;

/// Sends the messages in a new session, replays what was captured and compares.
async fn same(replay: &mut Replay, messages: &[&str]) {
    let session = replay.world.session(&replay.workspace).await;
    for message in messages {
        session.batch_execute(message).await.unwrap();
    }
    let known = replay.changes.len();
    replay.prove().await;
    assert!(replay.changes.len() > known, "{messages:#?}");
}

/// Sends the messages, the last of which makes a change that is broken at once.
async fn broken(replay: &Replay, messages: &[&str], reason: &str) {
    let session = replay.world.session(&replay.workspace).await;
    for message in messages {
        session.batch_execute(message).await.unwrap();
    }
    let mut captured = replay.world.drain(&replay.workspace).await;
    let change = captured.pop().unwrap().change;
    let broken = change.broken.unwrap_or_default();
    assert!(broken.contains(reason), "{messages:#?}: {broken}");
}

#[tokio::test]
async fn reset_role_returns_to_the_owner_where_a_change_is_replayed() {
    let mut replay = Replay::start().await;
    same(
        &mut replay,
        &["DO $$ BEGIN CREATE TABLE a (i int); RESET ROLE; CREATE TABLE b (i int); END $$; CREATE TABLE c (i int)"],
    )
    .await;
    same(
        &mut replay,
        &[
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; CREATE TABLE d (i int); END $$",
            "SELECT f()",
            "BEGIN; ALTER TABLE d ADD j int; DO $$ BEGIN EXECUTE 'RESET ROLE'; ALTER TABLE d ADD k int; END $$; COMMIT",
        ],
    )
    .await;
    same(
        &mut replay,
        &[
            "CREATE INDEX CONCURRENTLY ON a (i)",
            "DO $$ BEGIN RESET ROLE; DROP TABLE a; END $$",
        ],
    )
    .await;
    for leaves in [
        "SET LOCAL ROLE none",
        "SET ROLE 'none'",
        "PERFORM set_config('role', 'none', true)",
        "SET SESSION AUTHORIZATION DEFAULT",
        "RESET SESSION AUTHORIZATION",
        "EXECUTE 'SET ROLE none'",
    ] {
        let text = format!("DO $$ BEGIN {leaves}; DROP TABLE IF EXISTS e; CREATE TABLE e (i int); END $$");
        broken(&replay, &[&text], "write RESET ROLE instead").await;
        let function = format!(
            "CREATE OR REPLACE FUNCTION leaves() RETURNS void LANGUAGE plpgsql AS \
             $$ BEGIN {leaves}; DROP TABLE IF EXISTS e; CREATE TABLE e (i int); END $$"
        );
        let said = "function \"leaves\" ran DDL, and its";
        broken(&replay, &[&function, "SELECT leaves()"], said).await;
    }
}

#[tokio::test]
async fn planted_code_never_reaches_the_role_of_the_deployment_by_reset_role() {
    let mut replay = Replay::start().await;
    same(&mut replay, &["CREATE FUNCTION r() RETURNS text LANGUAGE plpgsql AS 'BEGIN RESET ROLE; RETURN current_user; END'; \
                 CREATE TABLE t (i int); \
                 DO $$ BEGIN EXECUTE format('COMMENT ON TABLE t IS %L', r() = (SELECT nspowner::regrole::text FROM pg_namespace \
                   WHERE nspname = 'public')); END $$"])
        .await;
    let comment =
        "SELECT obj_description('t'::regclass), pg_get_userbyid(relowner) FROM pg_class WHERE oid = 't'::regclass";
    let session = replay.world.session(&replay.build).await;
    let row = session.query_one(comment, &[]).await.unwrap();
    let (comment, owner): (String, String) = (row.get(0), row.get::<_, String>(1));
    assert_eq!((comment.as_str(), owner), ("t", replay.build.roles.owner.clone()));
}

#[tokio::test]
async fn strings_are_read_as_the_message_was_when_it_began() {
    let mut replay = Replay::start().await;
    let all = [
        "CREATE TABLE t (a text DEFAULT 'a\\b'); SET standard_conforming_strings = off; COMMENT ON TABLE t IS 'a\\nb'; \
         ALTER TABLE t ADD b text DEFAULT 'x''\\y', ADD c text DEFAULT E'\\'', ADD d text DEFAULT $q$\\$q$; \
         DO 'BEGIN EXECUTE ''COMMENT ON COLUMN t.a IS ''''x\\ty'''' ''; END'",
        // Still off.
        "COMMENT ON COLUMN t.b IS 'it\\'s; a\\nb'; CREATE TABLE u (a text DEFAULT 'a' \n '\\n')",
        "SET standard_conforming_strings TO on; COMMENT ON COLUMN t.c IS 'a\\nb\\''",
        "COMMENT ON COLUMN t.d IS 'a\\nb'",
        "SET backslash_quote = off; COMMENT ON TABLE u IS E'a\\'\\nb'",
    ];
    same(&mut replay, &all).await;
    let one = all[..3]
        .join("; ")
        .replace("it\\'s", "its")
        .replace("b\\''", "b'")
        .replace("TABLE t", "TABLE v");
    same(&mut replay, &[&one.replace(" t.", " v.").replace("TABLE u", "TABLE w")]).await;
}

#[tokio::test]
async fn execute_is_replayed_with_what_its_message_prepared() {
    let mut replay = Replay::start().await;
    let makes = "CREATE FUNCTION make(name text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('CREATE TABLE %I ()', name); END $$";
    same(&mut replay, &[
            makes,
            "PREPARE mk AS SELECT 1 AS a; CREATE TABLE t AS EXECUTE mk; CREATE TABLE other ()",
            "BEGIN; PREPARE args (int, text) AS SELECT $1 AS a, $2 || ')' AS b; COMMIT; \
             CREATE TABLE t2 AS EXECUTE args (f(1, 2), 'x,(') WITH NO DATA; CREATE UNLOGGED TABLE t3 (execute, b) AS /* ( */ EXECUTE args(2, 'y'); \
             DEALLOCATE args; PREPARE args AS SELECT 2 AS z; CREATE TABLE t4 AS EXECUTE args"
                .replace("f(1, 2)", "greatest(1, 2)")
                .as_str(),
            "PREPARE call (text) AS SELECT make($1); EXECUTE call('made'); ALTER TABLE made ADD a int",
            "PREPARE none AS SELECT 1; EXECUTE none; CREATE TABLE t5 ()",
            "PREPARE short AS SELECT $1 + 1 AS n; CREATE TABLE t6 AS EXECUTE short(4)",
        ])
        .await;
    let earlier = "whose text is in another message: write the query itself";
    broken(
        &replay,
        &["PREPARE far AS SELECT 1 AS a", "CREATE TABLE t7 AS EXECUTE far"],
        earlier,
    )
    .await;
    broken(
        &replay,
        &[
            "PREPARE far AS SELECT 1 AS a",
            "CREATE TABLE t8 (); CREATE TABLE t9 AS EXECUTE far; CREATE TABLE t10 ()",
        ],
        earlier,
    )
    .await;
    broken(
        &replay,
        &["PREPARE far AS SELECT make('t11')", "CREATE TABLE t12 (); EXECUTE far"],
        earlier,
    )
    .await;
    let session = replay.world.session(&replay.workspace).await;
    session.batch_execute("PREPARE far AS SELECT 1 AS a").await.unwrap();
    session.execute("CREATE TABLE t13 AS EXECUTE far", &[]).await.unwrap();
    let broken = replay.world.drain(&replay.workspace).await.pop().unwrap().change.broken;
    assert!(broken.unwrap_or_default().contains(earlier));
}

#[tokio::test]
async fn a_function_that_sets_settings_is_called_with_those_of_the_session() {
    let mut replay = Replay::start().await;
    same(&mut replay, &[
            "CREATE FUNCTION mk() RETURNS void LANGUAGE plpgsql SET search_path = '' SET datestyle = 'German' AS \
             $$ BEGIN CREATE TABLE public.a (i int); END $$",
            "SELECT mk()",
            "CREATE PROCEDURE mkp(name text) LANGUAGE plpgsql SET search_path = pg_catalog AS \
             $$ BEGIN EXECUTE format('CREATE TABLE public.%I ()', name); END $$",
            "CALL mkp('b')",
            "DROP TABLE a; SELECT FROM mk()",
            // In two schemas: the session's path finds the second.
            "CREATE SCHEMA \"Two\"; CREATE FUNCTION \"Two\".mk() RETURNS void LANGUAGE plpgsql SET search_path = '' AS \
             $$ BEGIN CREATE TABLE public.two (i int); END $$",
            "SET search_path = \"Two\", public; SELECT mk()",
            "BEGIN; DROP TABLE two; SELECT \"Two\".mk(); COMMIT",
            "SET search_path = public; CREATE FUNCTION outer_first() RETURNS void LANGUAGE plpgsql AS \
             $$ BEGIN CREATE TABLE first (i int); DROP TABLE public.a; PERFORM mk(); END $$",
            "SELECT outer_first()",
            "DO $$ BEGIN DROP TABLE a; PERFORM mk(); END $$",
            "CREATE FUNCTION mks() RETURNS int LANGUAGE sql SET search_path = '' AS 'CREATE TABLE public.s (); SELECT 1'",
            "CREATE TABLE t AS SELECT mks() AS i",
        ])
        .await;
    let unknown = "the session's own value is not known";
    for message in [
        "DO $$ BEGIN PERFORM mkp2(); END $$",
        "SELECT mkp2(), now()",
        "SELECT mkp2() FROM t",
    ] {
        broken(&replay, &[
                    "DROP FUNCTION IF EXISTS mkp2; DROP TABLE IF EXISTS c; CREATE FUNCTION mkp2() RETURNS void LANGUAGE plpgsql SET \
                     search_path = '' AS $$ BEGIN CREATE TABLE public.c (i int); END $$",
                    message,
                ],
                unknown,
            )
            .await;
    }
}

#[tokio::test]
async fn a_function_that_sets_settings_in_its_body_is_called_with_those_of_the_session() {
    let mut replay = Replay::start().await;
    let other = "SET search_path = other, public";
    let first = [
        "CREATE SCHEMA app; CREATE SCHEMA other; CREATE FUNCTION mkb() RETURNS void LANGUAGE plpgsql AS $$\nBEGIN\n\
           PERFORM set_config('search_path', 'app', true);\n  CREATE TABLE b (i int);\nEND $$",
        "SELECT mkb()",
        "CREATE FUNCTION inline() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN CREATE TABLE a (i int); SET LOCAL search_path = app; CREATE TABLE c (i int); END $$",
        "CREATE FUNCTION dyn() RETURNS void LANGUAGE plpgsql AS $$\nBEGIN\n  EXECUTE 'CREATE TABLE d' || ' (i int)';\n\
           EXECUTE 'SET search_path TO app';\n  EXECUTE 'CREATE TABLE e' || ' (i int)';\nEND $$",
        "CREATE FUNCTION mksql() RETURNS int LANGUAGE sql AS \
         $$ CREATE TABLE f (i int); SELECT set_config('search_path', 'app', true); CREATE TABLE g (i int); SELECT 1 $$",
        other,
        "SELECT inline()",
    ];
    same(&mut replay, &first).await;
    same(&mut replay, &[other, "SELECT dyn()"]).await;
    same(&mut replay, &[other, "SELECT mksql()"]).await;
    let unknown = "the session's own value is not known";
    for (body, message) in [
        (
            "PERFORM set_config('search_path', 'app', true)",
            "DO $$ BEGIN PERFORM mkx(); END $$",
        ),
        ("SET LOCAL search_path = app", "SELECT mkx(), now()"),
        (
            "PERFORM set_config('search_path', 'app,' || current_setting('search_path'), true)",
            "SELECT mkx()",
        ),
    ] {
        let function = format!(
            "DROP FUNCTION IF EXISTS mkx; DROP TABLE IF EXISTS app.x; CREATE FUNCTION mkx() RETURNS void LANGUAGE plpgsql AS \
             $$ BEGIN {body}; CREATE TABLE x (i int); END $$"
        );
        broken(&replay, &[&function, message], unknown).await;
    }
}

#[tokio::test]
async fn a_function_counts_as_it_was_when_it_was_called() {
    let mut replay = Replay::start().await;
    let once = "FUNCTION once() RETURNS void LANGUAGE plpgsql SET search_path = '' AS $$ BEGIN CREATE TABLE public.o (i int); END $$";
    let dropped = format!("BEGIN; CREATE {once}; SELECT once(); DROP FUNCTION once(); COMMIT");
    same(&mut replay, &[&dropped]).await;
    let replaced = "CREATE OR REPLACE FUNCTION once() RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$";
    same(
        &mut replay,
        &["DROP TABLE o", &format!("CREATE {once}"), "SELECT once()", replaced],
    )
    .await;
    // Set only after the call.
    same(
        &mut replay,
        &[
            "CREATE SCHEMA other; CREATE FUNCTION late() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE l (i int); END $$",
            "SET search_path = other, public; SELECT late()",
            "ALTER FUNCTION late() SET search_path = ''",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_journal_that_records_no_functions_is_upgraded_by_a_drain() {
    let mut replay = Replay::start().await;
    let makes = "FUNCTION mk() RETURNS void LANGUAGE plpgsql SET search_path = '' AS $$ BEGIN CREATE TABLE public.a (i int); END $$";
    let session = replay.world.session(&replay.workspace).await;
    session.batch_execute(&format!("CREATE {makes}")).await.unwrap();
    session.batch_execute("SELECT mk()").await.unwrap();
    let administrator = replay.world.cluster.connect(&replay.workspace.name).await.unwrap();
    let older = "ALTER TABLE tdb.ddl_event DROP COLUMN functions";
    administrator.batch_execute(older).await.unwrap();
    replay.prove().await;
    same(&mut replay, &["DROP TABLE a; SELECT mk()"]).await;
}
