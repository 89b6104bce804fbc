//! Rows of `tdb.deployed_change` that no deployment wrote, as code of a tenant could have written them with the deployer's
//! password: they are shown, and can be repaired without access to the server.

use std::time::Duration;

use serde_json::{Value, json};
use tdb_tests::{Instance, eventually, psql};

const CHECKED_TIME_MAX: Duration = Duration::from_secs(90);
/// For the tenant's only change, for the next one, and for one that will not exist soon.
const FORGERY: &str = "UPDATE tdb.deployed_change SET checksum = '\\x00', state = 'started';
    INSERT INTO tdb.deployed_change VALUES (2, '\\x00', 'done'), (99, sha256('x'), 'done')";

fn objects_of_drift(instance: &Instance) -> Vec<String> {
    let api = instance.api();
    api.post("/drift/refresh", json!({"blueprint": "app"})).ok();
    let drift = eventually(CHECKED_TIME_MAX, "the tenants are compared", || {
        let drift = api.get("/drift?blueprint=app").ok();
        (drift["pending"] == 0).then_some(drift)
    });
    assert!(drift["unchecked"].is_null(), "{drift:#}");
    let differences = drift["tenants"].as_array().expect("tenants").iter();
    let differences = differences.flat_map(|tenant| tenant["differences"].as_array().expect("differences"));
    differences
        .map(|difference| difference["object"].as_str().expect("an object").to_owned())
        .collect()
}

#[tokio::test]
async fn forged_rows_of_applied_changes_are_shown_and_repaired() {
    let instance = Instance::start();
    let api = instance.api();
    let app = instance.workspace("app");
    psql(&app.url, "CREATE TABLE t (id int)").ok();
    let [acme, other] = ["acme", "other"].map(|name| instance.tenant(name, "app"));
    let database = |tenant: &str| format!("app__{tenant}");
    let inside = instance.server(&database(&acme.name)).await;
    inside.batch_execute(FORGERY).await.unwrap();
    let rows = [1, 2, 99].map(|id| format!("row {id} of tdb.deployed_change"));
    assert_eq!(objects_of_drift(&instance), rows);

    psql(&app.url, "ALTER TABLE t ADD a int").ok();
    let deployment = json!({"blueprint_name": "app", "deploy_all": true});
    let job = api.post("/deployments", deployment).ok()["job_id"].clone();
    let job = format!("/deployments/{}", job.as_str().unwrap());
    let ended = || -> Value {
        eventually(CHECKED_TIME_MAX, "the deployment ends", || {
            let answer = api.get(&job).ok();
            (answer["status"] != "running").then_some(answer)
        })
    };
    let failed = ended();
    assert_eq!(
        (&failed["status"], &failed["failed_tenants"]),
        (&json!("failed"), &json!(1)),
        "{failed:#}"
    );
    assert!(failed.to_string().contains("differs from the change log"), "{failed:#}");

    let reader = api.post("/apikeys", json!({"name": "reader", "scopes": ["read"]})).ok();
    let reader = api.with_key(reader["api_key"].as_str());
    let body = json!({"tenant_id": "acme", "blueprint": "app"});
    assert_eq!(reader.post("/drift/repair", body).problem(403)["code"], "forbidden");
    let unknown = json!({"tenant_id": "unknown", "blueprint": "app"});
    api.post("/drift/repair", unknown).problem(404);
    let repair = |tenant: &str| {
        instance
            .tdb(&["drift", "--blueprint", "app", "--repair", tenant])
            .ok()
            .stdout
    };
    let repaired = repair("acme");
    for row in &rows {
        assert!(repaired.contains(row), "{repaired}");
    }
    assert_eq!(repair("acme").trim(), "nothing to repair");
    assert_eq!(repair(&other.name).trim(), "nothing to repair");

    api.post(&format!("{job}/retry"), json!({})).ok();
    assert_eq!(ended()["status"], "completed");
    assert_eq!(objects_of_drift(&instance), Vec::<String>::new());
    psql(&acme.url, "SELECT a FROM t").ok();
    let recorded = inside
        .query(
            "SELECT FROM tdb.deployed_change WHERE state = 'done' AND length(checksum) = 32",
            &[],
        )
        .await;
    assert_eq!(recorded.unwrap().len(), 2);
}
