//! Credentials with a scope, rights and an expiry time.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tdb_tests::{Instance, connect, eventually_async, in_database, psql, sqlstate, url_with};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

/// RFC 3339, by PostgreSQL's own formatting.
async fn time_in(interval: &str) -> String {
    let sql = "SELECT to_char((now() + $1::text::interval) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let server = instance().server("postgres").await;
    server.query_one(sql, &[&interval]).await.unwrap().get(0)
}

fn create(body: Value) -> (String, String) {
    let made = instance().api().post("/credentials", body).ok();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("connection_string"))
}

#[tokio::test]
async fn a_workspace_credential_opens_only_the_workspace_and_a_read_only_one_cannot_write() {
    let (workspace, _) = instance().simple("scopes", &["sco-one"]);
    let (_, url) = create(json!({"workspace": "scopes"}));
    psql(&url, "CREATE TABLE by_another (id int)").ok();
    let changes = instance().diff("scopes");
    assert!(
        changes.iter().any(|change| change.to_string().contains("by_another")),
        "{changes:#?}"
    );
    for database in ["scopes__sco-one", "other_dev"] {
        let refused = connect(&in_database(&url, database)).await.unwrap_err();
        assert_eq!(sqlstate(&refused), "42501", "{database}: {refused:?}");
    }
    let (_, reader) = create(json!({"workspace": "scopes", "rights": "ro"}));
    psql(&workspace.url, "INSERT INTO t VALUES (7)").ok();
    assert_eq!(psql(&reader, "SELECT id FROM t").ok().text(), "7");
    for attempt in [
        "INSERT INTO t VALUES (1)",
        "CREATE TABLE x (id int)",
        "SET default_transaction_read_only = off; CREATE TABLE x (id int)",
        "TRUNCATE t",
        "DROP TABLE t",
    ] {
        psql(&reader, attempt).fails_saying("ERROR");
    }
}

#[tokio::test]
async fn an_expired_credential_is_refused_as_a_wrong_password_and_its_sessions_end() {
    instance().simple("ends", &["end-one"]);
    let (id, url) = create(json!({"tenant_id": "end-one", "expires_at": time_in("4 seconds").await}));
    let url = in_database(&url, "ends__end-one");
    let wrong = url_with(&url, None, Some("wrong"), None);
    let message = |error: &tokio_postgres::Error| error.as_db_error().unwrap().message().to_owned();
    let wrong_password = connect(&wrong).await.unwrap_err();
    let (mut idle, busy) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let list = instance().api().get("/credentials").ok();
    let shown = list["credentials"]
        .as_array()
        .unwrap()
        .iter()
        .find(|known| known["id"] == *id)
        .unwrap();
    assert!(shown["expires_at"].is_string(), "{shown:#}");
    // A transaction that ends in time commits.
    busy.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let ended = idle.ended().await.expect("the idle session ends with its credential");
    assert_eq!(sqlstate(&ended), "57P01", "{ended:?}");
    assert!(message(&ended).contains("expired"), "{ended:?}");
    busy.batch_execute("COMMIT").await.unwrap();
    let refused = connect(&url).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "28P01");
    assert_eq!(message(&refused), message(&wrong_password));
    let url = &url;
    eventually_async(
        Duration::from_secs(60),
        "the busy session ended after its transaction",
        || async move {
            let server = instance().server("ends__end-one").await;
            let sql =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                   AND usename ~ '^r_' ";
            assert!(connect(url).await.is_err());
            (server.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
        },
    )
    .await;
}

#[tokio::test]
async fn what_a_credential_cannot_be_is_refused_by_name() {
    instance().simple("odd", &["odd-one"]);
    let year = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 31_556_952 + 1970;
    for (body, status, field) in [
        (json!({}), 422, "tenant_id"),
        (json!({"tenant_id": "odd-one", "workspace": "odd"}), 422, "workspace"),
        (json!({"tenant_id": "odd-one", "rights": "all"}), 422, "rights"),
        (
            json!({"tenant_id": "odd-one", "expires_at": "tomorrow"}),
            422,
            "expires_at",
        ),
        (
            json!({"tenant_id": "odd-one", "expires_at": format!("{}-01-01T00:00:00Z", year - 1)}),
            422,
            "expires_at",
        ),
        (json!({"workspace": "Odd__Name"}), 422, "workspace"),
    ] {
        let problem = instance().api().post("/credentials", body.clone()).problem(status);
        assert_eq!(problem["field"], field, "{body}: {problem:#}");
    }
    for body in [json!({"workspace": "unheard"}), json!({"tenant_id": "unheard"})] {
        instance().api().post("/credentials", body).problem(404);
    }
    let arguments = [
        "credentials",
        "create",
        "--workspace",
        "odd",
        "--rights",
        "ro",
        "--expires-at",
    ];
    let at = time_in("1 hour").await;
    let url = instance().tdb(&[&arguments[..], &[&at]].concat()).ok();
    psql(url.text(), "SELECT 1").ok();
}

#[tokio::test]
async fn a_project_credential_opens_later_tenants_and_a_read_only_one_cannot_write() {
    instance().simple("whole", &["who-one"]);
    let (_, all) = create(json!({"project": true, "name": "app"}));
    let (_, reader) = create(json!({"project": true, "rights": "ro"}));
    instance().tenant("who-two", "whole");
    for database in ["whole_dev", "whole__who-one", "whole__who-two"] {
        let (all, reader) = (in_database(&all, database), in_database(&reader, database));
        psql(&all, "INSERT INTO t VALUES (1)").ok();
        assert_eq!(psql(&reader, "SELECT id FROM t").ok().text(), "1", "{database}");
        for attempt in ["INSERT INTO t VALUES (2)", "CREATE TABLE x (id int)", "DROP TABLE t"] {
            psql(&reader, attempt).fails_saying("ERROR");
        }
    }
    let writer = instance().api().post("/apikeys", json!({"name": "writer"})).ok();
    let writer = instance().api().with_key(writer["api_key"].as_str());
    let refused = writer.post("/credentials", json!({"project": true})).problem(403);
    assert_eq!(
        refused["code"], "forbidden",
        "the project's credential is an administrator's"
    );
    let made = instance()
        .tdb(&["credentials", "create", "--project", "--read-only"])
        .ok();
    let (before, address) = made.text().rsplit_once('@').expect("a connection string");
    assert!(before.starts_with("postgresql://tdb_"), "{before}");
    assert_eq!(address, instance().proxy(), "a database is appended by the reader");
}

#[test]
fn a_tenant_with_two_blueprints_gets_a_string_for_each() {
    instance().simple("left", &["both"]);
    psql(&instance().workspace("right").url, "CREATE TABLE t (id int)").ok();
    let body = json!({"tenant_id": "both", "databases": [{"blueprint": "right"}]});
    instance().api().post("/tenants", body).ok();
    let printed = instance().tdb(&["credentials", "create", "--tenant", "both"]).ok();
    let urls: Vec<&str> = printed.text().lines().collect();
    assert_eq!(urls.len(), 2, "{urls:?}");
    for (url, database) in urls.iter().zip(["left__both", "right__both"]) {
        assert_eq!(psql(url, "SELECT current_database() IS NOT NULL").ok().text(), "t");
        assert!(url.ends_with(database), "{url}");
    }
}

#[test]
fn a_unique_name_is_accepted_where_an_id_is() {
    let api = instance().api();
    instance().simple("called", &["cal-one"]);
    let named = |name: &str| {
        api.post("/credentials", json!({"tenant_id": "cal-one", "name": name}))
            .ok()
    };
    let shown = |id: &Value| {
        let list = api.get("/credentials?limit=1000").ok();
        list["credentials"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["id"] == *id)
            .cloned()
    };
    let first = named("billing");
    assert_eq!(first["name"], "billing");
    assert_eq!(shown(&first["id"]).unwrap()["opens"], "cal-one");
    let second = named("billing");
    let problem = api.delete("/credentials/billing").problem(409);
    assert_eq!(problem["code"], "ambiguous_name");
    assert!(
        problem["hint"]
            .as_str()
            .unwrap()
            .contains(first["id"].as_str().unwrap()),
        "{problem:#}"
    );
    api.delete(&format!("/credentials/{}", second["id"].as_str().unwrap()))
        .ok();
    api.delete("/credentials/billing").ok();
    assert!(shown(&first["id"]).is_none() && shown(&second["id"]).is_none());
    // Without a name, a credential has the name of its user.
    let (id, url) = create(json!({"tenant_id": "cal-one"}));
    let user = url.split(['/', ':']).nth(3).unwrap().to_owned();
    assert_eq!(shown(&json!(id)).unwrap()["name"], json!(user));
    api.delete(&format!("/credentials/{user}")).ok();
    for name in [
        "",
        "00000000-0000-4000-8000-000000000000",
        "prj_abcdefgh27",
        &"n".repeat(65),
        "a\nb",
    ] {
        let problem = api
            .post("/credentials", json!({"tenant_id": "cal-one", "name": name}))
            .problem(422);
        assert_eq!(problem["field"], "name", "{name:?}");
    }
    for path in ["/credentials/nobody", "/apikeys/nobody", "/projects/nobody"] {
        assert_eq!(api.delete(path).problem(404)["code"], "not_found", "{path}");
    }
    api.post("/apikeys", json!({"name": "nightly"})).ok();
    api.delete("/apikeys/nightly").ok();
    api.post("/projects", json!({"name": "Second shop"})).ok();
    api.post("/projects/Second%20shop/credential", json!({})).ok();
    instance().tdb(&["projects", "delete", "Second shop", "--yes"]).ok();
}

#[test]
fn the_diff_names_the_author_after_the_credential_was_deleted() {
    let workspace = instance().workspace("authors");
    let (id, url) = create(json!({"workspace": "authors", "name": "migrations"}));
    psql(&url, "CREATE TABLE a (id int)").ok();
    instance().api().delete(&format!("/credentials/{id}")).ok();
    instance()
        .tdb(&["psql", "authors_dev", "--", "-c", "CREATE TABLE b (id int)"])
        .ok();
    let key = instance()
        .api()
        .post("/apikeys", json!({"name": "ci", "scopes": ["write"]}))
        .ok();
    let api = instance().api().with_key(key["api_key"].as_str());
    api.post(
        "/workspaces/authors/queries",
        json!({"query": "CREATE TABLE c (id int)"}),
    )
    .ok();
    instance().api().delete("/apikeys/ci").ok();
    let authors: Vec<String> = instance()
        .diff(&workspace.name)
        .iter()
        .map(|change| change["author"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(authors[0], "migrations");
    assert!(
        authors[1].starts_with("psql of ") && authors[1].contains('@'),
        "{authors:?}"
    );
    assert_eq!(authors[2], "key:ci");
    let shown = instance().tdb(&["workspaces", "diff", "authors"]).ok();
    assert!(shown.stdout.contains("by API key \"ci\""), "{}", shown.stdout);
}

#[test]
fn a_script_must_use_yes_to_delete_a_tenant_permanently() {
    instance().simple("spared", &["spa-one"]);
    instance()
        .tdb(&["tenants", "delete", "spa-one", "--hard"])
        .fails_saying("--yes");
    assert_eq!(instance().api().get("/tenants/spa-one").ok()["status"], "ready");
    instance()
        .tdb(&["tenants", "delete", "spa-one", "--hard", "--yes"])
        .ok();
    instance().api().get("/tenants/spa-one").problem(404);
}
