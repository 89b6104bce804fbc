//! Deployments: every tenant reaches the target version, and failures are reported with the reason.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tdb_tests::{Instance, eventually, eventually_async, psql};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

fn target<'a>(job: &'a Value, tenant: &str) -> &'a Value {
    let targets = job["targets"].as_array().expect("targets");
    let found = targets.iter().find(|target| target["tenant_id"] == tenant);
    found.unwrap_or_else(|| panic!("{tenant} is no target: {job:#}"))
}

#[test]
fn tenants_on_different_versions_catch_up_in_one_deployment() {
    let (workspace, _) = instance().simple("catch", &["c-one"]);
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN a int").ok();
    instance().tenant("c-two", "catch");
    psql(
        &workspace.url,
        "ALTER TABLE t ADD COLUMN b int; CREATE INDEX CONCURRENTLY by_b ON t (b);",
    )
    .ok();
    psql(
        &workspace.url,
        "CREATE TYPE mood AS ENUM ('sad'); ALTER TYPE mood ADD VALUE 'glad'",
    )
    .ok();
    instance().tenant("c-three", "catch");
    let job = instance().deploy_all("catch");
    assert_eq!(job["status"], "completed", "{job:#}");
    for (tenant, done) in [("c-one", true), ("c-two", true), ("c-three", false)] {
        let target = target(&job, tenant);
        let expected = if done { &["done"][..] } else { &["done", "skipped"] };
        assert!(expected.contains(&target["status"].as_str().unwrap()), "{target:#}");
    }
    assert_eq!(instance().drift("catch")["count"], 0);
    assert_eq!(instance().diff("catch"), Vec::<Value>::new());
}

#[test]
fn a_failing_tenant_is_reported_with_its_statement_and_can_be_retried() {
    let (workspace, tenants) = instance().simple("fails", &["f-bad", "f-good"]);
    psql(&tenants[0].url, "INSERT INTO t VALUES (1), (1)").ok();
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN kept int").ok();
    psql(&workspace.url, "CREATE UNIQUE INDEX only_once ON t (id)").ok();
    let job = instance().deploy_all("fails");
    assert_eq!(job["status"], "failed", "{job:#}");
    assert_eq!(target(&job, "f-good")["status"], "done");
    let bad = target(&job, "f-bad");
    assert_eq!(bad["status"], "failed", "{bad:#}");
    assert_eq!(bad["error"]["sqlstate"], "23505", "{bad:#}");
    assert!(
        bad["error"]["statement"].as_str().unwrap().contains("only_once"),
        "{bad:#}"
    );
    assert!(bad["error"]["message"].as_str().unwrap().contains("unique"), "{bad:#}");
    assert!(bad["changes_done"].to_string().contains('1'), "{bad:#}");
    assert_eq!(instance().drift("fails")["count"], 0, "a failed tenant is no drift");
    // Committed changes remain; the failed one has no effect.
    psql(&tenants[0].url, "SELECT kept FROM t").ok();
    assert_eq!(
        psql(&tenants[0].url, "SELECT to_regclass('only_once') IS NULL")
            .ok()
            .text(),
        "t"
    );
    psql(&tenants[0].url, "DELETE FROM t").ok();
    let id = job["job_id"].as_str().unwrap();
    instance()
        .api()
        .post(&format!("/deployments/{id}/retry"), json!({}))
        .ok();
    let job = instance().wait_for_deployment(id);
    assert_eq!(job["status"], "completed", "{job:#}");
    assert_eq!(
        psql(&tenants[0].url, "SELECT to_regclass('only_once') IS NULL")
            .ok()
            .text(),
        "f"
    );
    assert_eq!(instance().diff("fails"), Vec::<Value>::new());
}

#[tokio::test]
async fn a_held_lock_is_waited_for_and_retried() {
    let (workspace, tenants) = instance().simple("locks", &["l-held"]);
    let holder = tenants[0].connect().await;
    holder
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
        .await
        .unwrap();
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN waited int").ok();
    let body = json!({"blueprint_name": "locks", "deploy_all": true});
    let id = instance().api().post("/deployments", body).ok()["job_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/deployments/{id}");
    eventually_async(Duration::from_secs(60), "the target is being retried", async || {
        let job = instance().api().get(&path).ok();
        let target = target(&job, "l-held").clone();
        assert_ne!(target["status"], "failed", "{target:#}");
        (target["attempts"].as_i64().unwrap_or(0) >= 1 && target["status"] == "retrying").then_some(())
    })
    .await;
    holder.batch_execute("COMMIT").await.unwrap();
    let job = instance().wait_for_deployment(&id);
    assert_eq!(job["status"], "completed", "{job:#}");
}

#[test]
fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let (workspace, tenants) = instance().simple("dry", &["d-one"]);
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN planned int").ok();
    let body = json!({"blueprint_name": "dry", "deploy_all": true, "dry_run": true});
    let plan = instance().api().post("/deployments", body).ok();
    assert_eq!(plan["status"], "planned", "{plan:#}");
    assert_eq!(plan["total_tenants"], 1, "{plan:#}");
    psql(&tenants[0].url, "SELECT planned FROM t").fails_saying("42703");
    assert_eq!(instance().diff("dry").len(), 1);
}

#[test]
fn suspended_tenants_are_deployed_to() {
    let (workspace, tenants) = instance().simple("asleep", &["s-one"]);
    instance().api().post("/tenants/s-one/suspend", json!({})).ok();
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN meanwhile int").ok();
    assert_eq!(instance().deploy_all("asleep")["status"], "completed");
    instance().api().post("/tenants/s-one/resume", json!({})).ok();
    psql(&tenants[0].url, "SELECT meanwhile FROM t").ok();
}

#[test]
fn a_deployment_can_have_a_single_tenant() {
    let (workspace, tenants) = instance().simple("alone", &["a-one", "a-two"]);
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN solo int").ok();
    let ran = instance().tdb(&[
        "deployments",
        "create",
        "--blueprint",
        "alone",
        "--tenant",
        "a-one",
        "--watch",
    ]);
    ran.ok();
    psql(&tenants[0].url, "SELECT solo FROM t").ok();
    psql(&tenants[1].url, "SELECT solo FROM t").fails_saying("42703");
    assert_eq!(instance().diff("alone").len(), 1, "a-two still lacks it");
}

#[test]
fn tenants_that_are_restored_together_catch_up_in_one_deployment() {
    let names = ["back1", "back2", "back3", "back4", "back5", "back6", "stays"];
    let (workspace, _) = instance().simple("back", &names);
    let api = instance().api();
    let away = &names[..6];
    for name in away {
        api.delete(&format!("/tenants/{name}")).ok();
    }
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN missed int").ok();
    assert_eq!(instance().deploy_all("back")["total_tenants"], 1);
    std::thread::scope(|scope| {
        for name in away {
            let api = &api;
            scope.spawn(move || api.post(&format!("/tenants/{name}/restore"), json!({})).ok());
        }
    });
    eventually(Duration::from_secs(60), "all have caught up", || {
        let version = |name: &str| api.get(&format!("/tenants/{name}")).ok()["databases"][0]["version"].clone();
        away.iter().all(|name| version(name) == version("stays")).then_some(())
    });
    let jobs = api.get("/deployments?limit=1000").ok();
    let of_it = |job: &&Value| job["blueprint_id"] == "back";
    let jobs = jobs["jobs"].as_array().unwrap().iter().filter(of_it);
    let sizes: Vec<&Value> = jobs.map(|job| &job["total_tenants"]).collect();
    assert_eq!(sizes, [&json!(6), &json!(1)], "newest first");
}

#[test]
fn drift_shows_the_last_check_until_a_refresh() {
    let (_, tenants) = instance().simple("looked", &["wanders"]);
    let tenant = &tenants[0];
    assert_eq!(instance().drift("looked")["count"], 0);
    psql(&tenant.url, "ALTER TABLE t ADD COLUMN own int").ok();
    let seen = instance().drift("looked");
    assert_eq!((&seen["count"], &seen["checked"]), (&json!(1), &json!(1)), "{seen:#}");
    assert!(
        seen["tenants"][0]["checked_at"].is_string() && seen["checked_at"].is_string(),
        "{seen:#}"
    );
    psql(&tenant.url, "ALTER TABLE t DROP COLUMN own").ok();
    let stored = instance().api().get("/drift?blueprint=looked").ok();
    assert_eq!(stored["tenants"], seen["tenants"]);
    assert!(
        instance()
            .tdb(&["drift", "--blueprint", "looked", "--stored"])
            .ok()
            .stdout
            .contains("own")
    );
    let shown = instance().tdb(&["drift", "--blueprint", "looked"]).ok();
    assert!(shown.stdout.contains("no drift"), "{}", shown.stdout);
    let now = instance().api().get("/drift?blueprint=looked").ok();
    assert_eq!(now["count"], 0, "{now:#}");
    assert!(now["checked_at"].as_str() > seen["checked_at"].as_str(), "{now:#}");
}

#[test]
fn what_a_tenant_changed_on_its_own_is_drift_object_by_object() {
    let (_, tenants) = instance().simple("drifts", &["own-way"]);
    psql(
        &tenants[0].url,
        "ALTER TABLE t ADD COLUMN own int; CREATE TABLE extra (id int)",
    )
    .ok();
    let drift = instance().drift("drifts");
    assert_eq!(drift["count"], 1, "{drift:#}");
    let text = drift["tenants"][0]["differences"].to_string();
    assert!(text.contains("own") && text.contains("extra"), "{drift:#}");
}

#[test]
fn a_skipped_change_reaches_no_tenant_and_a_deployed_one_cannot_be_skipped() {
    let (workspace, tenants) = instance().simple("skips", &["sk-one"]);
    psql(&workspace.url, "CREATE TABLE unwanted (id int)").ok();
    psql(&workspace.url, "CREATE TABLE wanted (id int)").ok();
    let unwanted = instance().diff("skips")[0]["ddl_id"].clone();
    instance()
        .api()
        .delete(&format!("/workspaces/skips/diff/{unwanted}"))
        .ok();
    assert_eq!(instance().deploy_all("skips")["status"], "completed");
    assert_eq!(
        psql(&tenants[0].url, "SELECT to_regclass('wanted'), to_regclass('unwanted')")
            .ok()
            .text(),
        "wanted|"
    );
    let problem = instance().api().delete("/workspaces/skips/diff/1").problem(409);
    assert!(
        problem["detail"].to_string().contains("sk-one"),
        "names the holder: {problem:#}"
    );
}
