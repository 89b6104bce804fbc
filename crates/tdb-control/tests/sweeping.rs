//! One object that cannot be removed does not stop the sweep, nor the deletion of other tenants.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use support::{World, eventually, tenant};
use tdb_control::model::{CredentialRequest, CredentialScope, Deletion, Rights};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The owner role of the workspace "app".
const OWNER: &str =
    "SELECT owner_role FROM control_plane.postgres_databases g JOIN control_plane.physical_databases p USING (id)
                      WHERE p.workspace_id IS NOT NULL";
/// PostgreSQL does not drop a database that has a subscription.
const SUBSCRIPTION: &str =
    "CREATE SUBSCRIPTION kept CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)";
const STUCK: &str = "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'stuck'; END $$;
                     CREATE TRIGGER refuse BEFORE DELETE ON control_plane.tenants FOR EACH ROW
                         WHEN (OLD.name = 'stuck') EXECUTE FUNCTION public.refuse();
                     INSERT INTO control_plane.tenants (project_id, name, status, environment, created_at)
                     SELECT project_id, name, 'deleting', 'test', now() - age
                       FROM control_plane.workspaces, (VALUES ('stuck', interval '1 hour'), ('next', interval '0')) AS v(name, age)";

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_that_cannot_be_dropped_does_not_stop_the_sweep() {
    let world = World::start().await;
    world.workspace("app").await;
    let admin = world.cluster.connect("postgres").await.unwrap();
    let store = world.cluster.connect("tdb_control").await.unwrap();
    let owner: String = store.query_one(OWNER, &[]).await.unwrap().get(0);
    let control = world.restarted().await;
    let named = |digit: char| {
        let (installation, id) = (world.store.installation(), digit.to_string().repeat(32));
        format!("tdb_c_{installation}_{id}")
    };
    let (kept, other) = (named('1'), named('2'));
    for name in [&kept, &other] {
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    }
    let inside = world.cluster.connect(&kept).await.unwrap();
    inside.batch_execute(SUBSCRIPTION).await.unwrap();
    admin
        .batch_execute(&format!("ALTER ROLE {owner} CREATEDB"))
        .await
        .unwrap();
    // The workers sweep when they start.
    let stop = CancellationToken::new();
    control.jobs.start(&TaskTracker::new(), &stop);
    let is = async |sql: String| -> bool { admin.query_one(&sql, &[]).await.unwrap().get(0) };
    eventually("the role is as recorded", async || {
        let sql = format!("SELECT NOT rolcreatedb FROM pg_roles WHERE rolname = '{owner}'");
        is(sql).await.then_some(())
    })
    .await;
    eventually("the other orphan is dropped", async || {
        let sql = format!("SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = '{other}')");
        is(sql).await.then_some(())
    })
    .await;
    let sql = format!("SELECT EXISTS (SELECT FROM pg_database WHERE datname = '{kept}')");
    assert!(is(sql).await, "this one cannot be dropped");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_be_removed_does_not_keep_the_next_one() {
    let world = World::start().await;
    world.workspace("app").await;
    let store = world.cluster.connect("tdb_control").await.unwrap();
    store.batch_execute(STUCK).await.unwrap();
    let left = "SELECT string_agg(name, ' ') FROM control_plane.tenants";
    eventually("the next tenant is removed", async || {
        let left: Option<String> = store.query_one(left, &[]).await.unwrap().get(0);
        (left.as_deref() == Some("stuck")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_being_deleted_refuses_changes_and_credentials() {
    let world = World::start().await;
    world.workspace("app").await;
    let store = world.cluster.connect("tdb_control").await.unwrap();
    store.batch_execute(STUCK).await.unwrap();
    let (tenants, me, name) = (&world.control.tenants, &world.identity, tenant("stuck"));
    let request = CredentialRequest {
        scope: CredentialScope::Tenant(name.clone()),
        rights: Rights::ReadWrite,
        name: None,
        expires_at: None,
    };
    let refusals = [
        (tenants.restore(me, &name).await.unwrap_err(), "cannot be restored"),
        (tenants.suspend(me, &name).await.unwrap_err(), "cannot be suspended"),
        (tenants.resume(me, &name).await.unwrap_err(), "cannot be resumed"),
        (
            tenants.delete(me, &name, Deletion::Soft).await.unwrap_err(),
            "cannot be restored",
        ),
        (
            world.control.credentials.create(me, request).await.unwrap_err(),
            "gets no new credentials",
        ),
    ];
    for (error, but) in refusals {
        assert_eq!(error.code(), tdb_problems::ProblemCode::TenantDeleting, "{error}");
        let text = format!("tenant \"stuck\" is being deleted and {but}");
        assert!(error.to_string().contains(&text), "{error}");
    }
}
