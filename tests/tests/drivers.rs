//! Drivers through the proxy: psql, tokio-postgres and psycopg 3. Each connects with and without TLS, sends parameters, runs
//! transactions and COPY, cancels a query, and gets the expected SQLSTATE when it is refused.

use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tdb_tests::{
    Instance, Session, Tls, clean, connect, eventually_async, fixture, pg_program, pgbench, psql, python, run,
    sqlstate, url_with,
};
use tokio_postgres::NoTls;

static LAB: OnceLock<Lab> = OnceLock::new();

/// One tenant for all drivers; each uses separate tables.
struct Lab {
    instance: Instance,
    tenant: String,
}

fn lab() -> &'static Lab {
    LAB.get_or_init(|| {
        let instance = Instance::start();
        let workspace = instance.workspace("drivers");
        let sql = "CREATE TABLE items (id int PRIMARY KEY, name text, data bytea);
            CREATE TABLE psql_items (LIKE items); CREATE TABLE rust_items (LIKE items); CREATE TABLE python_items (LIKE items)";
        psql(&workspace.url, sql).ok();
        let tenant = instance.tenant("driven", "drivers").url;
        Lab { instance, tenant }
    })
}

fn tenant_url() -> &'static str {
    &lab().tenant
}

mod psql_driver {
    use super::*;

    #[test]
    fn connects_with_and_without_tls() {
        for (mode, encrypted) in [("disable", "f"), ("prefer", "t"), ("require", "t")] {
            let ran = psql(
                &format!("{}?sslmode={mode}", tenant_url()),
                "\\conninfo\nSELECT current_setting('is_superuser')",
            )
            .ok();
            assert!(ran.stdout.contains("off"), "{mode}: {}", ran.stdout);
            assert_eq!(
                ran.stdout.contains("SSL connection"),
                encrypted == "t",
                "{mode}: {}",
                ran.stdout
            );
        }
    }

    #[test]
    fn parameters_transactions_and_copy_work() {
        // psql has \bind only since version 16; older versions send parameters by PREPARE.
        let parameters = "PREPARE p (int, text) AS SELECT $1 + 1, $2; EXECUTE p (41, 'it''s')";
        assert_eq!(psql(tenant_url(), parameters).ok().text(), "42|it's");
        let copy = "BEGIN;\nCOPY psql_items (id, name) FROM STDIN;\n1\tone\n2\ttwo\n\\.\nCOMMIT;\nCOPY psql_items TO STDOUT;\n";
        assert_eq!(psql(tenant_url(), copy).ok().text(), "1\tone\t\\N\n2\ttwo\t\\N");
        psql(tenant_url(), "BEGIN; DELETE FROM psql_items; ROLLBACK").ok();
        assert_eq!(psql(tenant_url(), "SELECT count(*) FROM psql_items").ok().text(), "2");
    }

    #[test]
    fn startup_settings_reach_the_server() {
        let url = format!(
            "{}?application_name=my-app&options=-c%20work_mem%3D3MB%20-c%20datestyle%3Dgerman",
            tenant_url()
        );
        let shown = psql(
            &url,
            "SELECT current_setting('application_name'), current_setting('work_mem'), '2026-11-23'::date",
        )
        .ok();
        assert_eq!(shown.text(), "my-app|3MB|23.11.2026");
    }

    #[tokio::test]
    async fn ctrl_c_cancels_the_running_query_only() {
        let mut command = clean(pg_program("psql"));
        command.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-d",
            tenant_url(),
            "-c",
            "SET application_name = 'to-cancel'",
        ]);
        command
            .args(["-c", "SELECT pg_sleep(120)"])
            .args(["-c", "SELECT 'still here'"]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start psql");
        wait_until_active("to-cancel").await;
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).expect("interrupt psql");
        let output = child.wait_with_output().expect("psql ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("canceling statement due to user request"), "{said}");
    }

    #[test]
    fn wrong_password_and_unknown_database_give_clear_errors() {
        let wrong = psql(&url_with(tenant_url(), None, Some("wrong"), None), "SELECT 1");
        wrong.fails_saying("password authentication failed for user");
        psql(&url_with(tenant_url(), None, None, Some("drivers__nobody")), "SELECT 1").fails_saying("drivers__nobody");
    }

    #[test]
    fn pgbench_runs_simple_extended_and_prepared() {
        pgbench(tenant_url(), &["-i", "-q"]).ok();
        for protocol in ["simple", "extended", "prepared"] {
            pgbench(tenant_url(), &["-n", "-M", protocol, "-c", "4", "-t", "50"]).ok();
        }
    }
}

mod tokio_postgres_driver {
    use super::*;

    #[tokio::test]
    async fn connects_with_and_without_tls() {
        for tls in [Tls::Off, Tls::Required] {
            let session = Session::open(tenant_url(), tls)
                .await
                .unwrap_or_else(|e| panic!("{tls:?}: {e:?}"));
            let row = session
                .query_one("SELECT current_user::text, $1::int + 1", &[&41])
                .await
                .unwrap();
            assert_eq!(row.get::<_, i32>(1), 42, "{tls:?}");
        }
    }

    #[tokio::test]
    async fn transactions_and_parameters_of_all_sizes_work() {
        let session = connect(tenant_url()).await.unwrap();
        session.batch_execute("BEGIN").await.unwrap();
        for (id, len) in [(1, 0), (2, 1), (3, 8191), (4, 70_000), (5, 20_000_000)] {
            let (name, data) = ("n".repeat(len % 9000), vec![0xA5_u8; len]);
            session
                .execute("INSERT INTO rust_items VALUES ($1, $2, $3)", &[&id, &name, &data])
                .await
                .unwrap();
        }
        session.batch_execute("COMMIT").await.unwrap();
        let rows = session
            .query("SELECT id, length(data), data FROM rust_items ORDER BY id", &[])
            .await
            .unwrap();
        let lengths: Vec<i32> = rows.iter().map(|row| row.get(1)).collect();
        assert_eq!(lengths, [0, 1, 8191, 70_000, 20_000_000]);
        assert!(rows.last().unwrap().get::<_, &[u8]>(2).iter().all(|byte| *byte == 0xA5));
        let failed = session
            .batch_execute("BEGIN; DELETE FROM rust_items; SELECT 1/0")
            .await
            .unwrap_err();
        assert_eq!(sqlstate(&failed), "22012");
        assert_eq!(sqlstate(&session.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
        session.batch_execute("ROLLBACK").await.unwrap();
        let left = session.query_one("SELECT count(*) FROM rust_items", &[]).await.unwrap();
        assert_eq!(left.get::<_, i64>(0), 5);
    }

    #[tokio::test]
    async fn copy_in_and_out_carries_much_data() {
        let session = connect(tenant_url()).await.unwrap();
        session
            .batch_execute("CREATE TEMP TABLE copied (id int, line text)")
            .await
            .unwrap();
        let mut sink = Box::pin(session.copy_in("COPY copied FROM STDIN").await.unwrap());
        let line = "x".repeat(1000);
        for block in 0..200 {
            let text: String = (0..100).map(|n| format!("{}\t{line}\n", block * 100 + n)).collect();
            sink.send(bytes::Bytes::from(text)).await.unwrap();
        }
        assert_eq!(sink.as_mut().finish().await.unwrap(), 20_000);
        let mut stream = Box::pin(session.copy_out("COPY copied TO STDOUT").await.unwrap());
        let mut seen = 0;
        while let Some(part) = stream.next().await {
            seen += part.unwrap().len();
        }
        assert!(seen > 20_000 * 1000, "{seen} bytes");
        let gone = session
            .copy_in::<_, bytes::Bytes>("COPY nowhere FROM STDIN")
            .await
            .map(|_| ())
            .unwrap_err();
        assert_eq!(sqlstate(&gone), "42P01");
    }

    #[tokio::test]
    async fn pipelined_queries_are_answered_in_order() {
        let session = connect(tenant_url()).await.unwrap();
        let statement = session.prepare("SELECT $1::int").await.unwrap();
        let answers = (0..500).map(|n| {
            let (session, statement) = (&session, &statement);
            async move { session.query_one(statement, &[&n]).await.unwrap().get::<_, i32>(0) }
        });
        let answers = futures_util::future::join_all(answers).await;
        assert_eq!(answers, (0..500).collect::<Vec<i32>>());
    }

    #[tokio::test]
    async fn cancel_stops_the_query_and_the_session_goes_on() {
        let session = connect(&format!("{}?application_name=rust-cancel", tenant_url()))
            .await
            .unwrap();
        let token = session.cancel_token();
        let (slept, _) = tokio::join!(session.batch_execute("SELECT pg_sleep(120)"), async {
            wait_until_active("rust-cancel").await;
            token.cancel_query(NoTls).await.unwrap();
        });
        assert_eq!(sqlstate(&slept.unwrap_err()), "57014");
        session.batch_execute("SELECT 1").await.unwrap();
    }

    #[tokio::test]
    async fn the_shown_pid_is_the_servers_own() {
        let mut wire = tdb_tests::Wire::dial(tenant_url());
        let config: tokio_postgres::Config = tenant_url().parse().unwrap();
        let (user, database) = (config.get_user().unwrap(), config.get_dbname().unwrap());
        wire.send(|out| {
            postgres_protocol::message::frontend::startup_message([("user", user), ("database", database)], out)
                .unwrap();
        });
        wire.authenticate(config.get_password().unwrap()).unwrap();
        let frames = wire.read_until_ready();
        let key = frames.iter().find(|frame| frame.tag == b'K').expect("BackendKeyData");
        let pid = i32::from_be_bytes(key.body[..4].try_into().unwrap());
        let statuses: Vec<String> = frames.iter().filter(|f| f.tag == b'S').map(|f| f.text()).collect();
        for name in [
            "server_version",
            "client_encoding",
            "TimeZone",
            "integer_datetimes",
            "standard_conforming_strings",
        ] {
            assert!(
                statuses.iter().any(|status| status.starts_with(name)),
                "no {name} in {statuses:?}"
            );
        }
        let rows = wire.query("SELECT pg_backend_pid()");
        let row = rows.iter().find(|frame| frame.tag == b'D').expect("a row");
        assert_eq!(String::from_utf8_lossy(&row.body[6..]), pid.to_string());
    }

    #[tokio::test]
    async fn listen_and_notify_and_notices_arrive() {
        let session = connect(tenant_url()).await.unwrap();
        session
            .batch_execute("LISTEN c; NOTIFY c, 'x'; DO $$ BEGIN RAISE NOTICE 'hear me'; END $$")
            .await
            .unwrap();
        let heard = session.notices().iter().any(|notice| notice.message() == "hear me");
        assert!(heard, "{:?}", session.notices());
    }

    #[tokio::test]
    async fn refusals_carry_their_sqlstates() {
        for tls in [Tls::Off, Tls::Required] {
            let refused = |user, password, database| {
                let url = url_with(tenant_url(), user, password, database);
                async move { sqlstate(&Session::open(&url, tls).await.expect_err("refused")) }
            };
            assert_eq!(refused(None, Some("wrong"), None).await, "28P01");
            assert_eq!(refused(Some("nobody_at_all"), None, None).await, "28P01");
            assert_eq!(refused(None, None, Some("drivers__nobody")).await, "42501");
            assert_eq!(refused(None, None, Some("nothing__driven")).await, "3D000");
        }
    }
}

/// psycopg 3 in a virtual environment under the target directory; the script contains the assertions.
#[test]
fn psycopg_3_works() {
    let mut command = clean(python());
    command
        .arg(fixture("../python/drivers.py"))
        .arg(tenant_url())
        .arg(lab().instance.server_url("postgres"));
    let ran = run(command, "").ok();
    assert!(ran.stdout.contains("all passed"), "{}", ran.stdout);
}

/// Waits until a session with this application name runs a query, according to the private PostgreSQL.
async fn wait_until_active(application: &str) {
    let server = lab().instance.server("postgres").await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state = 'active' AND query LIKE '%pg_sleep%'";
    let (server, limit) = (&server, Duration::from_secs(60));
    eventually_async(limit, "the query runs", || async move {
        let row = server
            .query_one(sql, &[&application])
            .await
            .expect("look at the activity");
        (row.get::<_, i64>(0) == 1).then_some(())
    })
    .await;
}
