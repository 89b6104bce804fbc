//! The lifecycle of database servers: registered, tested, selected, drained, removed, and only by the operator.

use std::time::Duration;

use serde_json::{Value, json};
use tdb_testkit::{Cluster, ClusterOptions};
use tdb_tests::{Instance, column, connect, eventually};

fn enrolment(cluster: &Cluster, name: &str) -> Value {
    json!({
        "name": name, "host": "127.0.0.1", "port": cluster.port(), "tls": "disable",
        "admin_user": cluster.superuser(), "admin_password": cluster.password(),
    })
}

#[tokio::test]
async fn a_second_server_takes_tenants_until_it_is_drained_and_is_removed_when_empty() {
    let (instance, cluster) = (Instance::start(), Cluster::start().unwrap());
    let api = instance.api();
    let keyed = api.with_header("Idempotency-Key", "two");
    let made = keyed.post("/servers", enrolment(&cluster, "two")).ok();
    assert_eq!(made, keyed.post("/servers", enrolment(&cluster, "two")).ok());
    assert_eq!(
        (&made["status"], &made["tenant_databases"]),
        (&json!("active"), &json!(0)),
        "{made:#}"
    );
    assert!(!made.to_string().contains(cluster.password()));
    let again = api.post("/servers", enrolment(&cluster, "two")).problem(409);
    assert_eq!(again["code"], "already_exists");
    let test = api.post("/servers/two/test", json!({})).ok();
    assert!(test["max_connections"].as_i64().unwrap() >= 20, "{test:#}");

    // Each is created on the server with the fewest databases.
    let (workspace, tenants) = instance.simple("spread", &["sp-one", "sp-two", "sp-three", "sp-four"]);
    let server_of = |tenant: &str| api.get(&format!("/tenants/{tenant}")).ok()["databases"][0]["server"].clone();
    let placed: Vec<Value> = tenants.iter().map(|tenant| server_of(&tenant.name)).collect();
    for name in ["two", "dev"] {
        assert!(
            placed.iter().any(|server| server == name),
            "nothing on {name}: {placed:?}"
        );
    }
    tdb_tests::psql(&workspace.url, "ALTER TABLE t ADD COLUMN more text").ok();
    assert_eq!(instance.deploy_all("spread")["status"], "completed");
    for tenant in &tenants {
        let session = connect(&tenant.url).await.unwrap();
        session
            .execute("INSERT INTO t (id, more) VALUES (1, 'x')", &[])
            .await
            .unwrap();
    }
    assert_eq!(instance.drift("spread")["count"], 0);

    let full = api.delete("/servers/two").problem(409);
    assert_eq!(full["code"], "server_not_empty", "{full:#}");
    assert_eq!(
        api.get("/servers/two").ok()["status"],
        "active",
        "a refused deletion changes nothing"
    );
    assert_eq!(api.post("/servers/two/drain", json!({})).ok()["status"], "draining");
    for name in ["sp-five", "sp-six"] {
        instance.tenant(name, "spread");
        assert_eq!(server_of(name), "dev");
    }
    for name in ["sp-one", "sp-two", "sp-three", "sp-four", "sp-five", "sp-six"] {
        api.delete(&format!("/tenants/{name}?hard=true")).ok();
    }
    // The workspace may be on that server too.
    api.delete("/workspaces/spread").ok();
    eventually(Duration::from_secs(60), "the server is empty", || {
        let answer = api.delete("/servers/two");
        (answer.status != 409).then(|| answer.ok())
    });
    api.get("/servers/two").problem(404);
    let client = cluster.connect("postgres").await.unwrap();
    let sql =
        "SELECT datname::text FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1', 'tdb_base')";
    let left: Vec<String> = column(&client, sql).await;
    assert_eq!(left, Vec::<String>::new());
    api.post("/servers", enrolment(&cluster, "two")).ok();
}

#[test]
fn a_server_is_registered_only_once() {
    let (instance, cluster) = (Instance::start(), Cluster::start().unwrap());
    let api = instance.api();
    api.post("/servers", enrolment(&cluster, "two")).ok();
    let identifier = "system identifier";
    for (host, identified) in [("127.0.0.1", false), ("localhost", true)] {
        let mut again = enrolment(&cluster, "again");
        again["host"] = json!(host);
        let problem = api.post("/servers", again).problem(409);
        assert_eq!(problem["code"], "already_exists");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("{host}:{}", cluster.port())), "{detail}");
        assert!(detail.contains("as \"two\""), "{detail}");
        assert_eq!(detail.contains(identifier), identified, "{detail}");
        api.get("/servers/again").problem(404);
    }
    // Of several registrations at the same time, one succeeds.
    api.delete("/servers/two").ok();
    let registered: Vec<u16> = std::thread::scope(|scope| {
        let register = |name: &'static str| {
            let (api, body) = (&api, enrolment(&cluster, name));
            scope.spawn(move || api.post("/servers", body).status)
        };
        let begun = ["a", "b", "c", "d"].map(register);
        begun.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(
        registered.iter().filter(|status| **status == 201).count(),
        1,
        "{registered:?}"
    );
    assert_eq!(
        registered.iter().filter(|status| **status == 409).count(),
        3,
        "{registered:?}"
    );
}

#[tokio::test]
async fn an_unsuitable_server_is_refused_with_what_it_lacks() {
    let instance = Instance::start();
    let small = ClusterOptions {
        settings: vec!["max_connections=12".to_owned(), "max_wal_senders=2".to_owned()],
        ..ClusterOptions::default()
    };
    let (cluster, small) = (Cluster::start().unwrap(), Cluster::start_with(small).unwrap());
    let client = cluster.connect("postgres").await.unwrap();
    let roles = "CREATE ROLE poor LOGIN PASSWORD 'x'; CREATE ROLE half LOGIN CREATEDB PASSWORD 'x';
                 CREATE ROLE near LOGIN CREATEDB CREATEROLE PASSWORD 'x'";
    client.batch_execute(roles).await.unwrap();
    let register = |cluster: &Cluster, changed: Value| {
        let mut body = enrolment(cluster, "unfit");
        for (field, value) in changed.as_object().unwrap() {
            body[field] = value.clone();
        }
        instance.api().post("/servers", body)
    };
    let user = |name: &str| json!({"admin_user": name, "admin_password": "x"});
    for (cluster, changed, status, code) in [
        (&cluster, user("poor"), 422, "server_rights"),
        (&cluster, user("half"), 422, "server_rights"),
        (&cluster, user("near"), 422, "server_event_triggers"),
        (&cluster, json!({"admin_password": "wrong"}), 422, "server_login"),
        (&small, json!({}), 422, "server_capacity"),
        (&cluster, json!({"port": 1}), 422, "server_unreachable"),
        (
            &cluster,
            json!({"host": "no-such-host.invalid"}),
            422,
            "server_unreachable",
        ),
        (&cluster, json!({"tls": "require"}), 422, "server_unreachable"),
        (&cluster, json!({"port": 0}), 422, "invalid_value"),
        (&cluster, json!({"host": "a b"}), 422, "invalid_value"),
        (&cluster, json!({"tls": "maybe"}), 422, "invalid_value"),
        (&cluster, json!({"name": "No Name"}), 422, "invalid_value"),
        (&cluster, json!({"admin_password": ""}), 422, "invalid_value"),
    ] {
        let problem = register(cluster, changed.clone()).problem(status);
        assert_eq!(problem["code"], code, "{changed}: {problem:#}");
    }
    instance.api().get("/servers/unfit").problem(404);
    register(&cluster, json!({})).ok();
    // Testing a server that is not available reports this.
    let gone = register(&small, json!({"name": "gone"}));
    assert_eq!(gone.status, 422);
    drop(cluster);
    let test = instance.api().post("/servers/unfit/test", json!({})).problem(502);
    assert_eq!(test["code"], "database_unreachable");
    instance.api().post("/servers/nowhere/test", json!({})).problem(404);
}

#[test]
fn the_command_line_registers_with_a_password_from_the_environment_or_standard_input() {
    let (instance, cluster) = (Instance::start(), Cluster::start().unwrap());
    let port = cluster.port().to_string();
    let arguments = [
        "servers",
        "register",
        "--name",
        "cli",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--admin-user",
        cluster.superuser(),
    ];
    instance
        .tdb_with(&arguments, &[], "wrong\n")
        .fails_saying("cannot be used");
    instance
        .tdb_with(&arguments, &[], "")
        .fails_saying("TDB_SERVER_PASSWORD");
    let shown = instance
        .tdb_with(&arguments, &[("TDB_SERVER_PASSWORD", cluster.password())], "")
        .ok();
    assert!(
        shown.stdout.contains("active") && !shown.stdout.contains(cluster.password()),
        "{}",
        shown.stdout
    );
    assert!(
        instance
            .tdb(&["servers", "test", "cli"])
            .ok()
            .stdout
            .contains("connections")
    );
    assert!(
        instance
            .tdb(&["servers", "drain", "cli"])
            .ok()
            .stdout
            .contains("draining")
    );
    instance.tdb(&["servers", "delete", "cli"]).ok();
    assert!(!instance.tdb(&["servers", "list"]).ok().stdout.contains("cli"));
}
