//! Settings of a workspace: who can change a tenant's schema, and the version of new tenants.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tdb_tests::{Instance, clean, eventually, pg_dump, pg_program, psql, run, url_of};

static INSTANCE: OnceLock<Instance> = OnceLock::new();
const TOLD: &str = "the workspace's setting tenant_ddl is \"deny\"";

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

fn set(workspace: &str, body: Value) -> Value {
    let path = format!("/workspaces/{workspace}/settings");
    instance().api().post(&path, body).ok()
}

fn settings(workspace: &str) -> Value {
    instance().api().get(&format!("/workspaces/{workspace}/settings")).ok()
}

#[test]
fn settings_have_defaults_and_what_is_unknown_is_refused_by_name() {
    instance().workspace("plain");
    let found = settings("plain");
    assert_eq!(
        (
            &found["tenant_ddl"],
            &found["new_tenants"],
            &found["applied"]["total_tenants"]
        ),
        (&json!("allow"), &json!("head"), &json!(0)),
        "{found:#}"
    );
    let api = instance().api();
    let post = |body: Value| api.post("/workspaces/plain/settings", body);
    let problem = post(json!({"pool_mode": "auto"})).problem(400);
    assert_eq!(
        (&problem["code"], &problem["field"]),
        (&json!("unknown_field"), &json!("pool_mode"))
    );
    let problem = post(json!({"tenant_ddl": "never"})).problem(422);
    assert_eq!(problem["field"], "tenant_ddl", "{problem:#}");
    api.get("/workspaces/nowhere/settings").problem(404);
    // Omitted settings are unchanged.
    set("plain", json!({"new_tenants": "deployed"}));
    let found = set("plain", json!({"tenant_ddl": "deny"}));
    assert_eq!(
        (&found["tenant_ddl"], &found["new_tenants"]),
        (&json!("deny"), &json!("deployed"))
    );
    let shown = instance()
        .tdb(&["workspaces", "settings", "plain", "--tenant-ddl", "allow"])
        .ok();
    assert!(shown.text().contains("tenant_ddl   allow"), "{}", shown.text());
}

#[test]
fn denied_ddl_is_refused_everywhere_but_in_deployments_and_for_temporary_objects() {
    let (workspace, tenants) = instance().simple("denied", &["d-old", "d-older"]);
    let matview = "CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t";
    psql(&workspace.url, matview).ok();
    instance().deploy_all("denied");
    let found = set("denied", json!({"tenant_ddl": "deny"}));
    assert_eq!(
        found["applied"],
        json!({"total_tenants": 2, "waiting_tenants": 0, "waiting": []}),
        "{found:#}"
    );
    // The new tenant may use a spare that was created before.
    for url in [&tenants[0].url, &instance().tenant("d-new", "denied").url] {
        for ddl in [
            "CREATE TABLE x ()",
            "ALTER TABLE t ADD COLUMN x int",
            "DROP TABLE t CASCADE",
            "DO $$ BEGIN EXECUTE 'CREATE INDEX ON t (id)'; END $$",
            "SELECT 1 AS a INTO x",
            "COMMENT ON TABLE t IS 'x'",
            "GRANT SELECT ON t TO PUBLIC",
            "ALTER TABLE t DISABLE TRIGGER ALL",
            "CREATE EXTENSION citext",
        ] {
            let refused = psql(url, ddl).fails_saying("42501");
            refused.fails_saying(TOLD).fails_saying("deploy it");
        }
        psql(
            url,
            "CREATE TEMP TABLE x (id serial PRIMARY KEY); CREATE INDEX ON x (id); DROP TABLE x",
        )
        .ok();
        psql(url, "INSERT INTO t VALUES (1); REFRESH MATERIALIZED VIEW m").ok();
    }
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN n int").ok();
    assert_eq!(instance().deploy_all("denied")["status"], "completed");
    psql(&tenants[0].url, "SELECT n FROM t").ok();
    let drift = instance().drift("denied");
    assert_eq!(drift["count"], 0, "{drift:#}");

    set("denied", json!({"tenant_ddl": "allow"}));
    psql(&tenants[0].url, "CREATE TABLE x ()").ok();
}

#[test]
fn a_tenant_with_denied_ddl_can_be_dumped_and_its_data_restored() {
    let (_, tenants) = instance().simple("dumped", &["du-one", "du-two"]);
    set("dumped", json!({"tenant_ddl": "deny"}));
    psql(&tenants[0].url, "INSERT INTO t SELECT generate_series(1, 9)").ok();
    let dump = pg_dump(&tenants[0].url, &[]).ok().stdout;
    assert!(!dump.contains("tdb.") && !dump.contains("EVENT TRIGGER"), "{dump}");
    let file = instance().data_dir().join("denied.dump");
    pg_dump(&tenants[0].url, &["-Fc", "-f", file.to_str().expect("a path")]).ok();
    let restore = |arguments: &[&str]| {
        let mut command = clean(pg_program("pg_restore"));
        command
            .args(arguments)
            .args(["--exit-on-error", "-d", &tenants[1].url])
            .arg(&file);
        run(command, "")
    };
    restore(&["--clean"]).fails_saying(TOLD);
    restore(&["--data-only"]).ok();
    assert_eq!(psql(&tenants[1].url, "SELECT count(*) FROM t").ok().text(), "9");
}

#[tokio::test]
async fn a_tenant_that_cannot_be_reached_is_named_and_gets_the_setting_later() {
    let (_, tenants) = instance().simple("reached", &["r-there", "r-away"]);
    let server = instance().server("postgres").await;
    let open = async |word: &str| {
        let sql = format!("ALTER DATABASE \"reached__r-away\" ALLOW_CONNECTIONS {word}");
        server.batch_execute(&sql).await.unwrap();
    };
    open("false").await;
    let found = set("reached", json!({"tenant_ddl": "deny"}));
    let waiting = &found["applied"]["waiting"];
    assert_eq!(found["applied"]["waiting_tenants"], 1, "{found:#}");
    assert_eq!(waiting[0]["tenant_id"], "r-away");
    assert!(
        waiting[0]["error"]
            .to_string()
            .contains("not currently accepting connections"),
        "{found:#}"
    );
    let shown = instance().tdb(&["workspaces", "settings", "reached"]).ok();
    assert!(
        shown.text().contains("1 of 2 tenants") && shown.text().contains("r-away"),
        "{}",
        shown.text()
    );
    psql(&tenants[0].url, "CREATE TABLE x ()").fails_saying(TOLD);
    open("true").await;
    eventually(Duration::from_secs(60), "the setting reaches the tenant", || {
        (settings("reached")["applied"]["waiting_tenants"] == 0).then_some(())
    });
    psql(&tenants[1].url, "CREATE TABLE x ()").fails_saying(TOLD);
}

#[test]
fn a_restored_tenant_gets_settings_made_in_the_meantime() {
    let (_, tenants) = instance().simple("restored", &["re-one"]);
    instance().api().delete("/tenants/re-one").ok();
    let found = set("restored", json!({"tenant_ddl": "deny"}));
    assert_eq!(found["applied"]["total_tenants"], 0, "{found:#}");
    instance().api().post("/tenants/re-one/restore", json!({})).ok();
    psql(&tenants[0].url, "CREATE TABLE x ()").fails_saying(TOLD);
}

#[test]
fn new_tenants_get_head_or_the_version_of_others() {
    let (workspace, tenants) = instance().simple("newcomers", &["n-first"]);
    let has =
        |tenant: &str| instance().api().get(&format!("/tenants/{tenant}")).ok()["databases"][0]["version"].clone();
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN later int").ok();
    set("newcomers", json!({"new_tenants": "deployed"}));
    instance().tenant("n-same", "newcomers");
    assert_eq!(has("n-same"), has("n-first"));
    instance().deploy_all("newcomers");
    let late = instance().tenant("n-late", "newcomers");
    psql(&late.url, "SELECT later FROM t").ok();
    assert_eq!(has("n-late"), has("n-first"));
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN last int").ok();
    set("newcomers", json!({"new_tenants": "head"}));
    let head = instance().tenant("n-head", "newcomers");
    psql(&head.url, "SELECT last FROM t").ok();
    psql(&tenants[0].url, "SELECT last FROM t").fails_saying("42703");

    // There is no other tenant: the first one gets the current schema.
    let first = instance().workspace("firstcomer");
    psql(&first.url, "CREATE TABLE t (id int)").ok();
    set("firstcomer", json!({"new_tenants": "deployed"}));
    psql(&instance().tenant("n-only", "firstcomer").url, "SELECT id FROM t").ok();
}

/// A connection string for `database`, with a read-only credential for `scope`.
fn read_only(scope: Value, database: &str) -> String {
    let mut body = scope;
    body["rights"] = json!("ro");
    let made = instance().api().post("/credentials", body).ok();
    url_of(&made, database)
}

#[test]
fn session_settings_of_a_workspace_reach_every_session_of_its_tenants() {
    let (workspace, tenants) = instance().simple("begins", &["be-early"]);
    let early = read_only(json!({"tenant_id": "be-early"}), "begins__be-early");
    let developer = read_only(json!({"workspace": "begins"}), "begins_dev");
    let set = "CREATE SCHEMA app; ALTER ROLE CURRENT_USER SET search_path = app, public";
    psql(&workspace.url, set).ok();
    let query = json!({"query": "ALTER DATABASE begins_dev SET statement_timeout = '7s'"});
    instance().api().post("/workspaces/begins/queries", query).ok();
    psql(
        &workspace.url,
        " alter database begins_dev SET idle_session_timeout = '8min'",
    )
    .ok();
    let foreign = psql(&workspace.url, "ALTER DATABASE postgres SET work_mem = '8MB'");
    foreign.fails_saying("42501");
    for change in instance().diff("begins") {
        assert_eq!(change["left_out"], json!([]), "{change:#}");
    }
    assert_eq!(instance().deploy_all("begins")["status"], "completed");
    let late = instance().tenant("be-late", "begins");
    let late_reader = read_only(json!({"tenant_id": "be-late"}), "begins__be-late");
    for url in [
        &workspace.url,
        &developer,
        &tenants[0].url,
        &early,
        &late.url,
        &late_reader,
    ] {
        let shown = psql(
            url,
            "SHOW search_path; SHOW statement_timeout; SHOW idle_session_timeout",
        )
        .ok();
        assert_eq!(shown.text(), "app, public\n7s\n8min", "{url}");
    }
    psql(&workspace.url, "ALTER ROLE CURRENT_USER RESET ALL").ok();
    instance().deploy_all("begins");
    for url in [&workspace.url, &developer, &tenants[0].url, &early] {
        assert_eq!(psql(url, "SHOW statement_timeout").ok().text(), "0", "{url}");
    }
}
