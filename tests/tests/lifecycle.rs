//! The lifecycle of tenants and workspaces, as the API and their clients see it.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tdb_tests::{Instance, Session, connect, eventually, eventually_async, in_database, psql, sqlstate};
use tokio_postgres::Error;

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

async fn refusal(url: &str) -> Error {
    connect(url).await.expect_err("the login should be refused")
}

fn hint(error: &Error) -> String {
    error
        .as_db_error()
        .and_then(|e| e.hint())
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn suspending_ends_sessions_with_a_reason_and_resuming_lets_them_in_again() {
    let (_, tenants) = instance().simple("sus", &["pausing"]);
    let url = &tenants[0].url;
    let mut live = connect(url).await.unwrap();
    live.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let answer = instance().api().post("/tenants/pausing/suspend", json!({})).ok();
    assert_eq!(answer["status"], "suspended");
    let ended = match live.batch_execute("SELECT 1").await {
        Err(error) if error.as_db_error().is_some() => error,
        _ => live.ended().await.expect("the session ends with an error"),
    };
    assert_eq!(sqlstate(&ended), "57P01", "{ended:?}");
    let refused = refusal(url).await;
    assert_eq!(sqlstate(&refused), "57P03", "{refused:?}");
    assert!(
        hint(&refused).ends_with('.'),
        "the hint is a full sentence: {:?}",
        hint(&refused)
    );
    assert_eq!(instance().api().get("/tenants/pausing").ok()["status"], "suspended");
    instance()
        .api()
        .post("/tenants/pausing/suspend", json!({}))
        .problem(409);
    instance().api().post("/tenants/pausing/resume", json!({})).ok();
    let again = connect(url).await.unwrap();
    assert_eq!(
        again
            .query_one("SELECT count(*) FROM t", &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
}

#[tokio::test]
async fn a_running_transaction_may_finish_while_its_tenant_is_being_suspended() {
    let (_, tenants) = instance().simple("grace", &["finishing"]);
    let session = connect(&tenants[0].url).await.unwrap();
    session.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let suspending = std::thread::spawn(|| instance().api().post("/tenants/finishing/suspend", json!({})).ok());
    let refused = async || connect(&tenants[0].url).await.err().map(|error| sqlstate(&error));
    eventually_async(Duration::from_secs(60), "new logins are refused", async || {
        (refused().await? == "57P03").then_some(())
    })
    .await;
    session
        .batch_execute("INSERT INTO t VALUES (2); COMMIT")
        .await
        .expect("the transaction finishes");
    suspending.join().unwrap();
    instance().api().post("/tenants/finishing/resume", json!({})).ok();
    assert_eq!(psql(&tenants[0].url, "SELECT count(*) FROM t").ok().text(), "2");
}

#[tokio::test]
async fn a_soft_deletion_keeps_name_and_data_for_a_restore() {
    let (workspace, tenants) = instance().simple("soft", &["leaving"]);
    let url = &tenants[0].url;
    psql(url, "INSERT INTO t VALUES (7)").ok();
    instance().api().delete("/tenants/leaving").ok();
    assert!(["3D000", "57P03"].contains(&sqlstate(&refusal(url).await).as_str()));
    assert_eq!(instance().api().get("/tenants/leaving").ok()["status"], "deleted");
    let again = json!({"tenant_id": "leaving", "databases": [{"blueprint": "soft"}]});
    let problem = instance().api().post("/tenants", again).problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("restore"), "{problem:#}");
    instance().api().delete("/workspaces/soft").problem(409);
    // A change was deployed in its absence; it is applied when the tenant is restored.
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN late int").ok();
    instance().deploy_all("soft");
    instance().api().post("/tenants/leaving/restore", json!({})).ok();
    eventually_async(Duration::from_secs(60), "it has caught up", async || {
        (psql(url, "SELECT count(late) FROM t").code == 0).then_some(())
    })
    .await;
    assert_eq!(psql(url, "SELECT id FROM t").ok().text(), "7");
}

#[tokio::test]
async fn deleting_hard_leaves_no_database_and_no_role() {
    let (_, tenants) = instance().simple("hard", &["removed"]);
    let session = tenants[0].connect().await;
    let (database, role) = session.identity().await;
    instance().api().delete("/tenants/removed?hard=true").ok();
    let server = instance().server("postgres").await;
    let sql = "SELECT (SELECT count(*) FROM pg_database WHERE datname = $1) + (SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $2))";
    let (server, database, role) = (&server, &database, &role);
    eventually_async(Duration::from_secs(60), "database and roles are gone", async || {
        let left = server.query_one(sql, &[database, role]).await.unwrap().get::<_, i64>(0);
        (left == 0).then_some(())
    })
    .await;
    instance().api().get("/tenants/removed").problem(404);
    assert_eq!(
        sqlstate(&refusal(&tenants[0].url).await),
        "28P01",
        "its credential is gone too"
    );
    instance().tenant("removed", "hard");
}

#[test]
fn an_existing_tenant_gains_a_second_blueprints_database() {
    instance().simple("shop", &["twofold"]);
    let crm = instance().workspace("crm");
    psql(&crm.url, "CREATE TABLE contacts (name text)").ok();
    let query = json!({"tenant_id": "twofold", "blueprint": "crm", "query": "SELECT 1"});
    let problem = instance().api().post("/admin/query", query).problem(404);
    assert_eq!(
        problem["detail"],
        "tenant \"twofold\" with blueprint \"crm\" does not exist"
    );
    let twice = json!({"tenant_id": "twofold", "databases": [{"blueprint": "crm"}, {"blueprint": "crm"}]});
    let problem = instance().api().post("/tenants", twice).problem(422);
    assert_eq!(problem["field"], "databases[1].blueprint", "{problem:#}");
    let body = json!({"tenant_id": "twofold", "databases": [{"blueprint": "crm"}]});
    instance().api().post("/tenants", body.clone()).ok();
    let tenant = instance().wait_until_ready("twofold");
    let blueprints: Vec<&Value> = tenant["databases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| &d["blueprint"])
        .collect();
    assert_eq!(blueprints.len(), 2, "{tenant:#}");
    instance().api().post("/tenants", body).problem(409);
    let credential = json!({"tenant_id": "twofold"});
    let answer = instance().api().post("/credentials", credential).ok();
    let url = answer["connection_string"].as_str().expect("a connection string");
    let (shop, crm) = (in_database(url, "shop__twofold"), in_database(url, "crm__twofold"));
    psql(&shop, "SELECT count(*) FROM t").ok();
    psql(&crm, "SELECT count(*) FROM contacts").ok();
    psql(&crm, "SELECT count(*) FROM t").fails_saying("42P01");
}

#[test]
fn a_tenant_may_ask_for_an_older_version() {
    let (workspace, _) = instance().simple("aged", &["first"]);
    let version = instance().api().get("/tenants/first").ok()["databases"][0]["version"].clone();
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN newer int").ok();
    let body = json!({"tenant_id": "older", "databases": [{"blueprint": "aged", "version": version}]});
    let answer = instance().api().post("/tenants", body).ok();
    instance().wait_until_ready("older");
    let url = answer["databases"][0]["connection"]["connection_string"]
        .as_str()
        .unwrap();
    psql(url, "SELECT newer FROM t").fails_saying("42703");
    let unknown = json!({"tenant_id": "future", "databases": [{"blueprint": "aged", "version": 999}]});
    let answer = instance().api().post("/tenants", unknown);
    assert!([404, 422].contains(&answer.status), "{answer:#?}");
}

#[test]
fn a_workspace_can_be_deleted_only_without_tenants() {
    let (workspace, _) = instance().simple("stay", &["holding"]);
    let problem = instance().api().delete("/workspaces/stay").problem(409);
    assert!(
        problem["detail"].as_str().unwrap().contains("holding") || problem["detail"].to_string().contains("tenant")
    );
    instance().api().delete("/tenants/holding?hard=true").ok();
    eventually(Duration::from_secs(60), "the workspace is deleted", || {
        let answer = instance().api().delete("/workspaces/stay");
        ([200, 202, 204, 404].contains(&answer.status)).then_some(())
    });
    eventually(Duration::from_secs(60), "the workspace is gone", || {
        (instance().api().get("/workspaces/stay").status == 404).then_some(())
    });
    psql(&workspace.url, "SELECT 1").fails_saying("FATAL");
    instance().workspace("stay");
}

/// Sessions that are ended report the reason, however the end is detected.
#[tokio::test]
async fn stopping_ends_sessions_with_57p01() {
    let mut instance = Instance::start();
    let workspace = instance.workspace("stopping");
    let mut session: Session = connect(&workspace.url).await.unwrap();
    session.batch_execute("SELECT 1").await.unwrap();
    let status = instance.stop();
    assert!(status.success(), "{status}: {}", instance.log());
    assert_eq!(
        session.ended().await.map(|error| sqlstate(&error)),
        Some("57P01".to_owned())
    );
    instance.restart();
    psql(&instance.at_the_proxy(&workspace.url), "SELECT 1").ok();
}
