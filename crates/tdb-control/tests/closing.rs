//! The databases of deleted tenants are closed, and those of restored ones are open, whatever interrupts it.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::time::Duration;

use support::{World, eventually, tenant};
use tdb_control::ControlSettings;
use tdb_control::model::{Deletion, TenantStatus};
use tdb_store::servers;

/// The time that a deletion and a restore wait for a proxy.
const ACKNOWLEDGE_WAIT: Duration = Duration::from_secs(3);
/// A proxy that acknowledges nothing.
const LATE_PROXY: &str = "INSERT INTO control_plane.proxies
                          VALUES (gen_random_uuid(), 0, clock_timestamp() + interval '10 minutes')";
/// A port without a server.
const NO_PORT: u16 = 1;

async fn world() -> World {
    let settings = ControlSettings {
        acknowledge_wait: ACKNOWLEDGE_WAIT,
        ..ControlSettings::default()
    };
    let world = World::start_with(settings).await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("acme", "app").await;
    world
}

async fn status(world: &World) -> TenantStatus {
    let found = world.control.tenants.find(&world.identity, &tenant("acme")).await;
    found.unwrap().status
}

async fn is_open(world: &World) -> bool {
    let admin = world.cluster.connect("postgres").await.unwrap();
    let sql = "SELECT datallowconn FROM pg_database WHERE datname = 'app__acme'";
    admin.query_one(sql, &[]).await.unwrap().get(0)
}

async fn in_the_store(world: &World, sql: &str) {
    let store = world.cluster.connect("tdb_control").await.unwrap();
    store.batch_execute(sql).await.unwrap();
}

/// Registers the server at a port. The control plane uses it after a short time.
async fn server_at(world: &World, port: u16) {
    let tx = world.store.jobs().await.unwrap();
    let name = "main".parse().unwrap();
    let registered = servers::administrator(&tx, &world.store, &name).await.unwrap();
    let mut administrator = registered.unwrap();
    administrator.endpoint.port = port;
    servers::upsert(&tx, &world.store, &administrator).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_restored_while_its_deletion_waits_for_the_proxies_is_open() {
    let world = world().await;
    in_the_store(&world, LATE_PROXY).await;
    let (control, identity) = (world.control.clone(), world.identity.clone());
    let deletion =
        tokio::spawn(async move { control.tenants.delete(&identity, &tenant("acme"), Deletion::Soft).await });
    eventually("the deletion has begun", async || {
        (status(&world).await == TenantStatus::Deleted).then_some(())
    })
    .await;
    let restored = world.control.tenants.restore(&world.identity, &tenant("acme")).await;
    assert_eq!(restored.unwrap().status, TenantStatus::Ready);
    deletion.await.unwrap().unwrap();
    assert!(is_open(&world).await, "a ready tenant's database accepts connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_could_not_be_closed_is_closed_when_its_server_is_back() {
    let world = world().await;
    server_at(&world, NO_PORT).await;
    let name = "main".parse().unwrap();
    eventually("the control plane uses the port", async || {
        let tested = world.control.registry.test(&world.identity, &name).await;
        tested.is_err().then_some(())
    })
    .await;
    let deleted = world
        .control
        .tenants
        .delete(&world.identity, &tenant("acme"), Deletion::Soft)
        .await;
    assert_eq!(deleted.unwrap().unwrap().status, TenantStatus::Deleted);
    assert!(is_open(&world).await, "the server could not be reached");
    server_at(&world, world.cluster.port()).await;
    eventually("it is closed", async || (!is_open(&world).await).then_some(())).await;
    world
        .control
        .tenants
        .restore(&world.identity, &tenant("acme"))
        .await
        .unwrap();
    assert!(is_open(&world).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_leaves_the_databases_closed() {
    let world = world().await;
    let identity = &world.identity;
    let deleted = world
        .control
        .tenants
        .delete(identity, &tenant("acme"), Deletion::Soft)
        .await;
    deleted.unwrap();
    assert!(!is_open(&world).await);
    // As a process leaves them that was killed in a restore, after it had opened the database.
    let admin = world.cluster.connect("postgres").await.unwrap();
    let opened = "ALTER DATABASE app__acme ALLOW_CONNECTIONS true";
    admin.batch_execute(opened).await.unwrap();
    in_the_store(&world, "UPDATE control_plane.tenant_databases SET access = 'changing'").await;
    eventually("it is closed again", async || (!is_open(&world).await).then_some(())).await;
    assert_eq!(status(&world).await, TenantStatus::Deleted);
}
