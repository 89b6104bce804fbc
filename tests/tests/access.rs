//! Access control: credentials, API keys, and the errors of refused requests.

use std::sync::OnceLock;

use serde_json::{Value, json};
use tdb_tests::{Answer, Instance, connect, in_database, psql, sqlstate, url_of};
use tokio_postgres::Error;

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

async fn refusal(url: &str) -> Error {
    connect(url).await.expect_err("the login should be refused")
}

#[tokio::test]
async fn a_rotated_project_credential_replaces_the_old_one() {
    let (_, tenants) = instance().simple("rotate", &["r-one"]);
    let projects = instance().api().get("/projects").ok();
    let id = projects["projects"][0]["id"].as_str().expect("a project").to_owned();
    let rotate = || {
        let answer = instance()
            .api()
            .post(&format!("/projects/{id}/credential"), json!({}))
            .ok();
        let url = answer["connection_string"]
            .as_str()
            .expect("a connection string")
            .to_owned();
        in_database(&url, "rotate__r-one")
    };
    let old = rotate();
    connect(&old)
        .await
        .expect("the project's credential opens every tenant");
    psql(&in_database(&old, "rotate_dev"), "SELECT 1").ok();
    let new = rotate();
    assert_eq!(sqlstate(&refusal(&old).await), "28P01");
    connect(&new).await.unwrap();
    connect(&tenants[0].url).await.expect("the tenant's own is untouched");
}

#[tokio::test]
async fn a_deleted_credential_ends_its_sessions() {
    let (_, tenants) = instance().simple("reads", &["ro-one"]);
    let made = instance()
        .api()
        .post("/credentials", json!({"tenant_id": "ro-one"}))
        .ok();
    let url = url_of(&made, "reads__ro-one");
    let mut session = connect(&url).await.unwrap();
    session.execute("INSERT INTO t VALUES (1)", &[]).await.unwrap();
    let id = made["id"].as_str().unwrap();
    let password = made["connection"]["password"].as_str().expect("a password");
    let list = instance().api().get("/credentials").ok().to_string();
    assert!(list.contains(id) && !list.contains(password), "{list}");
    instance().api().delete(&format!("/credentials/{id}")).ok();
    assert!(session.ended().await.is_some(), "the session ends with its credential");
    assert_eq!(sqlstate(&refusal(&url).await), "28P01");
    connect(&tenants[0].url)
        .await
        .expect("the tenant's other credential goes on");
}

#[tokio::test]
async fn a_read_only_credential_reads_and_cannot_write() {
    let (_, tenants) = instance().simple("looks", &["look-one"]);
    psql(&tenants[0].url, "INSERT INTO t VALUES (7)").ok();
    let body = json!({"tenant_id": "look-one", "rights": "ro"});
    let made = instance().api().post("/credentials", body).ok();
    let url = url_of(&made, "looks__look-one");
    let session = connect(&url).await.unwrap();
    assert_eq!(
        session
            .query_one("SELECT id FROM t", &[])
            .await
            .unwrap()
            .get::<_, i32>(0),
        7
    );
    for attempt in [
        "INSERT INTO t VALUES (1)",
        "SET default_transaction_read_only = off; INSERT INTO t VALUES (1)",
        "SET default_transaction_read_only = off; CREATE TABLE x (id int)",
    ] {
        assert!(session.batch_execute(attempt).await.is_err(), "{attempt} succeeded");
    }
}

#[tokio::test]
async fn a_tenants_credential_opens_nothing_else() {
    let (workspace, tenants) = instance().simple("scoped", &["sc-one", "sc-two"]);
    for database in ["scoped__sc-two", "scoped_dev"] {
        let refused = refusal(&in_database(&tenants[0].url, database)).await;
        assert_eq!(sqlstate(&refused), "42501", "{refused:?}");
    }
    for database in ["scoped__sc-one", "scoped__sc-two"] {
        let refused = refusal(&in_database(&workspace.url, database)).await;
        assert_eq!(sqlstate(&refused), "42501", "{refused:?}");
    }
}

#[test]
fn api_keys_have_rights_and_end_when_deleted() {
    let api = instance().api();
    api.with_key(None).get("/tenants").problem(401);
    api.with_key(Some("tdb_sk_wrong")).get("/tenants").problem(401);
    let made = api.post("/apikeys", json!({"name": "reader", "scopes": ["read"]})).ok();
    let key = made["api_key"]
        .as_str()
        .or(made["key"].as_str())
        .expect("the key itself")
        .to_owned();
    assert!(key.starts_with("tdb_sk_"), "{key}");
    let reader = api.with_key(Some(&key));
    reader.get("/tenants").ok();
    reader
        .post("/workspaces", json!({"name": "nope", "database": "PostgreSQL"}))
        .problem(403);
    let list = api.get("/apikeys").ok();
    assert!(!list.to_string().contains(&key), "the list shows the key");
    let id = made["id"].as_str().expect("an id");
    api.delete(&format!("/apikeys/{id}")).ok();
    reader.get("/tenants").problem(401);
}
#[test]
fn unknown_fields_and_wrong_values_are_refused_by_name() {
    let api = instance().api();
    let names = |answer: Answer, status: u16, word: &str| {
        let problem = answer.problem(status);
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem:#}");
    };
    let typo = api.post("/workspaces", json!({"name": "x", "database": "PostgreSQL", "nmae": 1}));
    assert!([400, 422].contains(&typo.status), "{typo:#?}");
    let status = typo.status;
    names(typo, status, "nmae");
    names(
        api.post("/workspaces", json!({"name": "Bad__Name", "database": "PostgreSQL"})),
        422,
        "name",
    );
    names(
        api.post("/workspaces", json!({"name": "x", "database": "Oracle"})),
        422,
        "database",
    );
    names(
        api.post(
            "/tenants",
            json!({"tenant_id": "dev", "databases": [{"blueprint": "shop"}]}),
        ),
        422,
        "tenant_id",
    );
    names(
        api.post(
            "/tenants",
            json!({"tenant_id": "t1", "databases": [{"blueprint": "unheard"}]}),
        ),
        404,
        "unheard",
    );
    names(api.get("/workspaces/unheard"), 404, "unheard");
    api.get("/no/such/path").problem(404);
    let huge = json!({"name": "x".repeat(3_000_000), "database": "PostgreSQL"});
    assert!([413, 422].contains(&api.post("/workspaces", huge).status));
}

#[test]
fn describes_itself() {
    let open = instance().api().with_key(None);
    assert_eq!(open.get("/health").status, 200);
    assert_eq!(open.get("/").status, 200);
    let document = open.get("/openapi.json").body;
    for path in [
        "/workspaces",
        "/tenants",
        "/deployments",
        "/admin/query",
        "/drift",
        "/credentials",
    ] {
        assert!(document["paths"][path].is_object(), "{path} is not described");
    }
    let metrics = ureq_text(&format!(
        "{}/metrics",
        instance().metrics_url().trim_end_matches("/metrics")
    ));
    assert!(
        metrics.contains("# TYPE tdb_") || metrics.contains("# TYPE tenantsdb_"),
        "{metrics}"
    );
}

fn ureq_text(url: &str) -> String {
    ureq::get(url)
        .call()
        .expect("an answer")
        .body_mut()
        .read_to_string()
        .expect("text")
}

#[test]
fn lists_have_pages() {
    for n in 0..3 {
        instance().workspace(&format!("page{n}"));
    }
    let api = instance().api();
    let mut names = Vec::new();
    let mut path = "/workspaces?limit=2".to_owned();
    loop {
        let page = api.get(&path).ok();
        let part = page["workspaces"].as_array().expect("workspaces");
        assert!(part.len() <= 2);
        names.extend(
            part.iter()
                .map(|workspace| workspace["name"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/workspaces?limit=2&cursor={cursor}");
    }
    for n in 0..3 {
        assert_eq!(
            names.iter().filter(|name| **name == format!("page{n}")).count(),
            1,
            "{names:?}"
        );
    }
}

#[test]
fn queries_give_types_and_limits() {
    let (_, tenants) = instance().simple("asked", &["q-one", "q-two"]);
    psql(&tenants[0].url, "INSERT INTO t VALUES (1)").ok();
    let api = instance().api();
    let query = |sql: &str| json!({"query": sql});
    let sql = "SELECT 1::int4 AS i, true AS b, 2::int8 AS big, 1.50::numeric AS n, NULL AS nothing, 'x' AS t";
    let answer = api.post("/workspaces/asked/queries", query(sql)).ok();
    assert_eq!(answer["columns"][0], json!({"name": "i", "type": "int4"}), "{answer:#}");
    assert_eq!(
        answer["rows"][0],
        json!([1, true, "2", "1.50", null, "x"]),
        "{answer:#}"
    );
    let many = api
        .post("/workspaces/asked/queries", query("SELECT generate_series(1, 5000)"))
        .ok();
    assert_eq!(
        (many["rows"].as_array().unwrap().len(), &many["truncated"]),
        (1000, &json!(true))
    );
    let wrong = api.post("/workspaces/asked/queries", query("SELECT nonsense"));
    assert!(
        (400..500).contains(&wrong.status) && wrong.body.to_string().contains("42703"),
        "{wrong:#?}"
    );
    let all = json!({"all_tenants": true, "blueprint": "asked", "query": "SELECT 1/count(*) FROM t"});
    let answer = api.post("/admin/query", all).ok();
    let results = answer["results"].as_array().unwrap();
    let of = |name: &str| results.iter().find(|result| result["tenant_id"] == name).unwrap();
    assert_eq!(of("q-one")["row_count"], 1, "{answer:#}");
    assert_eq!(of("q-two")["error"]["sqlstate"], "22012", "{answer:#}");
}

#[test]
fn errors_of_the_command_line_have_their_exit_codes() {
    assert_eq!(instance().tdb(&["nonsense"]).code, 2);
    assert_eq!(instance().tdb(&["workspaces", "get", "unheard-of"]).code, 1);
    let ran = instance().tdb(&["--json", "workspaces", "list"]).ok();
    let list: Value = serde_json::from_str(&ran.stdout).expect("JSON on standard output");
    assert!(list["workspaces"].is_array());
    assert!(
        instance()
            .tdb(&["version"])
            .ok()
            .stdout
            .contains(env!("CARGO_PKG_VERSION"))
    );
}
