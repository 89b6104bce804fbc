//! Limits of a tenant (`/tenants/{id}/limits`): what the API accepts, and what the proxy does with clients that are connected
//! and with new ones.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tdb_tests::{Instance, InstanceOptions, Session, column, connect, psql, sqlstate};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);
/// How long a statement that must wait is observed to wait.
const WAITS: Duration = Duration::from_millis(300);
const PID: &str = "SELECT pg_backend_pid()::text";

/// One test at a time: they share the connections to one server.
static TURN: Mutex<()> = Mutex::const_new(());

/// Clients share server connections only where a tenant's limits say so; there are two.
fn instance() -> &'static Instance {
    static INSTANCE: OnceLock<Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let arguments = ["--server-connections-max", "2"];
        let instance = Instance::start_with(&InstanceOptions {
            arguments: arguments.map(str::to_owned).into(),
            ..InstanceOptions::default()
        });
        let workspace = instance.workspace("shop");
        psql(&workspace.url, "CREATE TABLE t (id int)").ok();
        instance
    })
}

fn set(tenant: &str, limits: Value) -> Value {
    let path = format!("/tenants/{tenant}/limits");
    let answer = instance().api().try_send("PUT", &path, Some(limits));
    answer.expect("an answer").ok()
}

async fn client(url: &str) -> Session {
    connect(url).await.expect("log in")
}

async fn value(client: &Session, sql: &str) -> String {
    let values: Vec<String> = column(client, sql).await;
    values.concat()
}

/// A statement that is still running, or waits.
fn send(client: Session, sql: &'static str) -> JoinHandle<(Session, Result<(), tokio_postgres::Error>)> {
    tokio::spawn(async move {
        let result = client.batch_execute(sql).await;
        (client, result)
    })
}

async fn waits(statement: &mut JoinHandle<(Session, Result<(), tokio_postgres::Error>)>) {
    let too_soon = timeout(WAITS, statement).await;
    assert!(too_soon.is_err(), "the statement did not wait: {too_soon:?}");
}

async fn ends(statement: JoinHandle<(Session, Result<(), tokio_postgres::Error>)>) -> Session {
    let (client, result) = timeout(SOON, statement).await.expect("in time").expect("a task");
    result.expect("the statement succeeds");
    client
}

#[test]
fn limits_are_replaced_as_a_whole_and_what_is_invalid_is_refused_by_name() {
    instance().tenant("plain", "shop");
    let api = instance().api();
    let path = "/tenants/plain/limits";
    let defaults = json!({
        "success": true, "tenant_id": "plain", "pool_mode": null, "clients_max": null, "server_connections_max": null,
        "queue_timeout": null
    });
    assert_eq!(api.get(path).ok(), defaults);
    let put = |limits: Value| api.try_send("PUT", path, Some(limits)).expect("an answer");
    let problem = put(json!({"queries_per_second": 5})).problem(400);
    assert_eq!(
        (&problem["code"], &problem["field"]),
        (&json!("unknown_field"), &json!("queries_per_second"))
    );
    for (limits, field) in [
        (json!({"pool_mode": "transaction"}), "pool_mode"),
        (json!({"clients_max": 0}), "clients_max"),
        (json!({"clients_max": -1}), "clients_max"),
        (json!({"clients_max": "5"}), "clients_max"),
        (json!({"server_connections_max": 1_000_001}), "server_connections_max"),
        (json!({"queue_timeout": 0.5}), "queue_timeout"),
        (json!({"queue_timeout": 86_401}), "queue_timeout"),
    ] {
        let problem = put(limits.clone()).problem(422);
        assert_eq!(problem["field"], field, "{limits}: {problem:#}");
    }
    assert_eq!(api.get(path).ok(), defaults);
    let absent = api.try_send("PUT", "/tenants/nowhere/limits", Some(json!({})));
    absent.expect("an answer").problem(404);
    api.get("/tenants/nowhere/limits").problem(404);
    let new = json!({"pool_mode": "auto", "clients_max": 7, "server_connections_max": 3, "queue_timeout": 20});
    let set = put(new).ok();
    assert_eq!(api.get(path).ok(), set);
    assert_eq!((&set["pool_mode"], &set["queue_timeout"]), (&json!("auto"), &json!(20)));
    let replaced = put(json!({"clients_max": 8, "queue_timeout": null})).ok();
    let expected = (&json!(null), &json!(8), &json!(null));
    assert_eq!(
        (
            &replaced["pool_mode"],
            &replaced["clients_max"],
            &replaced["queue_timeout"]
        ),
        expected
    );
    // The command changes what it is given, and nothing else.
    let shown = instance()
        .tdb(&["tenants", "limits", "plain", "--pool-mode", "session"])
        .ok();
    assert!(shown.text().contains("clients_max             8"), "{}", shown.text());
    let shown = instance()
        .tdb(&["tenants", "limits", "plain", "--clients-max", "default"])
        .ok();
    assert!(
        shown.text().contains("pool_mode               session"),
        "{}",
        shown.text()
    );
    assert_eq!(api.get(path).ok()["clients_max"], json!(null));
}

#[tokio::test]
async fn a_client_above_the_tenants_limit_is_refused_and_the_others_stay() {
    let _turn = TURN.lock().await;
    let tenant = instance().tenant("crowded", "shop");
    let (one, other) = (client(&tenant.url).await, client(&tenant.url).await);
    set("crowded", json!({"clients_max": 1}));
    let refused = connect(&tenant.url).await.expect_err("the limit is reached");
    let error = refused.as_db_error().expect("the proxy's error");
    assert_eq!(
        (error.code().code(), error.detail()),
        ("53300", Some("The tenant's limit clients_max is 1."))
    );
    for kept in [&one, &other] {
        value(kept, PID).await;
    }
    set("crowded", json!({}));
    client(&tenant.url).await;
}

#[tokio::test]
async fn a_tenants_pool_mode_counts_for_the_clients_that_log_in_afterwards() {
    let _turn = TURN.lock().await;
    let tenant = instance().tenant("mixed", "shop");
    let earlier = client(&tenant.url).await;
    let own = value(&earlier, PID).await;
    set("mixed", json!({"pool_mode": "auto", "server_connections_max": 1}));
    let (one, other) = (client(&tenant.url).await, client(&tenant.url).await);
    let shared = value(&one, PID).await;
    assert_eq!(value(&other, PID).await, shared);
    assert_ne!(own, shared);
    set("mixed", json!({"pool_mode": "session", "server_connections_max": 1}));
    let later = client(&tenant.url).await;
    assert_ne!(value(&later, PID).await, shared);
    assert_eq!(
        (value(&one, PID).await, value(&other, PID).await),
        (shared.clone(), shared)
    );
    assert_eq!(value(&earlier, PID).await, own);
}

#[tokio::test]
async fn a_tenant_at_its_limit_waits_and_the_clients_of_others_do_not() {
    let _turn = TURN.lock().await;
    let (limited, free) = (instance().tenant("limited", "shop"), instance().tenant("free", "shop"));
    set("limited", json!({"pool_mode": "auto", "server_connections_max": 1}));
    set("free", json!({"pool_mode": "auto"}));
    let (busy, waiting) = (client(&limited.url).await, client(&limited.url).await);
    busy.batch_execute("BEGIN").await.expect("a transaction");
    let mut waiting = send(waiting, "SELECT 1");
    waits(&mut waiting).await;
    // The second connection is for others. Each of these takes it from the other one.
    let others = [client(&free.url).await, client(&free.url).await];
    for _ in 0..10 {
        for other in &others {
            let served = timeout(SOON, value(other, PID)).await;
            served.expect("another tenant's client is served");
        }
    }
    waits(&mut waiting).await;
    busy.batch_execute("COMMIT").await.expect("the end of the transaction");
    let waiting = ends(waiting).await;

    // A raised limit reaches the clients that wait, within a second on an idle machine.
    waiting.batch_execute("BEGIN").await.expect("a transaction");
    let mut second = send(busy, "SELECT 1");
    waits(&mut second).await;
    set("limited", json!({"pool_mode": "auto", "server_connections_max": 2}));
    let second = ends(second).await;

    // A lowered one closes what is above it.
    second.batch_execute("BEGIN").await.expect("a transaction");
    waiting
        .batch_execute("COMMIT")
        .await
        .expect("the end of the transaction");
    set(
        "limited",
        json!({"pool_mode": "auto", "server_connections_max": 1, "queue_timeout": 1}),
    );
    let administrator = client(&instance().server_url("shop__limited")).await;
    let open =
        "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'";
    let lowered = async {
        while value(&administrator, open).await != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, lowered).await.expect("a connection is closed");
    let refused = waiting.batch_execute("SELECT 1").await.expect_err("no connection");
    let error = refused.as_db_error().expect("the proxy's error");
    let detail = error.detail().unwrap_or_default();
    assert_eq!(sqlstate(&refused), "53300");
    assert!(
        detail.contains("the tenant's limit server_connections_max (1) allows"),
        "{detail}"
    );
}

#[tokio::test]
async fn the_error_of_a_full_server_names_the_servers_limit() {
    let _turn = TURN.lock().await;
    let (one, other) = (instance().tenant("full-a", "shop"), instance().tenant("full-b", "shop"));
    set("full-a", json!({"pool_mode": "auto", "server_connections_max": 5}));
    set(
        "full-b",
        json!({"pool_mode": "auto", "server_connections_max": 5, "queue_timeout": 1}),
    );
    let busy = [client(&one.url).await, client(&one.url).await];
    let late = client(&other.url).await;
    for busy in &busy {
        busy.batch_execute("BEGIN").await.expect("a transaction");
    }
    let refused = late.batch_execute("SELECT 1").await.expect_err("no connection");
    let detail = refused
        .as_db_error()
        .and_then(|error| error.detail())
        .unwrap_or_default();
    assert_eq!(sqlstate(&refused), "53300");
    assert!(
        detail.contains("the proxy's limit server_connections_max (2) allows"),
        "{detail}"
    );
}
