//! Calls about one workspace or tenant whose database server neither answers nor closes its connections: reads give what is
//! stored, and calls that need the server do not wait for it.

use std::time::Duration;

use serde_json::json;
use tdb_tests::{Instance, eventually, only, promptly, psql, with_ice};

const SILENT_TIME_MAX: Duration = Duration::from_secs(60);
const THAWED_TIME_MAX: Duration = Duration::from_secs(90);

fn wait_until_silent(instance: &Instance) {
    eventually(SILENT_TIME_MAX, "the server counts as silent", || {
        let server = instance.api().get("/servers/ice").ok();
        (!server["silent_since"].is_null()).then_some(())
    });
}

#[test]
fn a_workspace_on_a_frozen_server_is_shown_as_it_is_stored() {
    let (instance, cluster) = with_ice();
    let api = instance.api();
    only(&instance, "ice");
    let cold = instance.workspace("cold");
    psql(&cold.url, "CREATE TABLE stored (id int)").ok();
    let paths = ["/workspaces/cold", "/workspaces/cold/diff", "/blueprints/cold"];
    for path in paths {
        let answer = api.get(path).ok();
        assert!(answer["server_error"].is_null(), "{path}: {answer:#}");
    }

    cluster.freeze().unwrap();
    for round in ["the first time", "once it is silent"] {
        for path in paths {
            let answer = promptly(&format!("{path}, {round}"), || api.get(path).ok());
            let error = answer["server_error"].as_str().unwrap_or_default();
            assert!(
                error.contains("\"ice\"") && error.contains("no answer"),
                "{path}: {answer:#}"
            );
            assert!(!answer["drained_at"].is_null(), "{path}: {answer:#}");
            assert!(answer["schema"].is_null(), "{path}: {answer:#}");
        }
        wait_until_silent(&instance);
    }
    let diff = api.get("/workspaces/cold/diff").ok();
    assert!(
        diff["changes"][0].to_string().contains("CREATE TABLE stored"),
        "{diff:#}"
    );
    assert_eq!(api.get("/workspaces/cold").ok()["undeployed_changes"], 1);
    let refused = promptly("the schema", || api.get("/workspaces/cold/schema"));
    assert_eq!(refused.problem(504)["code"], "database_timed_out");
    for (arguments, shows) in [
        (["workspaces", "get", "cold"], "undeployed changes  1"),
        (["workspaces", "diff", "cold"], "CREATE TABLE stored"),
        (["blueprints", "get", "cold"], "changes to deploy  1"),
    ] {
        let ran = promptly(&arguments.join(" "), || instance.tdb(&arguments).ok());
        assert!(ran.stdout.contains(shows), "{arguments:?}: {}", ran.stdout);
        assert!(ran.stderr.contains("changes since"), "{arguments:?}: {}", ran.stderr);
    }

    cluster.thaw().unwrap();
    for path in paths {
        eventually(THAWED_TIME_MAX, "the server is queried again", || {
            api.get(path).ok()["server_error"].is_null().then_some(())
        });
    }
    assert_eq!(
        api.get("/workspaces/cold").ok()["schema"]["data"]["tables"][0]["name"],
        "stored"
    );
}

#[test]
fn calls_about_one_tenant_do_not_wait_for_its_frozen_server() {
    let (instance, cluster) = with_ice();
    let api = instance.api();
    only(&instance, "ice");
    let cold = instance.workspace("cold");
    psql(&cold.url, "CREATE TABLE t (id int)").ok();
    for name in ["held", "soft", "hard", "back"] {
        instance.tenant(name, "cold");
    }
    api.delete("/tenants/back").ok();

    cluster.freeze().unwrap();
    wait_until_silent(&instance);
    // They work without the server.
    for body in [
        json!({"tenant_id": "held"}),
        json!({"tenant_id": "held", "rights": "ro"}),
        json!({"workspace": "cold"}),
        json!({"workspace": "cold", "rights": "ro"}),
    ] {
        let made = promptly(&format!("a credential: {body}"), || api.post("/credentials", body).ok());
        let path = format!("/credentials/{}", made["id"].as_str().unwrap());
        promptly("the deletion of a credential", || api.delete(&path).ok());
    }
    promptly("a suspension", || api.post("/tenants/held/suspend", json!({})).ok());
    promptly("a resumption", || api.post("/tenants/held/resume", json!({})).ok());
    promptly("a soft deletion", || api.delete("/tenants/soft").ok());
    let deleted = promptly("a hard deletion", || api.delete("/tenants/hard?hard=true"));
    assert_eq!(deleted.status, 202, "{:#}", deleted.body);
    promptly("a change of settings", || {
        api.post("/workspaces/cold/settings", json!({"tenant_ddl": "deny"}))
            .ok()
    });
    let one = json!({"tenant_id": "held", "blueprint": "cold", "query": "SELECT 1"});
    let answer = promptly("a query in one tenant", || api.post("/admin/query", one).ok());
    assert!(
        answer["results"][0]["error"]["message"]
            .to_string()
            .contains("no answer"),
        "{answer:#}"
    );
    // They need the server.
    let refused = promptly("the extensions", || api.get("/workspaces/cold/extensions"));
    assert_eq!(refused.problem(504)["code"], "database_timed_out");
    for (path, body) in [
        ("/workspaces/cold/queries", json!({"query": "SELECT 1"})),
        ("/tenants/back/restore", json!({})),
        ("/workspaces/cold/extensions", json!({"name": "hstore"})),
    ] {
        let refused = promptly(path, || api.post(path, body));
        assert_eq!(refused.problem(504)["code"], "database_timed_out", "{path}");
    }

    cluster.thaw().unwrap();
    eventually(THAWED_TIME_MAX, "the tenant is restored", || {
        (api.post("/tenants/back/restore", json!({})).status == 200).then_some(())
    });
    eventually(THAWED_TIME_MAX, "the tenant is gone", || {
        (api.get("/tenants/hard").status == 404).then_some(())
    });
}
