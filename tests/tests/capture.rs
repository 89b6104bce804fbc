//! Capture (P2) and its verification (P3): however DDL reaches a workspace, committed DDL is in the change log before the
//! reply, rolled-back DDL is not, and a replay in an empty database gives the workspace's schema.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use postgres_protocol::message::frontend;
use tdb_tests::{
    Instance, Session, Wire, Workspace, clean, connect, fixture, pg_dump, pg_program, psql, psql_file, run,
};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

/// The statements of a workspace's changes, one line per change, in order, as currently stored. If a drain was too late for
/// its reply, which the client learns from a notice, waits for the change log.
async fn logged(store: &Session, workspace: &Workspace) -> Vec<String> {
    if late_drains() > 0 {
        instance().diff(&workspace.name);
    }
    let sql = "SELECT c.statements::text FROM control_plane.changes c JOIN control_plane.workspaces w ON w.id = c.workspace_id
               WHERE w.blueprint = $1 ORDER BY c.id";
    store
        .query(sql, &[&workspace.name])
        .await
        .expect("the change log")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// The number of replies that were sent before their drain ended, on a busy machine.
fn late_drains() -> u64 {
    let mut answer = ureq::get(format!("{}/metrics", instance().metrics_url()))
        .call()
        .expect("metrics");
    let text = answer.body_mut().read_to_string().expect("text");
    let count = text
        .lines()
        .find(|line| line.starts_with("tenantsdb_proxy_drains_late_total{"))
        .and_then(|line| line.rsplit(' ').next());
    count.expect("the counter").parse().expect("a number")
}

/// Waits until the server is ready for the next query. tokio-postgres returns an error when it arrives, and earlier commits
/// of the same message are in the change log only when the server is ready again.
async fn ready(session: &Session) {
    session.batch_execute("").await.expect("an empty query");
}

/// Panics unless the last change contains all of `words`.
#[track_caller]
fn last_holds(changes: &[String], words: &[&str]) {
    let last = changes.last().expect("a change");
    assert!(words.iter().all(|word| last.contains(word)), "{words:?} not in {last}");
}

#[test]
fn a_script_of_300_statements_can_be_replayed() {
    let workspace = instance().workspace("script");
    psql(&workspace.url, &script()).ok();
    assert_eq!(instance().diff("script").len(), 300);
    instance().prove(&workspace);
}

/// 300 autocommitted statements of many kinds; each is a change.
fn script() -> String {
    let mut text = String::new();
    for n in 0..50 {
        text += &format!(
            "CREATE TABLE t{n} (id bigint PRIMARY KEY, a text, b int DEFAULT {n});
             ALTER TABLE t{n} ADD COLUMN c timestamptz NOT NULL DEFAULT now();
             CREATE INDEX ON t{n} (a, b);
             COMMENT ON COLUMN t{n}.a IS 'column; {n}';
             CREATE OR REPLACE VIEW v AS SELECT id, a FROM t{n};
             CREATE OR REPLACE FUNCTION f{n}() RETURNS int LANGUAGE plpgsql AS $f$ BEGIN RETURN {n}; END; $f$;\n"
        );
    }
    text
}

#[test]
fn everything_that_is_part_of_a_schema_replays() {
    let workspace = instance().workspace("kinds");
    psql_file(&workspace.url, &fixture("schema.sql")).ok();
    instance().prove(&workspace);
}

#[test]
fn a_parallel_restore_can_be_replayed() {
    let source = instance().workspace("dumped");
    psql_file(&source.url, &fixture("schema.sql")).ok();
    let file = instance().data_dir().join("dumped.dump");
    let file = file.to_str().expect("a path");
    pg_dump(&source.url, &["-Fc", "-f", file]).ok();
    let restored = instance().workspace("restored");
    restore(&restored, &["-O", "-x"], file);
    instance().prove(&restored);
    // With owners and privileges, into the workspace that the names refer to, which has objects already.
    restore(&source, &["--clean", "--if-exists"], file);
    instance().prove(&source);
}

fn restore(workspace: &Workspace, arguments: &[&str], file: &str) {
    let mut command = clean(pg_program("pg_restore"));
    command
        .args(["-j", "2", "--exit-on-error", "-d", &workspace.url])
        .args(arguments)
        .arg(file);
    run(command, "").ok();
}

#[tokio::test]
async fn interleaved_transactions_replay_in_the_order_that_works() {
    let workspace = instance().workspace("interleaved");
    let (one, two) = (workspace.connect().await, workspace.connect().await);
    one.batch_execute("BEGIN; CREATE TABLE a (id int)").await.unwrap();
    two.batch_execute("BEGIN; CREATE TABLE b (id int PRIMARY KEY)")
        .await
        .unwrap();
    one.batch_execute("CREATE INDEX ON a (id)").await.unwrap();
    two.batch_execute("COMMIT").await.unwrap();
    one.batch_execute("ALTER TABLE b ADD COLUMN by_one text; ALTER TABLE a ADD FOREIGN KEY (id) REFERENCES b")
        .await
        .unwrap();
    two.batch_execute("BEGIN; CREATE TABLE c (id int)").await.unwrap();
    one.batch_execute("COMMIT").await.unwrap();
    two.batch_execute("CREATE VIEW ab AS SELECT b.by_one FROM a JOIN b USING (id); COMMIT")
        .await
        .unwrap();
    let store = instance().store().await;
    assert_eq!(logged(&store, &workspace).await.len(), 3);
    instance().prove(&workspace);
}

#[tokio::test]
async fn another_tenants_open_write_transaction_delays_nothing() {
    let other = instance().workspace("elsewhere");
    psql(&other.url, "CREATE TABLE t (id int)").ok();
    let tenant = instance().tenant("busy", "elsewhere");
    let holder = tenant.connect().await;
    holder.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();

    let store = instance().store().await;
    let workspace = instance().workspace("beside");
    let session = workspace.connect().await;
    session.batch_execute("CREATE TABLE first (id int)").await.unwrap();
    assert_eq!(logged(&store, &workspace).await.len(), 1);
    psql(&workspace.url, &script()).ok();
    instance().prove(&workspace);
    let still = holder
        .query_one("SELECT count(*) FROM t", &[])
        .await
        .expect("the transaction is still open");
    assert_eq!(still.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_change_is_logged_before_the_reply_and_only_if_it_committed() {
    let workspace = instance().workspace("simple");
    let store = instance().store().await;
    let session = workspace.connect().await;
    // (the message, the number of its changes, words of the last change)
    let cases: [(&str, usize, &[&str]); 17] = [
        ("CREATE TABLE plain (id int)", 1, &["CREATE TABLE plain"]),
        (
            "CREATE TABLE one (id int); CREATE TABLE two (id int)",
            1,
            &["TABLE one", "TABLE two"],
        ),
        ("BEGIN; CREATE TABLE gone (id int); ROLLBACK", 0, &[]),
        (
            "BEGIN; CREATE TABLE kept (id int); SAVEPOINT s; CREATE TABLE lost (id int); ROLLBACK TO s; COMMIT",
            1,
            &["TABLE kept"],
        ),
        (
            "DO $$ BEGIN CREATE TABLE made (id int); EXECUTE 'ALTER TABLE made ADD COLUMN x int'; END $$",
            1,
            &["DO $$"],
        ),
        (
            "CREATE FUNCTION maker(name text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('CREATE TABLE %I (id int)', name); END $$",
            1,
            &["maker"],
        ),
        ("SELECT maker('by_function')", 1, &["by_function"]),
        (
            "SELECT 1 AS a, 'x'::text AS b INTO by_select_into",
            1,
            &["by_select_into"],
        ),
        (
            "CREATE TABLE by_ctas AS SELECT generate_series(1, 3) AS n",
            1,
            &["by_ctas"],
        ),
        ("CREATE INDEX CONCURRENTLY slowly ON by_ctas (n)", 1, &["CONCURRENTLY"]),
        ("CREATE TYPE mood AS ENUM ('sad')", 1, &["mood"]),
        ("ALTER TYPE mood ADD VALUE 'glad' AFTER 'sad'", 1, &["ADD VALUE"]),
        ("CREATE TEMPORARY TABLE mine (id int)", 0, &[]),
        ("CREATE TABLE IF NOT EXISTS plain (id int)", 0, &[]),
        ("INSERT INTO plain VALUES (1)", 0, &[]),
        ("DROP TABLE one", 1, &["DROP TABLE one"]),
        (
            "BEGIN; CREATE TABLE m1 (id int); SAVEPOINT s; CREATE TABLE m2 (id int); ROLLBACK TO s; COMMIT; CREATE TABLE m3 (id int)",
            2,
            &["m3"],
        ),
    ];
    for (sql, made, words) in cases {
        let before = logged(&store, &workspace).await.len();
        session
            .batch_execute(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let after = logged(&store, &workspace).await;
        assert_eq!(after.len() - before, made, "{sql}: {after:#?}");
        if made > 0 {
            last_holds(&after, words);
        }
    }
    let all = logged(&store, &workspace).await.join("\n");
    for never in ["gone", "lost", "m2", "mine"] {
        assert!(
            !all.contains(&format!("TABLE {never}")),
            "{never} was rolled back or temporary:\n{all}"
        );
    }
    instance().prove(&workspace);
}

#[tokio::test]
async fn a_failed_statement_within_a_message_rolls_back_its_transaction() {
    let workspace = instance().workspace("midway");
    let store = instance().store().await;
    let session = workspace.connect().await;
    let failed = session
        .batch_execute("CREATE TABLE a (id int); SELECT 1/0; CREATE TABLE b (id int)")
        .await;
    assert!(failed.is_err());
    ready(&session).await;
    assert_eq!(logged(&store, &workspace).await, Vec::<String>::new());
    let failed = session
        .batch_execute("BEGIN; CREATE TABLE kept (id int); COMMIT; CREATE TABLE c (id int); SELECT 1/0")
        .await;
    assert!(failed.is_err());
    ready(&session).await;
    let changes = logged(&store, &workspace).await;
    assert_eq!(changes.len(), 1, "{changes:#?}");
    last_holds(&changes, &["TABLE kept"]);
    assert!(!changes[0].contains("TABLE c"), "{changes:#?}");
    instance().prove(&workspace);
}

#[tokio::test]
async fn the_extended_protocol_is_captured() {
    let workspace = instance().workspace("extended");
    let store = instance().store().await;
    let session = workspace.connect().await;
    session.execute("CREATE TABLE e (id int, v text)", &[]).await.unwrap();
    assert_eq!(logged(&store, &workspace).await.len(), 1);
    session
        .execute("INSERT INTO e VALUES ($1, $2)", &[&1, &"x"])
        .await
        .unwrap();
    assert_eq!(logged(&store, &workspace).await.len(), 1);
    session
        .execute("ALTER TABLE e ADD COLUMN w int DEFAULT 7", &[])
        .await
        .unwrap();
    last_holds(&logged(&store, &workspace).await, &["ADD COLUMN w"]);
    instance().prove(&workspace);
}

#[tokio::test]
async fn a_pipeline_with_three_syncs_logs_each_change_before_its_reply() {
    let workspace = instance().workspace("pipeline");
    let store = instance().store().await;
    let mut wire = Wire::login(&workspace.url).expect("a login");
    wire.send(|out| {
        for table in ["p1", "p2", "p3"] {
            Wire::extended(out, &format!("CREATE TABLE {table} (id int)"));
            frontend::sync(out);
        }
    });
    for done in 1..=3 {
        let frames = wire.read_until_ready();
        assert!(frames.iter().all(|frame| frame.tag != b'E'), "{frames:?}");
        let changes = logged(&store, &workspace).await;
        assert!(changes.len() >= done, "after Sync {done}: {changes:#?}");
        assert!(changes[done - 1].contains(&format!("TABLE p{done}")), "{changes:#?}");
    }
    instance().prove(&workspace);
}

#[tokio::test]
async fn a_pipeline_that_fails_before_its_sync_logs_nothing_of_that_transaction() {
    let workspace = instance().workspace("failing");
    let store = instance().store().await;
    let mut wire = Wire::login(&workspace.url).expect("a login");
    wire.send(|out| {
        Wire::extended(out, "CREATE TABLE before (id int)");
        Wire::extended(out, "SELECT 1/0");
        Wire::extended(out, "CREATE TABLE after (id int)");
        frontend::sync(out);
        Wire::extended(out, "CREATE TABLE next (id int)");
        frontend::sync(out);
    });
    let frames = wire.read_until_ready();
    assert_eq!(
        frames
            .iter()
            .find_map(|frame| (frame.tag == b'E').then(|| frame.field(b'C'))),
        Some(Some("22012".to_owned()))
    );
    wire.read_until_ready();
    let changes = logged(&store, &workspace).await;
    assert_eq!(changes.len(), 1, "{changes:#?}");
    last_holds(&changes, &["TABLE next"]);
    instance().prove(&workspace);
}

#[tokio::test]
async fn savepoints_and_commit_in_one_query_message_are_distinguished() {
    let workspace = instance().workspace("message");
    let store = instance().store().await;
    let mut wire = Wire::login(&workspace.url).expect("a login");
    let frames = wire.query(
        "BEGIN; CREATE TABLE q1 (id int); SAVEPOINT s; CREATE TABLE q2 (id int); ROLLBACK TO SAVEPOINT s; \
         CREATE TABLE q3 (id int); COMMIT; CREATE TABLE q4 (id int); SELECT 1",
    );
    assert!(frames.iter().all(|frame| frame.tag != b'E'), "{frames:?}");
    let changes = logged(&store, &workspace).await;
    assert_eq!(changes.len(), 2, "{changes:#?}");
    assert!(
        changes[0].contains("TABLE q1") && changes[0].contains("TABLE q3"),
        "{changes:#?}"
    );
    assert!(
        !changes[0].contains("TABLE q2") && !changes[0].contains("TABLE q4"),
        "{changes:#?}"
    );
    assert!(
        changes[1].contains("TABLE q4") && !changes[1].contains("TABLE q1"),
        "{changes:#?}"
    );
    instance().prove(&workspace);
}

#[tokio::test]
async fn the_same_pipeline_in_the_extended_protocol_is_distinguished_too() {
    let workspace = instance().workspace("messages");
    let store = instance().store().await;
    let mut wire = Wire::login(&workspace.url).expect("a login");
    let statements = [
        "BEGIN",
        "CREATE TABLE x1 (id int)",
        "SAVEPOINT s",
        "CREATE TABLE x2 (id int)",
        "ROLLBACK TO SAVEPOINT s",
        "COMMIT",
        "CREATE TABLE x3 (id int)",
    ];
    wire.send(|out| {
        for statement in statements {
            Wire::extended(out, statement);
        }
        frontend::sync(out);
    });
    let frames = wire.read_until_ready();
    assert!(frames.iter().all(|frame| frame.tag != b'E'), "{frames:?}");
    let changes = logged(&store, &workspace).await;
    assert_eq!(changes.len(), 2, "{changes:#?}");
    assert!(!changes.concat().contains("TABLE x2"), "{changes:#?}");
    instance().prove(&workspace);
}

/// The messages of Prisma, sqlx, diesel, golang-migrate and `psql -c`.
#[test]
fn a_migration_file_sent_as_one_message_can_be_replayed() {
    let workspace = instance().workspace("files");
    for file in [
        "CREATE TABLE s (x int); CREATE TABLE t (id int)",
        "BEGIN; ALTER TABLE s ALTER x SET DEFAULT 1; COMMIT; ALTER TABLE s DROP COLUMN x;",
        "alter table t add a int; do $$begin alter table t add b int; end$$;",
        "do $$begin create type mood as enum ('a'); exception when duplicate_object then null; end$$;
         do $$begin create type mood as enum ('a'); exception when duplicate_object then null; end$$;
         do $$begin create type tone as enum ('a'); exception when duplicate_object then null; end$$",
        "-- up\nBEGIN;\nALTER TABLE t ADD c int;\nUPDATE t SET c = 1;\nALTER TABLE t ALTER c SET NOT NULL;\nCOMMIT;\n-- end",
    ] {
        run_one(&workspace, file);
    }
    let changes = instance().diff("files");
    assert_eq!(changes.len(), 6, "{changes:#?}");
    instance().prove(&workspace);
}

/// `psql -c` sends one message.
fn run_one(workspace: &Workspace, text: &str) {
    let mut command = clean(pg_program("psql"));
    command.args(["-v", "ON_ERROR_STOP=1", "-d", &workspace.url, "-c", text]);
    run(command, "").ok();
}

#[tokio::test]
async fn statements_that_cannot_be_captured_are_reported_immediately() {
    let workspace = instance().workspace("notices");
    let session = workspace.connect().await;
    session
        .batch_execute("CREATE TABLE t (a int); CREATE INDEX i ON t (a); CREATE TEMP TABLE mine (a int)")
        .await
        .unwrap();
    let once = "CREATE PROCEDURE once() LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE o (); COMMIT; PERFORM 1; END $$;
        CREATE PROCEDURE ends() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
        CREATE PROCEDURE calls() LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE f (); CALL ends(); END $$";
    session.batch_execute(once).await.unwrap();
    for (sql, said) in [
        (
            "DO $$ BEGIN CREATE TABLE a (); COMMIT; CREATE TABLE b (); END $$",
            "changes 3 and 4 cannot be replayed on tenants: a DO or CALL that commits",
        ),
        ("CALL once()", "a DO or CALL that commits"),
        ("CALL calls()", "a DO or CALL that commits"),
        (
            "DO $$ BEGIN CREATE TABLE g (); CALL ends(); END $$",
            "a DO or CALL that commits",
        ),
        // Meanwhile the timer drains its only change.
        (
            "DO $$ BEGIN CREATE TABLE e (); COMMIT; PERFORM pg_sleep(5); END $$",
            "a DO or CALL that commits",
        ),
        ("CREATE TABLE c (LIKE mine)", "temporary table \"mine\""),
        ("CREATE TABLE d AS SELECT a FROM mine", "temporary table \"mine\""),
        ("CLUSTER t USING i", "ALTER TABLE ... CLUSTER ON"),
    ] {
        let before = session.notices().len();
        session.batch_execute(sql).await.unwrap();
        let notices = session.notices();
        let told = notices
            .iter()
            .skip(before)
            .any(|notice| notice.message().contains(said));
        assert!(told, "{sql}: {notices:?}");
    }
}

#[test]
fn data_statements_between_ddl_are_omitted_and_reported() {
    let workspace = instance().workspace("data");
    psql(&workspace.url, "CREATE TABLE t (id int)").ok();
    let file = instance().data_dir().join("data.sql");
    let migration = "BEGIN;\nALTER TABLE t ADD COLUMN c int;\nUPDATE t SET c = 1;\nALTER TABLE t ALTER COLUMN c SET NOT NULL;\nCOMMIT;\n\
                     BEGIN;\nUPDATE t SET c = 2;\nCOMMIT;\nBEGIN;\nDROP TABLE t;\nDELETE FROM t;\nROLLBACK;\n";
    fs::write(&file, migration).expect("a script");
    let ran = psql_file(&workspace.url, &file);
    let warning = "WARNING:  not part of the change, because data is not deployed: UPDATE t SET c = 1";
    assert_eq!(ran.stderr.matches("not part of the change").count(), 1, "{ran:?}");
    assert!(ran.stderr.contains(warning), "{ran:?}");
    let diff = instance().diff("data");
    assert_eq!(diff.len(), 2, "{diff:#?}");
    assert_eq!(
        diff[1]["left_out"],
        serde_json::json!(["UPDATE t SET c = 1"]),
        "{diff:#?}"
    );
    instance().prove(&workspace);
}

#[tokio::test]
async fn a_function_that_makes_tables_is_captured_by_its_call() {
    let workspace = instance().workspace("functional");
    let store = instance().store().await;
    let session = workspace.connect().await;
    let function = "CREATE FUNCTION make(n int) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN FOR i IN 1..n LOOP EXECUTE format('CREATE TABLE made_%s (id int)', i); END LOOP; RETURN n; END $$";
    session.batch_execute(function).await.unwrap();
    session.simple_query("SELECT make(3)").await.unwrap();
    let changes = logged(&store, &workspace).await;
    assert_eq!(changes.len(), 2);
    last_holds(&changes, &["SELECT make(3)"]);
    instance().prove(&workspace);
}

#[tokio::test]
async fn a_change_made_without_the_proxy_is_in_the_next_diff() {
    let workspace = instance().workspace("direct");
    let session = workspace.connect().await;
    let (database, role) = session.identity().await;
    let direct = connect(&instance().server_url(&database))
        .await
        .expect("past the proxy");
    direct
        .batch_execute(&format!("SET SESSION AUTHORIZATION {role}"))
        .await
        .unwrap();
    direct.batch_execute("CREATE TABLE unseen (id int)").await.unwrap();
    let changes = instance().diff("direct");
    assert_eq!(changes.len(), 1, "{changes:#?}");
    assert!(changes[0]["statements"].to_string().contains("unseen"), "{changes:#?}");
    instance().prove(&workspace);
}

#[tokio::test]
async fn the_journal_cannot_be_forged_or_switched_off() {
    let workspace = instance().workspace("tamper");
    let session = workspace.connect().await;
    session.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    let attacks = [
        "DELETE FROM tdb.ddl_event",
        "INSERT INTO tdb.ddl_event DEFAULT VALUES",
        "TRUNCATE tdb.ddl_event",
        "DELETE FROM tdb.ddl_message",
        "DROP SCHEMA tdb CASCADE",
        "CREATE TABLE tdb.mine (id int)",
        "ALTER EVENT TRIGGER tdb_capture_end DISABLE",
        "DROP EVENT TRIGGER tdb_capture_end",
        "SET session_replication_role = replica",
        "ALTER EXTENSION plpgsql DROP SCHEMA tdb",
        "DROP EXTENSION plpgsql CASCADE",
        "SELECT tdb.log_ddl('ddl_command_end', 'CREATE TABLE', '', '', '{}')",
    ];
    for attack in attacks {
        assert!(session.batch_execute(attack).await.is_err(), "{attack} succeeded");
    }
    session.batch_execute("CREATE TABLE u (id int)").await.unwrap();
    let store = instance().store().await;
    assert_eq!(logged(&store, &workspace).await.len(), 2);
}

#[tokio::test]
async fn ddl_through_the_query_endpoint_is_captured_like_any_other() {
    let workspace = instance().workspace("endpoint");
    let body = serde_json::json!({"query": "CREATE TABLE by_api (id int)"});
    instance().api().post("/workspaces/endpoint/queries", body).ok();
    let store = instance().store().await;
    last_holds(&logged(&store, &workspace).await, &["by_api"]);
    instance().prove(&workspace);
}

#[tokio::test]
async fn settings_that_change_meaning_are_part_of_a_change() {
    let workspace = instance().workspace("settings");
    let session = workspace.connect().await;
    session
        .batch_execute(
            "CREATE SCHEMA s; SET search_path = s; CREATE TABLE in_s (d date DEFAULT '2026-11-23');
             SET DateStyle = 'SQL, DMY'; CREATE TABLE dated (d date DEFAULT '01/02/2026');
             SET check_function_bodies = off; CREATE FUNCTION later() RETURNS int LANGUAGE sql AS 'SELECT x FROM not_yet'",
        )
        .await
        .unwrap();
    session
        .batch_execute("SET lock_timeout = 0; SET statement_timeout = 0; CREATE TABLE patient (id int)")
        .await
        .unwrap();
    instance().prove(&workspace);
}

/// On a separate instance: the lock blocks every drain.
#[tokio::test]
async fn an_unreachable_change_log_delays_the_reply_briefly_and_loses_no_change() {
    let instance = Instance::start();
    let workspace = instance.workspace("patient");
    let (store, session) = (instance.store().await, workspace.connect().await);
    store
        .batch_execute("BEGIN; LOCK TABLE control_plane.changes IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    // The fastest of three: on a busy machine any of them can take long. A reply that waited for the change log would not
    // come before the ROLLBACK, or after the 15 seconds that the store may take.
    let mut fastest = Duration::MAX;
    for table in ["late", "later", "latest"] {
        let begun = Instant::now();
        let create = format!("CREATE TABLE {table} (id int)");
        session.batch_execute(&create).await.unwrap();
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_secs(10), "the reply came after {fastest:?}");
    let notices: Vec<String> = session
        .notices()
        .iter()
        .map(|notice| notice.message().to_owned())
        .collect();
    let said = notices
        .iter()
        .any(|text| text.contains("captured, not yet in the change log"));
    assert!(said, "{notices:?}");
    store.batch_execute("ROLLBACK").await.unwrap();
    let changes = instance.diff("patient");
    assert_eq!(changes.len(), 3, "{changes:#?}");
    instance.prove(&workspace);
}
