//! Deployments: every tenant reaches the target, and one that cannot says why.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tdb_tests::{Instance, eventually_async, psql};

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
    assert_eq!(instance().api().get("/drift?blueprint=catch").ok()["count"], 0);
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
    assert_eq!(
        instance().api().get("/drift?blueprint=fails").ok()["count"],
        0,
        "a failed tenant is no drift"
    );
    // What committed stays, what failed left nothing.
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
fn one_tenant_may_be_deployed_to_alone() {
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
fn what_a_tenant_changed_on_its_own_is_drift_object_by_object() {
    let (_, tenants) = instance().simple("drifts", &["own-way"]);
    psql(
        &tenants[0].url,
        "ALTER TABLE t ADD COLUMN own int; CREATE TABLE extra (id int)",
    )
    .ok();
    let drift = instance().api().get("/drift?blueprint=drifts").ok();
    assert_eq!(drift["count"], 1, "{drift:#}");
    let text = drift["tenants"][0]["differences"].to_string();
    assert!(text.contains("own") && text.contains("extra"), "{drift:#}");
}

#[test]
fn a_skipped_change_reaches_nobody_and_a_deployed_one_cannot_be_skipped() {
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
