//! Applying changes to databases: each exactly once and in order, whichever process is killed at which point.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret;
use support::{World, numbered};
use tdb_engines::postgres::ErrorClass;
use tdb_engines::postgres::apply::{self, BringUp, DeployedState, TimeLimits};
use tdb_engines::postgres::query::{self, Column};
use uuid::Uuid;

#[tokio::test]
async fn three_hundred_statements_replay_to_the_same_fingerprint() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let session = world.session(&workspace).await;
    for table in 0..75 {
        let statements = [
            format!("CREATE TABLE t{table} (id serial PRIMARY KEY, a text)"),
            format!("CREATE INDEX ON t{table} (a)"),
            format!("ALTER TABLE t{table} ADD b int DEFAULT {table}, ADD c timestamptz DEFAULT now()"),
            format!("COMMENT ON COLUMN t{table}.b IS 'number {table}'"),
        ];
        for sql in statements {
            session.batch_execute(&sql).await.unwrap();
        }
    }
    let changes = numbered(&world.drain(&workspace).await);
    assert_eq!(changes.len(), 300);
    world.base_template("app_v1").await;
    let build = world.tenant("app_build", "app_v1").await;
    assert_eq!(world.bring_up(&build, &changes).await.unwrap().applied.len(), 300);
    world.assert_same_schema(&workspace, &build).await;
}

#[tokio::test]
async fn killed_at_random_moments_every_change_is_there_once() {
    let world = World::with_template().await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let session = world.session(&workspace).await;
    session
        .batch_execute("CREATE TABLE t (id serial PRIMARY KEY)")
        .await
        .unwrap();
    for column in 0..30 {
        session
            .batch_execute(&format!("ALTER TABLE t ADD c{column} int"))
            .await
            .unwrap();
        if column % 5 == 0 {
            let index = format!("CREATE INDEX CONCURRENTLY i{column} ON t (c{column})");
            session.batch_execute(&index).await.unwrap();
        }
    }
    session.batch_execute("DROP INDEX CONCURRENTLY i0").await.unwrap();
    let changes = numbered(&world.drain(&workspace).await);
    assert_eq!(changes.len(), 38);

    let done = Arc::new(AtomicBool::new(false));
    let admin = world.cluster.connect("postgres").await.unwrap();
    let (stop, role) = (done.clone(), acme.roles.deployer.clone());
    let killer = tokio::spawn(async move {
        let mut killed = 0;
        for pause in (1..).map(|round: u64| 3 + round * 7 % 40) {
            if stop.load(Ordering::SeqCst) || killed >= 40 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
            killed += admin.query(sql, &[&role]).await.unwrap().len();
        }
        killed
    });
    let mut last = 0;
    loop {
        match world.bring_up(&acme, &changes).await {
            Ok(applied) => {
                assert_eq!(applied.changes_done, 38);
                break;
            }
            Err(error) => {
                assert_eq!(error.class, ErrorClass::Retry, "{error:?}");
                // Applied changes stay; an attempt that fails before reading them reports 0.
                assert!(error.changes_done == 0 || error.changes_done >= last, "{error:?}");
                last = last.max(error.changes_done);
            }
        }
    }
    done.store(true, Ordering::SeqCst);
    assert!(killer.await.unwrap() > 0);
    world.assert_same_schema(&workspace, &acme).await;
    let rows = apply::deployed(&world.deployer(&acme)).await.unwrap();
    assert!(rows.len() == 38 && rows.iter().all(|row| row.state == DeployedState::Done));
    assert!(
        rows.iter()
            .zip(&changes)
            .all(|(row, change)| row.checksum == change.change.checksum())
    );
}

#[tokio::test]
async fn a_failed_change_leaves_the_earlier_ones_and_reports_the_statement() {
    let world = World::with_template().await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let developer = world.session(&workspace).await;
    for sql in [
        "CREATE TABLE t (a int)",
        "BEGIN; ALTER TABLE t ADD b int; ALTER TABLE t ALTER a SET NOT NULL; COMMIT",
        "CREATE UNIQUE INDEX CONCURRENTLY u ON t (a)",
    ] {
        developer.batch_execute(sql).await.unwrap();
    }
    let changes = numbered(&world.drain(&workspace).await);
    world.bring_up(&acme, &changes[..1]).await.unwrap();
    let tenant = world.session(&acme).await;
    tenant.batch_execute("INSERT INTO t VALUES (NULL)").await.unwrap();
    let error = world.bring_up(&acme, &changes).await.unwrap_err();
    assert_eq!(
        (error.class, error.sqlstate.as_str(), error.changes_done),
        (ErrorClass::Failed, "23502", 1)
    );
    assert_eq!(error.statement.as_deref(), Some("ALTER TABLE t ALTER a SET NOT NULL"));
    tenant.query("SELECT b FROM t", &[]).await.unwrap_err();

    tenant
        .batch_execute("TRUNCATE t; INSERT INTO t VALUES (1), (1)")
        .await
        .unwrap();
    let error = world.bring_up(&acme, &changes).await.unwrap_err();
    assert_eq!(
        (error.class, error.sqlstate.as_str(), error.changes_done),
        (ErrorClass::Failed, "23505", 2)
    );
    tenant.batch_execute("TRUNCATE t").await.unwrap();

    // A lock of another session is an error to retry, not a failure of the tenant.
    tenant.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let plan = BringUp {
        administrator: &world.server,
        owner: &acme.roles.owner,
        attempt: Uuid::new_v4(),
        changes: &changes,
        taken: &[],
        limits: TimeLimits {
            lock_timeout: Duration::from_millis(50),
            ..TimeLimits::default()
        },
    };
    let error = apply::bring_up(&world.deployer(&acme), &plan, &|_| {})
        .await
        .unwrap_err();
    assert_eq!((error.class, error.sqlstate.as_str()), (ErrorClass::Retry, "55P03"));
    tenant.batch_execute("ROLLBACK").await.unwrap();
    world.bring_up(&acme, &changes).await.unwrap();

    let mut other = changes;
    other[1].change.statements.pop();
    let error = world.bring_up(&acme, &other).await.unwrap_err();
    assert_eq!((error.class, error.change), (ErrorClass::Failed, Some(2)));
}

#[tokio::test]
async fn deferred_triggers_run_as_the_owner() {
    let world = World::with_template().await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let developer = world.session(&workspace).await;
    let statements = [
        "CREATE TABLE seen (who name)",
        "CREATE TABLE t (a int)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen VALUES (current_user); RETURN new; END'",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()",
        "DO 'BEGIN ALTER TABLE t ADD b int; INSERT INTO t VALUES (1, 2); RESET ROLE; END'",
    ];
    for sql in statements {
        developer.batch_execute(sql).await.unwrap();
    }
    let changes = numbered(&world.drain(&workspace).await);
    world.bring_up(&acme, &changes).await.unwrap();
    let rows = world
        .session(&acme)
        .await
        .query("SELECT who::text FROM seen", &[])
        .await
        .unwrap();
    let seen: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(seen, std::slice::from_ref(&acme.roles.owner));
}

#[tokio::test]
async fn the_deployment_locks_holder_is_reported_and_orphans_are_ended() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let tenant = world.session(&acme).await;
    let holder: i32 = tenant
        .query_one(
            "SELECT pg_backend_pid() FROM (SELECT pg_advisory_lock(1952735588, 2)) l",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    let plan = BringUp {
        administrator: &world.server,
        owner: &acme.roles.owner,
        attempt: Uuid::new_v4(),
        changes: &[],
        taken: &[],
        limits: TimeLimits {
            lock_polls: 2,
            ..TimeLimits::default()
        },
    };
    let error = apply::bring_up(&world.deployer(&acme), &plan, &|_| {})
        .await
        .unwrap_err();
    assert_eq!((error.class, error.sqlstate.as_str()), (ErrorClass::Retry, "55P03"));
    assert!(error.message.contains(&holder.to_string()), "{error}");
    drop(tenant);

    let secret = acme.secrets.deployer.expose_secret();
    let orphan = world
        .cluster
        .connect_as(&acme.roles.deployer, secret, &acme.name)
        .await
        .unwrap();
    orphan
        .batch_execute("SET application_name = 'tdb-deploy/earlier'; SELECT pg_advisory_lock(1952735588, 2)")
        .await
        .unwrap();
    let plan = BringUp {
        administrator: &world.server,
        taken: &[],
        limits: TimeLimits::default(),
        ..plan
    };
    apply::bring_up(&world.deployer(&acme), &plan, &|_| {}).await.unwrap();
    assert!(orphan.simple_query("SELECT 1").await.is_err());
}

#[tokio::test]
async fn a_query_gives_the_last_result_with_types_and_native_numbers() {
    let world = World::start().await;
    let database = world.workspace("app_dev").await;
    let login = world.owner(&database);
    let limits = query::QueryLimits::default();
    let sql = "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2);
               SELECT 1::int2 AS s, 2 AS i, 3::int8 AS l, 4.5::numeric AS n, 1.5::float8 AS f, 'NaN'::float4 AS x, true AS b,
                      NULL::text AS z, 'ok'::mood AS m, '{1}'::int[] AS r, varchar 'v' AS v";
    let result = query::run(&login, sql, &limits).await.unwrap();
    let types: Vec<&str> = result.columns.iter().map(|column| column.type_name.as_str()).collect();
    assert_eq!(
        types,
        [
            "int2", "int4", "int8", "numeric", "float8", "float4", "bool", "text", "mood", "_int4", "varchar"
        ]
    );
    let expected = serde_json::json!([[1, 2, "3", "4.5", 1.5, "NaN", true, null, "ok", "{1}", "v"]]);
    assert_eq!(serde_json::to_value(&result.rows).unwrap(), expected);
    assert_eq!(
        (result.command.as_str(), result.row_count, result.truncated),
        ("SELECT", 1, false)
    );

    let result = query::run(&login, "SELECT 1; UPDATE t SET a = 3", &limits)
        .await
        .unwrap();
    assert_eq!(
        (result.command.as_str(), result.row_count, result.columns.len()),
        ("UPDATE", 2, 0)
    );
    let result = query::run(&login, "SELECT i FROM generate_series(1, 2500) i", &limits)
        .await
        .unwrap();
    assert_eq!(
        (result.rows.len(), result.row_count, result.truncated),
        (1000, 2500, true)
    );
    assert_eq!(
        result.columns,
        [Column {
            name: "i".to_owned(),
            type_name: "int4".to_owned()
        }]
    );
    let result = query::run(&login, "SELECT repeat('x', 30000000)", &limits)
        .await
        .unwrap();
    assert_eq!((result.rows.len(), result.truncated), (0, true));
    for (sql, code) in [
        ("SELECT 1/0", "22012"),
        ("SELECT", ""),
        ("COPY t FROM STDIN", "57014"),
        ("SELEC", "42601"),
        ("", ""),
    ] {
        match query::run(&login, sql, &limits).await {
            Ok(_) => assert_eq!(code, "", "{sql}"),
            Err(error) => assert_eq!(error.sqlstate().as_str(), code, "{sql}: {error}"),
        }
    }
    let short = query::QueryLimits {
        time: Duration::from_millis(100),
        ..limits
    };
    let error = query::run(&login, "SELECT pg_sleep(20)", &short).await.unwrap_err();
    assert_eq!(error.sqlstate().as_str(), "57014");
    let error = query::run(&world.readonly(&database), "CREATE TABLE x ()", &limits)
        .await
        .unwrap_err();
    assert!(["25006", "42501"].contains(&error.sqlstate().as_str()), "{error}");
    let changes = world.drain(&database).await;
    assert_eq!(
        changes[0].change.texts(),
        ["CREATE TYPE mood AS ENUM ('ok')", "CREATE TABLE t (a int)"]
    );
    assert_eq!(changes[0].change.left_out.len(), 1);
}
