//! Deployments: failures, retries, restarts.

mod support;

use support::{World, deploy_all, eventually, target, tenant};
use tdb_control::ControlSettings;
use tdb_control::Page;
use tdb_control::model::{Comparison, Deletion, DeploymentStatus, TargetStatus, TenantStatus};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_tenant_keeps_what_committed_and_can_be_retried() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("bad", "app").await;
    world.tenant("good", "app").await;
    let session = world.session("app__bad").await;
    session.batch_execute("INSERT INTO t VALUES (1), (1)").await.unwrap();
    world.ddl("app", "ALTER TABLE t ADD COLUMN kept int").await;
    world.ddl("app", "CREATE UNIQUE INDEX only_once ON t (id)").await;
    let job = world.deploy("app").await;
    assert_eq!(job.summary.status, DeploymentStatus::Failed);
    assert_eq!(target(&job, "good").status, TargetStatus::Done);
    let bad = target(&job, "bad");
    assert_eq!(
        (bad.status, bad.changes_done, bad.changes_total),
        (TargetStatus::Failed, 1, 2),
        "{bad:#?}"
    );
    let error = bad.error.as_ref().unwrap();
    assert_eq!(error.sqlstate, "23505");
    assert!(error.statement.as_ref().unwrap().contains("only_once"), "{error:?}");
    assert_eq!(world.version_of("bad").await, Some(2));
    world.no_drift("app").await;
    session
        .batch_execute("SELECT kept FROM t; DELETE FROM t")
        .await
        .unwrap();
    let id = job.summary.id.clone().unwrap();
    let again = world.control.deployments.retry(&world.identity, &id).await.unwrap();
    let job = world.finished(&world.control, &again).await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{job:#?}");
    assert_eq!(world.version_of("bad").await, Some(3));
    let nothing = world.control.deployments.retry(&world.identity, &id).await.unwrap_err();
    assert_eq!(nothing.code().as_str(), "nothing_to_retry");
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_is_retried_until_it_is_let_go() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("held", "app").await;
    let holder = world.session("app__held").await;
    holder
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
        .await
        .unwrap();
    world.ddl("app", "ALTER TABLE t ADD COLUMN waited int").await;
    let job = world.begin_deployment("app").await;
    let id = job.summary.id.clone().unwrap();
    let retried = eventually("the target is being retried", async || {
        let job = world.control.deployments.find(&world.identity, &id).await.unwrap();
        let target = target(&job, "held").clone();
        (target.status == TargetStatus::Retrying).then_some(target)
    })
    .await;
    assert_eq!(retried.error.unwrap().sqlstate, "55P03");
    holder.batch_execute("COMMIT").await.unwrap();
    let job = world.finished(&world.control, &job).await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{job:#?}");
    assert!(target(&job, "held").attempts >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_finishes_the_job() {
    let world = World::idle(ControlSettings::default()).await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    for number in 0..6 {
        world.tenant(&format!("t{number}"), "app").await;
    }
    world.ddl("app", "ALTER TABLE t ADD COLUMN a int").await;
    world.ddl("app", "CREATE INDEX CONCURRENTLY by_a ON t (a)").await;
    let job = world.begin_deployment("app").await;
    // Workers that are stopped at once: only their leases remain of what they held.
    let stop = CancellationToken::new();
    world.control.jobs.start(&TaskTracker::new(), &stop);
    eventually("the work has begun", async || {
        let job = world
            .control
            .deployments
            .find(&world.identity, job.summary.id.as_ref().unwrap())
            .await
            .unwrap();
        job.targets
            .iter()
            .any(|target| target.status != TargetStatus::Pending)
            .then_some(())
    })
    .await;
    stop.cancel();
    let next = world.restarted().await;
    next.jobs.start(&TaskTracker::new(), &CancellationToken::new());
    let job = world.finished(&next, &job).await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{job:#?}");
    for target in &job.targets {
        assert_eq!(
            (target.changes_done, target.drift),
            (2, Some(Comparison::Equal)),
            "{target:#?}"
        );
    }
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_tenants_are_deployed_to_and_deleted_ones_catch_up_when_restored() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    for name in ["asleep", "gone"] {
        world.tenant(name, "app").await;
    }
    let asleep = world
        .control
        .tenants
        .suspend(&world.identity, &tenant("asleep"))
        .await
        .unwrap();
    assert_eq!(asleep.status, TenantStatus::Suspended);
    world
        .control
        .tenants
        .suspend(&world.identity, &tenant("asleep"))
        .await
        .unwrap_err();
    let gone = world
        .control
        .tenants
        .delete(&world.identity, &tenant("gone"), Deletion::Soft)
        .await
        .unwrap();
    assert_eq!(gone.unwrap().status, TenantStatus::Deleted);
    world.cluster.connect("app__gone").await.unwrap_err();
    world.ddl("app", "ALTER TABLE t ADD COLUMN meanwhile int").await;
    let job = world.deploy("app").await;
    assert_eq!(
        (job.summary.status, job.targets.len()),
        (DeploymentStatus::Completed, 1),
        "{job:#?}"
    );
    let taken = world.try_tenant("gone", "app").await.unwrap_err();
    assert!(taken.to_string().contains("restore"), "{taken}");
    let restored = world
        .control
        .tenants
        .restore(&world.identity, &tenant("gone"))
        .await
        .unwrap();
    assert_ne!(restored.status, TenantStatus::Deleted);
    eventually("it has caught up", async || {
        (world.version_of("gone").await == world.version_of("asleep").await).then_some(())
    })
    .await;
    let job = world.deploy("app").await;
    for name in ["gone", "asleep"] {
        assert_eq!(target(&job, name).status, TargetStatus::Skipped, "{name}");
    }
    world
        .control
        .tenants
        .resume(&world.identity, &tenant("asleep"))
        .await
        .unwrap();
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_makes_no_job_and_no_version() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("one", "app").await;
    world.ddl("app", "ALTER TABLE t ADD COLUMN planned int").await;
    let plan = world
        .control
        .deployments
        .plan(&world.identity, deploy_all("app"))
        .await
        .unwrap();
    assert_eq!(
        (plan.summary.status, plan.summary.version),
        (DeploymentStatus::Planned, 3)
    );
    assert_eq!((target(&plan, "one").from, target(&plan, "one").changes_total), (2, 1));
    assert!(
        world
            .control
            .deployments
            .list(&world.identity, &Page::default())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        world
            .control
            .versions
            .list(&world.identity, &support::blueprint("app"), &Page::default())
            .await
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_changed_is_drift_object_by_object() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("own-way", "app").await;
    world.tenant("straight", "app").await;
    let sql = "ALTER TABLE t ADD COLUMN own int; CREATE TABLE extra (id int)";
    world.session("app__own-way").await.batch_execute(sql).await.unwrap();
    let report = world.drift(None).await;
    assert_eq!(report.tenants.len(), 1, "{report:#?}");
    let text = format!("{:?}", report.tenants[0].differences);
    assert!(text.contains("own") && text.contains("extra"), "{text}");
    world.ddl("app", "CREATE TABLE later (id int)").await;
    let job = world.deploy("app").await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed);
    assert_eq!(target(&job, "own-way").drift, Some(Comparison::Differs));
    assert_eq!(target(&job, "straight").drift, Some(Comparison::Equal));
}
