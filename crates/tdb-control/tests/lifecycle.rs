//! Creation and deletion: in parallel, continued after a restart, and without leftovers.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use support::{World, blueprint, eventually, request, tenant};
use tdb_control::model::{Deletion, TenantStatus};
use tdb_control::{ControlSettings, Page};
use tdb_store::physical::Step;
use tdb_store::templates::{self, TemplateRow, TemplateStatus};
use tdb_store::workspaces::{self, WorkspaceStatus};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

async fn names(world: &World, sql: &str) -> Vec<String> {
    let admin = world.cluster.connect("postgres").await.unwrap();
    admin
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

const DATABASES: &str = "SELECT datname::text FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1', 'tdb_control', 'tdb_base') ORDER BY 1";
/// The builds, templates and spares of the workspace "app".
async fn templates(world: &World) -> Vec<TemplateRow> {
    let tx = world.store.jobs().await.unwrap();
    let row = workspaces::by_name(&tx, world.identity.project(), &blueprint("app")).await;
    templates::of_workspace(&tx, row.unwrap().unwrap().id).await.unwrap()
}

const IN_CONSTRUCTION: &str = "SELECT datname::text FROM pg_database WHERE datname LIKE 'tdb\\_c\\_%'";
const ROLES: &str = "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'r\\_%' ORDER BY 1";

#[tokio::test(flavor = "multi_thread")]
async fn twenty_tenants_created_concurrently_are_complete() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let made = (0..20).map(|number| {
        let (control, identity) = (world.control.clone(), world.identity.clone());
        tokio::spawn(async move {
            control
                .tenants
                .create(&identity, request(&format!("t{number}"), "app", None))
                .await
        })
    });
    for made in made.collect::<Vec<_>>() {
        made.await.unwrap().unwrap();
    }
    for number in 0..20 {
        let name = tenant(&format!("t{number}"));
        eventually("every tenant is ready", async || {
            let tenant = world.control.tenants.find(&world.identity, &name).await.unwrap();
            (tenant.status == TenantStatus::Ready).then_some(())
        })
        .await;
    }
    world.no_drift("app").await;
    let databases = names(&world, DATABASES).await;
    assert_eq!(
        databases.iter().filter(|name| name.starts_with("app__t")).count(),
        20,
        "{databases:?}"
    );
    let others = databases.iter().filter(|name| !name.starts_with("tdb_c_")).count();
    assert_eq!(others, 21, "the tenants, the workspace and nothing else: {databases:?}");
    eventually("the template and four spares are there, and nothing else", async || {
        (names(&world, IN_CONSTRUCTION).await.len() == 5).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_builds_take_spares_and_the_stock_follows_the_version() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("zeroth", "app").await;
    world.tenant("first", "app").await;
    let oids = async || -> Vec<i64> {
        let spare = |row: &TemplateRow| row.status == TemplateStatus::Spare && row.progress.step == Step::Adopted;
        templates(&world)
            .await
            .iter()
            .filter(|row| spare(row))
            .filter_map(|row| row.physical.oid.map(i64::from))
            .collect()
    };
    let stock = eventually("there is a stock", async || {
        let found = oids().await;
        (found.len() == 1).then_some(found)
    })
    .await;
    world.tenant("second", "app").await;
    let admin = world.cluster.connect("postgres").await.unwrap();
    let sql = "SELECT oid::int8 FROM pg_database WHERE datname = 'app__second'";
    let second: i64 = admin.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(Some(&second), stock.first(), "it was made of the oldest spare");
    world
        .session("app__second")
        .await
        .batch_execute("INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    eventually("the stock is filled up for three", async || {
        (oids().await.len() == 2).then_some(())
    })
    .await;
    world.ddl("app", "ALTER TABLE t ADD COLUMN next int").await;
    world.deploy("app").await;
    eventually("old spares are gone, new ones are there", async || {
        let now = oids().await;
        (now.len() == 2 && now.iter().all(|oid| !stock.contains(oid))).then_some(())
    })
    .await;
    world.tenant("third", "app").await;
    world
        .session("app__third")
        .await
        .batch_execute("SELECT next FROM t")
        .await
        .unwrap();
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spares_follow_the_demand_of_the_last_day_and_an_idle_blueprint_has_none() {
    let world = World::start().await;
    for name in ["idle", "app"] {
        world.workspace(name).await;
        world.ddl(name, "CREATE TABLE t (id int)").await;
    }
    world.tenant("alone", "idle").await;
    for number in 0..8 {
        world.tenant(&format!("t{number}"), "app").await;
    }
    let store = world.cluster.connect("tdb_control").await.unwrap();
    let kept = async |name: &str| -> i64 {
        let sql =
            "SELECT count(*) FROM control_plane.templates t JOIN control_plane.workspaces w ON w.id = t.workspace_id
                    WHERE w.blueprint = $1 AND (t.status = 'dropping' OR t.status = 'spare' AND t.step = 'adopted')";
        store.query_one(sql, &[&name]).await.unwrap().get(0)
    };
    eventually("a burst is worth four", async || (kept("app").await == 4).then_some(())).await;
    for (age, spares) in [("1 hour", 2), ("25 hours", 0)] {
        let older = format!("UPDATE control_plane.tenant_databases SET created_at = now() - interval '{age}'");
        store.batch_execute(&older).await.unwrap();
        // The workers sweep when they start.
        let stop = CancellationToken::new();
        world.restarted().await.jobs.start(&TaskTracker::new(), &stop);
        eventually("what is not worth its room is given back", async || {
            (kept("app").await == spares).then_some(())
        })
        .await;
        stop.cancel();
    }
    assert_eq!(kept("idle").await, 0);
    eventually("only the templates are left", async || {
        (names(&world, IN_CONSTRUCTION).await.len() == 2).then_some(())
    })
    .await;
}

/// The rows of a store that was restored to an earlier time than its servers.
#[tokio::test(flavor = "multi_thread")]
async fn a_spare_of_the_past_is_not_taken_for_the_tenant_it_became() {
    const KEPT: &str = "CREATE TABLE past AS SELECT * FROM control_plane.templates
                          WHERE status = 'spare' ORDER BY created_at LIMIT 1;
                        CREATE TABLE past_place AS SELECT * FROM control_plane.physical_databases
                          WHERE template_id = (SELECT id FROM past);
                        CREATE TABLE past_roles AS SELECT * FROM control_plane.postgres_databases
                          WHERE id = (SELECT id FROM past_place)";
    // The restored store does not have the tenant that the spare became.
    const BROUGHT_BACK: &str = "DELETE FROM control_plane.tenant_databases WHERE tenant = 'second';
                                INSERT INTO control_plane.templates SELECT * FROM past;
                                INSERT INTO control_plane.physical_databases SELECT * FROM past_place;
                                INSERT INTO control_plane.postgres_databases SELECT * FROM past_roles";
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (name text)").await;
    world.tenant("zeroth", "app").await;
    world.tenant("first", "app").await;
    let stocked = async |count: usize| {
        eventually("there is a stock", async || {
            let all = templates(&world).await;
            let spares = all.iter().filter(|row| row.status == TemplateStatus::Spare);
            (spares.filter(|row| row.progress.step == Step::Adopted).count() == count).then_some(())
        })
        .await;
    };
    stocked(1).await;
    let store = world.cluster.connect("tdb_control").await.unwrap();
    store.batch_execute(KEPT).await.unwrap();
    world.tenant("second", "app").await;
    let session = world.session("app__second").await;
    session.batch_execute("INSERT INTO t VALUES ('second')").await.unwrap();
    let second = async || {
        let row = session.query_one("SELECT name FROM t", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "second");
    };
    stocked(2).await;

    store.batch_execute(BROUGHT_BACK).await.unwrap();
    world.tenant("third", "app").await;
    let third = world.session("app__third").await;
    assert!(third.query("SELECT FROM t", &[]).await.unwrap().is_empty(), "its own");
    second().await;

    // Its row was deleted. This time no tenant needs a spare, and a sweep finds it.
    store.batch_execute(BROUGHT_BACK).await.unwrap();
    let stop = CancellationToken::new();
    world.restarted().await.jobs.start(&TaskTracker::new(), &stop);
    let id: uuid::Uuid = store.query_one("SELECT id FROM past", &[]).await.unwrap().get(0);
    eventually("the spare is forgotten", async || {
        let all = templates(&world).await;
        all.iter().all(|row| row.id != id).then_some(())
    })
    .await;
    second().await;

    store
        .batch_execute("UPDATE past SET status = 'dropping'")
        .await
        .unwrap();
    store.batch_execute(BROUGHT_BACK).await.unwrap();
    eventually("it is said why nothing is dropped", async || {
        let all = templates(&world).await;
        let mut said = all.iter().filter_map(|row| row.progress.last_error.as_deref());
        said.any(|error| error.contains("is called \"app__second\""))
            .then_some(())
    })
    .await;
    second().await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_workspace_is_built_ahead_and_reports_broken_changes() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    eventually("there is a build with the change, and no version", async || {
        let all = templates(&world).await;
        let [build] = all.as_slice() else { return None };
        (build.status == TemplateStatus::Building && build.change_ids == [1]).then_some(())
    })
    .await;
    let versions = world
        .control
        .versions
        .list(&world.identity, &blueprint("app"), &Page::default())
        .await;
    assert_eq!(
        versions.unwrap().len(),
        1,
        "only a tenant or a deployment makes a version"
    );
    // A change that depends on data, which only a replay shows.
    world
        .ddl("app", "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN IF (SELECT count(*) FROM t) = 0 THEN RAISE ''no data''; END IF; CREATE TABLE made (id int); END'")
        .await;
    world.ddl("app", "INSERT INTO t VALUES (1); SELECT f()").await;
    eventually(
        "the change is known as broken before anybody asks for a version",
        async || {
            let broken =
                |change: &tdb_control::model::ChangeInfo| change.state == tdb_control::model::ChangeState::Broken;
            world.diff("app").await.iter().any(broken).then_some(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_for_good_leaves_nothing() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("one", "app").await;
    let refused = world
        .control
        .workspaces
        .delete(&world.identity, &blueprint("app"))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("one"), "{refused}");
    world
        .control
        .tenants
        .delete(&world.identity, &tenant("one"), Deletion::Soft)
        .await
        .unwrap();
    world
        .control
        .workspaces
        .delete(&world.identity, &blueprint("app"))
        .await
        .unwrap_err();
    world
        .control
        .tenants
        .delete(&world.identity, &tenant("one"), Deletion::Hard)
        .await
        .unwrap();
    world
        .control
        .tenants
        .find(&world.identity, &tenant("one"))
        .await
        .unwrap_err();
    world
        .control
        .workspaces
        .delete(&world.identity, &blueprint("app"))
        .await
        .unwrap();
    world
        .control
        .workspaces
        .find(&world.identity, &blueprint("app"))
        .await
        .unwrap_err();
    assert_eq!(names(&world, DATABASES).await, Vec::<String>::new());
    assert_eq!(names(&world, ROLES).await, Vec::<String>::new());
    world.workspace("app").await;
    world.tenant("one", "app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_tenant_gains_a_second_database() {
    let world = World::start().await;
    for name in ["shop", "crm"] {
        world.workspace(name).await;
        world.ddl(name, &format!("CREATE TABLE {name}_t (id int)")).await;
    }
    let first = world.tenant("both", "shop").await;
    assert!(first.tenant.databases[0].connection.password.is_some());
    let second = world.try_tenant("both", "crm").await.unwrap();
    assert_eq!(second.tenant.databases.len(), 2);
    assert!(
        second
            .tenant
            .databases
            .iter()
            .all(|database| database.connection.password.is_none())
    );
    assert_eq!(
        world.try_tenant("both", "crm").await.unwrap_err().code().as_str(),
        "already_exists"
    );
    world
        .session("crm__both")
        .await
        .batch_execute("SELECT FROM crm_t")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_was_left_is_taken_up_by_the_next_start() {
    // No caller waits and no worker runs, so the creations stop at any step.
    let settings = ControlSettings {
        creation_wait: std::time::Duration::ZERO,
        ..ControlSettings::default()
    };
    let world = World::idle(settings).await;
    world
        .control
        .workspaces
        .create(&world.identity, &blueprint("app"))
        .await
        .unwrap();
    let next = world.restarted().await;
    next.jobs.start(&TaskTracker::new(), &CancellationToken::new());
    eventually("the workspace is ready", async || {
        let tx = world.store.jobs().await.unwrap();
        let row = workspaces::by_name(&tx, world.identity.project(), &blueprint("app"))
            .await
            .unwrap();
        (row?.status == WorkspaceStatus::Ready).then_some(())
    })
    .await;
    let made = world.try_tenant("one", "app").await.unwrap();
    assert_eq!(made.tenant.name, tenant("one"));
    eventually("the tenant is ready", async || {
        let tenant = next.tenants.find(&world.identity, &tenant("one")).await.unwrap();
        (tenant.status == TenantStatus::Ready).then_some(())
    })
    .await;
    assert_eq!(
        next.versions
            .list(&world.identity, &blueprint("app"), &Page::default())
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_databases_are_swept_and_foreign_ones_are_not() {
    let world = World::idle(ControlSettings::default()).await;
    let installation = world.store.installation().to_owned();
    let admin = world.cluster.connect("postgres").await.unwrap();
    let id = uuid::Uuid::new_v4().simple().to_string();
    let (ours, theirs) = (format!("tdb_c_{installation}_{id}"), format!("tdb_c_aaaaaaaa_{id}"));
    for name in [&ours, &theirs] {
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    }
    world.control.jobs.start(&TaskTracker::new(), &CancellationToken::new());
    eventually("the orphan is gone", async || {
        let left = names(&world, DATABASES).await;
        assert!(left.contains(&theirs), "{left:?}");
        (!left.contains(&ours)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_on_the_server_is_made_unique() {
    let world = World::start().await;
    let admin = world.cluster.connect("postgres").await.unwrap();
    admin.batch_execute("CREATE DATABASE app_dev").await.unwrap();
    world.workspace("app").await;
    let databases = names(&world, DATABASES).await;
    assert!(
        databases.iter().any(|name| name.starts_with("app_dev_")),
        "{databases:?}"
    );
}
