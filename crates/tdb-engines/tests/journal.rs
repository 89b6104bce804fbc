//! The journal: it contains the DDL that was committed, and not what was rolled back, however it was run. Clients cannot forge
//! rows or stop it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{Database, World, numbered};
use tdb_engines::postgres::capture::CapturedChange;
use tdb_engines::postgres::change::LeftOutKind;
use tdb_engines::postgres::{databases, journal};
use tokio_postgres::error::SqlState;

async fn texts(world: &World, workspace: &Database) -> Vec<String> {
    let changes = world.drain(workspace).await;
    for captured in &changes {
        assert_eq!(captured.change.broken, None, "{captured:?}");
    }
    changes.iter().flat_map(|captured| captured.change.texts()).collect()
}

#[tokio::test]
async fn the_journal_has_what_committed_and_only_that() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let session = world.session(&workspace).await;
    // A write transaction in another database must not delay rows.
    let base = world.workspace("other_dev").await;
    let other = world.session(&base).await;
    other
        .batch_execute("CREATE TABLE o (); BEGIN; INSERT INTO o DEFAULT VALUES")
        .await
        .unwrap();

    let cases: &[(&[&str], &[&str])] = &[
        (&["BEGIN", "CREATE TABLE a ()", "ROLLBACK"], &[]),
        (
            &[
                "BEGIN",
                "CREATE TABLE a ()",
                "COMMIT AND CHAIN",
                "CREATE TABLE x ()",
                "ROLLBACK",
            ],
            &["CREATE TABLE a ()"],
        ),
        (
            &[
                "BEGIN",
                "CREATE TABLE b ()",
                "SAVEPOINT s",
                "CREATE TABLE c ()",
                "ROLLBACK TO s",
                "CREATE TABLE d ()",
                "COMMIT",
            ],
            &["CREATE TABLE b ()", "CREATE TABLE d ()"],
        ),
        (
            &["DO $$ BEGIN CREATE TABLE e (); DROP TABLE d; END $$"],
            &["DO $$ BEGIN CREATE TABLE e (); DROP TABLE d; END $$"],
        ),
        (
            &[
                "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN CREATE TABLE g (); RETURN 1; END'",
                "SELECT f()",
            ],
            &[
                "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN CREATE TABLE g (); RETURN 1; END'",
                "SELECT f()",
            ],
        ),
        (
            &["CREATE TABLE h AS SELECT 1 AS a"],
            &["CREATE TABLE h AS SELECT 1 AS a"],
        ),
        (&["SELECT 1 AS a INTO i"], &["SELECT 1 AS a INTO i"]),
        (
            &["CREATE INDEX CONCURRENTLY hi ON h (a)"],
            &["CREATE INDEX CONCURRENTLY hi ON h (a)"],
        ),
        (
            &["CREATE TYPE m AS ENUM ('x')", "ALTER TYPE m ADD VALUE 'y'"],
            &["CREATE TYPE m AS ENUM ('x')", "ALTER TYPE m ADD VALUE 'y'"],
        ),
        (
            &[
                "CREATE TABLE IF NOT EXISTS a ()",
                "DROP TABLE IF EXISTS nowhere",
                "CREATE TEMPORARY TABLE t ()",
            ],
            &[],
        ),
        (&["INSERT INTO h VALUES (2)", "VACUUM h"], &[]),
        (
            &["BEGIN; CREATE TABLE j (); COMMIT; CREATE TABLE k ()"],
            &["CREATE TABLE j ()", "CREATE TABLE k ()"],
        ),
        (
            &[
                "BEGIN; CREATE TABLE l (); SAVEPOINT s; CREATE TABLE n (); ROLLBACK TO s; CREATE TABLE q (); COMMIT; CREATE TABLE z (); ROLLBACK",
            ],
            &["CREATE TABLE l ()", "CREATE TABLE q ()"],
        ),
        (
            &["SELECT 1; CREATE TABLE u (); DROP TABLE u; SELECT 2"],
            &["CREATE TABLE u ()", "DROP TABLE u"],
        ),
        (
            &["CREATE SCHEMA s CREATE TABLE v (id serial PRIMARY KEY)"],
            &["CREATE SCHEMA s CREATE TABLE v (id serial PRIMARY KEY)"],
        ),
    ];
    for (run, expected) in cases {
        for sql in *run {
            session
                .batch_execute(sql)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        assert_eq!(texts(&world, &workspace).await, *expected, "{run:?}");
    }
    for failing in [
        "CREATE TABLE w (); SELECT 1/0",
        "CREATE TABLE w (); COMMIT; CREATE TABLE y (); SELECT 1/0",
    ] {
        session.batch_execute(failing).await.unwrap_err();
    }
    assert_eq!(texts(&world, &workspace).await, ["CREATE TABLE w ()"]);
    session.execute("CREATE TABLE extended (a int)", &[]).await.unwrap();
    assert_eq!(texts(&world, &workspace).await, ["CREATE TABLE extended (a int)"]);
    other.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_session_can_request_a_notice_for_each_row() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let told = |statements: &[&str]| {
        let mut arguments = vec!["-q", "-v", "VERBOSITY=verbose"];
        arguments.extend(statements.iter().flat_map(|sql| ["-c", sql]));
        let output = world.program("psql", &workspace, &arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).matches("TD001: ddl ").count()
    };
    let asks = ["SET tdb.session = '1'", "SET client_min_messages = error"];
    let [ask, quiet] = asks;
    assert_eq!(told(&["CREATE TABLE a ()"]), 0);
    assert_eq!(
        told(&[ask, quiet, "CREATE TABLE b ()", "DO 'BEGIN DROP TABLE a; END'"]),
        2
    );
    assert_eq!(
        told(&[
            ask,
            quiet,
            "CREATE TEMP TABLE t ()",
            "CREATE TABLE IF NOT EXISTS b ()",
            "SELECT 1"
        ]),
        0
    );
    assert_eq!(world.drain(&workspace).await.len(), 3);
    let admin = world.cluster.connect(&workspace.name).await.unwrap();
    admin.batch_execute("CREATE TABLE not_a_change ()").await.unwrap();
    assert!(world.drain(&workspace).await.is_empty());
}

#[tokio::test]
async fn changes_of_interleaved_sessions_replay_to_the_workspaces_schema() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let (one, two) = (world.session(&workspace).await, world.session(&workspace).await);
    one.batch_execute("BEGIN; CREATE TABLE a ()").await.unwrap();
    two.batch_execute("CREATE TABLE b ()").await.unwrap();
    one.batch_execute("ALTER TABLE b ADD x int; SET search_path = pg_catalog; CREATE TABLE public.c (d date DEFAULT '1/2/2020'); COMMIT")
        .await
        .unwrap();
    two.batch_execute("SET datestyle = 'ISO, DMY'; CREATE TABLE e (d date DEFAULT '1/2/2020'::date); RESET datestyle")
        .await
        .unwrap();
    two.batch_execute("CREATE TABLE f (d date DEFAULT '1/2/2020'::date)")
        .await
        .unwrap();
    let changes = world.drain(&workspace).await;
    assert_eq!(changes.len(), 4);
    assert_eq!(changes[0].change.texts(), ["CREATE TABLE b ()"]);
    assert_ne!(
        (changes[0].pid, changes[0].backend_start),
        (changes[1].pid, changes[1].backend_start)
    );
    world.base_template("app_v1").await;
    let build = world.tenant("app_build", "app_v1").await;
    world.bring_up(&build, &numbered(&changes)).await.unwrap();
    world.assert_same_schema(&workspace, &build).await;
}

#[tokio::test]
async fn a_journal_of_the_first_milestone_is_upgraded_without_losing_a_row() {
    let world = World::start().await;
    let workspace = world.old_workspace("app_dev").await;
    let (one, two) = (world.session(&workspace).await, world.session(&workspace).await);
    one.batch_execute("CREATE TABLE a (); CREATE TABLE b (); CREATE MATERIALIZED VIEW m AS SELECT 1 AS x")
        .await
        .unwrap();
    one.batch_execute("REFRESH MATERIALIZED VIEW m").await.unwrap();
    two.batch_execute("BEGIN; CREATE TABLE c ()").await.unwrap();
    let owner = &workspace.roles.owner;
    // The upgrade waits for the open transaction for a short time only; no rows are lost.
    journal::read(&world.server, &workspace.name, owner).await.unwrap_err();
    two.batch_execute("COMMIT").await.unwrap();
    let expected = [
        "CREATE TABLE a ()",
        "CREATE TABLE b ()",
        "CREATE MATERIALIZED VIEW m AS SELECT 1 AS x",
        "CREATE TABLE c ()",
    ];
    assert_eq!(texts(&world, &workspace).await, expected);
    two.batch_execute("CREATE TABLE d (); DROP TABLE c").await.unwrap();
    assert_eq!(texts(&world, &workspace).await, ["CREATE TABLE d ()", "DROP TABLE c"]);

    let fresh = world.workspace("fresh_dev").await;
    assert_eq!(columns(&world, &workspace).await, columns(&world, &fresh).await);
    assert_eq!(left_in_journal(&world, &workspace).await, (0, 0));
}

/// The columns of the journal's tables, sorted, since an upgrade adds columns at the end.
async fn columns(world: &World, database: &Database) -> Vec<String> {
    let admin = world.cluster.connect(&database.name).await.unwrap();
    let sql =
        "SELECT attrelid::regclass || '.' || attname || ' ' || atttypid::regtype || ' ' || attnotnull FROM pg_attribute
                WHERE attrelid IN ('tdb.ddl_event'::regclass, 'tdb.ddl_message'::regclass) AND attnum > 0 ORDER BY 1";
    let rows = admin.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Rows of statements and of messages.
async fn left_in_journal(world: &World, database: &Database) -> (i64, i64) {
    let admin = world.cluster.connect(&database.name).await.unwrap();
    let sql = "SELECT (SELECT count(*) FROM tdb.ddl_event), (SELECT count(*) FROM tdb.ddl_message)";
    let row = admin.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn what_maintains_data_is_no_change_in_functions_and_triggers_either() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let session = world.session(&workspace).await;
    session
        .batch_execute(
            "CREATE TABLE t (a int); CREATE MATERIALIZED VIEW m AS SELECT a FROM t; CREATE UNIQUE INDEX u ON m (a); CREATE SEQUENCE s; \
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN REFRESH MATERIALIZED VIEW m; \
             REFRESH MATERIALIZED VIEW CONCURRENTLY m; ALTER SEQUENCE s RESTART WITH 7; EXECUTE 'ALTER SEQUENCE s RESTART'; RETURN NULL; END $$; \
             CREATE TRIGGER g AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION f()",
        )
        .await
        .unwrap();
    assert_eq!(texts(&world, &workspace).await.len(), 6);
    for data in [
        "INSERT INTO t VALUES (1)",
        "REFRESH MATERIALIZED VIEW m",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
        "REINDEX TABLE t",
        "CLUSTER m USING u",
        "ALTER SEQUENCE s RESTART WITH 5",
        "ALTER SEQUENCE s RESTART",
        "DO $$ BEGIN INSERT INTO t VALUES (3); REFRESH MATERIALIZED VIEW m; END $$",
        "REFRESH MATERIALIZED VIEW m; INSERT INTO t VALUES (2)",
    ] {
        session.batch_execute(data).await.unwrap();
        assert_eq!(texts(&world, &workspace).await, Vec::<String>::new(), "{data}");
    }
    session
        .batch_execute("CREATE TABLE v (); INSERT INTO t VALUES (4); REFRESH MATERIALIZED VIEW m; ALTER SEQUENCE s RESTART; CREATE TABLE w ()")
        .await
        .unwrap();
    let changes = world.drain(&workspace).await;
    assert_eq!(changes[0].change.texts(), ["CREATE TABLE v ()", "CREATE TABLE w ()"]);
    let left_out: Vec<&str> = changes[0]
        .change
        .left_out
        .iter()
        .map(|left| left.sql.as_str())
        .collect();
    assert_eq!(left_out, ["INSERT INTO t VALUES (4)", "ALTER SEQUENCE s RESTART"]);
    assert_eq!(left_in_journal(&world, &workspace).await, (0, 0));
}

#[tokio::test]
async fn a_message_that_still_runs_keeps_what_explains_its_later_transactions() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let session = world.session(&workspace).await;
    session.batch_execute("CREATE TABLE t ()").await.unwrap();
    world.drain(&workspace).await;
    session
        .batch_execute("ALTER TABLE t ADD a int; COMMIT; BEGIN; ALTER TABLE t ADD b int")
        .await
        .unwrap();
    assert_eq!(texts(&world, &workspace).await, ["ALTER TABLE t ADD a int"]);
    assert_eq!(texts(&world, &workspace).await, Vec::<String>::new());
    assert_eq!(left_in_journal(&world, &workspace).await, (1, 1));
    session.batch_execute("COMMIT").await.unwrap();
    assert_eq!(texts(&world, &workspace).await, ["ALTER TABLE t ADD b int"]);
    assert_eq!(left_in_journal(&world, &workspace).await, (0, 0));

    let admin = world.cluster.connect(&workspace.name).await.unwrap();
    admin.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    let slow = "ALTER TABLE t ADD c int; COMMIT; SELECT pg_advisory_lock(1); ALTER TABLE t ADD d int; COMMIT";
    let (ran, seen) = tokio::join!(session.batch_execute(slow), async {
        let mut seen = Vec::new();
        while seen.is_empty() {
            seen = texts(&world, &workspace).await;
        }
        admin.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
        seen
    });
    ran.unwrap();
    assert_eq!(seen, ["ALTER TABLE t ADD c int"]);
    assert_eq!(texts(&world, &workspace).await, ["ALTER TABLE t ADD d int"]);
    assert_eq!(left_in_journal(&world, &workspace).await, (0, 0));
}

#[tokio::test]
async fn what_cannot_be_replayed_is_broken_with_its_reason() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let session = world.session(&workspace).await;
    let own = &workspace.roles;
    session.batch_execute("PREPARE p AS SELECT 1 AS a").await.unwrap();
    session.batch_execute("CREATE TABLE t (); CREATE FUNCTION mk() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('CREATE TABLE m%s ()', nextval('n')); RETURN 1; END $$; CREATE SEQUENCE n; CREATE TABLE l (); CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE l1 (); RETURN NEW; END $$; CREATE CONSTRAINT TRIGGER late AFTER INSERT ON l DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late(); CREATE PROCEDURE once() LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE c6 (); COMMIT; PERFORM 1; END $$").await.unwrap();
    world.drain(&workspace).await;
    let cases = [
        (
            "CREATE TABLE x AS EXECUTE p".to_owned(),
            "it runs the prepared statement \"p\", whose text is in another message",
        ),
        (
            format!("GRANT SELECT ON t TO {}", own.readonly),
            "is not declared in this project",
        ),
        (
            format!("CREATE POLICY pol ON t TO {}", own.deployer),
            "is not declared in this project",
        ),
        (
            "DO $$ BEGIN CREATE TABLE c1 (); COMMIT; CREATE TABLE c2 (); END $$".to_owned(),
            "a DO or CALL that commits",
        ),
        (
            "DO $$ BEGIN CREATE TABLE c3 (); COMMIT; INSERT INTO c3 DEFAULT VALUES; END $$".to_owned(),
            "a DO or CALL that commits",
        ),
        (
            "CREATE PROCEDURE pr() LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE c4 (); COMMIT; CREATE TABLE c5 (); END $$"
                .to_owned(),
            "",
        ),
        ("CALL pr()".to_owned(), "a DO or CALL that commits"),
        ("CALL once()".to_owned(), "a DO or CALL that commits"),
        ("DROP TABLE c6".to_owned(), ""),
        (
            "DO $$ BEGIN CALL once(); END $$".to_owned(),
            "a DO or CALL that commits",
        ),
        (
            "DO $$ BEGIN CREATE TEMP TABLE c7 () ON COMMIT DROP; CREATE TABLE c8 (); END $$".to_owned(),
            "",
        ),
        ("CREATE TEMP TABLE tmp (a int)".to_owned(), ""),
        (
            "CREATE TABLE y AS SELECT a FROM tmp".to_owned(),
            "temporary table \"tmp\"",
        ),
        ("SELECT a INTO y2 FROM tmp".to_owned(), "temporary table \"tmp\""),
        (
            "CREATE TABLE y3 (LIKE pg_temp.tmp); CREATE TABLE y4 ()".to_owned(),
            "temporary table \"tmp\"",
        ),
        ("CREATE TABLE y5 (a int); DROP TABLE tmp".to_owned(), ""),
        (
            "EXPLAIN ANALYZE SELECT mk()".to_owned(),
            "EXPLAIN and FETCH that run DDL",
        ),
        ("COPY (SELECT mk()) TO '/dev/null'".to_owned(), ""),
        (
            "BEGIN; INSERT INTO l DEFAULT VALUES; CREATE TABLE l2 (); COMMIT".to_owned(),
            "a data statement changed the schema through a function or trigger",
        ),
    ];
    for (sql, reason) in cases {
        if session.batch_execute(&sql).await.is_err() {
            assert_eq!(reason, "", "{sql}");
            continue;
        }
        let changes = world.drain(&workspace).await;
        assert!(reason.is_empty() || !changes.is_empty(), "{sql}");
        for captured in &changes {
            let found = captured.change.broken.as_deref().unwrap_or_default();
            assert!(
                found.contains(reason) && found.is_empty() == reason.is_empty(),
                "{sql}: {found}"
            );
        }
    }
    let text = format!(
        "ALTER TABLE t OWNER TO {0}; GRANT ALL ON t TO \"{0}\" , PUBLIC; UPDATE pg_class SET relname = relname WHERE false; CREATE ROLE nobody",
        own.owner
    );
    session.batch_execute(&text).await.unwrap_err();
    let text = text.replace(
        "UPDATE pg_class SET relname = relname WHERE false; CREATE ROLE nobody",
        "DELETE FROM t",
    );
    session.batch_execute(&text).await.unwrap();
    let changes = world.drain(&workspace).await;
    let [CapturedChange { change, .. }] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert_eq!(
        change.texts(),
        ["ALTER TABLE t OWNER TO owner", "GRANT ALL ON t TO owner , PUBLIC"]
    );
    assert_eq!(change.left_out[0].kind, LeftOutKind::Data);
    assert_eq!(change.statements[0].sql.render("r_x"), "ALTER TABLE t OWNER TO \"r_x\"");
    let stored = serde_json::to_value(change).unwrap();
    let again: tdb_engines::postgres::change::Change = serde_json::from_value(stored).unwrap();
    assert_eq!((again.checksum(), &again), (change.checksum(), change));
}

#[tokio::test]
async fn a_schema_that_is_called_as_its_owner_is_so_everywhere() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    world.base_template("app_v1").await;
    let build = world.tenant("app_build", "app_v1").await;
    let session = world.session(&workspace).await;
    let owner = &workspace.roles.owner;
    for sql in [
        "CREATE SCHEMA AUTHORIZATION CURRENT_USER".to_owned(),
        "CREATE TABLE t (a int); CREATE INDEX ON t (a)".to_owned(),
        format!("CREATE VIEW v AS SELECT a FROM {owner}.t; COMMENT ON SCHEMA \"{owner}\" IS 'own'"),
        format!("SET search_path = {owner}; CREATE TABLE u (LIKE t); RESET search_path"),
        "CREATE INDEX CONCURRENTLY i ON u (a)".to_owned(),
        format!("DROP INDEX CONCURRENTLY {owner}.i"),
        format!("GRANT USAGE ON SCHEMA {owner} TO PUBLIC; GRANT ALL ON SCHEMA tdb TO PUBLIC"),
    ] {
        session
            .batch_execute(&sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let changes = world.drain(&workspace).await;
    world.bring_up(&build, &numbered(&changes)).await.unwrap();
    let expected = world.fingerprint(&workspace).await;
    assert_eq!(expected.diff(&world.fingerprint(&build).await), vec![]);

    databases::publish_template(&world.server, &build.name, Some(&build.roles))
        .await
        .unwrap();
    let tenant = world.tenant("app__acme", &build.name).await;
    assert_eq!(expected.diff(&world.fingerprint(&tenant).await), vec![]);
    let session = world.session(&tenant).await;
    session
        .batch_execute("INSERT INTO t VALUES (1); SELECT v.a FROM v, u")
        .await
        .unwrap();
}

#[tokio::test]
async fn privileges_on_the_journals_schema_are_no_change() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let session = world.session(&workspace).await;
    session.batch_execute("CREATE SCHEMA s").await.unwrap();
    world.drain(&workspace).await;
    for nothing in [
        "GRANT ALL ON SCHEMA tdb TO PUBLIC",
        "GRANT USAGE ON SCHEMA \"tdb\" TO PUBLIC; REVOKE ALL ON SCHEMA tdb FROM PUBLIC",
    ] {
        session.batch_execute(nothing).await.unwrap();
        assert_eq!(texts(&world, &workspace).await, Vec::<String>::new(), "{nothing}");
    }
    session
        .batch_execute("GRANT USAGE ON SCHEMA s, tdb TO PUBLIC; GRANT USAGE ON SCHEMA tdb TO PUBLIC")
        .await
        .unwrap();
    assert_eq!(texts(&world, &workspace).await, ["GRANT usage ON SCHEMA s TO public"]);
}

#[tokio::test]
async fn a_developer_cannot_forge_disable_or_drop_the_journal() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let session = world.session(&workspace).await;
    session.batch_execute("CREATE TABLE a ()").await.unwrap();
    let refused = [
        "DELETE FROM tdb.ddl_event",
        "SELECT * FROM tdb.ddl_event",
        "TRUNCATE tdb.ddl_event",
        "INSERT INTO tdb.ddl_event(event) VALUES ('x')",
        "SELECT tdb.log_ddl('ddl_command_end', 'CREATE TABLE', '', '', '{}')",
        "ALTER EVENT TRIGGER tdb_capture_end DISABLE",
        "DROP EVENT TRIGGER tdb_capture_drop",
        "DROP FUNCTION tdb.capture() CASCADE",
        "DROP SCHEMA tdb CASCADE",
        "DROP EXTENSION plpgsql CASCADE",
        "CREATE TABLE tdb.x ()",
        "SET session_replication_role = replica",
        "ALTER FUNCTION tdb.log_ddl(text, text, text, text, jsonb) OWNER TO CURRENT_USER",
        "CREATE OR REPLACE FUNCTION tdb.capture() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
    ];
    for sql in refused {
        session.batch_execute(sql).await.expect_err(sql);
    }
    // The developer's operators and functions, which come first in the search_path of the trigger function, are not used.
    session
        .batch_execute(
            "CREATE SCHEMA evil; CREATE FUNCTION evil.current_setting(text, bool) RETURNS text LANGUAGE sql AS 'SELECT 1/0'; \
             SET search_path = evil, pg_catalog; CREATE TABLE evil.b ()",
        )
        .await
        .unwrap();
    session.batch_execute("DROP OWNED BY CURRENT_USER").await.unwrap();
    let seen: Vec<String> = world
        .drain(&workspace)
        .await
        .iter()
        .flat_map(|captured| captured.change.tags())
        .collect();
    assert_eq!(seen.first().map(String::as_str), Some("CREATE TABLE"));
    assert!(seen.iter().any(|tag| tag.starts_with("DROP")), "{seen:?}");
}

#[tokio::test]
async fn dumps_and_restores_by_the_owner_show_nothing_of_ours() {
    let world = World::with_template().await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    for database in [&workspace, &acme] {
        let session = world.session(database).await;
        session
            .batch_execute("CREATE TABLE t (id serial PRIMARY KEY, a text); INSERT INTO t(a) VALUES ('x'); CREATE VIEW v AS SELECT a FROM t; CREATE EXTENSION pgcrypto")
            .await
            .unwrap();
        let dump = world.program("pg_dump", database, &[]);
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let text = String::from_utf8(dump.stdout).unwrap();
        assert!(text.contains("CREATE TABLE public.t"));
        // pg_dump's \restrict lines contain a random key, which can contain the searched text by chance.
        let ours = text
            .lines()
            .filter(|line| line.contains("tdb") && !line.contains("initdb") && !line.contains("restrict "));
        assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dump").display().to_string();
        let dump = world.program("pg_dump", database, &["-Fc", "-f", &file]);
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        for arguments in [vec!["--clean", &file], vec!["--clean", "-O", "-x", "-j", "2", &file]] {
            let restore = world.program("pg_restore", database, &arguments);
            assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
        }
    }
    let changes = world.drain(&workspace).await;
    for captured in &changes {
        assert_eq!(captured.change.broken, None, "{:?}", captured.change.texts());
    }
    let build = world.tenant("app_build", "app_v1").await;
    world.bring_up(&build, &numbered(&changes)).await.unwrap();
    world.assert_same_schema(&workspace, &build).await;
}

#[tokio::test]
async fn a_prepared_transaction_is_a_change_when_it_commits() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let session = world.session(&workspace).await;
    let run = async |message: &str| session.batch_execute(message).await;
    run("BEGIN; CREATE TABLE a (i int); PREPARE TRANSACTION 'a'")
        .await
        .unwrap();
    run("CREATE TABLE b (i int)").await.unwrap();
    assert_eq!(texts(&world, &workspace).await, ["CREATE TABLE b (i int)"]);
    run("COMMIT PREPARED 'a'").await.unwrap();
    assert_eq!(texts(&world, &workspace).await, ["CREATE TABLE a (i int)"]);
    run("BEGIN; CREATE TABLE c (i int); PREPARE TRANSACTION 'c'")
        .await
        .unwrap();
    run("ROLLBACK PREPARED 'c'").await.unwrap();
    // Both transactions of the message write to its row: the second must fail rather than wait for its own session.
    let refused = run("BEGIN; CREATE TABLE d (i int); PREPARE TRANSACTION 'd'; CREATE TABLE e (i int)")
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::LOCK_NOT_AVAILABLE), "{refused}");
    run("COMMIT PREPARED 'd'").await.unwrap();
    assert_eq!(texts(&world, &workspace).await, ["CREATE TABLE d (i int)"]);
    assert_eq!(left_in_journal(&world, &workspace).await, (0, 0));
}
