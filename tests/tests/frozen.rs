//! A database server that neither answers nor closes its connections: it delays nothing on other servers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tdb_testkit::Cluster;
use tdb_tests::{Instance, Site, Workspace, eventually, eventually_async, only, promptly, psql, with_ice};

/// The limit for the fastest of three requests for a list.
const LIST_TIME_MAX: Duration = Duration::from_secs(3);
/// A build starts two seconds after the last change.
const BUILD_TIME_MAX: Duration = Duration::from_secs(40);
const THAWED_TIME_MAX: Duration = Duration::from_secs(90);

fn both(instance: &Instance) {
    for name in ["dev", "ice"] {
        instance.api().post(&format!("/servers/{name}/resume"), json!({})).ok();
    }
}

fn new_tenant(name: &str, blueprint: &str) -> Value {
    json!({"tenant_id": name, "databases": [{"blueprint": blueprint}]})
}

/// The value of a series of /metrics, with its labels.
fn metric(instance: &Instance, sample: &str) -> f64 {
    let answer = ureq::get(format!("{}/metrics", instance.metrics_url())).call();
    let text = answer.expect("metrics").body_mut().read_to_string().expect("text");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {sample} in\n{text}"))
        .parse()
        .expect("a number")
}

fn server_of(instance: &Instance, tenant: &str) -> Value {
    let answer = instance.api().get(&format!("/tenants/{tenant}")).ok();
    answer["databases"][0]["server"].clone()
}

/// By how much a server that does not answer may delay a start. It is two seconds; a login would wait for ten.
const START_DELAY_MAX: Duration = Duration::from_secs(7);

#[tokio::test]
async fn a_frozen_server_does_not_delay_a_start_and_is_prepared_when_it_answers() {
    let mut site = Site::new().await;
    site.other = Some(Cluster::start().unwrap());
    let other = site.other.as_ref().unwrap();
    let bases = async || -> i64 {
        let admin = other.connect("postgres").await.unwrap();
        let sql = "SELECT count(*) FROM pg_database WHERE datname = 'tdb_base'";
        admin.query_one(sql, &[]).await.unwrap().get(0)
    };
    drop(site.serve("first", None));
    assert_eq!(bases().await, 1);
    let start = || {
        let begun = Instant::now();
        let serve = site.serve("next", None);
        (serve, begun.elapsed())
    };
    let (_, usual) = start();
    // As after an upgrade of the program: the server lacks an object that is created at startup.
    for sql in ["ALTER DATABASE tdb_base IS_TEMPLATE false", "DROP DATABASE tdb_base"] {
        let admin = other.connect("postgres").await.unwrap();
        admin.batch_execute(sql).await.unwrap();
    }
    other.freeze().unwrap();
    // The fastest of three: on a busy machine a start can take long.
    let mut fastest = Duration::MAX;
    for _ in 0..2 {
        fastest = fastest.min(start().1);
    }
    let (serve, took) = start();
    fastest = fastest.min(took);
    let delayed = fastest.saturating_sub(usual);
    assert!(
        delayed < START_DELAY_MAX,
        "a start took {usual:?}, and then {fastest:?}:\n{}",
        serve.log()
    );
    other.thaw().unwrap();
    eventually_async(THAWED_TIME_MAX, "the server is prepared", || async {
        (bases().await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_frozen_server_does_not_slow_work_on_other_servers() {
    let (instance, cluster) = with_ice();
    let api = instance.api();
    // Workspaces and tenants on both servers, each on the one with the fewest databases.
    let made: Vec<Workspace> = ["fa", "fb", "fc", "fd", "fe", "ff"]
        .map(|name| instance.workspace(name))
        .into();
    let store = instance.store().await;
    let rows = store
        .query(
            "SELECT w.blueprint, p.server FROM control_plane.workspaces w
               JOIN control_plane.physical_databases p ON p.workspace_id = w.id",
            &[],
        )
        .await
        .unwrap();
    let on_ice: Vec<String> = rows
        .iter()
        .filter(|row| row.get::<_, &str>(1) == "ice")
        .map(|row| row.get(0))
        .collect();
    assert!((1..made.len()).contains(&on_ice.len()), "{on_ice:?}");
    let (cold, warm): (Vec<_>, Vec<_>) = made.into_iter().partition(|workspace| on_ice.contains(&workspace.name));
    for workspace in cold.iter().chain(&warm) {
        psql(&workspace.url, "CREATE TABLE t (id int)").ok();
    }
    let app = &warm[0];
    for n in 0..4 {
        instance.tenant(&format!("f{n}"), &app.name);
    }
    let (frozen, well): (Vec<String>, Vec<String>) = (0..4)
        .map(|n| format!("f{n}"))
        .partition(|tenant| server_of(&instance, tenant) == "ice");
    assert!(!frozen.is_empty() && !well.is_empty(), "{frozen:?} {well:?}");

    cluster.freeze().unwrap();
    // Long enough for every timer to have reached it.
    tokio::time::sleep(Duration::from_secs(12)).await;
    for path in [
        "/workspaces",
        "/blueprints",
        "/tenants",
        "/deployments",
        "/servers",
        "/credentials",
        "/drift",
    ] {
        let took = || {
            let begun = Instant::now();
            api.get(path).ok();
            begun.elapsed()
        };
        let fastest = (0..3).map(|_| took()).min().unwrap();
        assert!(fastest < LIST_TIME_MAX, "{path} took {fastest:?}");
    }
    let refresh = json!({"blueprint": app.name});
    let refreshed = promptly("a refresh of drift", || api.post("/drift/refresh", refresh));
    assert_eq!(refreshed.status, 202, "{:#}", refreshed.body);
    let drift = eventually(BUILD_TIME_MAX, "all that answer are looked at", || {
        let drift = api.get(&format!("/drift?blueprint={}", app.name)).ok();
        (drift["pending"] == 0).then_some(drift)
    });
    let unchecked = drift["unchecked"].as_array().expect("those on the frozen server");
    let unchecked: Vec<&str> = unchecked.iter().filter_map(|one| one["tenant_id"].as_str()).collect();
    assert_eq!(unchecked, frozen, "{drift:#}");
    for round in 0..3 {
        let table = format!("warm{round}");
        promptly("DDL", || psql(&app.url, &format!("CREATE TABLE {table} (id int)")).ok());
        let diff = promptly("the diff", || {
            api.get(&format!("/workspaces/{}/diff?limit=1000", app.name)).ok()
        });
        assert!(diff.to_string().contains(&table), "{diff:#}");
    }
    let sql = "SELECT EXISTS (SELECT FROM control_plane.templates t JOIN control_plane.physical_databases p ON p.template_id = t.id
                JOIN control_plane.workspaces w ON w.id = t.workspace_id
                JOIN control_plane.physical_databases q ON q.workspace_id = w.id AND q.server = p.server
                WHERE w.blueprint = $1 AND t.status = 'building' AND cardinality(t.change_ids) = 4)";
    let (store, blueprint) = (&store, &app.name);
    eventually_async(BUILD_TIME_MAX, "the change is built ahead", || async move {
        let row = store.query_one(sql, &[blueprint]).await.unwrap();
        row.get::<_, bool>(0).then_some(())
    })
    .await;
    // Its tenants on the other server get the change; those on this one wait.
    let job = promptly("a deployment", || {
        api.post("/deployments", json!({"blueprint_name": app.name, "deploy_all": true}))
            .ok()
    });
    let job = job["job_id"].as_str().unwrap();
    let done = |job: &Value, tenant: &str| {
        let targets = job["targets"].as_array().expect("targets");
        targets
            .iter()
            .any(|target| target["tenant_id"] == tenant && target["status"] == "done")
    };
    eventually(BUILD_TIME_MAX, "tenants that are there are deployed to", || {
        let answer = api.get(&format!("/deployments/{job}")).ok();
        well.iter().all(|tenant| done(&answer, tenant)).then_some(())
    });
    let shows = |what: &str, sample: &str, at_least: f64| {
        eventually(BUILD_TIME_MAX, what, || {
            (metric(&instance, sample) >= at_least).then_some(())
        });
    };
    shows("its workspaces lag", "tenantsdb_control_drain_lag_seconds", 10.0);
    shows(
        "a deployment waits",
        "tenantsdb_control_deployments{status=\"running\"}",
        1.0,
    );
    let done_targets = "tenantsdb_control_deployment_targets{status=\"done\"}";
    shows("its targets that are done", done_targets, well.len() as f64);
    shows("answers of the store", "tenantsdb_store_answer_seconds_count", 1.0);
    let waits = "tenantsdb_store_pool_wait_seconds_count{pool=\"jobs\"}";
    shows("waits for a connection", waits, 1.0);
    // New tenants are created on the server that answers.
    for n in 0..3 {
        let name = format!("new{n}");
        let body = json!({"tenant_id": name, "databases": [{"blueprint": app.name}]});
        promptly("a tenant", || api.post("/tenants", body).ok());
        assert_eq!(server_of(&instance, &name), "dev");
        assert_eq!(instance.wait_until_ready(&name)["status"], "ready");
    }
    let ready_spares = "tenantsdb_control_spares{state=\"ready\"}";
    shows("spares for the tenants that were created", ready_spares, 1.0);
    promptly("a workspace", || instance.workspace("fresh"));
    let fresh = store
        .query_one(
            "SELECT p.server FROM control_plane.workspaces w JOIN control_plane.physical_databases p ON p.workspace_id = w.id
              WHERE w.blueprint = 'fresh'",
            &[],
        )
        .await;
    assert_eq!(fresh.unwrap().get::<_, &str>(0), "dev");

    cluster.thaw().unwrap();
    eventually(THAWED_TIME_MAX, "everybody is deployed to", || {
        let answer = api.get(&format!("/deployments/{job}")).ok();
        assert_ne!(answer["status"], "failed", "{answer:#}");
        frozen.iter().all(|tenant| done(&answer, tenant)).then_some(())
    });
    eventually(THAWED_TIME_MAX, "no deployment waits", || {
        let running = metric(&instance, "tenantsdb_control_deployments{status=\"running\"}");
        let lag = metric(&instance, "tenantsdb_control_drain_lag_seconds");
        (running == 0.0 && lag < 60.0).then_some(())
    });
    eventually(THAWED_TIME_MAX, "its workspaces work", || {
        let url = &cold[0].url;
        (psql(url, "CREATE TABLE IF NOT EXISTS thawed (id int)").code == 0).then_some(())
    });
}

#[test]
fn nothing_is_placed_on_a_server_that_has_just_frozen() {
    let (instance, cluster) = with_ice();
    let api = instance.api();
    only(&instance, "dev");
    let workspace = instance.workspace("app");
    psql(&workspace.url, "CREATE TABLE t (id int)").ok();
    for name in ["d-one", "d-two", "d-three"] {
        instance.tenant(name, "app");
    }
    only(&instance, "ice");
    instance.tenant("i-one", "app");
    both(&instance);
    // The server with the fewest databases.
    cluster.freeze().unwrap();
    let made = promptly("the first tenant", || {
        api.post("/tenants", new_tenant("first", "app")).ok()
    });
    assert_eq!(made["status"], "ready", "{made:#}");
    assert_eq!(server_of(&instance, "first"), "dev");
    promptly("the second tenant", || {
        api.post("/tenants", new_tenant("second", "app")).ok()
    });
    assert_eq!(server_of(&instance, "second"), "dev");
    promptly("a workspace", || instance.workspace("fresh"));

    // There is no other server.
    api.post("/servers/dev/drain", json!({})).ok();
    let refused = promptly("a refused tenant", || api.post("/tenants", new_tenant("none", "app")));
    let problem = refused.problem(504);
    assert_eq!(problem["code"], "database_timed_out", "{problem:#}");
    assert!(problem["detail"].to_string().contains("\\\"ice\\\""), "{problem:#}");
    api.get("/tenants/none").problem(404);
    let arguments = ["tenants", "create", "--name", "none", "--blueprint", "app"];
    promptly("tdb", || instance.tdb(&arguments).fails_saying("ice"));
    let refused = promptly("a refused workspace", || {
        api.post("/workspaces", json!({"name": "nowhere", "database": "PostgreSQL"}))
    });
    refused.problem(504);
    api.get("/workspaces/nowhere").problem(404);

    // The list shows it.
    let since = eventually(Duration::from_secs(60), "the server counts as silent", || {
        let since = api.get("/servers/ice").ok()["silent_since"].clone();
        (!since.is_null()).then_some(since)
    });
    assert_eq!(since, api.get("/servers/ice").ok()["answered_at"]);
    assert_eq!(api.get("/servers/dev").ok()["silent_since"], Value::Null);
    let listed = instance.tdb(&["servers", "list"]).ok().stdout;
    let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    assert!(line("ice").contains("active, no answer since"), "{listed}");
    assert!(!line("dev").contains("no answer"), "{listed}");

    cluster.thaw().unwrap();
    eventually(THAWED_TIME_MAX, "the server answers", || {
        api.get("/servers/ice").ok()["silent_since"].is_null().then_some(())
    });
    promptly("a tenant", || api.post("/tenants", new_tenant("none", "app")).ok());
    assert_eq!(server_of(&instance, "none"), "ice");
}

#[test]
fn tenants_get_the_newest_version_while_their_workspace_is_on_a_frozen_server() {
    let (instance, cluster) = with_ice();
    let api = instance.api();
    only(&instance, "ice");
    let [app, bare, gone] = ["app", "bare", "gone"].map(|name| instance.workspace(name));
    both(&instance);
    psql(&app.url, "CREATE TABLE t (id int)").ok();
    psql(&gone.url, "CREATE TABLE t (id int)").ok();
    psql(&bare.url, "CREATE TABLE t (id int)").ok();
    only(&instance, "dev");
    instance.tenant("one", "app");
    // A version that no tenant has.
    instance.tenant("two", "gone");
    api.delete("/tenants/two?hard=true").ok();
    // A change that no version has.
    psql(&gone.url, "CREATE TABLE later (id int)").ok();
    // Objects that no change accounts for, known before the server freezes.
    psql(&app.url, "EXPLAIN ANALYZE CREATE TABLE ghost AS SELECT 1 AS x").ok();
    api.post("/drift/refresh", json!({"blueprint": "app"})).ok();
    eventually(BUILD_TIME_MAX, "the difference is known", || {
        let drift = api.get("/drift?blueprint=app").ok();
        drift["workspaces"].to_string().contains("ghost").then_some(())
    });
    both(&instance);

    cluster.freeze().unwrap();
    for (name, blueprint) in &[("a-one", "app"), ("a-two", "app"), ("g-one", "gone")] {
        let made = promptly("a tenant", || api.post("/tenants", new_tenant(name, blueprint)).ok());
        assert_eq!(
            (&made["status"], server_of(&instance, name)),
            (&json!("ready"), json!("dev")),
            "{made:#}"
        );
        assert_eq!(made["databases"][0]["version"], 2, "{made:#}");
        let warnings = made["warnings"].to_string();
        assert!(
            warnings.contains("could not be checked for newer changes"),
            "{warnings}"
        );
        let said = warnings.contains("when it was last compared") && warnings.contains("ghost");
        assert_eq!(said, *blueprint == "app", "{warnings}");
    }
    // There is only the empty schema.
    let refused = promptly("a refused tenant", || api.post("/tenants", new_tenant("empty", "bare")));
    assert_eq!(refused.problem(504)["code"], "database_timed_out");
    api.get("/tenants/empty").problem(404);
    // A version that exists needs no look at the workspace.
    let deployment = json!({"blueprint_name": "app", "version": 2, "deploy_all": true});
    promptly("a deployment", || api.post("/deployments", deployment).ok());
    let head = json!({"blueprint_name": "app", "deploy_all": true});
    assert_eq!(
        promptly("a deployment of head", || api.post("/deployments", head)).status,
        504
    );

    cluster.thaw().unwrap();
    let made = eventually(THAWED_TIME_MAX, "the workspace is looked at", || {
        let answer = api.post("/tenants", new_tenant("empty", "bare"));
        (answer.status != 504).then(|| answer.ok())
    });
    assert_eq!(made["databases"][0]["version"], 2, "{made:#}");
}

#[test]
fn queries_and_roles_do_not_wait_for_a_server_that_is_known_to_be_frozen() {
    let (instance, cluster) = with_ice();
    let api = instance.api();
    only(&instance, "ice");
    let cold = instance.workspace("cold");
    psql(&cold.url, "CREATE TABLE t (id int)").ok();
    // More than are queried at the same time.
    let frozen = ["i-one", "i-two", "i-three", "i-four", "i-five"];
    for name in frozen {
        instance.tenant(name, "cold");
    }
    only(&instance, "dev");
    instance.tenant("well", "cold");
    let project = api.get("/projects").ok()["projects"][0]["project_id"].clone();
    let roles = format!("/projects/{}/roles", project.as_str().unwrap());
    api.post(&roles, json!({"name": "early"})).ok();

    cluster.freeze().unwrap();
    eventually(Duration::from_secs(60), "the server counts as silent", || {
        let since = api.get("/servers/ice").ok()["silent_since"].clone();
        (!since.is_null()).then_some(())
    });
    let query = json!({"all_tenants": true, "blueprint": "cold", "query": "SELECT 1"});
    let answer = promptly("a query in all tenants", || api.post("/admin/query", query).ok());
    for result in answer["results"].as_array().unwrap() {
        let silent = frozen.iter().any(|name| result["tenant_id"] == *name);
        assert_eq!(result["error"].is_null(), !silent, "{result:#}");
    }
    let role = promptly("a role", || api.post(&roles, json!({"name": "anon"})).ok());
    let text = role.to_string();
    assert!(text.contains("\\\"ice\\\" does not have the role yet"), "{role:#}");
    assert!(!text.contains("\\\"dev\\\" does not"), "{role:#}");
    // Whether objects on the frozen server refer to it cannot be found out.
    let refused = promptly("a deletion", || api.delete(&format!("{roles}/early")));
    assert_eq!(refused.problem(504)["code"], "database_timed_out");
    cluster.thaw().unwrap();
    eventually(THAWED_TIME_MAX, "the role can be deleted", || {
        (api.delete(&format!("{roles}/early")).status == 200).then_some(())
    });
}
