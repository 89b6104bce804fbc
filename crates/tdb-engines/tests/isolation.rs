//! What a role can reach with its real secret, and what planted code can do in replay, deployment and queries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeSet;

use secrecy::ExposeSecret;
use support::{Database, World, numbered};
use tdb_engines::postgres::databases;
use tdb_engines::postgres::query::{self, QueryLimits};
use tdb_engines::postgres::roles;
use tdb_engines::postgres::tenant_side::{self, TenantDdl};

async fn all_databases(world: &World) -> Vec<String> {
    let admin = world.cluster.connect("postgres").await.unwrap();
    let rows = admin.query("SELECT datname::text FROM pg_database", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Roles with their rights, memberships, database owners and grants: what no attack may change.
async fn rights(world: &World) -> BTreeSet<String> {
    let admin = world.cluster.connect("postgres").await.unwrap();
    let sql = "SELECT r::text FROM pg_roles r
               UNION ALL SELECT m::text FROM pg_auth_members m
               UNION ALL SELECT d.datname || d.datdba::regrole || d.datallowconn || coalesce(d.datacl::text, '') FROM pg_database d";
    admin
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[tokio::test]
async fn each_secret_opens_its_own_database_only() {
    let world = World::with_template().await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let globex = world.tenant("app__globex", "app_v1").await;
    let names = all_databases(&world).await;
    assert!(names.len() >= 8, "{names:?}");
    for database in [&workspace, &acme, &globex] {
        let roles = [
            (&database.roles.owner, &database.secrets.owner),
            (&database.roles.deployer, &database.secrets.deployer),
            (&database.roles.readonly, &database.secrets.readonly),
        ];
        for (role, secret) in roles {
            for name in &names {
                let opened = world
                    .cluster
                    .connect_as(role, secret.expose_secret(), name)
                    .await
                    .is_ok();
                assert_eq!(opened, *name == database.name, "{role} at {name}");
            }
        }
    }
    cannot_climb(&world, &acme, &globex).await;
}

async fn cannot_climb(world: &World, acme: &Database, globex: &Database) {
    let before = rights(world).await;
    let session = world.session(acme).await;
    let refused = [
        "SET ROLE tdb_template".to_owned(),
        "SET ROLE tdb_migrators".to_owned(),
        format!("SET ROLE {}", acme.roles.deployer),
        format!("SET ROLE {}", globex.roles.owner),
        "ALTER DATABASE app__acme RENAME TO mine".to_owned(),
        "ALTER DATABASE app__acme IS_TEMPLATE true".to_owned(),
        "CREATE DATABASE mine".to_owned(),
        "CREATE ROLE mine".to_owned(),
        "INSERT INTO tdb.deployed_change VALUES (1, '', 'done')".to_owned(),
        "UPDATE tdb.setting SET value = 'allow'".to_owned(),
    ];
    for sql in refused {
        let error = session.batch_execute(&sql).await.expect_err(&sql);
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{sql}: {error}");
    }
    // The grantor is the administrator, so there are only warnings, and no privilege changes.
    session
        .batch_execute("GRANT CONNECT ON DATABASE app__acme TO PUBLIC")
        .await
        .unwrap();
    session.batch_execute("DROP OWNED BY CURRENT_USER").await.unwrap();
    assert_eq!(rights(world).await, before);
    assert!(world.owner(acme).check().await.is_ok());
    let readonly = world
        .cluster
        .connect_as(&acme.roles.readonly, acme.secrets.readonly.expose_secret(), &acme.name)
        .await
        .unwrap();
    let write = "SET default_transaction_read_only = off; CREATE TABLE t ()";
    assert!(readonly.batch_execute(write).await.is_err());
}

const ESCAPE: &str = "EXECUTE 'RESET ROLE'; BEGIN EXECUTE 'CREATE ROLE evil SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END; \
    BEGIN EXECUTE 'ALTER ROLE CURRENT_USER SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END; \
    BEGIN EXECUTE 'SET ROLE tdb_template'; EXCEPTION WHEN OTHERS THEN NULL; END;";

#[tokio::test]
async fn code_planted_in_a_schema_gains_no_right_in_replay_deployment_or_query() {
    let world = World::with_template().await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let before = rights(&world).await;
    let planted = [
        format!("CREATE FUNCTION norm(t text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN {ESCAPE} RETURN t; END $f$"),
        format!("DO $d$ BEGIN CREATE TABLE planted (a text); {ESCAPE} END $d$"),
        "CREATE TABLE t (a text)".to_owned(),
        "ALTER TABLE t ALTER a TYPE varchar USING norm(a)".to_owned(),
        "ALTER TABLE t ADD b text DEFAULT norm('x')".to_owned(),
        "ALTER TABLE t ADD CONSTRAINT c CHECK (norm(a) IS NOT NULL)".to_owned(),
        "CREATE VIEW v AS SELECT norm(a) AS a FROM t".to_owned(),
    ];
    let developer = world.session(&workspace).await;
    for sql in &planted {
        developer.batch_execute(sql).await.unwrap();
    }
    let changes = numbered(&world.drain(&workspace).await);
    assert_eq!(changes.len(), planted.len());
    // The tenant needs rows, so that USING, DEFAULT and CHECK are called.
    let (first, rest) = changes.split_at(3);
    world.bring_up(&acme, first).await.unwrap();
    world
        .session(&acme)
        .await
        .batch_execute("INSERT INTO t VALUES ('x')")
        .await
        .unwrap();
    world.bring_up(&acme, rest).await.unwrap();
    world.admit_readers(&acme).await;
    for login in [world.owner(&acme), world.readonly(&acme), world.owner(&workspace)] {
        let sql = "BEGIN; SELECT * FROM v; COMMIT; RESET ROLE; SELECT norm('x')";
        query::run(&login, sql, &QueryLimits::default()).await.unwrap();
    }
    assert_eq!(rights(&world).await, before);
    let rows = tdb_engines::postgres::apply::deployed(&world.deployer(&acme))
        .await
        .unwrap();
    assert_eq!(rows.len(), planted.len());
    let owners =
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relowner::regrole::text <> $1";
    let admin = world.cluster.connect(&acme.name).await.unwrap();
    let strange: i64 = admin.query_one(owners, &[&acme.roles.owner]).await.unwrap().get(0);
    assert_eq!(strange, 0);
}

#[tokio::test]
async fn with_tenant_ddl_denied_only_deployments_change_a_tenant() {
    let world = World::with_template().await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    tenant_side::set_ddl(&world.server, &acme.name, TenantDdl::Deny)
        .await
        .unwrap();
    let session = world.session(&acme).await;
    for sql in [
        "CREATE TABLE t ()",
        "DO $$ BEGIN CREATE TABLE t (); END $$",
        "SELECT 1 AS a INTO t",
    ] {
        let error = session.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{sql}");
    }
    session.batch_execute("CREATE TEMPORARY TABLE t ()").await.unwrap();
    world
        .session(&workspace)
        .await
        .batch_execute("CREATE TABLE kept ()")
        .await
        .unwrap();
    let changes = numbered(&world.drain(&workspace).await);
    world.bring_up(&acme, &changes).await.unwrap();
    assert_eq!(
        session
            .batch_execute("DROP TABLE kept")
            .await
            .unwrap_err()
            .code()
            .unwrap()
            .code(),
        "42501"
    );
    tenant_side::set_ddl(&world.server, &acme.name, TenantDdl::Allow)
        .await
        .unwrap();
    session.batch_execute("DROP TABLE kept").await.unwrap();
}

#[tokio::test]
async fn closing_and_dropping_work_whatever_state_a_database_is_in() {
    let world = World::start().await;
    let (one, two) = tokio::join!(world.server.prepare(), world.server.prepare());
    assert!(one.is_ok() && two.is_ok());
    let probe = world.server.probe().await.unwrap();
    assert!(probe.version >= 150_000 && probe.max_connections == 200);
    world.base_template("app_v1").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let session = world.session(&acme).await;
    databases::close(&world.server, &acme.name).await.unwrap();
    assert!(session.simple_query("SELECT 1").await.is_err());
    assert!(world.owner(&acme).check().await.is_err());
    databases::reopen(&world.server, &acme.name).await.unwrap();
    assert!(world.owner(&acme).check().await.is_ok());

    let id = uuid::Uuid::new_v4();
    let making = databases::construction_name("testtest", id);
    let oid = databases::clone(&world.server, &making, databases::Origin::Template("app_v1"))
        .await
        .unwrap();
    assert_eq!(
        databases::clone(&world.server, &making, databases::Origin::Base)
            .await
            .unwrap(),
        oid
    );
    let admin = world.cluster.connect("postgres").await.unwrap();
    for name in ["tdb_c_testtest_x", "tdb_c_otherone_0123"] {
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    }
    let orphans = databases::constructed(&world.server, "testtest").await.unwrap();
    assert_eq!(
        orphans.iter().map(|orphan| (orphan.id, orphan.oid)).collect::<Vec<_>>(),
        [(id, oid)]
    );
    assert_eq!(
        databases::name_of(&world.server, oid).await.unwrap(),
        Some(making.clone())
    );
    // The state after an interrupted DROP DATABASE.
    admin
        .execute(
            "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1",
            &[&making],
        )
        .await
        .unwrap();
    assert!(databases::find(&world.server, &making).await.unwrap().unwrap().invalid);
    for _ in 0..2 {
        databases::drop(&world.server, &making).await.unwrap();
        databases::drop(&world.server, "app_v1").await.unwrap();
        databases::drop(&world.server, &acme.name).await.unwrap();
        roles::drop(&world.server, &acme.roles).await.unwrap();
    }
    assert_eq!(databases::find(&world.server, &making).await.unwrap(), None);
}

/// All statements with which one tenant can prevent another tenant's role from being dropped.
fn entangle(role: &str) -> String {
    format!(
        "CREATE TABLE theirs (id int); ALTER TABLE theirs ENABLE ROW LEVEL SECURITY; INSERT INTO theirs VALUES (1);
         CREATE SCHEMA shared; CREATE FUNCTION shared.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
         GRANT ALL ON theirs TO {role}; GRANT SELECT (id) ON theirs TO {role}; GRANT USAGE ON SCHEMA shared TO {role};
         GRANT EXECUTE ON FUNCTION shared.f() TO {role}; CREATE POLICY only_them ON theirs TO {role};
         CREATE POLICY us_too ON theirs TO CURRENT_USER, {role};
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}"
    )
}

/// A wait for another tenant's open transaction ends after the 30 seconds that a statement may take.
const NO_WAIT: std::time::Duration = std::time::Duration::from_secs(25);

#[tokio::test]
async fn neither_deletion_nor_publication_waits_for_what_another_tenant_granted() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let build = world.tenant("app_v2", "app_v1").await;
    let globex = world.tenant("app__globex", "app_v1").await;
    let session = world.session(&globex).await;
    session.batch_execute(&entangle(&acme.roles.owner)).await.unwrap();
    let hanging = world.session(&globex).await;
    let grants = format!(
        "BEGIN; CREATE TABLE pending (); GRANT SELECT ON pending TO {}, {}, {}",
        acme.roles.readonly, build.roles.owner, build.roles.deployer
    );
    hanging.batch_execute(&grants).await.unwrap();

    let server = &world.server;
    let delete = async {
        databases::drop(server, &acme.name).await.unwrap();
        roles::drop(server, &acme.roles).await.unwrap();
        roles::drop(server, &acme.roles).await.unwrap();
    };
    tokio::time::timeout(NO_WAIT, delete).await.expect("the deletion waits");
    let publish = async {
        for _ in 0..2 {
            databases::publish_template(server, &build.name, Some(&build.roles))
                .await
                .unwrap();
        }
    };
    tokio::time::timeout(NO_WAIT, publish)
        .await
        .expect("the publication waits");
    world.tenant("app__new", &build.name).await;

    let admin = world.cluster.connect("postgres").await.unwrap();
    let left = "SELECT rolname::text, rolcanlogin OR rolpassword IS NOT NULL FROM pg_authid WHERE starts_with(rolname::text, $1)";
    for (roles, prefix) in [
        (&acme.roles, "r_"),
        (&acme.roles, "tdb_gone_r_"),
        (&build.roles, "tdb_gone_r_"),
    ] {
        for name in [&roles.owner, &roles.deployer, &roles.readonly] {
            let name = name.replacen("r_", prefix, 1);
            let rows = admin.query(left, &[&name]).await.unwrap();
            let usable = rows.iter().any(|row| row.get::<_, bool>(1));
            assert!(!usable && (prefix != "r_" || rows.is_empty()), "{name}: {rows:?}");
        }
    }
    // The open transaction prevents dropping some of them; after its end the sweep drops all.
    assert!(
        !roles::drop_disabled(server)
            .await
            .unwrap()
            .contains(&format!("tdb_gone_{}", build.roles.owner))
    );
    hanging.batch_execute("COMMIT").await.unwrap();
    roles::drop_disabled(server).await.unwrap();
    assert!(admin.query(left, &[&"tdb_gone_"]).await.unwrap().is_empty());
    let kept = session.query_one("SELECT count(*) FROM theirs", &[]).await.unwrap();
    assert_eq!(kept.get::<_, i64>(0), 1, "the other tenant's own things stay");
}

/// Runs in the deployer's session, which a function without SECURITY DEFINER can leave the owner's role for.
const FORGERIES: [&str; 3] = [
    "INSERT INTO tdb.deployed_change VALUES (9, '\\x00', 'done')",
    "UPDATE tdb.deployed_change SET checksum = '\\x00'",
    "UPDATE tdb.deployed_change SET state = 'started'",
];

/// A tenant replaces a function that the developer's change calls.
#[tokio::test]
async fn code_in_a_change_cannot_forge_what_is_recorded_as_deployed() {
    let world = World::start().await;
    world.base_template("app_v1").await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let globex = world.tenant("app__globex", "app_v1").await;
    let developer = world.session(&workspace).await;
    for sql in [
        "CREATE FUNCTION norm(t text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN t; END $f$",
        "CREATE TABLE t (a text)",
        "ALTER TABLE t ADD b text DEFAULT norm('x')",
    ] {
        developer.batch_execute(sql).await.unwrap();
    }
    let changes = numbered(&world.drain(&workspace).await);
    // Adds the parameters of statements to the context of errors.
    let admin = world.cluster.connect("postgres").await.unwrap();
    let verbose = format!(
        "ALTER ROLE {} SET log_parameter_max_length_on_error = -1",
        globex.roles.deployer
    );
    admin.batch_execute(&verbose).await.unwrap();
    for database in [&acme, &globex] {
        world.bring_up(database, &changes[..2]).await.unwrap();
    }
    let owner = world.session(&acme).await;
    owner.batch_execute("INSERT INTO t VALUES ('x')").await.unwrap();
    let recorded = async |database: &Database| {
        let login = world.deployer(database);
        tdb_engines::postgres::apply::deployed(&login).await.unwrap()
    };
    let before = (recorded(&acme).await, recorded(&globex).await);
    for forgery in FORGERIES {
        // With and without a subtransaction, whose rows have another number.
        for body in [
            format!("SET ROLE tdb_migrators; {forgery}; RESET ROLE; RETURN t;"),
            format!(
                "BEGIN SET ROLE tdb_migrators; {forgery}; EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN t;"
            ),
        ] {
            let planted = format!(
                "CREATE OR REPLACE FUNCTION norm(t text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN {body} END $f$"
            );
            owner.batch_execute(&planted).await.unwrap();
            let refused = world.bring_up(&acme, &changes).await.unwrap_err();
            assert_eq!(
                (refused.change, refused.sqlstate.as_str()),
                (Some(3), "55000"),
                "{forgery}: {refused:?}"
            );
            assert!(refused.message.contains("tdb.deployed_change"), "{refused:?}");
            assert_eq!((recorded(&acme).await, recorded(&globex).await), before);
        }
    }
    world.bring_up(&globex, &changes).await.unwrap();
    let honest = "CREATE OR REPLACE FUNCTION norm(t text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN t; END $f$";
    owner.batch_execute(honest).await.unwrap();
    world.bring_up(&acme, &changes).await.unwrap();
}

/// Otherwise the tenant could log in as the deployer until the deployment ends.
#[tokio::test]
async fn a_deployers_password_that_code_in_a_change_sets_is_restored_after_the_change() {
    let world = World::start().await;
    world.base_template("app_v1").await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let developer = world.session(&workspace).await;
    for sql in [
        "CREATE FUNCTION norm(t text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN t; END $f$",
        "CREATE TABLE t (a text)",
        "ALTER TABLE t ADD b text DEFAULT norm('x')",
        "ALTER TABLE t ADD c text DEFAULT norm('x')",
    ] {
        developer.batch_execute(sql).await.unwrap();
    }
    let changes = numbered(&world.drain(&workspace).await);
    world.bring_up(&acme, &changes[..2]).await.unwrap();
    let owner = world.session(&acme).await;
    let planted = "INSERT INTO t VALUES ('x');
        CREATE OR REPLACE FUNCTION norm(t text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN
          SET ROLE none; ALTER ROLE CURRENT_USER PASSWORD 'known'; RESET ROLE; RETURN t; END $f$";
    owner.batch_execute(planted).await.unwrap();
    let applied = world.bring_up(&acme, &changes).await.unwrap();
    assert_eq!(applied.applied, [3, 4], "the deployment's own session continues");
    world.deployer(&acme).check().await.unwrap();
    let known = world.cluster.connect_as(&acme.roles.deployer, "known", &acme.name);
    assert!(known.await.is_err());
}

/// A deferred trigger that defers itself again runs at COMMIT, after the row was recorded. It can only make its own change fail.
#[tokio::test]
async fn a_trigger_that_runs_at_commit_cannot_write_what_is_recorded_as_deployed() {
    let world = World::start().await;
    world.base_template("app_v1").await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let globex = world.tenant("app__globex", "app_v1").await;
    let before = rights(&world).await;
    let developer = world.session(&workspace).await;
    let first = [
        "CREATE TABLE t (a text)",
        "CREATE FUNCTION put() RETURNS void LANGUAGE sql AS 'INSERT INTO t VALUES (1)'",
        "DO $$ BEGIN PERFORM put(); CREATE TABLE by_do (); END $$",
        "CREATE TABLE later ()",
    ];
    for sql in first {
        developer.batch_execute(sql).await.unwrap();
    }
    let changes = numbered(&world.drain(&workspace).await);
    // A database of an older version, which the next deployment protects.
    let administrator = world.cluster.connect(&acme.name).await.unwrap();
    let older = "DROP TRIGGER guard_record ON tdb.deployed_change; ALTER EXTENSION plpgsql DROP FUNCTION tdb.guard_record(); \
                 DROP FUNCTION tdb.guard_record()";
    administrator.batch_execute(older).await.unwrap();
    drop(administrator);
    world.bring_up(&acme, &changes[..2]).await.unwrap();
    let planted = "
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
          EXECUTE 'SET ROLE ' || (SELECT relowner::regrole FROM pg_class WHERE oid = TG_RELID);
          IF NEW.a::int < 9 THEN SET CONSTRAINTS ALL DEFERRED; INSERT INTO public.t VALUES (NEW.a::int + 1); RETURN NEW; END IF;
          SET ROLE tdb_migrators; UPDATE tdb.deployed_change SET checksum = sha256('x'); RESET ROLE; RETURN NEW;
          CAUGHT
        END $f$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION again()";
    let owner = world.session(&acme).await;
    owner.batch_execute(&planted.replace("CAUGHT", "")).await.unwrap();
    let refused = world.bring_up(&acme, &changes).await.unwrap_err();
    // Since PostgreSQL 18 it runs as the role that caused the event, and cannot set another.
    let modern = world.server.probe().await.unwrap().version >= 180_000;
    let sqlstate = if modern { "42501" } else { "55000" };
    assert_eq!(
        (refused.change, refused.sqlstate.as_str()),
        (Some(3), sqlstate),
        "{refused:?}"
    );
    let caught = planted
        .replace("CAUGHT", "EXCEPTION WHEN others THEN RETURN NEW;")
        .replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION");
    let (function, _) = caught.split_once("CREATE CONSTRAINT").unwrap();
    owner.batch_execute(function).await.unwrap();
    for database in [&acme, &globex] {
        world.bring_up(database, &changes).await.unwrap();
        let nothing: Vec<i64> = Vec::new();
        assert_eq!(world.bring_up(database, &changes).await.unwrap().applied, nothing);
    }
    assert_eq!(rights(&world).await, before);
}
