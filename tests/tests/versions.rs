//! Versions and what is reported about changes: authors, omitted data, broken changes and their repair.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tdb_tests::{Instance, eventually, psql};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

fn blueprint(name: &str) -> Value {
    instance().api().get(&format!("/blueprints/{name}")).ok()
}

#[test]
fn a_blueprint_is_a_draft_until_its_first_change() {
    let workspace = instance().workspace("draft");
    assert_eq!(blueprint("draft")["status"], "draft");
    psql(&workspace.url, "CREATE TABLE t (id int)").ok();
    assert_eq!(blueprint("draft")["status"], "ready");
    instance().tenant("d-one", "draft");
    let versions = instance().api().get("/blueprints/draft/versions").ok();
    let versions = versions["versions"].as_array().expect("versions");
    assert!(
        versions
            .iter()
            .any(|version| version["version"] == 1 && version["change_ids"] == json!([])),
        "{versions:#?}"
    );
    let newest = versions
        .iter()
        .max_by_key(|version| version["version"].as_i64())
        .expect("a version");
    assert_eq!(
        (&newest["change_ids"], &newest["verified"]),
        (&json!([1]), &json!(true)),
        "{newest:#}"
    );
}

#[test]
fn a_version_once_shown_never_changes_and_unchanged_schemas_make_none() {
    let (workspace, _) = instance().simple("fixed", &["v-one"]);
    let shown = || instance().api().get("/blueprints/fixed/versions").ok()["versions"].clone();
    let first = shown();
    instance().tenant("v-two", "fixed");
    assert_eq!(shown(), first, "a tenant of the same schema makes no version");
    psql(&workspace.url, "CREATE TABLE u (id int)").ok();
    assert_eq!(shown(), first, "a change alone makes no version");
    instance().deploy_all("fixed");
    let after = shown();
    for version in first.as_array().expect("versions") {
        let number = &version["version"];
        let same = after
            .as_array()
            .expect("versions")
            .iter()
            .find(|other| other["version"] == *number)
            .expect("it stays");
        assert_eq!(
            (&same["change_ids"], &same["fingerprint"]),
            (&version["change_ids"], &version["fingerprint"])
        );
    }
    assert_eq!(after.as_array().unwrap().len(), first.as_array().unwrap().len() + 1);
}

#[test]
fn every_change_names_its_author() {
    let workspace = instance().workspace("signed");
    psql(&workspace.url, "CREATE TABLE t (id int)").ok();
    let user = workspace.url.split(['/', ':']).nth(3).expect("a user").to_owned();
    assert_eq!(instance().diff("signed")[0]["author"], json!(user));
    let sql = "ALTER TABLE t ADD COLUMN n int; COMMIT; ALTER TABLE t ADD COLUMN m int";
    instance().tdb(&["workspaces", "query", "signed", "--query", sql]).ok();
    let keys = instance().tdb_json(&["apikeys", "list"]);
    let key = format!("key:{}", keys["api_keys"][0]["name"].as_str().expect("a name"));
    let authors: Vec<Value> = instance()
        .diff("signed")
        .iter()
        .map(|change| change["author"].clone())
        .collect();
    assert_eq!(authors, [json!(user), json!(key), json!(key)]);
}

#[tokio::test]
async fn data_statements_in_a_migration_are_omitted_and_reported() {
    let (workspace, tenants) = instance().simple("filled", &["f-one"]);
    let migration =
        "BEGIN; ALTER TABLE t ADD COLUMN n int; UPDATE t SET n = 0; ALTER TABLE t ALTER n SET NOT NULL; COMMIT";
    let session = workspace.connect().await;
    session.batch_execute(migration).await.unwrap();
    let notices = session.notices();
    let said = notices.iter().find(|notice| notice.message().contains("UPDATE"));
    assert_eq!(said.expect("a warning").severity(), "WARNING", "{notices:?}");
    let change = instance().diff("filled").remove(0);
    assert!(
        change["left_out"].to_string().contains("UPDATE t SET n = 0"),
        "{change:#}"
    );
    assert!(!change["statements"].to_string().contains("UPDATE"), "{change:#}");
    assert_eq!(instance().deploy_all("filled")["status"], "completed");
    psql(&tenants[0].url, "INSERT INTO t (id) VALUES (1)").fails_saying("23502");
}

#[test]
fn a_change_that_cannot_be_replayed_blocks_with_its_reason_until_it_is_skipped() {
    let (workspace, tenants) = instance().simple("blocked", &["b-one"]);
    let script = "PREPARE p AS SELECT 1 AS n;\nCREATE TABLE prepared AS EXECUTE p;";
    psql(&workspace.url, script).ok();
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN fine int").ok();
    let changes = instance().diff("blocked");
    assert_eq!(changes[0]["state"], "broken", "{changes:#?}");
    assert!(
        changes[0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
        "{changes:#?}"
    );
    assert_eq!(blueprint("blocked")["status"], "broken");

    let body = json!({"blueprint_name": "blocked", "deploy_all": true});
    let id = changes[0]["ddl_id"].clone();
    let problem = instance().api().post("/deployments", body).problem(409);
    let named = format!("change {id} ");
    assert!(
        problem["detail"].as_str().is_some_and(|detail| detail.contains(&named)),
        "{problem:#}"
    );
    // A new tenant can still be created, with the last verified version, and has a warning.
    let late = instance().tenant("b-two", "blocked");
    assert!(
        late.answer["warnings"]
            .as_array()
            .is_some_and(|warnings| !warnings.is_empty()),
        "{:#}",
        late.answer
    );
    psql(&late.url, "SELECT fine FROM t").fails_saying("42703");

    instance()
        .tdb(&["workspaces", "diff-skip", "blocked", &id.to_string()])
        .ok();
    assert_eq!(instance().deploy_all("blocked")["status"], "completed");
    for url in [&tenants[0].url, &late.url] {
        psql(url, "SELECT fine FROM t").ok();
    }
}

#[test]
fn a_role_that_is_not_part_of_a_schema_breaks_its_change() {
    let workspace = instance().workspace("foreign");
    psql(
        &workspace.url,
        "CREATE TABLE t (id int); GRANT SELECT ON t TO pg_monitor",
    )
    .ok();
    let changes = instance().diff("foreign");
    let broken = changes.last().expect("a change");
    assert_eq!(broken["state"], "broken", "{changes:#?}");
    assert!(broken["reason"].to_string().contains("pg_monitor"), "{broken:#}");
}

#[test]
fn skipping_a_change_names_the_later_change_that_needs_it() {
    let (workspace, _) = instance().simple("needed", &["n-one"]);
    psql(&workspace.url, "CREATE TABLE base (id int PRIMARY KEY)").ok();
    psql(&workspace.url, "CREATE TABLE derived (id int REFERENCES base)").ok();
    let changes = instance().diff("needed");
    let (base, derived) = (&changes[0]["ddl_id"], &changes[1]["ddl_id"]);
    let problem = instance()
        .api()
        .delete(&format!("/workspaces/needed/diff/{base}"))
        .problem(409);
    assert!(
        problem["detail"].to_string().contains(&derived.to_string()),
        "{problem:#}"
    );
    instance()
        .api()
        .delete(&format!("/workspaces/needed/diff/{derived}"))
        .ok();
    instance().api().delete(&format!("/workspaces/needed/diff/{base}")).ok();
    assert_eq!(instance().diff("needed"), Vec::<Value>::new());
}

#[test]
fn the_schema_is_described_with_columns_indexes_and_constraints() {
    let workspace = instance().workspace("described");
    psql(
        &workspace.url,
        "CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL DEFAULT 'x'); CREATE INDEX by_v ON t (v)",
    )
    .ok();
    let schema = instance().api().get("/workspaces/described/schema").ok()["schema"].clone();
    assert_eq!(schema["type"], "tables");
    assert_eq!(schema["data"]["table_count"], 1, "{schema:#}");
    let table = &schema["data"]["tables"][0];
    assert!(
        table["name"].as_str().is_some_and(|name| name.ends_with('t')),
        "{table:#}"
    );
    let expected = json!({"name": "v", "type": "text", "nullable": false, "default": "'x'::text"});
    assert_eq!(table["columns"][1], expected, "{table:#}");
    assert!(
        table["indexes"].to_string().contains("by_v") && table["constraints"].to_string().contains("PRIMARY KEY"),
        "{table:#}"
    );
}

/// Versions in all forms that clients write, and invalid ones.
#[test]
fn versions_have_four_forms() {
    let api = instance().api();
    instance().simple("forms", &["first"]);
    for (at, version) in [json!(2), json!("2"), json!("v2"), json!("2.0")]
        .into_iter()
        .enumerate()
    {
        let databases = json!([{"blueprint": "forms", "version": version}]);
        let made = api
            .post(
                "/tenants",
                json!({"tenant_id": format!("t{at}"), "databases": databases}),
            )
            .ok();
        assert_eq!(made["databases"][0]["version"], 2, "{version}");
        let plan = json!({"blueprint_name": "forms", "version": version, "deploy_all": true, "dry_run": true});
        assert_eq!(api.post("/deployments", plan).ok()["version"], 2, "{version}");
    }
    for version in [
        json!("2.1"),
        json!("latest"),
        json!(0),
        json!(-1),
        json!(1e30),
        json!(4294967296_u64),
        json!([2]),
    ] {
        let plan = json!({"blueprint_name": "forms", "version": version, "deploy_all": true, "dry_run": true});
        let problem = api.post("/deployments", plan).problem(422);
        assert_eq!(problem["field"], "version", "{problem:#}");
    }
    let other = json!({"tenant_id": "first", "blueprint": "forms", "query": "SELECT 1", "database_type": "MySQL"});
    let problem = api.post("/admin/query", other).problem(422);
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("PostgreSQL")),
        "{problem:#}"
    );
}

/// The answer to the creation comes before the replay has failed.
#[test]
fn a_tenant_of_a_schema_that_proves_to_be_broken_says_why_until_it_is_repaired() {
    let workspace = instance().workspace("late");
    psql(
        &workspace.url,
        "CREATE TABLE names (n text); INSERT INTO names VALUES ('a');
         DO $$ BEGIN
           IF NOT EXISTS (SELECT FROM names) THEN PERFORM pg_sleep(12); RAISE EXCEPTION 'no names here'; END IF;
           CREATE TABLE b (i int);
         END $$;",
    )
    .ok();
    let arguments = ["tenants", "create", "--name", "l-one", "--blueprint", "late"];
    let created = instance().tdb(&arguments).fails_saying("no names here");
    assert!(created.text().contains("postgresql://"), "{}", created.text());
    let tenant = instance().api().get("/tenants/l-one").ok();
    assert_eq!(tenant["status"], "error", "{tenant:#}");
    let reason = tenant["databases"][0]["last_error"].to_string();
    assert!(reason.contains("no names here"), "{reason}");
    // Known by now.
    let body = json!({"tenant_id": "l-two", "databases": [{"blueprint": "late"}]});
    assert_eq!(
        instance().api().post("/tenants", body).problem(409)["code"],
        "head_broken"
    );
    instance().tdb(&["workspaces", "diff-skip", "late", "2"]).ok();
    eventually(Duration::from_secs(120), "the tenant is ready", || {
        let tenant = instance().api().get("/tenants/l-one").ok();
        (tenant["status"] == "ready").then_some(())
    });
    instance().tdb(&["tenants", "delete", "l-one", "--hard", "--yes"]).ok();
    instance().tdb(&arguments).ok();
}
