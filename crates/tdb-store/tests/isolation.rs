//! Attacks on the store with its own passwords: what row-level security and grants protect if the code above fails. The tables
//! are listed from the catalog, so that new ones are tested automatically.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

mod support;

use std::collections::BTreeSet;

use support::World;
use tdb_auth::ApiKey;
use tdb_contract::{Rights, Scope};
use tdb_names::{ProjectId, WorkspaceId};
use tdb_store::{Store, StoreError, api_keys, credentials, events, projects, servers, templates};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Has rows in every table with a project column; the test fails if one is missing.
async fn fill(world: &World, project: &ProjectId) -> WorkspaceId {
    let (blueprint, tenant) = ("app".parse().unwrap(), "acme".parse().unwrap());
    let workspace = world.workspace(project, &blueprint).await;
    let database = world.tenant(project, &tenant, &blueprint, workspace).await;
    let tx = world.store.project(project).await.unwrap();
    api_keys::insert(&tx, project, "key", &ApiKey::generate().unwrap(), &["admin"])
        .await
        .unwrap();
    credentials::create(&tx, project, &Scope::Tenant(tenant), Rights::ReadWrite, None)
        .await
        .unwrap();
    let physical = world.physical(&format!("template_{workspace}"));
    templates::insert(&tx, uuid::Uuid::new_v4(), project, workspace, &physical, None)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let sql = format!(
        "INSERT INTO control_plane.workspace_sessions (workspace_id, project_id, server, server_pid, credential_id, client_address)
           VALUES ('{workspace}', '{project}', 'main', 1, gen_random_uuid(), '::1');
         INSERT INTO control_plane.changes (workspace_id, project_id, id, xid, statements, body, checksum, author, state, committed_at)
           VALUES ('{workspace}', '{project}', 1, 1, '[]', '{{}}', '', 'me', 'pending', now());
         INSERT INTO control_plane.versions (workspace_id, project_id, number, change_ids, content_hash, author, statements, verified)
           VALUES ('{workspace}', '{project}', 1, '{{1}}', '', 'me', 1, true);
         INSERT INTO control_plane.version_facts VALUES ('{workspace}', '{project}', 1, 15, 'hash', '{{}}');
         INSERT INTO control_plane.log_facts VALUES ('{workspace}', '{project}', 1, 15, '{{}}');
         INSERT INTO control_plane.drift_checks VALUES ('{database}', '{project}', '{workspace}', 1, now(), '[]', NULL);
         INSERT INTO control_plane.workspace_drift_checks VALUES ('{workspace}', '{project}', now(), '[]');
         INSERT INTO control_plane.deployments (id, project_id, workspace_id, blueprint, version, status, author)
           VALUES ('dep_' || substr('{project}', 5), '{project}', '{workspace}', 'app', 1, 'running', 'me');
         INSERT INTO control_plane.database_roles (database_id, project_id) VALUES ('{workspace}', '{project}');
         INSERT INTO control_plane.declared_roles (project_id, name) VALUES ('{project}', 'anon');
         INSERT INTO control_plane.declared_role_faults (project_id, name, server, fault) VALUES ('{project}', 'anon', 'main', 'x');
         INSERT INTO control_plane.idempotency_keys (project_id, key, request, attempt, lease_until)
           VALUES ('{project}', 'k', sha256('k'), gen_random_uuid(), now());
         INSERT INTO control_plane.deployment_targets (deployment_id, project_id, workspace_id, database_id, tenant, server, status,
             from_version, to_version)
           VALUES ('dep_' || substr('{project}', 5), '{project}', '{workspace}', '{database}', 'acme', 'main', 'pending', 1, 1);"
    );
    world.superuser().await.batch_execute(&sql).await.unwrap();
    workspace
}

async fn world() -> (World, ProjectId, ProjectId) {
    let world = World::start().await;
    world.server().await;
    let (victim, attacker) = (world.project().await, world.project().await);
    fill(&world, &victim).await;
    (world, victim, attacker)
}

/// The tables of the store, and those that have a project column.
async fn tables(world: &World) -> (BTreeSet<String>, BTreeSet<String>) {
    let sql = "SELECT c.relname::text, EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname LIKE 'project%')
               FROM pg_class c WHERE c.relnamespace = 'control_plane'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')";
    let rows = world.superuser().await.query(sql, &[]).await.unwrap();
    let all = rows.iter().map(|row| row.get(0)).collect();
    let owned = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
    (all, owned)
}

async fn count(client: &Client, table: &str) -> Result<i64, tokio_postgres::Error> {
    let row = client
        .query_one(&format!("SELECT count(*) FROM control_plane.{table}"), &[])
        .await?;
    Ok(row.get(0))
}

fn refused(result: Result<impl Sized, tokio_postgres::Error>) -> bool {
    matches!(result, Err(e) if e.code().is_some_and(|code| code.code() == "42501"))
}

#[tokio::test]
async fn the_apis_own_password_reads_nothing_without_the_right_project() {
    let (world, victim, attacker) = world().await;
    let (all, owned) = tables(&world).await;
    let (owner, api) = (world.owner().await, world.login("api").await);
    let projects = ["", attacker.as_str(), "prj_aaaaaaaaaa", "%", "' OR true --"];
    for table in &owned {
        // RESET first: a session in which it was never set is a separate case.
        api.batch_execute("RESET tdb.project").await.unwrap();
        assert!(
            count(&owner, table).await.unwrap() > 0,
            "{table} is empty: fill it in this test"
        );
        assert_eq!(count(&api, table).await.unwrap(), 0, "{table} without a project");
        for project in projects {
            api.execute("SELECT set_config('tdb.project', $1, false)", &[&project])
                .await
                .unwrap();
            let own = i64::from(table == "projects" && project == attacker.as_str());
            assert_eq!(
                count(&api, table).await.unwrap(),
                own,
                "{table} with project {project:?}"
            );
        }
        api.execute("SELECT set_config('tdb.project', $1, false)", &[&victim.as_str()])
            .await
            .unwrap();
        assert!(count(&api, table).await.unwrap() > 0, "{table} with its own project");
    }
    let readable: Vec<&String> = {
        let mut readable = Vec::new();
        for table in all.difference(&owned) {
            if count(&api, table).await.is_ok() {
                readable.push(table);
            }
        }
        readable
    };
    assert_eq!(readable, ["servers"], "tables without a project that the API reads");
    assert!(refused(
        api.query("SELECT admin_secret FROM control_plane.servers", &[]).await
    ));
}

#[tokio::test]
async fn the_apis_own_password_writes_no_row_of_another_project() {
    let (world, victim, attacker) = world().await;
    let (_, owned) = tables(&world).await;
    let (owner, api) = (world.owner().await, world.login("api").await);
    api.execute("SELECT set_config('tdb.project', $1, false)", &[&attacker.as_str()])
        .await
        .unwrap();
    for table in owned.iter().filter(|table| *table != "projects") {
        let before = count(&owner, table).await.unwrap();
        for sql in [
            format!("UPDATE control_plane.{table} SET project_id = '{attacker}'"),
            format!("UPDATE control_plane.{table} SET project_id = '{attacker}' WHERE project_id = '{victim}'"),
            format!("DELETE FROM control_plane.{table} WHERE project_id = '{victim}'"),
            format!("DELETE FROM control_plane.{table}"),
        ] {
            assert_eq!(api.execute(&sql, &[]).await.unwrap(), 0, "{sql}");
        }
        assert_eq!(count(&owner, table).await.unwrap(), before, "{table}");
        // A row that is moved to another project is refused; the policy is checked before any constraint.
        let overriding = "OVERRIDING SYSTEM VALUE";
        let copy = format!(
            "INSERT INTO control_plane.{table} {overriding} SELECT (jsonb_populate_record(NULL::control_plane.{table}, $1)).*"
        );
        let row = format!("SELECT to_jsonb(t) FROM control_plane.{table} t WHERE project_id = '{victim}' LIMIT 1");
        let row: serde_json::Value = owner.query_one(&row, &[]).await.unwrap().get(0);
        assert!(refused(api.execute(&copy, &[&row]).await), "{copy}");
    }
    // A foreign key cannot refer to another project either: a tenant of this project in a workspace of another.
    let mine = world.store.project(&attacker).await.unwrap();
    let theirs: uuid::Uuid = owner
        .query_one("SELECT id FROM control_plane.workspaces", &[])
        .await
        .unwrap()
        .get(0);
    let change = "INSERT INTO changes (workspace_id, project_id, id, xid, statements, body, checksum, author, state, committed_at)
                  VALUES ($1, $2, 7, 7, '[]', '{}', '', 'me', 'pending', now())";
    let error = mine.execute(change, &[&theirs, &attacker.as_str()]).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn the_data_planes_password_opens_functions_and_no_table() {
    let (world, ..) = world().await;
    let (all, _) = tables(&world).await;
    let data_plane = world.login("data_plane").await;
    for table in &all {
        for sql in [
            format!("SELECT 1 FROM control_plane.{table}"),
            format!("DELETE FROM control_plane.{table}"),
            format!("TRUNCATE control_plane.{table}"),
        ] {
            assert!(refused(data_plane.execute(&sql, &[]).await), "{sql}");
        }
    }
    assert!(refused(
        data_plane.batch_execute("CREATE TABLE control_plane.mine ()").await
    ));
    assert!(refused(
        data_plane.batch_execute("CREATE TEMPORARY TABLE mine ()").await
    ));
    let sql = "SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'control_plane'::regnamespace
               AND has_function_privilege($1, p.oid, 'EXECUTE') ORDER BY 1";
    let user: String = data_plane
        .query_one("SELECT current_user::text", &[])
        .await
        .unwrap()
        .get(0);
    let rows = data_plane.query(sql, &[&user]).await.unwrap();
    let functions: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let expected = [
        "acknowledge",
        "creation_attempts",
        "credential_by_user",
        "events_after",
        "key_by_prefix",
        "newest_epoch",
        "retire_proxy",
        "route",
    ];
    assert_eq!(functions, expected);
}

#[tokio::test]
async fn jobs_see_all_projects_but_no_keys_and_not_the_stores_secrets() {
    let (world, ..) = world().await;
    let (all, owned) = tables(&world).await;
    let jobs = world.login("jobs").await;
    for table in &all {
        let readable = count(&jobs, table)
            .await
            .is_ok_and(|rows| rows > 0 || table == "proxies");
        let expected = table != "api_keys" && (owned.contains(table) || table == "servers" || table == "proxies");
        assert_eq!(readable, expected, "{table}");
    }
}

#[tokio::test]
async fn the_stores_roles_are_weak_and_every_table_is_under_forced_security() {
    let (world, ..) = world().await;
    let superuser = world.superuser().await;
    let sql = "SELECT count(*), count(*) FILTER (WHERE rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)
               FROM pg_roles WHERE rolname LIKE 'cp\\_%' AND right(rolname, 8) = $1";
    let row = superuser.query_one(sql, &[&world.store.installation()]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (3, 0));
    let sql = "SELECT count(*) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'project_id'
               WHERE c.relnamespace = 'control_plane'::regnamespace AND c.relkind IN ('r', 'p')
                 AND NOT (c.relrowsecurity AND c.relforcerowsecurity)";
    assert_eq!(superuser.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
    // Other roles of the cluster cannot connect.
    superuser
        .batch_execute("CREATE ROLE stranger LOGIN PASSWORD 'x'")
        .await
        .unwrap();
    assert!(
        world
            .cluster
            .connect_as("stranger", "x", &world.database)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_project_set_in_one_transaction_is_gone_in_the_next() {
    let (world, victim, _) = world().await;
    let list = |store: Store, project: ProjectId| async move {
        let tx = store.project(&project).await.unwrap();
        let rows = tx.query("SELECT 1 FROM tenants", &[]).await.unwrap().len();
        tx.commit().await.unwrap();
        rows
    };
    let other = world.project().await;
    // More rounds than the pool has connections, so that each is used for both.
    for _ in 0..20 {
        assert_eq!(list(world.store.clone(), victim.clone()).await, 1);
        assert_eq!(list(world.store.clone(), other.clone()).await, 0);
    }
    let api = world.login("api").await;
    let shown = api.simple_query("SHOW search_path").await.unwrap();
    assert!(
        shown
            .iter()
            .any(|message| matches!(message, SimpleQueryMessage::Row(_)))
    );
}

#[tokio::test]
async fn a_sealed_secret_opens_in_its_own_row_only() {
    let (world, ..) = world().await;
    let tx = world.store.jobs().await.unwrap();
    servers::upsert(&tx, &world.store, &support::administrator("other"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let swap = "UPDATE control_plane.servers SET admin_secret = (SELECT admin_secret FROM control_plane.servers WHERE name = 'main')
                WHERE name = 'other'";
    world.superuser().await.batch_execute(swap).await.unwrap();
    let tx = world.store.jobs().await.unwrap();
    assert!(
        servers::administrator(&tx, &world.store, &"main".parse().unwrap())
            .await
            .unwrap()
            .is_some()
    );
    let error = servers::administrator(&tx, &world.store, &"other".parse().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Seal(_)), "{error}");
    let secret = tdb_auth::upstream_secret().unwrap();
    let sealed = world.store.seal_role("r_a", &secret).unwrap();
    assert!(world.store.open_role("r_a", &sealed).is_ok());
    assert!(world.store.open_role("r_b", &sealed).is_err());
}

#[tokio::test]
async fn a_transaction_that_failed_or_was_dropped_leaves_nothing() {
    let world = World::start().await;
    let (project, other) = (world.project().await, world.project().await);
    let user = "someone".parse().unwrap();
    let tx = world.store.project(&project).await.unwrap();
    events::credential_changed(&tx, &project, &user).await.unwrap();
    drop(tx);
    let tx = world.store.project(&project).await.unwrap();
    events::credential_changed(&tx, &project, &user).await.unwrap();
    // A row of another project is refused, and earlier writes of the transaction are rolled back.
    assert!(events::credential_changed(&tx, &other, &user).await.is_err());
    assert!(tx.commit().await.is_err());
    let owner = world.owner().await;
    assert_eq!(count(&owner, "route_events").await.unwrap(), 0);
    let tx = world.store.project(&project).await.unwrap();
    let error = projects::insert(&tx, &project, uuid::Uuid::new_v4(), "again")
        .await
        .unwrap_err();
    assert!(error.conflicts_with("projects_pkey"), "{error}");
}
