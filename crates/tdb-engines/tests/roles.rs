//! The roles of a database: what the read-only role can and cannot do, and that roles are repaired after a client has changed
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use secrecy::ExposeSecret;
use support::{Database, World, numbered};
use tdb_engines::postgres::query::{Access, Query, QueryLimits};
use tdb_engines::postgres::readers::{self, Readers};
use tdb_engines::postgres::role_states::{self, Differing, Expected, Groups, RoleDifference};
use tdb_testkit::read_only::{self, REFUSED};
use tdb_wire_postgres::reading::{Effect, Release, examine};
use tdb_wire_postgres::tokens::ScanSettings;
use tokio_postgres::Client;

async fn reader(world: &World, database: &Database) -> Client {
    let secret = database.secrets.readonly.expose_secret();
    let connected = world
        .cluster
        .connect_as(&database.roles.readonly, secret, &database.name);
    connected.await.unwrap()
}

fn code(error: &tokio_postgres::Error) -> String {
    error
        .code()
        .map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

const SCHEMA: &str = "
    CREATE TABLE early (id serial PRIMARY KEY, who text); INSERT INTO early(who) VALUES ('ann'), ('bob');
    CREATE SCHEMA side; CREATE TABLE side.early (id int); CREATE VIEW side.seen AS SELECT * FROM early;
    CREATE MATERIALIZED VIEW side.kept AS SELECT * FROM early;
    CREATE TABLE parts (id int) PARTITION BY LIST (id); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
    CREATE TABLE guarded (id int, who text); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    INSERT INTO guarded VALUES (1, 'ann'), (2, 'bob'); CREATE POLICY ann ON guarded USING (who = 'ann');";
const LATER: &str = "
    CREATE TABLE late (id serial, t text); CREATE SCHEMA more; CREATE TABLE more.late (id int);
    CREATE VIEW more.seen AS SELECT * FROM late; CREATE SEQUENCE more.counter;";
const READ: &[&str] = &[
    "SELECT * FROM early",
    "SELECT * FROM side.early, side.seen, side.kept, parts, parts_1",
    "SELECT last_value FROM early_id_seq",
    "SELECT * FROM late, more.late, more.seen, more.counter",
];

#[tokio::test]
async fn a_read_only_role_reads_all_of_its_database_and_no_verifier() {
    let world = World::with_template().await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let developer = world.session(&workspace).await;
    developer.batch_execute(SCHEMA).await.unwrap();
    let first = numbered(&world.drain(&workspace).await);
    world.bring_up(&acme, &first).await.unwrap();
    let rows = "INSERT INTO guarded VALUES (1, 'ann'), (2, 'bob')";
    world.session(&acme).await.batch_execute(rows).await.unwrap();
    let before = [world.fingerprint(&workspace).await, world.fingerprint(&acme).await];
    for database in [&workspace, &acme, &acme] {
        world.admit_readers(database).await;
    }
    let after = [world.fingerprint(&workspace).await, world.fingerprint(&acme).await];
    assert_eq!(before, after, "who reads is no part of a schema");

    // Created later: by the developer, by a deployment, by the tenant's owner.
    developer.batch_execute(LATER).await.unwrap();
    let all = numbered(&world.drain(&workspace).await);
    let all: Vec<_> = first
        .iter()
        .cloned()
        .chain(all)
        .zip(1..)
        .map(|(mut one, id)| {
            one.id = id;
            one
        })
        .collect();
    assert!(all.iter().all(|one| one.change.broken.is_none()), "{all:#?}");
    world.bring_up(&acme, &all).await.unwrap();
    world.assert_same_schema(&workspace, &acme).await;
    world
        .session(&acme)
        .await
        .batch_execute("CREATE TABLE own (id int)")
        .await
        .unwrap();
    for (database, ours) in [(&workspace, "tdb.ddl_event"), (&acme, "tdb.setting")] {
        let session = reader(&world, database).await;
        for sql in READ {
            session
                .batch_execute(sql)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        let guarded = session.query("SELECT who FROM guarded", &[]).await.unwrap();
        assert_eq!(guarded.len(), 1, "row-level security applies to readers");
        for secret in ["pg_authid", "pg_user_mapping", "pg_statistic", "pg_largeobject", ours] {
            let refused = session
                .batch_execute(&format!("SELECT * FROM {secret}"))
                .await
                .expect_err(secret);
            assert_eq!(code(&refused), "42501", "{secret}");
        }
    }
    reader(&world, &acme)
        .await
        .batch_execute("SELECT * FROM own")
        .await
        .unwrap();
    let admin = world.cluster.connect("postgres").await.unwrap();
    let predefined = "SELECT m.rolname::text FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member
                      JOIN pg_roles g ON g.oid = a.roleid WHERE g.rolname ~ '^pg_' AND m.rolname ~ '^(r_|tdb_)'";
    assert!(admin.query(predefined, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn dumps_and_restores_by_the_owner_work_with_a_read_only_role() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let elsewhere = world.tenant("app__elsewhere", "app_v1").await;
    let workspace = world.workspace("app_dev").await;
    world.session(&acme).await.batch_execute(SCHEMA).await.unwrap();
    world
        .session(&acme)
        .await
        .batch_execute("SELECT lo_from_bytea(0, 'x')")
        .await
        .unwrap();
    world.admit_readers(&acme).await;
    world.session(&acme).await.batch_execute(LATER).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump").display().to_string();
    let dump = world.program("pg_dump", &acme, &["-Fc", "-f", &file]);
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let restore = world.program("pg_restore", &elsewhere, &["-O", "-x", "--exit-on-error", &file]);
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    world.assert_same_schema(&acme, &elsewhere).await;
    let restore = world.program("pg_restore", &acme, &["--clean", "--single-transaction", &file]);
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    let session = reader(&world, &acme).await;
    for sql in READ {
        session
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    // Restored with privileges into a workspace: privileges of TenantsDB's groups are not part of the schema.
    let restore = world.program("pg_restore", &workspace, &["-O", &file]);
    let complaints = String::from_utf8_lossy(&restore.stderr).into_owned();
    for captured in world.drain(&workspace).await {
        assert_eq!(
            captured.change.broken,
            None,
            "{:?} {complaints}",
            captured.change.texts()
        );
    }
}

/// Every way to write that PostgreSQL has, as (statement, what it must fail with).
const WRITES: &[(&str, &str)] = &[
    ("INSERT INTO t VALUES (1)", "42501"),
    ("UPDATE t SET id = 2", "42501"),
    ("DELETE FROM t", "42501"),
    (
        "MERGE INTO t USING (SELECT 1 AS id) s ON t.id = s.id WHEN NOT MATCHED THEN INSERT VALUES (1)",
        "42501",
    ),
    ("TRUNCATE t", "42501"),
    ("COPY t FROM STDIN", "42501"),
    ("COPY t TO PROGRAM 'cat'", "42501"),
    ("COPY t TO '/tmp/tdb-written'", "42501"),
    ("WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone", "42501"),
    ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "42501"),
    ("SELECT * FROM t FOR UPDATE", "42501"),
    ("SELECT * FROM t FOR KEY SHARE", "42501"),
    ("LOCK TABLE t IN ROW EXCLUSIVE MODE", "42501"),
    ("CREATE TABLE x ()", "42501"),
    ("CREATE TEMPORARY TABLE x ()", "42501"),
    ("SELECT 1 AS a INTO x", "42501"),
    ("SELECT 1 AS a INTO TEMPORARY x", "42501"),
    ("CREATE SCHEMA x", "42501"),
    ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "42501"),
    ("CREATE EXTENSION pgcrypto", "42501"),
    ("CREATE PUBLICATION p", "42501"),
    ("CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw", "42704"),
    ("ALTER TABLE t ADD x int", "42501"),
    ("COMMENT ON TABLE t IS 'x'", "42501"),
    ("GRANT SELECT ON t TO PUBLIC", ""),
    ("REFRESH MATERIALIZED VIEW m", "42501"),
    ("REINDEX TABLE t", "42501"),
    ("CLUSTER t USING t_pkey", "42501"),
    ("DROP TABLE t", "42501"),
    ("SELECT nextval('s')", "42501"),
    ("SELECT setval('s', 5)", "42501"),
    ("SELECT lo_creat(-1)", "42501"),
    ("SELECT lo_create(0)", "42501"),
    ("SELECT lo_from_bytea(0, 'x')", "42501"),
    ("SELECT lo_put(4711, 0, 'x')", "42501"),
    ("SELECT lowrite(lo_open(4711, 131072), 'x')", "42501"),
    ("SELECT lo_truncate(lo_open(4711, 131072), 0)", "42501"),
    ("SELECT lo_truncate64(lo_open(4711, 131072), 0)", "42501"),
    ("SELECT lo_unlink(4711)", "42501"),
    ("SELECT lo_import('/etc/passwd')", "42501"),
    ("SELECT lo_export(4711, '/tmp/tdb-written')", "42501"),
    ("SELECT lo_open(4711, 131072)", "42501"),
    ("ALTER LARGE OBJECT 4711 OWNER TO CURRENT_USER", "42501"),
    ("GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC", "42501"),
    ("SELECT pg_logical_emit_message(true, 'a', 'b')", "42501"),
    ("SELECT pg_logical_emit_message(false, 'a', 'b')", "42501"),
    ("SELECT pg_create_restore_point('x')", "42501"),
    ("SELECT pg_switch_wal()", "42501"),
    ("SELECT pg_create_logical_replication_slot('x', 'pgoutput')", "42501"),
    ("SELECT pg_replication_origin_create('x')", "42501"),
    ("SELECT pg_import_system_collations('public')", "42501"),
    ("SELECT pg_stat_reset()", "42501"),
    ("UPDATE pg_class SET relname = 'x'", "42501"),
    ("CREATE ROLE x", "42501"),
    ("SET ROLE tdb_writers", "42501"),
    ("SET ROLE tdb_migrators", "42501"),
    ("ALTER SYSTEM SET work_mem = '1GB'", "42501"),
    ("VACUUM (FULL) t", ""),
    ("ANALYZE t", ""),
];

#[tokio::test]
async fn a_read_only_role_cannot_write_in_any_transaction() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let owner = world.session(&acme).await;
    owner
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE SEQUENCE s; CREATE MATERIALIZED VIEW m AS SELECT 1 AS a;
             SELECT lo_from_bytea(4711, 'mine')",
        )
        .await
        .unwrap();
    world.admit_readers(&acme).await;
    let state =
        "SELECT (SELECT count(*) FROM t), (SELECT last_value FROM s), (SELECT count(*) FROM pg_largeobject_metadata),
                        lo_get(4711), (SELECT relacl FROM pg_class WHERE relname = 't'), (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc)";
    let text = |rows: Vec<tokio_postgres::SimpleQueryMessage>| format!("{rows:?}");
    let before = text(owner.simple_query(state).await.unwrap());
    let session = reader(&world, &acme).await;
    for begin in ["BEGIN READ WRITE", "SET default_transaction_read_only = off; BEGIN"] {
        for (sql, expected) in WRITES {
            session.batch_execute(begin).await.unwrap();
            let tried = session.batch_execute(sql).await;
            session.batch_execute("ROLLBACK").await.unwrap();
            let outside = session.batch_execute(sql).await;
            for tried in [tried, outside] {
                match tried {
                    // GRANT, VACUUM and ANALYZE only warn about objects that they may not change.
                    Ok(()) => assert_eq!(*expected, "", "{sql} succeeded"),
                    Err(error) => assert!(
                        [*expected, "25001", "25006", "25P01"].contains(&code(&error).as_str()) || expected.is_empty(),
                        "{sql}: {error:?}"
                    ),
                }
            }
        }
    }
    assert_eq!(text(owner.simple_query(state).await.unwrap()), before);
}

/// Functions of PostgreSQL that any role can call and that write something. Those of a new version need a review.
#[tokio::test]
async fn no_builtin_function_that_public_can_call_writes() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let admin = world.cluster.connect(&acme.name).await.unwrap();
    let sql = "SELECT DISTINCT proname::text FROM pg_proc p WHERE pronamespace = 'pg_catalog'::regnamespace AND provolatile = 'v'
                 AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)
                 AND proname ~ '^(lo_|lowrite|pg_logical_emit|pg_create_|pg_drop_|pg_switch|pg_restore_|pg_clear_|pg_set_|pg_wal_|pg_stat_reset)'
               ORDER BY 1";
    let found: Vec<String> = admin
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    // These functions check privileges themselves: the attribute REPLICATION, or the right to maintain the table.
    let known = [
        "lo_close",
        "lo_get",
        "lo_lseek",
        "lo_lseek64",
        "lo_open",
        "lo_tell",
        "lo_tell64",
        "pg_clear_attribute_stats",
        "pg_clear_relation_stats",
        "pg_create_logical_replication_slot",
        "pg_create_physical_replication_slot",
        "pg_drop_replication_slot",
        "pg_restore_attribute_stats",
        "pg_restore_relation_stats",
        "pg_wal_summary_contents",
    ];
    let unknown: Vec<_> = found.iter().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[tokio::test]
async fn a_query_that_may_only_read_is_one_statement_that_cannot_write() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let owner = world.session(&acme).await;
    let schema = read_only::SCHEMA;
    // What the schema itself grants to PUBLIC: the role has no further privilege.
    owner
        .batch_execute(
            &format!("{schema}; GRANT ALL ON t TO PUBLIC; GRANT ALL ON SEQUENCE s TO PUBLIC; GRANT ALL ON SCHEMA public TO PUBLIC"),
        )
        .await
        .unwrap();
    world.admit_readers(&acme).await;
    let read = async |sql: &str| {
        let query = Query::open(&world.readonly(&acme), QueryLimits::default())
            .await
            .unwrap();
        query.run(sql, Access::ReadOnly).await
    };
    let answer = read("SELECT 1::int4 AS i, true AS b, 'x'::text AS t").await.unwrap();
    assert_eq!((answer.command.as_str(), answer.row_count), ("SELECT", 1));
    assert_eq!(answer.columns[0].type_name, "int4");
    assert_eq!(serde_json::json!(answer.rows), serde_json::json!([[1, true, "x"]]));
    assert_eq!(read("SHOW transaction_read_only").await.unwrap().rows[0][0], "on");
    assert_eq!(read("").await.unwrap().rows.len(), 0);
    let version = owner.query_one("SHOW server_version", &[]).await.unwrap();
    let release = Release::of(version.get::<_, &str>(0).as_bytes());
    let further = [
        "SELECT 1; SELECT 2",
        "COMMIT; BEGIN READ WRITE; INSERT INTO t VALUES (1)",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT run('INSERT INTO t VALUES (1)')",
        "CREATE TABLE x ()",
        "SELECT lo_create(0)",
        "SET TRANSACTION READ WRITE",
        "NOTIFY x; SELECT 1",
        "PREPARE TRANSACTION 'x'",
    ];
    for sql in REFUSED.iter().copied().chain(further) {
        let refused = read(sql).await.expect_err(sql).sqlstate();
        let effect = examine(sql.as_bytes(), release, std::iter::once(ScanSettings::USUAL));
        let expected: &[&str] = match effect {
            Effect::Refused(_) => &["25006"],
            // 0A000: from PostgreSQL 16 on the setting cannot be reset.
            _ => &["25006", "25001", "42601", "42501", "0A000"],
        };
        assert!(expected.contains(&refused.as_str()), "{sql}: {refused}");
    }
    // Harmless: the session ends with the query.
    for sql in [
        "COMMIT",
        "SET default_transaction_read_only = on",
        "SELECT pg_advisory_lock(1)",
        "SELECT 'a\\', 'DO; CALL; DO', 'ä'",
    ] {
        read(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let rows = owner
        .query_one("SELECT (SELECT count(*) FROM t), is_called FROM s", &[])
        .await
        .unwrap();
    assert_eq!((rows.get(0), rows.get(1)), (0_i64, false));
    let untouched = role_states::inspect(&world.server, &[expected(&acme, Groups::Checked)]).await;
    assert_eq!(untouched.unwrap(), [vec![]]);
}

/// Creates the roles as the oldest version did.
async fn make_old(world: &World, database: &Database) {
    let (owner, readonly) = (&database.roles.owner, &database.roles.readonly);
    let admin = world.cluster.connect(&database.name).await.unwrap();
    admin
        .batch_execute(&format!(
            "REVOKE tdb_writers FROM {owner}; REVOKE tdb_readers FROM {readonly}; GRANT pg_read_all_data TO {readonly};
             ALTER EXTENSION plpgsql DROP FUNCTION lo_create(oid); DELETE FROM pg_init_privs WHERE objoid = 'lo_create(oid)'::regprocedure;
             UPDATE pg_proc SET proacl = NULL WHERE oid = 'lo_create(oid)'::regprocedure"
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn databases_of_an_older_program_are_brought_to_the_present_rights() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let globex = world.tenant("app__globex", "app_v1").await;
    for database in [&acme, &globex] {
        world
            .session(database)
            .await
            .batch_execute("CREATE TABLE t (id int)")
            .await
            .unwrap();
        make_old(&world, database).await;
    }
    let session = reader(&world, &acme).await;
    session
        .batch_execute("SELECT count(*) FROM pg_authid, t")
        .await
        .unwrap();
    let expected = [expected(&acme, Groups::Ignored), expected(&globex, Groups::Checked)];
    let found = role_states::inspect(&world.server, &expected).await.unwrap();
    assert_eq!(found[0], vec![]);
    let excess = RoleDifference::ExcessGroup("pg_read_all_data".to_owned());
    assert!(
        found[1].iter().any(|one| one.differences.contains(&excess)),
        "{found:?}"
    );

    world.admit_readers(&acme).await;
    readers::admit(&world.server, &globex.name, &globex.roles, Readers::None)
        .await
        .unwrap();
    // The same session continues: no client was disconnected.
    session.batch_execute("SELECT count(*) FROM t").await.unwrap();
    for (database, reads) in [(&acme, true), (&globex, false)] {
        let session = reader(&world, database).await;
        assert_eq!(session.batch_execute("SELECT * FROM t").await.is_ok(), reads);
        for sql in ["SELECT * FROM pg_authid", "BEGIN READ WRITE; SELECT lo_create(0)"] {
            assert_eq!(code(&session.batch_execute(sql).await.unwrap_err()), "42501", "{sql}");
        }
        let owner = world.session(database).await;
        owner.batch_execute("SELECT lo_unlink(lo_create(0))").await.unwrap();
    }
    let now = [acme, globex].map(|database| self::expected(&database, Groups::Checked));
    assert_eq!(
        role_states::inspect(&world.server, &now).await.unwrap(),
        [vec![], vec![]]
    );
}

fn expected(database: &Database, groups: Groups) -> Expected {
    Expected {
        names: database.roles.clone(),
        secrets: database.secrets.clone(),
        groups,
    }
}

#[tokio::test]
async fn roles_that_a_client_changed_are_found_by_one_query_and_set_again() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let globex = world.tenant("app__globex", "app_v1").await;
    let all = [expected(&acme, Groups::Checked), expected(&globex, Groups::Checked)];
    let nothing = [vec![], vec![]];
    assert_eq!(role_states::inspect(&world.server, &all).await.unwrap(), nothing);

    let owner = world.session(&acme).await;
    let deployer = world
        .cluster
        .connect_as(&acme.roles.deployer, acme.secrets.deployer.expose_secret(), &acme.name)
        .await
        .unwrap();
    let readonly = reader(&world, &acme).await;
    owner
        .batch_execute(
            "ALTER ROLE CURRENT_USER PASSWORD 'known'; ALTER ROLE CURRENT_USER SET local_preload_libraries = 'nonesuch';
             ALTER ROLE CURRENT_USER IN DATABASE app__acme SET role = 'nonesuch';
             ALTER ROLE CURRENT_USER SET search_path = mine, public",
        )
        .await
        .unwrap();
    deployer
        .batch_execute(
            "ALTER ROLE CURRENT_USER PASSWORD NULL; ALTER ROLE CURRENT_USER SET search_path = evil;
             ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
        )
        .await
        .unwrap();
    readonly
        .batch_execute(
            "BEGIN READ WRITE; ALTER ROLE CURRENT_USER PASSWORD 'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$v+kt7yC+3s7Ti4xcZCmjQ2+x8yyUi7CH0WTjhUC3Lhs=:v+kt7yC+3s7Ti4xcZCmjQ2+x8yyUi7CH0WTjhUC3Lhs=';
             ALTER ROLE CURRENT_USER RESET default_transaction_read_only; COMMIT",
        )
        .await
        .unwrap();
    let admin = world.cluster.connect("postgres").await.unwrap();
    let limits = format!(
        "ALTER ROLE {} CONNECTION LIMIT 0 VALID UNTIL '2000-01-01'",
        acme.roles.readonly
    );
    admin.batch_execute(&limits).await.unwrap();

    let found = role_states::inspect(&world.server, &all).await.unwrap();
    let setting = |database: Option<&str>, name: &str| RoleDifference::Setting {
        database: database.map(str::to_owned),
        name: name.to_owned(),
    };
    let differing = |role: &str, differences: &[RoleDifference]| Differing {
        role: role.to_owned(),
        differences: differences.to_vec(),
    };
    assert_eq!(
        found[0],
        [
            differing(
                &acme.roles.owner,
                &[
                    RoleDifference::Password,
                    setting(None, "local_preload_libraries"),
                    setting(Some("app__acme"), "role")
                ]
            ),
            differing(
                &acme.roles.deployer,
                &[
                    RoleDifference::Password,
                    setting(None, "default_transaction_read_only"),
                    setting(None, "search_path")
                ]
            ),
            differing(
                &acme.roles.readonly,
                &[
                    RoleDifference::Password,
                    RoleDifference::Attributes,
                    RoleDifference::MissingSetting
                ]
            ),
        ]
    );
    assert_eq!(found[1], []);

    // A session that logged in with the changed password cannot keep it, or delay the repair by an open transaction.
    let held = "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'held'";
    owner.batch_execute(held).await.unwrap();
    let other = world.session(&globex).await;
    role_states::repair(&world.server, &all[0], &found[0]).await.unwrap();
    assert_eq!(role_states::inspect(&world.server, &all).await.unwrap(), nothing);
    for session in [&owner, &deployer, &readonly] {
        session.batch_execute("SELECT").await.unwrap_err();
    }
    other.batch_execute("SELECT").await.unwrap();
    // If another role's open transaction locks a role, the repair soon fails, so that it does not delay the repair of others.
    let held = format!("BEGIN; ALTER ROLE {} CONNECTION LIMIT 0", acme.roles.owner);
    admin.batch_execute(&held).await.unwrap();
    let begun = std::time::Instant::now();
    let held = role_states::repair(&world.server, &all[0], &found[0])
        .await
        .unwrap_err();
    assert_eq!(held.sqlstate().as_str(), "55P03");
    // Any other wait takes 30 seconds, as long as a statement may.
    assert!(begun.elapsed() < std::time::Duration::from_secs(25));
    admin.batch_execute("ROLLBACK").await.unwrap();

    for login in [world.owner(&acme), world.deployer(&acme), world.readonly(&acme)] {
        login.check().await.unwrap();
    }
    assert!(
        world
            .cluster
            .connect_as(&acme.roles.owner, "known", &acme.name)
            .await
            .is_err()
    );
    let kept = world
        .session(&acme)
        .await
        .query_one("SHOW search_path", &[])
        .await
        .unwrap();
    assert_eq!(
        kept.get::<_, &str>(0),
        "mine, public",
        "an owner's other settings are its own"
    );
}
