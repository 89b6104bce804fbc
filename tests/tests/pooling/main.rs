//! Clients that share server connections (`pool_mode = "auto"`): what a client has set follows it, what cannot follow keeps its
//! connection, and no client sees what another one left. With a single server connection, every statement of another client
//! takes the connection away, if that is allowed.

mod statements;

use std::sync::OnceLock;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tdb_tests::{Frame, Instance, InstanceOptions, Session, column, connect, psql, sqlstate};
use tokio::sync::Mutex;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);
/// How long a statement that must wait is observed to wait.
const WAITS: Duration = Duration::from_millis(300);

struct Pooled {
    url: String,
    /// The same database for the administrator.
    server: String,
}

/// One test at a time: they share one server connection.
static TURN: Mutex<()> = Mutex::const_new(());

fn pooled() -> &'static Pooled {
    static INSTANCE: OnceLock<(Instance, Pooled)> = OnceLock::new();
    let (_, pooled) = INSTANCE.get_or_init(|| {
        let instance = Instance::start_with(&InstanceOptions::pooled(1));
        let workspace = instance.workspace("myapp");
        psql(&workspace.url, SCHEMA).ok();
        let tenant = instance.tenant("acme", "myapp");
        let server = instance.server_url("myapp__acme");
        let url = tenant.url;
        (instance, Pooled { url, server })
    });
    pooled
}

const SCHEMA: &str = "
    CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, a text);
    CREATE TABLE s (id serial, a text);
    CREATE FUNCTION hide(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
      IF what = 'lock' THEN PERFORM pg_advisory_lock(7);
      ELSIF what = 'path' THEN PERFORM set_config('search_path', 'hidden', false);
      ELSIF what = 'table' THEN EXECUTE 'CREATE TEMP TABLE hidden (id int)';
      ELSIF what = 'listen' THEN EXECUTE 'LISTEN hidden';
      END IF;
    END $$;";

async fn clients<const N: usize>(url: &str) -> [Session; N] {
    let mut clients = Vec::new();
    for _ in 0..N {
        clients.push(connect(url).await.expect("log in"));
    }
    clients.try_into().expect("as many")
}

async fn value(client: &Session, sql: &str) -> String {
    let values: Vec<String> = column(client, sql).await;
    values.concat()
}

/// Each row: what a client does, how it sees the result, and what it and another client must see.
#[tokio::test]
async fn settings_follow_their_client_to_another_connection() {
    let _turn = TURN.lock().await;
    let pooled = pooled();
    let cases: [(&[&str], &str, &str, &str); 17] = [
        (
            &["SET search_path = a, public"],
            "SHOW search_path",
            "a, public",
            "\"$user\", public",
        ),
        (&["SET TIME ZONE 'Asia/Tokyo'"], "SHOW timezone", "Asia/Tokyo", ""),
        (&["SET work_mem = '17MB'"], "SHOW work_mem", "17MB", "4MB"),
        (
            &["SELECT set_config('work_mem', '18MB', false)"],
            "SHOW work_mem",
            "18MB",
            "4MB",
        ),
        (
            &["BEGIN; SET work_mem = '19MB'; COMMIT"],
            "SHOW work_mem",
            "19MB",
            "4MB",
        ),
        (
            &["BEGIN; SET work_mem = '19MB'; ROLLBACK"],
            "SHOW work_mem",
            "4MB",
            "4MB",
        ),
        (
            &[
                "BEGIN",
                "SET work_mem = '20MB'",
                "SAVEPOINT a",
                "SET work_mem = '21MB'",
                "ROLLBACK TO a",
                "COMMIT",
            ],
            "SHOW work_mem",
            "20MB",
            "4MB",
        ),
        (
            &["BEGIN; SET LOCAL work_mem = '22MB'; COMMIT"],
            "SHOW work_mem",
            "4MB",
            "4MB",
        ),
        (
            &["SET work_mem = '23MB'", "SELECT 1", "RESET work_mem"],
            "SHOW work_mem",
            "4MB",
            "4MB",
        ),
        (
            &["SET work_mem = '23MB'", "SELECT 1", "DISCARD ALL"],
            "SHOW work_mem",
            "4MB",
            "4MB",
        ),
        (
            &["SELECT 1; SET work_mem = '24MB'; SELECT 2"],
            "SHOW work_mem",
            "24MB",
            "4MB",
        ),
        (
            &["/* SET */ DO $$ BEGIN PERFORM set_config('work_mem', '25MB', false); END $$"],
            "SHOW work_mem",
            "25MB",
            "4MB",
        ),
        (
            &["SELECT hide('path')"],
            "SHOW search_path",
            "hidden",
            "\"$user\", public",
        ),
        (
            &["SET transaction_deferrable = on"],
            "SHOW transaction_deferrable",
            "off",
            "off",
        ),
        (&["SET app.empty = ''"], "SHOW app.empty", "", ""),
        (
            &["BEGIN; SET LOCAL app.gone = 'a'; COMMIT"],
            "SELECT current_setting('app.gone')",
            "",
            "",
        ),
        (
            &["SET app.tenant = 'it''s \\ acme'"],
            "SELECT current_setting('app.tenant')",
            "it's \\ acme",
            "",
        ),
    ];
    for (statements, look, own, others) in cases {
        let [one, other] = clients(&pooled.url).await;
        for statement in statements {
            one.batch_execute(statement)
                .await
                .unwrap_or_else(|error| panic!("{statement}: {error}"));
            if !statements.contains(&"BEGIN") {
                other
                    .batch_execute("SELECT 1")
                    .await
                    .expect("the other client gets the connection");
            }
        }
        for _ in 0..2 {
            assert_eq!(value(&one, look).await, own, "{statements:?}");
            if look.contains("app.") {
                let undefined = other.batch_execute(look).await.map_err(|error| sqlstate(&error));
                assert_eq!(
                    undefined,
                    Err("42704".to_owned()),
                    "another client after {statements:?}"
                );
            } else if !others.is_empty() {
                let seen = value(&other, look).await;
                assert_eq!(seen, others, "another client after {statements:?}");
            }
        }
    }
}

/// Each row: what pins the connection, how the client sees it, and what ends the pin.
#[tokio::test]
async fn what_cannot_follow_keeps_the_connection() {
    let _turn = TURN.lock().await;
    let pooled = pooled();
    let cases = [
        (
            "SELECT pg_advisory_lock(1)",
            "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory'",
            "1",
            "SELECT pg_advisory_unlock(1)",
        ),
        (
            "sElEcT /* */ hide('lock')",
            "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory'",
            "1",
            "SELECT pg_advisory_unlock_all()",
        ),
        (
            "CREATE TEMP TABLE x (id int)",
            "SELECT to_regclass('x')::text",
            "x",
            "DROP TABLE x",
        ),
        (
            "SELECT 1 AS id INTO TEMP x",
            "SELECT to_regclass('x')::text",
            "x",
            "DISCARD TEMP",
        ),
        (
            "CREATE TABLE pg_temp.x (id int)",
            "SELECT to_regclass('x')::text",
            "x",
            "DISCARD ALL",
        ),
        (
            "CREATE STATISTICS pg_temp.x ON id, a FROM t",
            "SELECT stxname::text FROM pg_statistic_ext WHERE stxname = 'x'",
            "x",
            "DROP STATISTICS pg_temp.x",
        ),
        (
            "SELECT hide('table')",
            "SELECT to_regclass('hidden')::text",
            "hidden",
            "DROP TABLE hidden",
        ),
        (
            "DO $$ BEGIN CREATE TEMP TABLE x (id int); END $$",
            "SELECT to_regclass('x')::text",
            "x",
            "DROP TABLE x",
        ),
        (
            "BEGIN; DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 'held'; COMMIT",
            "FETCH FORWARD ALL FROM c; MOVE BACKWARD ALL FROM c",
            "",
            "CLOSE c",
        ),
        ("LISTEN \"A b\"", "SELECT pg_listening_channels()", "A b", "UNLISTEN *"),
        (
            "SELECT hide('listen')",
            "SELECT pg_listening_channels()",
            "hidden",
            "UNLISTEN hidden",
        ),
        (
            "PREPARE p AS SELECT 'prepared'",
            "SELECT name::text FROM pg_prepared_statements WHERE from_sql",
            "p",
            "DISCARD ALL",
        ),
    ];
    for (pin, look, expected, end) in cases {
        let [one, other] = clients(&pooled.url).await;
        one.batch_execute(pin)
            .await
            .unwrap_or_else(|error| panic!("{pin}: {error}"));
        let waiting = tokio::spawn(async move {
            other.batch_execute("SELECT 1").await.expect("a connection at last");
        });
        tokio::pin!(waiting);
        assert!(
            timeout(WAITS, &mut waiting).await.is_err(),
            "{pin}: another client got the connection"
        );
        if look.starts_with("SELECT") {
            assert_eq!(value(&one, look).await, expected, "{pin}");
        } else {
            one.batch_execute(look)
                .await
                .unwrap_or_else(|error| panic!("{look}: {error}"));
        }
        assert!(
            timeout(WAITS, &mut waiting).await.is_err(),
            "{pin}: another client got the connection"
        );
        one.batch_execute(end)
            .await
            .unwrap_or_else(|error| panic!("{end}: {error}"));
        let served = timeout(SOON, &mut waiting).await;
        served
            .unwrap_or_else(|_| panic!("{end} does not end the pin of {pin}"))
            .expect("the other client");
    }
}

#[tokio::test]
async fn a_client_leaves_nothing_for_the_next_one() {
    let _turn = TURN.lock().await;
    let pooled = pooled();
    let [one] = clients(&pooled.url).await;
    for statement in [
        "SET work_mem = '17MB'",
        "SET app.tenant = 'acme'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2)",
        "CREATE TEMP TABLE x (id int)",
        "LISTEN a",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "PREPARE p AS SELECT 1",
    ] {
        one.batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    drop(one);
    let [next] = clients(&pooled.url).await;
    let left = value(
        &next,
        "SELECT concat_ws(',', (SELECT string_agg(name, ',') FROM pg_settings WHERE source = 'session'),
            (SELECT string_agg(locktype, ',') FROM pg_locks WHERE locktype = 'advisory'),
            to_regclass('x')::text, (SELECT string_agg(c, ',') FROM pg_listening_channels() c),
            (SELECT string_agg(name, ',') FROM pg_cursors WHERE name <> ''),
            (SELECT string_agg(name, ',') FROM pg_prepared_statements WHERE from_sql),
            nullif(current_setting('app.tenant', true), ''))",
    )
    .await;
    assert_eq!(left, "");
}

/// Which statement calls `nextval` is not visible in its text, so the first use counts for all sessions of the database.
#[tokio::test]
async fn sessions_of_a_database_whose_clients_use_lastval_keep_their_connections() {
    let instance = Instance::start_with(&InstanceOptions::pooled(1));
    psql(&instance.workspace("myapp").url, SCHEMA).ok();
    let tenant = instance.tenant("acme", "myapp");
    let [one, other] = clients(&tenant.url).await;
    let insert = "INSERT INTO s (a) VALUES ('a')";
    one.batch_execute(insert).await.expect("a row");
    other.batch_execute(insert).await.expect("a row");
    let taken = one.batch_execute("SELECT lastval()").await.unwrap_err();
    assert_eq!(sqlstate(&taken), "55000");
    drop(one);
    other.batch_execute(insert).await.expect("a row");
    let waiting = tokio::spawn(async move {
        let [third] = clients(&tenant.url).await;
        third.batch_execute("SELECT 1").await.expect("a connection at last");
    });
    tokio::pin!(waiting);
    let too_soon = timeout(WAITS, &mut waiting).await;
    assert!(too_soon.is_err(), "another client got the connection");
    assert_eq!(value(&other, "SELECT lastval()::text").await, "3");
    drop(other);
    let served = timeout(SOON, waiting).await;
    served.expect("the other client is served").expect("a client");
}

fn parse(out: &mut BytesMut, name: &str, sql: &str) {
    frontend::parse(name, sql, [], out).expect("parse");
}

fn run_prepared(out: &mut BytesMut, name: &str) {
    let no_values: [i32; 0] = [];
    let bound = frontend::bind("", name, [], no_values, |_, _| Ok(IsNull::Yes), [], out);
    assert!(bound.is_ok(), "bind");
    frontend::execute("", 0, out).expect("execute");
}

/// The tags of the messages, with the rows' text and the errors' SQLSTATE and message, without ParameterStatus.
fn told(frames: &[Frame]) -> Vec<String> {
    let frames = frames.iter().filter(|frame| frame.tag != b'S');
    let tell = |frame: &Frame| match frame.tag {
        b'D' => String::from_utf8_lossy(&frame.body[6..]).into_owned(),
        b'E' => format!(
            "{} {}",
            frame.field(b'C').unwrap_or_default(),
            frame.field(b'M').unwrap_or_default()
        ),
        b'Z' => String::from_utf8_lossy(&frame.body).into_owned(),
        tag => char::from(tag).to_string(),
    };
    frames.map(tell).collect()
}

/// The first waits for a snapshot that no other transaction can disturb, as long as one is open.
#[tokio::test]
async fn a_sessions_transaction_defaults_do_not_delay_others() {
    let _turn = TURN.lock().await;
    let pooled = pooled();
    let [one, other] = clients(&pooled.url).await;
    let administrator = connect(&pooled.server).await.expect("the server");
    let open = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM t; INSERT INTO t (a) VALUES ('open')";
    administrator.batch_execute(open).await.expect("a transaction");
    one.batch_execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE")
        .await
        .expect("a setting");
    let served = timeout(SOON, other.batch_execute("SELECT 1")).await;
    served.expect("soon").expect("a connection");
    administrator.batch_execute("ROLLBACK").await.expect("the end");
    let kept = "SELECT current_setting('transaction_read_only') || current_setting('default_transaction_deferrable')";
    assert_eq!(value(&one, kept).await, "onon");
}

/// As after a restart of the server.
#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_not_given_to_a_client() {
    let _turn = TURN.lock().await;
    let pooled = pooled();
    let administrator = connect(&pooled.server).await.expect("the server");
    for _ in 0..5 {
        let [client] = clients(&pooled.url).await;
        client.batch_execute("SELECT 1").await.expect("a connection");
        drop(client);
        let end = "SELECT count(pg_terminate_backend(pid, 10000))::text FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        value(&administrator, end).await;
    }
}

#[tokio::test]
async fn there_are_never_more_server_connections_than_allowed() {
    let _turn = TURN.lock().await;
    let pooled = pooled();
    let watcher = connect(&pooled.server).await.expect("the server");
    let clients: [Session; 12] = clients(&pooled.url).await;
    let work = clients.map(|client| {
        tokio::spawn(async move {
            for round in 0..10 {
                let sql = format!("BEGIN; INSERT INTO t (a) VALUES ('{round}'); COMMIT");
                client.batch_execute(&sql).await.expect("a transaction");
            }
        })
    });
    let count = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = 'myapp__acme' AND pid <> pg_backend_pid()";
    while work.iter().any(|task| !task.is_finished()) {
        let open: usize = value(&watcher, count).await.parse().expect("a number");
        assert!(open <= 1, "{open} connections");
    }
    for task in work {
        task.await.expect("a client");
    }
    assert_eq!(value(&watcher, "SELECT count(*)::text FROM t").await, "120");
}

#[tokio::test]
async fn a_cancel_reaches_the_statement_of_its_session_only() {
    let _turn = TURN.lock().await;
    let pooled = pooled();
    let [one, other] = clients(&pooled.url).await;
    let token = one.cancel_token();
    let running = one.batch_execute("SELECT pg_sleep(60)");
    let administrator = connect(&pooled.server).await.expect("the server");
    let cancel = async {
        let sleeping =
            "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        while value(&administrator, sleeping).await == "0" {}
        token
            .cancel_query(tokio_postgres::NoTls)
            .await
            .expect("the request is sent");
    };
    let (cancelled, ()) = tokio::join!(running, cancel);
    assert_eq!(sqlstate(&cancelled.unwrap_err()), "57014");
    let running = other.batch_execute("SELECT pg_sleep(1)");
    let cancel = async {
        for _ in 0..10 {
            token
                .cancel_query(tokio_postgres::NoTls)
                .await
                .expect("the request is sent");
        }
    };
    let (undisturbed, ()) = tokio::join!(running, cancel);
    undisturbed.expect("the statement of another session");
}
