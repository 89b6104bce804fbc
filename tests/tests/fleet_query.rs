//! One query on many tenants: each has a separate result, whatever fails for another.

use serde_json::{Value, json};
use tdb_tests::{Instance, psql};

const TENANTS: usize = 50;

fn results(answer: &Value) -> Vec<Value> {
    answer["results"].as_array().expect("results").clone()
}

#[tokio::test]
async fn every_tenant_has_a_result_or_an_error() {
    let instance = Instance::start();
    let workspace = instance.workspace("many");
    psql(&workspace.url, "CREATE TABLE t (id int); CREATE FUNCTION whose() RETURNS text LANGUAGE sql AS 'SELECT current_database()::text'").ok();
    let mut urls = Vec::new();
    for number in 0..TENANTS {
        urls.push(instance.tenant(&format!("q{number:02}"), "many").url);
    }
    // One has other data, one has lost the function, one is suspended, one refuses logins.
    psql(&urls[3], "INSERT INTO t VALUES (1), (2)").ok();
    psql(&urls[7], "DROP FUNCTION whose").ok();
    instance.api().post("/tenants/q11/suspend", json!({})).ok();
    let server = instance.server("postgres").await;
    server
        .batch_execute("ALTER DATABASE many__q13 ALLOW_CONNECTIONS false")
        .await
        .unwrap();
    instance.api().delete("/tenants/q17").ok();

    let body = json!({"all_tenants": true, "blueprint": "many", "query": "SELECT whose(), count(*)::int FROM t"});
    let found = results(&instance.api().post("/admin/query", body).ok());
    let names: Vec<&str> = found
        .iter()
        .map(|one| one["tenant_id"].as_str().expect("a name"))
        .collect();
    assert!(
        names.is_sorted() && names.len() == TENANTS - 1,
        "the deleted one is no tenant: {names:?}"
    );
    for one in &found {
        let name = one["tenant_id"].as_str().expect("a name");
        match name {
            "q07" => assert_eq!(one["error"]["sqlstate"], "42883", "{one:#}"),
            "q13" => assert_eq!(one["error"]["sqlstate"], "55000", "{one:#}"),
            // Suspension refuses clients, not the owner.
            _ => {
                let rows = if name == "q03" { 2 } else { 0 };
                assert_eq!(one["rows"], json!([[format!("many__{name}"), rows]]), "{one:#}");
            }
        }
        assert_eq!(one["error"].is_null(), one["command"] == "SELECT", "{one:#}");
    }

    // The number of concurrent queries is limited like that of deployments, and each runs as its tenant's role.
    let slow = json!({"all_tenants": true, "blueprint": "many",
        "query": "SELECT pg_sleep(0.05), (SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'tdb-query')"});
    let most = results(&instance.api().post("/admin/query", slow).ok())
        .iter()
        .filter_map(|one| one["rows"][0][1].as_i64())
        .max();
    assert!(most.is_some_and(|most| (2..=4).contains(&most)), "{most:?} at once");

    let ran = instance.tdb(&["query", "--blueprint", "many", "--all", "--query", "SELECT whose()"]);
    assert_eq!(ran.code, 1, "some failed: {}", ran.stderr);
    assert!(
        ran.stdout.contains("q07") && ran.stdout.contains("42883"),
        "{}",
        ran.stdout
    );
}
