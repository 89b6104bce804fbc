//! Draining, versions and skips.

mod support;

use support::{World, blueprint, request};
use tdb_contract::ChangeSink;
use tdb_control::model::{ChangeState, DeploymentStatus, TenantStatus};
use tdb_control::{ControlError, Page};

#[tokio::test(flavor = "multi_thread")]
async fn interleaved_transactions_are_one_change_each_in_the_order_that_replays() {
    let world = World::start().await;
    world.workspace("app").await;
    let (one, two) = (world.session("app_dev").await, world.session("app_dev").await);
    one.batch_execute("BEGIN; CREATE TABLE a (id int)").await.unwrap();
    two.batch_execute("CREATE TABLE b (id int)").await.unwrap();
    let id = world.workspace_id("app").await;
    one.batch_execute("ALTER TABLE b ADD COLUMN c int; COMMIT")
        .await
        .unwrap();
    let drained = world.control.drain(id, None).await.unwrap();
    assert!(drained.warnings.is_empty(), "{drained:?}");
    let statements: Vec<String> = world
        .diff("app")
        .await
        .iter()
        .map(|change| change.statements.join(";"))
        .collect();
    assert_eq!(statements.len(), 2, "{statements:?}");
    assert!(
        statements[0].contains("CREATE TABLE b") && statements[1].contains("ADD COLUMN c"),
        "{statements:?}"
    );
    world.tenant("acme", "app").await;
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_drains_log_each_transaction_once() {
    let world = World::start().await;
    world.workspace("app").await;
    let id = world.workspace_id("app").await;
    let session = world.session("app_dev").await;
    for number in 0..20 {
        session
            .batch_execute(&format!("CREATE TABLE t{number} (id int)"))
            .await
            .unwrap();
    }
    let drains = (0..8).map(|_| {
        let control = world.control.clone();
        tokio::spawn(async move { control.drain(id, None).await.unwrap().changes })
    });
    for drain in drains.collect::<Vec<_>>() {
        drain.await.unwrap();
    }
    let ids: Vec<u32> = world.diff("app").await.iter().map(|change| change.id).collect();
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_left_out_with_a_warning() {
    let world = World::start().await;
    world.workspace("app").await;
    let id = world.workspace_id("app").await;
    let sql = "BEGIN; CREATE TABLE t (id int); INSERT INTO t VALUES (1); COMMIT";
    world.session("app_dev").await.simple_query(sql).await.unwrap();
    // The drain timer may have been first; the result is the same.
    let drained = world.control.drain(id, None).await.unwrap();
    assert!(drained.warnings.len() <= 1, "{drained:?}");
    let diff = world.diff("app").await;
    assert_eq!(diff[0].left_out.len(), 1, "{diff:#?}");
    assert!(diff[0].left_out[0].contains("INSERT"), "{diff:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_change_is_left_out_and_the_capture_proof_still_holds() {
    let world = World::start().await;
    world.workspace("app").await;
    for sql in [
        "CREATE TABLE kept (id int)",
        "CREATE TABLE unwanted (id int)",
        "CREATE TABLE wanted (id int)",
    ] {
        world.ddl("app", sql).await;
    }
    let (identity, name) = (&world.identity, blueprint("app"));
    let skipped = world.skip("app", &[2]).await.unwrap();
    assert_eq!(skipped[0].state, ChangeState::Skipped);
    world.tenant("acme", "app").await;
    let session = world.session("app__acme").await;
    session.batch_execute("SELECT FROM kept, wanted").await.unwrap();
    session.batch_execute("SELECT FROM unwanted").await.unwrap_err();
    let versions = world
        .control
        .versions
        .list(identity, &name, &Page::default())
        .await
        .unwrap();
    assert_eq!((versions[1].number, &versions[1].change_ids[..]), (2, &[1, 3][..]));
    assert!(versions[1].verified, "{versions:#?}");
    world.no_drift("app").await;
    let again = world.skip("app", &[2]).await.unwrap_err();
    assert_eq!(again.code().as_str(), "change_not_pending");
    let held = world.skip("app", &[1]).await.unwrap_err();
    assert_eq!(held.code().as_str(), "change_held");
    assert!(held.to_string().contains("acme"), "{held}");
    assert!(matches!(
        world.skip("app", &[9]).await,
        Err(ControlError::NotFound { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_later_one_needs_is_not_skipped() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.ddl("app", "ALTER TABLE t ADD COLUMN x int").await;
    let refused = world.skip("app", &[1]).await.unwrap_err();
    assert_eq!(refused.code().as_str(), "change_needed");
    assert!(refused.to_string().contains("change 2"), "{refused}");
    assert_eq!(world.diff("app").await.len(), 2);
    world.skip("app", &[2]).await.unwrap();
    world.skip("app", &[1]).await.unwrap();
    assert!(world.diff("app").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_version_to_give_no_tenant_is_created() {
    let world = World::start().await;
    world.workspace("app").await;
    world
        .ddl(
            "app",
            "CREATE TABLE broken (id int); GRANT SELECT ON broken TO pg_monitor",
        )
        .await;
    let refused = world.try_tenant("acme", "app").await.unwrap_err();
    assert_eq!(refused.code().as_str(), "head_broken", "{refused}");
    assert!(refused.to_string().contains("change 1 "), "{refused}");
    // Nothing of it is left: the name can be used for the tenant that is created once there is a version.
    let missing = world
        .control
        .tenants
        .find(&world.identity, &support::tenant("acme"))
        .await;
    assert!(matches!(missing, Err(ControlError::NotFound { .. })), "{missing:?}");
    world.skip("app", &[1]).await.unwrap();
    world.tenant("acme", "app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_change_stops_deployments_until_it_is_skipped() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("acme", "app").await;
    world
        .ddl(
            "app",
            "CREATE TABLE broken (id int); GRANT SELECT ON broken TO pg_monitor",
        )
        .await;
    world.ddl("app", "ALTER TABLE t ADD COLUMN fine int").await;
    let refused = world
        .control
        .deployments
        .create(&world.identity, support::deploy_all("app"))
        .await
        .unwrap_err();
    assert_eq!(refused.code().as_str(), "head_broken", "{refused}");
    let made = world.tenant("late", "app").await;
    assert_eq!(made.warnings.len(), 1, "{made:?}");
    assert_eq!(world.version_of("late").await, Some(2));
    world.skip("app", &[2]).await.unwrap();
    let job = world.deploy("app").await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{job:#?}");
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uncaptured_schema_is_not_a_version() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("acme", "app").await;
    // DDL of a superuser, which is journaled but does not become a change.
    let admin = world.cluster.connect("app_dev").await.unwrap();
    admin
        .batch_execute("ALTER TABLE t ADD COLUMN smuggled int")
        .await
        .unwrap();
    world.ddl("app", "CREATE TABLE u (id int)").await;
    let refused = world
        .control
        .deployments
        .create(&world.identity, support::deploy_all("app"))
        .await
        .unwrap_err();
    assert_eq!(refused.code().as_str(), "head_differs", "{refused}");
    assert!(refused.to_string().contains("smuggled"), "{refused}");
}

/// CLUSTER fires no event trigger and marks the index in the catalog.
#[tokio::test(flavor = "multi_thread")]
async fn uncaptured_objects_are_reported_and_can_be_repeated_as_ddl() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int PRIMARY KEY)").await;
    world.ddl("app", "CLUSTER t USING t_pkey").await;
    let refused = world
        .control
        .deployments
        .create(&world.identity, support::deploy_all("app"))
        .await
        .unwrap_err();
    let told = "index public.t_pkey is different (the workspace has \"clustered\")";
    assert!(refused.to_string().contains(told), "{refused}");
    world.ddl("app", "ALTER TABLE t CLUSTER ON t_pkey").await;
    world.tenant("acme", "app").await;
    world
        .ddl("app", "EXPLAIN ANALYZE CREATE TABLE hidden AS SELECT 1 AS n")
        .await;
    let deploy = || {
        world
            .control
            .deployments
            .create(&world.identity, support::deploy_all("app"))
    };
    let refused = deploy().await.unwrap_err();
    assert_eq!(refused.code().as_str(), "head_differs", "{refused}");
    assert!(
        refused.hint().unwrap_or_default().contains("DROP ... IF EXISTS"),
        "{refused}"
    );
    world.ddl("app", "DROP TABLE IF EXISTS hidden").await;
    world.deploy("app").await;
    world.no_drift("app").await;
    world
        .ddl("app", "EXPLAIN ANALYZE CREATE TABLE hidden AS SELECT 1 AS n")
        .await;
    world.ddl("app", "DROP TABLE hidden").await;
    assert_eq!(deploy().await.unwrap_err().code().as_str(), "head_broken");
    let undone = world.diff("app").await.last().unwrap().id;
    world.skip("app", &[undone]).await.unwrap();
    world.ddl("app", "CREATE TABLE u (id int)").await;
    world.deploy("app").await;
    world.no_drift("app").await;
}

/// Undoing works as the diff says, with everything that needs the table.
#[tokio::test(flavor = "multi_thread")]
async fn what_broken_changes_made_is_dropped_as_their_repair_says() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("acme", "app").await;
    world
        .ddl(
            "app",
            "DO $$ BEGIN CREATE TABLE x1 (i int); COMMIT; CREATE TABLE x3 (i int); END $$",
        )
        .await;
    world.ddl("app", "CREATE VIEW v AS SELECT i FROM x1").await;
    let repair = world
        .diff("app")
        .await
        .into_iter()
        .find_map(|change| change.repair)
        .unwrap();
    let (_, drops) = repair.split_once("app_dev: ").unwrap();
    let (drops, _) = drops.split_once("; followed").unwrap();
    assert!(drops.contains("public.x1") && drops.contains("public.x3"), "{repair}");
    world.skip("app", &[2, 3, 4]).await.unwrap();
    world.ddl("app", drops).await;
    world
        .ddl("app", "CREATE TABLE x1 (i int); CREATE VIEW v AS SELECT i FROM x1")
        .await;
    let job = world.deploy("app").await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{job:#?}");
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uncaptured_objects_are_reported_when_nothing_is_pending() {
    let world = World::start().await;
    world.workspace("app").await;
    world
        .ddl("app", "CREATE TABLE t (id int); INSERT INTO t VALUES (1), (1)")
        .await;
    world.tenant("acme", "app").await;
    let session = world.session("app_dev").await;
    for (name, sql) in [
        ("hidden", "EXPLAIN ANALYZE CREATE TABLE hidden AS SELECT 1 AS n"),
        ("unfinished", "CREATE UNIQUE INDEX CONCURRENTLY unfinished ON t (id)"),
        ("smuggled", "ALTER TABLE t ADD COLUMN smuggled int"),
    ] {
        if name == "smuggled" {
            // DDL of a superuser, which is journaled but does not become a change.
            let admin = world.cluster.connect("app_dev").await.unwrap();
            admin.batch_execute(sql).await.unwrap();
        } else {
            assert_eq!(session.batch_execute(sql).await.is_err(), name == "unfinished");
        }
        let deployment = support::deploy_all("app");
        let refused = world.control.deployments.create(&world.identity, deployment).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code().as_str(), "head_differs", "{refused}");
        assert!(refused.to_string().contains(name), "{refused}");
        let made = world.tenant(&format!("after-{name}"), "app").await;
        assert_eq!(made.warnings.len(), 1, "{made:#?}");
        assert!(made.warnings[0].contains(name), "{made:#?}");
        let report = world.drift(None).await;
        assert!(report.tenants.is_empty(), "{report:#?}");
        assert!(format!("{:?}", report.workspaces).contains(name), "{report:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_is_what_its_changes_give_is_not_warned_of() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("one", "app").await;
    world.ddl("app", "CREATE TABLE unwanted (id int)").await;
    let skipped = world.skip("app", &[2]).await;
    assert_eq!(skipped.unwrap()[0].state, ChangeState::Skipped);
    // Head is version 2 again; the workspace still has the skipped table.
    let job = world.deploy("app").await;
    assert_eq!(job.summary.version, 2, "{job:#?}");
    // Rewrites pg_class but changes no schema.
    world.ddl("app", "VACUUM FULL t").await;
    assert_eq!(world.deploy("app").await.summary.version, 2);
    assert_eq!(world.tenant("two", "app").await.warnings, Vec::<String>::new());
    let report = world.drift(None).await;
    assert!(report.tenants.is_empty() && report.workspaces.is_empty(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_may_ask_for_any_version_there_is() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("first", "app").await;
    world.ddl("app", "ALTER TABLE t ADD COLUMN newer int").await;
    world.tenant("second", "app").await;
    for (name, version) in [("empty", 1), ("old", 2), ("new", 3)] {
        let made = world
            .control
            .tenants
            .create(&world.identity, request(name, "app", Some(version)))
            .await
            .unwrap();
        assert_eq!(made.tenant.status, TenantStatus::Ready);
        assert_eq!(world.version_of(name).await, Some(version));
    }
    world.no_drift("app").await;
    let unknown = world
        .control
        .tenants
        .create(&world.identity, request("future", "app", Some(9)))
        .await
        .unwrap_err();
    assert!(
        matches!(unknown, ControlError::Invalid { field: "version", .. }),
        "{unknown:?}"
    );
    let job = world.deploy("app").await;
    assert_eq!(job.summary.from_versions, [1, 2, 3]);
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{job:#?}");
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sessions_begin_with_is_part_of_the_schema() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE SCHEMA app; CREATE TABLE app.t (id int)").await;
    world.tenant("early", "app").await;
    let setting = "ALTER ROLE CURRENT_USER SET search_path = app, public";
    world.ddl("app", setting).await;
    // A setting that a tenant may not set, and therefore no change.
    world
        .ddl("app", "ALTER ROLE CURRENT_USER SET temp_tablespaces = ''")
        .await;
    let name = blueprint("app");
    let query = "ALTER DATABASE app_dev SET statement_timeout = '7s'";
    world
        .control
        .queries
        .in_workspace(&world.identity, &name, query)
        .await
        .unwrap();
    let diff = world.diff("app").await;
    let shown: Vec<&str> = diff.iter().map(|change| change.statements[0].as_str()).collect();
    let expected = [
        "ALTER ROLE CURRENT_USER SET \"search_path\" TO 'app', 'public'",
        "ALTER ROLE CURRENT_USER SET \"statement_timeout\" TO '7s'",
    ];
    assert_eq!(shown, expected);
    assert!(diff[1].author.starts_with("key:"), "{diff:#?}");
    // By deployment, as a clone of the template, and as a spare.
    assert_eq!(world.deploy("app").await.summary.status, DeploymentStatus::Completed);
    world.tenant("late", "app").await;
    world.no_drift("app").await;
    for database in ["app__early", "app__late"] {
        let admin = world.cluster.connect(database).await.unwrap();
        let sql = "SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
                    WHERE d.datname = current_database()
                      AND setconfig @> '{\"search_path=app, public\",statement_timeout=7s}'";
        let roles: i64 = admin.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(roles, 2, "the owner's and the read-only role of {database}");
    }
    world
        .ddl("app", "ALTER ROLE CURRENT_USER RESET statement_timeout")
        .await;
    let job = world.deploy("app").await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{job:#?}");
    world.no_drift("app").await;
    let report = world.control.drifts.report(&world.identity, None).await.unwrap();
    assert!(report.workspaces.is_empty(), "{report:#?}");
}
