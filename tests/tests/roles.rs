//! The roles of databases, attacked by sessions that run as them: read-only roles cannot write, no deletion waits for another
//! tenant, and a role that a client changed is restored.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tdb_tests::{Instance, Session, connect, eventually_async, in_database, pg_dump, psql, sqlstate, url_of, url_with};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

/// The sweep runs once a minute.
const SWEPT: Duration = Duration::from_secs(120);

fn read_only(tenant: &str, database: &str) -> String {
    let body = json!({"tenant_id": tenant, "rights": "ro"});
    let made = instance().api().post("/credentials", body).ok();
    url_of(&made, database)
}

fn last_error(tenant: &str) -> Value {
    let answer = instance().api().get(&format!("/tenants/{tenant}")).ok();
    answer["databases"][0]["last_error"].clone()
}

#[tokio::test]
async fn a_tenant_can_be_deleted_while_another_has_an_open_grant_to_its_roles() {
    let (_, tenants) = instance().simple("knots", &["k-tied", "k-tying"]);
    let tied = tenants[0].connect().await;
    let role: String = tied.query_one("SELECT current_user::text", &[]).await.unwrap().get(0);
    let tying = tenants[1].connect().await;
    let grants = format!(
        "CREATE SCHEMA theirs; GRANT USAGE ON SCHEMA theirs TO {role}; GRANT ALL ON t TO {role}, {role}_ro, {role}_dep;
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}; CREATE POLICY p ON t TO {role}"
    );
    tying.batch_execute(&grants).await.unwrap();
    let open = format!("BEGIN; CREATE TABLE pending (); GRANT SELECT ON pending TO {role}");
    tying.batch_execute(&open).await.unwrap();
    let begun = Instant::now();
    instance().api().delete("/tenants/k-tied?hard=true").ok();
    assert_eq!(instance().api().get("/tenants/k-tied").status, 404);
    instance().tenant("k-tied", "knots");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    // A new version is published, and a new tenant created from it, while the transaction is open.
    psql(&instance().workspace("knots2").url, "CREATE TABLE t (id int)").ok();
    instance().tenant("k-new", "knots2");
    tying.batch_execute("COMMIT").await.unwrap();
    let server = instance().server("postgres").await;
    eventually_async(SWEPT, "the disabled roles are dropped", async || {
        let sql = "SELECT FROM pg_roles WHERE starts_with(rolname, 'tdb_gone_')";
        server.query(sql, &[]).await.unwrap().is_empty().then_some(())
    })
    .await;
    tying.batch_execute("SELECT * FROM t").await.unwrap();
}

#[tokio::test]
async fn a_client_that_changes_its_role_does_not_lock_others_out_or_keep_access() {
    let (_, tenants) = instance().simple("locks", &["l-one"]);
    let tenant = &tenants[0];
    let reader = read_only("l-one", "locks__l-one");
    let session = tenant.connect().await;
    let row = session
        .query_one("SELECT current_user::text, current_database()::text", &[])
        .await
        .unwrap();
    let (role, database): (String, String) = (row.get(0), row.get(1));
    let direct = |role: &str| url_with(&instance().server_url(&database), Some(role), Some("known"), None);
    for (url, role, change) in [
        (&tenant.url, role.clone(), "ALTER ROLE CURRENT_USER PASSWORD 'known'"),
        (
            &tenant.url,
            role.clone(),
            "ALTER ROLE CURRENT_USER SET local_preload_libraries = 'nonesuch'",
        ),
    ] {
        let session = connect(url).await.unwrap();
        session.batch_execute(change).await.unwrap();
        for url in [&tenant.url, &reader] {
            let again = connect(url)
                .await
                .unwrap_or_else(|error| panic!("after {change}: {error:?}"));
            again.batch_execute("SELECT * FROM t").await.unwrap();
        }
        assert!(
            connect(&direct(&role)).await.is_err(),
            "the password still opens the server after {change}"
        );
        assert_eq!(last_error("l-one"), Value::Null);
    }
    let reading = connect(&reader).await.unwrap();
    for change in [
        "BEGIN READ WRITE; ALTER ROLE CURRENT_USER PASSWORD 'known'",
        "ALTER ROLE CURRENT_USER PASSWORD NULL",
    ] {
        let refused = reading.batch_execute(change).await.unwrap_err();
        assert_eq!(sqlstate(&refused), "25006", "{change}");
    }
    let query = json!({"blueprint": "locks", "tenant_id": "l-one", "query": "SELECT 1"});
    let session = tenant.connect().await;
    session
        .batch_execute("ALTER ROLE CURRENT_USER PASSWORD 'known'")
        .await
        .unwrap();
    let answer = instance().api().post("/admin/query", query).ok();
    assert_eq!(answer["results"][0]["row_count"], 1, "{answer:#}");
    assert!(instance().log().contains("a client changed a role"));
}

#[tokio::test]
async fn a_changed_role_that_cannot_be_restored_is_shown_until_it_is() {
    let (_, tenants) = instance().simple("shown", &["s-one"]);
    let session = tenants[0].connect().await;
    let row = session.query_one("SELECT current_user::text", &[]).await.unwrap();
    let change = "ALTER ROLE CURRENT_USER PASSWORD 'x'";
    session.batch_execute(change).await.unwrap();
    // The repair would end a session of the role itself.
    let session = instance().server("postgres").await;
    let held = format!("BEGIN; ALTER ROLE {} PASSWORD 'y'", row.get::<_, &str>(0));
    session.batch_execute(&held).await.unwrap();
    let refused = connect(&tenants[0].url)
        .await
        .expect_err("the role is held by the open transaction");
    assert_eq!(sqlstate(&refused), "08006");
    let shown = last_error("s-one");
    assert!(
        shown.as_str().is_some_and(|text| text.contains("password was changed")),
        "{shown}"
    );
    session.batch_execute("ROLLBACK").await.unwrap();
    connect(&tenants[0].url).await.unwrap();
    assert_eq!(last_error("s-one"), Value::Null);
}

#[tokio::test]
async fn the_sweep_restores_roles_without_logins() {
    let (_, tenants) = instance().simple("swept", &["sw-one"]);
    let session = tenants[0].connect().await;
    session
        .batch_execute("ALTER ROLE CURRENT_USER PASSWORD 'known'")
        .await
        .unwrap();
    let sql = "SELECT current_user::text, current_database()::text";
    let row = session.query_one(sql, &[]).await.unwrap();
    let (role, database): (&str, &str) = (row.get(0), row.get(1));
    let direct = url_with(&instance().server_url(database), Some(role), Some("known"), None);
    let outliving = connect(&direct)
        .await
        .expect("until the sweep the client's password opens the server");
    eventually_async(SWEPT, "the role is set again", async || {
        connect(&direct).await.is_err().then_some(())
    })
    .await;
    eventually_async(SWEPT, "the sessions of the role have ended", async || {
        let ended = [&outliving, &session].map(|session| session.batch_execute("SELECT"));
        let [first, second] = ended;
        (first.await.is_err() && second.await.is_err()).then_some(())
    })
    .await;
    connect(&tenants[0].url).await.unwrap();
}

/// It logged in with a password that the sweep has not yet replaced.
#[tokio::test]
async fn suspending_a_tenant_ends_sessions_that_use_no_proxy() {
    let (_, tenants) = instance().simple("outside", &["ou-one"]);
    let session = tenants[0].connect().await;
    let sql = "SELECT current_user::text, current_database()::text";
    let row = session.query_one(sql, &[]).await.unwrap();
    let (role, database): (&str, &str) = (row.get(0), row.get(1));
    let server = instance().server(database).await;
    let direct = url_with(&instance().server_url(database), Some(role), Some("known"), None);
    let known = format!("ALTER ROLE {role} PASSWORD 'known'");
    server.batch_execute(&known).await.unwrap();
    let outside = connect(&direct).await.unwrap();
    instance().api().post("/tenants/ou-one/suspend", json!({})).ok();
    outside.batch_execute("SELECT").await.unwrap_err();
}

#[test]
fn code_that_alters_the_deployers_role_does_not_stop_deployments() {
    let (workspace, tenants) = instance().simple("planter", &["pl-one"]);
    let evil = "DO $$ BEGIN CREATE TABLE by_do (id int); EXECUTE 'SET RO' || 'LE none'; EXECUTE 'ALTER ROLE CURRENT_USER PASSWORD ''known'''; END $$";
    psql(&workspace.url, evil).ok();
    for n in 0..2 {
        let job = instance().deploy_all("planter");
        assert_eq!(job["status"], "completed", "{job:#}");
        psql(&workspace.url, &format!("CREATE TABLE after_{n} (id int)")).ok();
    }
    let job = instance().deploy_all("planter");
    assert_eq!(job["status"], "completed", "{job:#}");
    psql(&tenants[0].url, "SELECT * FROM by_do, after_0, after_1").ok();
    instance().tenant("pl-two", "planter");
}

/// Each of these, set for the deployer's role by code that a deployment runs, would fail or change the next deployment.
const SETTINGS: [&str; 7] = [
    "statement_timeout = ''1ms''",
    "lock_timeout = ''1ms''",
    "idle_in_transaction_session_timeout = ''1ms''",
    "default_transaction_read_only = on",
    "standard_conforming_strings = off",
    "search_path = nonesuch",
    "role = ''nonesuch''",
];

#[test]
fn code_in_a_change_that_sets_the_deployers_settings_stops_no_deployment() {
    let (workspace, tenants) = instance().simple("setter", &["se-one", "se-two"]);
    for place in ["", " IN DATABASE %I"] {
        let set: String = SETTINGS
            .iter()
            .map(|setting| {
                format!("EXECUTE format('ALTER ROLE CURRENT_USER{place} SET {setting}', current_database()); ")
            })
            .collect();
        let session: String = SETTINGS
            .iter()
            .filter(|setting| {
                !["role", "idle", "statement"]
                    .iter()
                    .any(|name| setting.starts_with(name))
            })
            .map(|setting| format!("EXECUTE 'SET SESSION {setting}'; "))
            .collect();
        // For the session, without the time limits that would end the change's own transaction. Not in the workspace, where
        // it would be a setting of the schema.
        let table = if place.is_empty() { "by_role" } else { "by_database" };
        let planted = format!(
            "DO $$ BEGIN CREATE TABLE {table} (id int); IF session_user ~ '_dep$' THEN EXECUTE 'SET RO' || 'LE none'; {set} {session} END IF; END $$"
        );
        psql(&workspace.url, &planted).ok();
        psql(&workspace.url, &format!("CREATE TABLE after_{table} (id int)")).ok();
        for _ in 0..2 {
            let job = instance().deploy_all("setter");
            assert_eq!(job["status"], "completed", "{job:#}");
            for target in job["targets"].as_array().into_iter().flatten() {
                assert_eq!(target["attempts"].as_u64().unwrap_or(1), 1, "{job:#}");
            }
            psql(
                &workspace.url,
                "CREATE TABLE IF NOT EXISTS next (id int); ALTER TABLE next ADD COLUMN c int",
            )
            .ok();
            psql(&workspace.url, "ALTER TABLE next DROP COLUMN c").ok();
        }
    }
    let job = instance().deploy_all("setter");
    assert_eq!(job["status"], "completed", "{job:#}");
    for tenant in &tenants {
        psql(
            &tenant.url,
            "SELECT * FROM by_role, after_by_role, by_database, after_by_database",
        )
        .ok();
    }
    instance().tenant("se-three", "setter");
}

/// It is the tenant's database: its settings stay, are shown as drift, and apply to its own sessions only.
#[test]
fn settings_that_a_tenant_sets_for_itself_are_shown_and_reach_no_one_else() {
    let (workspace, tenants) = instance().simple("minded", &["mi-one", "mi-two"]);
    let reader = read_only("mi-one", "minded__mi-one");
    let own = &tenants[0].url;
    let set = "DO $$ BEGIN
        EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET default_transaction_read_only = on', current_database());
        EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET search_path = nonesuch', current_database());
        ALTER ROLE CURRENT_USER SET statement_timeout = '7s';
        END $$";
    psql(own, set).ok();
    let shown = "SHOW default_transaction_read_only; SHOW search_path; SHOW statement_timeout";
    assert_eq!(psql(own, shown).ok().text(), "on\nnonesuch\n7s");
    // What one set belongs to its own sessions.
    for url in [&reader, &tenants[1].url] {
        psql(url, "SELECT * FROM t").ok();
        assert_eq!(
            psql(url, "SHOW statement_timeout; SHOW search_path").ok().text(),
            "0\n\"$user\", public"
        );
    }
    psql(&workspace.url, "CREATE TABLE more (id int)").ok();
    let job = instance().deploy_all("minded");
    assert_eq!(job["status"], "completed", "{job:#}");
    psql(&reader, "SELECT * FROM more").ok();
    let drift = instance().drift("minded").to_string();
    for name in ["default_transaction_read_only", "search_path", "statement_timeout"] {
        assert!(drift.contains(&format!("setting {name}")), "{name}: {drift}");
    }
    assert!(!drift.contains("mi-two"), "{drift}");
    assert_eq!(psql(own, shown).ok().text(), "on\nnonesuch\n7s");
    let reset = "DO $$ BEGIN EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I RESET ALL', current_database()); ALTER ROLE CURRENT_USER RESET ALL; END $$";
    psql(own, &format!("SET default_transaction_read_only = off; {reset}")).ok();
    assert_eq!(instance().drift("minded")["count"], 0);
}

#[test]
fn a_read_only_credential_reads_later_objects() {
    let (workspace, tenants) = instance().simple("later", &["la-one"]);
    instance().simple("further", &[]);
    let reader = read_only("la-one", "later__la-one");
    psql(&workspace.url, "CREATE TABLE deployed (id int)").ok();
    instance().deploy_all("later");
    psql(&tenants[0].url, "CREATE TABLE own (id int)").ok();
    psql(&reader, "SELECT * FROM t, deployed, own").ok();
    // Another database of the tenant, created when the credential existed already.
    let body = json!({"tenant_id": "la-one", "databases": [{"blueprint": "further"}]});
    instance().api().post("/tenants", body).ok();
    instance().wait_until_ready("la-one");
    psql(&in_database(&reader, "further__la-one"), "SELECT * FROM t").ok();
    let drift = instance().api().get("/drift?blueprint=further").ok();
    assert_eq!(drift["count"], 0, "who reads is no part of a schema: {drift:#}");
    let developer = instance()
        .api()
        .post("/credentials", json!({"workspace": "later", "rights": "ro"}))
        .ok();
    let url = url_of(&developer, "later_dev");
    psql(&url, "SELECT * FROM t, deployed").ok();
}

#[tokio::test]
async fn the_sweep_restores_default_privileges_for_reading() {
    let (_, tenants) = instance().simple("dropped", &["dr-one"]);
    let reader = read_only("dr-one", "dropped__dr-one");
    psql(&reader, "SELECT * FROM t").ok();
    let session = tenants[0].connect().await;
    let sql = "SELECT current_user || '_ro', current_database()::text";
    let row = session.query_one(sql, &[]).await.unwrap();
    let (role, database): (&str, &str) = (row.get(0), row.get(1));
    let server = instance().server(database).await;
    let removed = format!(
        "SET SESSION AUTHORIZATION {role}; BEGIN READ WRITE; SET LOCAL ROLE tdb_readers; DROP OWNED BY CURRENT_USER; COMMIT"
    );
    server.batch_execute(&removed).await.unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    eventually_async(SWEPT, "a later table is readable", async || {
        let made = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let table = format!("CREATE TABLE after_{made} (id int)");
        session.batch_execute(&table).await.unwrap();
        (psql(&reader, &format!("SELECT * FROM after_{made}")).code == 0).then_some(())
    })
    .await;
}

/// A database of the first milestone, whose read-only role can read the whole server.
#[tokio::test]
async fn databases_of_an_older_program_are_upgraded_automatically() {
    let (_, tenants) = instance().simple("aged", &["ag-one", "ag-two"]);
    let reader = read_only("ag-one", "aged__ag-one");
    let session: Session = connect(&reader).await.unwrap();
    let server = instance().server("postgres").await;
    let store = instance().store().await;
    for tenant in &tenants {
        let role: String = tenant
            .connect()
            .await
            .query_one("SELECT current_user::text", &[])
            .await
            .unwrap()
            .get(0);
        server
            .batch_execute(&format!(
                "GRANT pg_read_all_data TO {role}_ro; REVOKE tdb_readers FROM {role}_ro"
            ))
            .await
            .unwrap();
        let old = "INSERT INTO control_plane.database_roles (database_id, project_id, readers)
                   SELECT p.tenant_database_id, p.project_id, 'old' FROM control_plane.physical_databases p
                     JOIN control_plane.postgres_databases g ON g.id = p.id WHERE g.owner_role = $1
                   ON CONFLICT (database_id) DO UPDATE SET readers = 'old'";
        store.execute(old, &[&role]).await.unwrap();
    }
    let members =
        "SELECT FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
                    WHERE g.rolname ~ '^pg_' AND m.rolname ~ '^r_'";
    eventually_async(SWEPT, "no role is in a predefined one", async || {
        server.query(members, &[]).await.unwrap().is_empty().then_some(())
    })
    .await;
    session.batch_execute("SELECT * FROM t").await.unwrap();
    let refused = session.batch_execute("SELECT * FROM pg_authid").await.unwrap_err();
    assert_eq!(sqlstate(&refused), "42501");
}

/// The role has no privilege to write, but the schema grants some to PUBLIC.
#[test]
fn a_read_only_credential_cannot_use_what_the_schema_grants_to_public() {
    let (workspace, tenants) = instance().simple("granting", &["gr-one"]);
    let grants = "CREATE FUNCTION put() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO t VALUES (1)';
                  CREATE SEQUENCE s; GRANT ALL ON t TO PUBLIC; GRANT ALL ON SEQUENCE s TO PUBLIC";
    psql(&workspace.url, grants).ok();
    instance().deploy_all("granting");
    let api = instance().api();
    let developer = api
        .post("/credentials", json!({"workspace": "granting", "rights": "ro"}))
        .ok();
    let developer = developer["connection_string"].as_str().unwrap().to_owned();
    for (reader, owner) in [
        (read_only("gr-one", "granting__gr-one"), &tenants[0].url),
        (developer, &workspace.url),
    ] {
        for sql in [
            "BEGIN READ WRITE; SELECT put(); COMMIT",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; SELECT put()",
            "SET default_transaction_read_only = off",
            "DO $$ BEGIN COMMIT; SET TRANSACTION READ WRITE; PERFORM put(); END $$",
            "SELECT set_config('default_transaction_read_only', 'off', false); COMMIT; SELECT put()",
            "SELECT set_config('transaction_' || 'read_only', NULL, false), put()",
            "SELECT put()",
            "INSERT INTO t VALUES (1)",
            "SELECT nextval('s')",
            "CREATE TEMPORARY TABLE x ()",
        ] {
            let refused = psql(&reader, sql);
            assert_ne!(refused.code, 0, "{sql}: {refused:?}");
            assert!(
                refused.stderr.contains("25006") || refused.stderr.contains("0A000"),
                "{sql}: {refused:?}"
            );
        }
        psql(
            &reader,
            "SELECT set_config('default_transaction_' || 'read_only', 'off', false)",
        )
        .fails_saying("25006");
        let before = "BEGIN; SELECT set_config('search_path', '', false); SELECT count(*) FROM public.t; COMMIT";
        psql(&reader, before).ok();
        let written = "SELECT count(*)::text || (SELECT is_called FROM s) FROM t";
        assert_eq!(psql(owner, written).ok().text(), "0false");
    }
}

/// PostgreSQL 15 does not count large objects as writes in a READ ONLY transaction. To call the functions, a role needs a
/// privilege that read-only roles lack, but not in a function that runs with the owner's rights.
#[test]
fn an_owners_function_can_create_large_objects_for_readers_on_postgresql_15_only() {
    let (workspace, tenants) = instance().simple("blobs", &["bl-one"]);
    let functions = "CREATE FUNCTION put() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT lo_create(0)';
                     CREATE FUNCTION fill() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT lo_from_bytea(0, ''x'')';
                     CREATE FUNCTION own() RETURNS void LANGUAGE sql AS 'SELECT lo_create(0)'";
    psql(&workspace.url, functions).ok();
    instance().deploy_all("blobs");
    let owner = &tenants[0].url;
    let is_15 = psql(owner, "SHOW server_version_num").ok().text().starts_with("15");
    let reader = read_only("bl-one", "blobs__bl-one");
    for sql in ["SELECT own()", "SELECT lo_create(0)", "SELECT lo_from_bytea(0, 'x')"] {
        psql(&reader, sql).fails_saying("42501");
    }
    let made = instance()
        .api()
        .post("/apikeys", json!({"name": "reads blobs", "scopes": ["read"]}))
        .ok();
    let key = instance().api().with_key(made["api_key"].as_str());
    for sql in ["SELECT put()", "SELECT fill()"] {
        let body = json!({"all_tenants": true, "blueprint": "blobs", "query": sql});
        let by_key = key.post("/admin/query", body).ok()["results"][0]["error"].clone();
        if is_15 {
            psql(&reader, sql).ok();
            assert!(by_key.is_null(), "{by_key:#}");
        } else {
            psql(&reader, sql).fails_saying("25006");
            assert_eq!(by_key["sqlstate"], "25006", "{by_key:#}");
        }
    }
    // The transaction of a key's query is rolled back.
    let created = psql(owner, "SELECT count(*) FROM pg_largeobject_metadata").ok();
    assert_eq!(created.text(), if is_15 { "2" } else { "0" });
    // pg_dump by the owner still works.
    if is_15 {
        pg_dump(owner, &[]).ok();
    }
}

#[test]
fn a_read_scope_key_runs_a_single_reading_statement() {
    let (workspace, tenants) = instance().simple("keyed", &["ke-one"]);
    let put = "CREATE FUNCTION put() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO t VALUES (1)'";
    for url in [&workspace.url, &tenants[0].url] {
        psql(url, &format!("{put}; GRANT ALL ON t TO PUBLIC")).ok();
    }
    let made = instance()
        .api()
        .post("/apikeys", json!({"name": "reads", "scopes": ["read"]}))
        .ok();
    let reader = instance()
        .api()
        .with_key(made["key"].as_str().or(made["api_key"].as_str()));
    let tenant = |sql: &str| {
        let body = json!({"all_tenants": true, "blueprint": "keyed", "query": sql});
        reader.post("/admin/query", body).ok()["results"][0].clone()
    };
    let in_workspace = |sql: &str| reader.post("/workspaces/keyed/queries", json!({"query": sql}));
    assert_eq!(tenant("SELECT count(*)::int4 FROM t")["rows"][0][0], 0);
    assert_eq!(in_workspace("SELECT count(*)::int4 FROM t").ok()["rows"][0][0], 0);
    for sql in [
        "SELECT rolpassword FROM pg_authid",
        "INSERT INTO t VALUES (1)",
        "SELECT put()",
        "SELECT lo_create(0)",
        "COMMIT; INSERT INTO t VALUES (1)",
        "BEGIN READ WRITE; INSERT INTO t VALUES (1); COMMIT",
        "SELECT set_config('transaction_' || 'read_only', NULL, false), put()",
        "DO $$ BEGIN COMMIT; SET TRANSACTION READ WRITE; INSERT INTO t VALUES (1); END $$",
        "ALTER ROLE CURRENT_USER PASSWORD 'x'",
        "ALTER ROLE CURRENT_USER RESET default_transaction_read_only",
        "CREATE TABLE x (id int)",
    ] {
        let refused = tenant(sql)["error"]["sqlstate"].clone();
        let codes = ["25006", "42501", "42601", "2D000", "25001", "0A000"];
        assert!(
            refused.as_str().is_some_and(|code| codes.contains(&code)),
            "{sql}: {refused}"
        );
        let refused = in_workspace(sql);
        assert!(refused.status >= 400, "{sql}: {refused:#?}");
    }
    psql(
        &tenants[0].url,
        "SELECT 1/(CASE WHEN count(*) = 0 THEN 1 ELSE 0 END) FROM t",
    )
    .ok();
}
