//! Setting up a store: repeatedly, concurrently, with a changed migration, without privileges, beside another installation.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

mod support;

use std::error::Error;
use std::num::NonZeroUsize;

use support::{DATABASE, OWNER, OWNER_PASSWORD, World, cluster, key, settings, tls, url, url_of};
use tdb_store::migrations::{MigrationState, migrate, status};
use tdb_store::{SetupError, Store, StoreSettings, StoreUrl};

const OTHER: &str = "another_store";

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let cluster = cluster().await;
    let key = key();
    assert!(
        status(&url(&cluster), &tls())
            .await
            .unwrap()
            .iter()
            .all(|m| m.state == MigrationState::Pending)
    );
    let not_yet = Store::connect(&settings(&cluster), key.clone(), &tls())
        .await
        .unwrap_err();
    assert!(matches!(not_yet, SetupError::NotMigrated), "{not_yet}");
    assert!(!migrate(&url(&cluster), &key, &tls()).await.unwrap().is_empty());
    let first = Store::connect(&settings(&cluster), key.clone(), &tls()).await.unwrap();
    assert!(migrate(&url(&cluster), &key, &tls()).await.unwrap().is_empty());
    let second = Store::connect(&settings(&cluster), key, &tls()).await.unwrap();
    assert_eq!(first.installation(), second.installation());
    assert_eq!(first.installation().len(), 8);
    let listed = status(&url(&cluster), &tls()).await.unwrap();
    assert!(
        listed.iter().all(|m| matches!(m.state, MigrationState::Applied { .. })),
        "{listed:?}"
    );
}

#[tokio::test]
async fn programs_that_start_concurrently_migrate_once() {
    let cluster = cluster().await;
    let key = key();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (url, key) = (url(&cluster), key.clone());
            tokio::spawn(async move { migrate(&url, &key, &tls()).await })
        })
        .collect();
    let mut applied = 0;
    for task in tasks {
        applied += task.await.unwrap().unwrap().len();
    }
    assert_eq!(applied, status(&url(&cluster), &tls()).await.unwrap().len());
    Store::connect(&settings(&cluster), key, &tls()).await.unwrap();
}

#[tokio::test]
async fn a_session_that_ends_while_it_waits_for_the_lock_is_not_reported_as_a_running_migration() {
    let world = World::start().await;
    let superuser = world.superuser().await;
    superuser
        .batch_execute("SELECT pg_advisory_lock(8390876222181731424)")
        .await
        .unwrap();
    let (url, tls) = (world.url(), tls());
    let waiting = migrate(&url, &world.master_key, &tls);
    let terminating = async {
        // Other tests use other databases of the cluster.
        let terminate = "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l
            WHERE l.locktype = 'advisory' AND NOT l.granted
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        while superuser.query_one(terminate, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
    };
    let (migrated, ()) = tokio::join!(waiting, terminating);
    let error = migrated.unwrap_err();
    assert!(matches!(error, SetupError::Store(_)), "{error}");
}

/// Applying the access rules locks every table, and other processes often hold locks on some of them.
#[tokio::test]
async fn a_start_beside_running_processes_waits_for_none_of_their_transactions() {
    let world = World::start().await;
    let held = world.store.jobs().await.unwrap();
    held.query("SELECT FROM workspaces", &[]).await.unwrap();
    let (url, tls) = (world.url(), tls());
    // If it waited for a lock, it would fail after a minute.
    migrate(&url, &world.master_key, &tls).await.unwrap();
    held.rollback().await.unwrap();
}

#[tokio::test]
async fn access_rules_that_are_not_in_force_are_applied_as_soon_as_no_transaction_is_in_the_way() {
    let world = World::start().await;
    let superuser = world.superuser().await;
    let state = "SELECT count(*) FILTER (WHERE polname = 'own_project'),
                        has_table_privilege((SELECT name FROM control_plane.store_roles WHERE purpose = 'jobs'),
                                            'control_plane.tenants', 'SELECT')
                   FROM pg_policy WHERE polrelid = 'control_plane.workspaces'::regclass";
    let in_force = async || {
        let row = superuser.query_one(state, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, bool>(1))
    };
    assert_eq!(in_force().await, (1, true));
    superuser
        .batch_execute("DROP POLICY own_project ON control_plane.workspaces")
        .await
        .unwrap();
    let held = world.store.jobs().await.unwrap();
    held.query("SELECT FROM workspaces", &[]).await.unwrap();
    let (url, key) = (world.url(), world.master_key.clone());
    let migrating = tokio::spawn(async move { migrate(&url, &key, &tls()).await });
    world.until_a_session_waits_for_a_lock().await;
    assert!(!migrating.is_finished());
    // Of two transactions that wait for each other, one would be ended.
    held.query("SELECT FROM tenants, servers, deployments", &[])
        .await
        .unwrap();
    held.rollback().await.unwrap();
    migrating.await.unwrap().unwrap();
    assert_eq!(in_force().await, (1, true));
    let jobs = "SELECT name FROM control_plane.store_roles WHERE purpose = 'jobs'";
    let jobs: String = superuser.query_one(jobs, &[]).await.unwrap().get(0);
    superuser
        .batch_execute(&format!("REVOKE SELECT ON control_plane.tenants FROM {jobs}"))
        .await
        .unwrap();
    migrate(&world.url(), &world.master_key, &tls()).await.unwrap();
    assert_eq!(in_force().await, (1, true));
}

#[tokio::test]
async fn a_migration_that_was_changed_or_is_newer_stops_everything() {
    let world = World::start().await;
    let superuser = world.superuser().await;
    superuser
        .batch_execute("UPDATE control_plane.schema_migrations SET checksum = 'x'")
        .await
        .unwrap();
    let error = migrate(&world.url(), &world.master_key, &tls()).await.unwrap_err();
    assert!(matches!(&error, SetupError::Changed { number: 1, .. }), "{error}");
    let error = Store::connect(&world.settings(), world.master_key.clone(), &tls())
        .await
        .unwrap_err();
    assert!(matches!(&error, SetupError::Changed { number: 1, .. }), "{error}");
    let newer = "DELETE FROM control_plane.schema_migrations;
                 INSERT INTO control_plane.schema_migrations VALUES (999, 'later', 'y')";
    superuser.batch_execute(newer).await.unwrap();
    let error = migrate(&world.url(), &world.master_key, &tls()).await.unwrap_err();
    assert!(matches!(&error, SetupError::Newer { number: 999, .. }), "{error}");
}

#[tokio::test]
async fn another_master_key_is_refused() {
    let world = World::start().await;
    let error = Store::connect(&world.settings(), key(), &tls()).await.unwrap_err();
    assert!(matches!(error, SetupError::MasterKey), "{error}");
    let error = migrate(&world.url(), &key(), &tls()).await.unwrap_err();
    assert!(matches!(error, SetupError::MasterKey), "{error}");
}

#[tokio::test]
async fn an_owner_that_cannot_create_roles_gets_the_sql_and_can_continue_after_it() {
    let cluster = cluster().await;
    let key = key();
    let superuser = cluster.connect("postgres").await.unwrap();
    superuser
        .batch_execute(&format!("ALTER ROLE {OWNER} NOCREATEROLE"))
        .await
        .unwrap();
    let error = migrate(&url(&cluster), &key, &tls()).await.unwrap_err();
    let SetupError::MissingRoles { sql } = &error else {
        panic!("{error}")
    };
    assert_eq!(sql.matches("CREATE ROLE cp_").count(), 3, "{sql}");
    superuser.batch_execute(sql).await.unwrap();
    migrate(&url(&cluster), &key, &tls()).await.unwrap();
    Store::connect(&settings(&cluster), key, &tls())
        .await
        .unwrap()
        .ping()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_role_of_the_store_that_became_mighty_is_refused() {
    let world = World::start().await;
    let name = format!("cp_api_{}", world.store.installation());
    world
        .superuser()
        .await
        .batch_execute(&format!("ALTER ROLE {name} BYPASSRLS"))
        .await
        .unwrap();
    let error = migrate(&world.url(), &world.master_key, &tls()).await.unwrap_err();
    assert!(
        matches!(&error, SetupError::TooMighty { name: found } if *found == name),
        "{error}"
    );
}

#[tokio::test]
async fn a_refused_login_names_the_address_and_no_statement() {
    let cluster = cluster().await;
    let port = cluster.port();
    for (login, database, refusal) in [
        (format!("{OWNER}:wrong"), DATABASE, "password authentication failed"),
        (
            format!("{OWNER}:{OWNER_PASSWORD}"),
            "absent",
            "\"absent\" does not exist",
        ),
    ] {
        let text = format!("postgresql://{login}@127.0.0.1:{port}/{database}?sslmode=disable");
        let refused = migrate(&StoreUrl::parse(&text.into()).unwrap(), &key(), &tls()).await;
        let error: Box<dyn Error> = Box::new(refused.unwrap_err());
        let text = error.to_string();
        let start = format!("cannot log in to the metadata store at 127.0.0.1:{port}: ");
        assert!(text.starts_with(&start) && text.contains(refusal), "{text}");
        assert!(text.contains("(SQLSTATE ") && error.source().is_none(), "{text}");
    }
}

#[tokio::test]
async fn two_installations_share_a_cluster() {
    let world = World::start().await;
    let superuser = world.superuser().await;
    superuser
        .batch_execute(&format!("CREATE DATABASE {OTHER} OWNER {OWNER}"))
        .await
        .unwrap();
    let (other_url, other_key) = (url_of(&world.cluster, OTHER), key());
    migrate(&other_url, &other_key, &tls()).await.unwrap();
    let settings = StoreSettings {
        url: other_url,
        connections_max: NonZeroUsize::MIN,
    };
    let other = Store::connect(&settings, other_key, &tls()).await.unwrap();
    assert_ne!(other.installation(), world.store.installation());
    // The roles of one installation cannot access the other's database, and other roles can access neither.
    let sql = "SELECT r.rolname::text, d.datname::text FROM pg_roles r, pg_database d
               WHERE has_database_privilege(r.oid, d.oid, 'CONNECT') AND d.datname IN ($3, $1)
                 AND NOT r.rolsuper AND r.rolname NOT LIKE 'pg\\_%' AND r.rolname <> $2 ORDER BY 1, 2";
    let rows = superuser.query(sql, &[&world.database, &OWNER, &OTHER]).await.unwrap();
    let found: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut expected = Vec::new();
    for purpose in ["api", "data_plane", "jobs"] {
        for (store, database) in [(&world.store, world.database.as_str()), (&other, OTHER)] {
            expected.push((format!("cp_{purpose}_{}", store.installation()), database.to_owned()));
        }
    }
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn tls_is_tried_and_demanded_as_sslmode_says() {
    let cluster = cluster().await;
    let of = |mode: &str| {
        let port = cluster.port();
        StoreUrl::parse(&format!("postgresql://{OWNER}:owner@127.0.0.1:{port}/{DATABASE}?sslmode={mode}").into())
            .unwrap()
    };
    status(&of("prefer"), &tls()).await.unwrap();
    status(&of("disable"), &tls()).await.unwrap();
    // The cluster has no certificate.
    assert!(status(&of("require"), &tls()).await.is_err());
}

/// The migration that moved databases to separate tables keeps the data of workspaces, templates and tenants.
#[tokio::test]
async fn databases_of_an_older_store_keep_their_place() {
    let cluster = cluster().await;
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute("CREATE DATABASE older").await.unwrap();
    let client = cluster.connect("older").await.unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let run = async |number: u32| {
        let mut files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
        let prefix = format!("{number:04}_");
        let file = files.find(|file| file.file_name().unwrap().to_str().unwrap().starts_with(&prefix));
        let sql = std::fs::read_to_string(file.unwrap()).unwrap();
        client.batch_execute(&sql).await.unwrap();
    };
    client
        .batch_execute("CREATE SCHEMA control_plane; SET search_path = control_plane")
        .await
        .unwrap();
    for number in 1..=8 {
        run(number).await;
    }
    let place = |name: &str| format!("'main', '{name}', 7, '{name}', 'o', '{name}_dep', 'd', '{name}_ro', 'r'");
    const COLUMNS: &str = "server, physical_database, database_oid, owner_role, owner_secret, deployer_role, deployer_secret, \
                           readonly_role, readonly_secret";
    let rows = format!(
        "INSERT INTO projects VALUES ('prj_aaaaaaaaaa', gen_random_uuid(), 'p');
         INSERT INTO servers (name, host, port, tls, admin_user, admin_secret) VALUES ('main', 'h', 1, 'disable', 'a', 's');
         INSERT INTO workspaces (id, project_id, blueprint, status, {COLUMNS})
             VALUES ('00000000-0000-0000-0000-000000000001', 'prj_aaaaaaaaaa', 'app', 'ready', {});
         INSERT INTO templates (id, workspace_id, project_id, status, step, {COLUMNS})
             VALUES ('00000000-0000-0000-0000-000000000002', '00000000-0000-0000-0000-000000000001', 'prj_aaaaaaaaaa',
                     'published', 'published', {});
         INSERT INTO tenants (project_id, name, status, environment) VALUES ('prj_aaaaaaaaaa', 'acme', 'ready', 'production');
         INSERT INTO tenant_databases (id, project_id, tenant, blueprint, workspace_id, status, {COLUMNS})
             VALUES ('00000000-0000-0000-0000-000000000003', 'prj_aaaaaaaaaa', 'acme', 'app',
                     '00000000-0000-0000-0000-000000000001', 'ready', {})",
        place("w"),
        place("t"),
        place("d")
    );
    client.batch_execute(&rows).await.unwrap();
    run(9).await;
    let sql = "SELECT concat_ws(' ', right(coalesce(p.workspace_id, p.template_id, p.tenant_database_id)::text, 1), p.part, p.server,
                                p.name, g.oid, g.owner_role, g.deployer_role, convert_from(g.readonly_secret, 'UTF8'))
                 FROM physical_databases p JOIN postgres_databases g USING (id) ORDER BY 1";
    let kept: Vec<String> = client
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let expected = [
        "1 serving main w 7 w w_dep r",
        "2 serving main t 7 t t_dep r",
        "3 serving main d 7 d d_dep r",
    ];
    assert_eq!(kept, expected);
}
