//! Extensions that PostgreSQL lets only a superuser make: made by the administrator where the server allows it, replayed on
//! tenants, in a schema in which nobody plants anything.

use std::sync::OnceLock;

use serde_json::{Value, json};
use tdb_tests::{Answer, Instance, psql};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

fn make(workspace: &str, body: Value) -> Answer {
    let path = format!("/workspaces/{workspace}/extensions");
    instance().api().post(&path, body)
}

#[test]
fn an_extension_is_a_change_of_its_own_that_tenants_get() {
    let (workspace, tenants) = instance().simple("bloomed", &["b-old"]);
    psql(&workspace.url, "CREATE EXTENSION bloom").fails_saying("42501");
    let query = |sql: &str| {
        instance()
            .api()
            .post("/workspaces/bloomed/queries", json!({"query": sql}))
    };
    let problem = query("CREATE  EXTENSION \"bloom\" -- please").problem(422);
    assert_eq!(
        (&problem["sqlstate"], &problem["hint"]),
        (
            &json!("42501"),
            &json!(
                "An extension that needs a superuser is created with POST /workspaces/bloomed/extensions {\"name\": \"bloom\"}, \
                 where the server allows it."
            )
        ),
        "{problem:#}"
    );
    let problem = query("CREATE EXTENSION citext; SELECT pg_read_file('bloom')").problem(422);
    assert_eq!(
        (&problem["sqlstate"], &problem["hint"]),
        (&json!("42501"), &Value::Null),
        "{problem:#}"
    );
    let change = make("bloomed", json!({"name": "bloom"})).ok();
    assert_eq!(
        (&change["ddl_id"], &change["command_tags"], &change["state"]),
        (&json!(2), &json!(["CREATE EXTENSION"]), &json!("pending")),
        "{change:#}"
    );
    assert!(
        change["author"]
            .as_str()
            .is_some_and(|author| author.starts_with("key:")),
        "{change:#}"
    );
    psql(&workspace.url, "CREATE INDEX t_bloom ON t USING bloom (id)").ok();
    assert_eq!(instance().deploy_all("bloomed")["status"], "completed");
    let new = instance().tenant("b-new", "bloomed");
    for url in [&tenants[0].url, &new.url] {
        psql(url, "INSERT INTO t VALUES (1); SELECT * FROM t WHERE id = 1").ok();
        let schema = "SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'bloom'";
        assert_eq!(psql(url, schema).ok().text(), "extensions");
        psql(url, "CREATE TABLE extensions.planted ()").fails_saying("42501");
        psql(url, "DROP EXTENSION bloom").fails_saying("42501");
        psql(url, "ALTER SCHEMA extensions RENAME TO mine").fails_saying("42501");
    }
    let drift = instance().drift("bloomed");
    assert_eq!(drift["count"], 0, "{drift:#}");
    instance().prove(&workspace);
    let problem = instance()
        .api()
        .post("/workspaces/bloomed/diff/2/revert", json!({}))
        .problem(409);
    assert!(
        ["change_not_revertible", "change_needed"].contains(&problem["code"].as_str().unwrap()),
        "{problem:#}"
    );

    let shown = instance().tdb(&["workspaces", "extensions", "bloomed"]).ok();
    let line = shown
        .text()
        .lines()
        .find(|line| line.starts_with("bloom "))
        .expect("a line")
        .to_owned();
    assert!(line.ends_with("extensions"), "{line}");
    assert!(!shown.text().contains("file_fdw"), "{}", shown.text());
}

#[test]
fn what_the_server_does_not_allow_or_have_is_refused() {
    instance().workspace("strict");
    for name in ["file_fdw", "dblink", "postgres_fdw", "adminpack", "plpython3u"] {
        let problem = make("strict", json!({"name": name})).problem(409);
        assert_eq!(problem["code"], "extension_not_allowed", "{problem:#}");
        assert!(problem["hint"].to_string().contains("proxy.toml"), "{problem:#}");
    }
    for (body, field) in [
        (json!({"name": "nonsense"}), "name"),
        (json!({"name": "bloom\"; DROP SCHEMA tdb"}), "name"),
        (json!({"name": "bloom", "version": "99"}), "name"),
        (json!({"name": "bloom", "version": "1'0"}), "version"),
    ] {
        assert_eq!(make("strict", body.clone()).problem(422)["field"], field, "{body}");
    }
    make("strict", json!({"name": "bloom", "schema": "x"})).problem(400);
    instance()
        .tdb(&["workspaces", "extensions", "strict", "--create", "bloom"])
        .ok();
    make("strict", json!({"name": "bloom"})).problem(409);
    assert_eq!(instance().diff("strict").len(), 1);
}

/// Scripts of extensions run as a superuser and find what stands on their search_path.
#[test]
fn no_script_runs_where_a_user_may_have_planted_something() {
    let workspace = instance().workspace("planted");
    psql(&workspace.url, "CREATE EXTENSION cube").ok();
    let problem = make("planted", json!({"name": "earthdistance"})).problem(409);
    assert!(
        problem["detail"].to_string().contains("the schema \\\"public\\\""),
        "{problem:#}"
    );
    psql(&workspace.url, "DROP EXTENSION cube").ok();
    make("planted", json!({"name": "cube"})).ok();
    make("planted", json!({"name": "earthdistance"})).ok();
    psql(&workspace.url, "SELECT extensions.earth()").ok();
    instance().prove(&workspace);

    let squatted = instance().workspace("squatted");
    psql(&squatted.url, "CREATE SCHEMA extensions").ok();
    let problem = make("squatted", json!({"name": "bloom"})).problem(409);
    assert!(
        problem["detail"].to_string().contains("the schema \\\"extensions\\\""),
        "{problem:#}"
    );
    assert_eq!(instance().diff("squatted").len(), 1, "nothing was made");
}

#[test]
fn a_tenant_that_has_the_schema_itself_fails_with_the_reason() {
    let (_, tenants) = instance().simple("occupied", &["o-one"]);
    psql(
        &tenants[0].url,
        "CREATE SCHEMA extensions; CREATE FUNCTION extensions.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )
    .ok();
    make("occupied", json!({"name": "bloom"})).ok();
    let job = instance().deploy_all("occupied");
    let error = &job["targets"][0]["error"];
    assert_eq!(
        (&job["status"], &error["sqlstate"]),
        (&json!("failed"), &json!("42501")),
        "{job:#}"
    );
    assert!(error["message"].to_string().contains("extensions"), "{job:#}");
    psql(&tenants[0].url, "SELECT FROM pg_extension WHERE extname = 'bloom'").ok();
    psql(&tenants[0].url, "DROP SCHEMA extensions CASCADE").ok();
    let job = job["job_id"].as_str().expect("a job id").to_owned();
    instance()
        .api()
        .post(&format!("/deployments/{job}/retry"), json!({}))
        .ok();
    assert_eq!(instance().wait_for_deployment(&job)["status"], "completed");
}
