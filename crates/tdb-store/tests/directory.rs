//! The data plane's view: credentials, routes and the feed of changes, with lost connections and out-of-order commits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

mod support;

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use support::World;
use tdb_auth::ApiKey;
use tdb_contract::{
    Epoch, Place, PostgresPlace, Rights, Route, RouteChange, RouteChangeFeed, RouteKind, RouteSource, RouteState, Scope,
};
use tdb_names::{BlueprintName, DatabaseName, ProjectId, TenantName, UserName, WorkspaceId};
use tdb_store::events::{self, Acknowledged};
use tdb_store::physical::{self, DatabaseKind, Step};
use tdb_store::projects::ProjectDeletion;
use tdb_store::tenants::TenantStatus;
use tdb_store::workspaces::WorkspaceStatus;
use tdb_store::{Directory, DirectorySettings, api_keys, credentials, projects, tenants, workspaces};
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The time limit for a change that is notified, on a busy machine; far below the heartbeat of `World::directory`.
const NOTIFIED: Duration = Duration::from_secs(60);

async fn next(feed: &mut RouteChangeFeed) -> RouteChange {
    timeout(NOTIFIED, feed.next())
        .await
        .expect("a change without a heartbeat")
        .expect("a feed that goes on")
}

/// Commits one event about a tenant of this name.
async fn tell(world: &World, project: &ProjectId, tenant: &str) {
    let tx = world.store.project(project).await.unwrap();
    events::tenant_changed(&tx, project, &tenant.parse().unwrap())
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// A directory whose proxies count as dead after this time without a heartbeat.
fn with_lease(world: &World, lease: Duration) -> Directory {
    let settings = DirectorySettings {
        lease,
        ..DirectorySettings::default()
    };
    Directory::new(world.store.clone(), Handle::current(), settings)
}

fn tenant_of(change: &RouteChange) -> &str {
    match change {
        RouteChange::Tenant { tenant, .. } => tenant.as_str(),
        other => panic!("{other:?}"),
    }
}

struct Fleet {
    project: ProjectId,
    blueprint: BlueprintName,
    tenant: TenantName,
    workspace: WorkspaceId,
}

async fn fleet(world: &World) -> Fleet {
    world.server().await;
    let project = world.project().await;
    let (blueprint, tenant): (BlueprintName, TenantName) = ("app".parse().unwrap(), "acme".parse().unwrap());
    let workspace = world.workspace(&project, &blueprint).await;
    Fleet {
        project,
        blueprint,
        tenant,
        workspace,
    }
}

fn place(route: &Route) -> &PostgresPlace {
    let Place::Postgres(place) = &route.place;
    place
}

#[tokio::test]
async fn a_route_follows_what_the_tenant_and_the_database_are() {
    let world = World::start().await;
    let Fleet {
        project,
        blueprint,
        tenant,
        workspace,
    } = fleet(&world).await;
    let id = world.tenant(&project, &tenant, &blueprint, workspace).await;
    let (directory, name) = (world.directory(), "app__acme".parse::<DatabaseName>().unwrap());
    let route = async |rights| directory.route(&project, &name, rights).await.unwrap();
    assert_eq!(route(Rights::ReadWrite).await.unwrap().state, RouteState::NotReady);
    for attempts in 1..=tenants::ATTEMPTS_SHOWN_AS_ERROR {
        let tx = world.store.jobs().await.unwrap();
        physical::record_failure(
            &tx,
            DatabaseKind::TenantDatabase,
            id.as_uuid(),
            "no space",
            Duration::ZERO,
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
        let failed = attempts == tenants::ATTEMPTS_SHOWN_AS_ERROR;
        let expected = if failed {
            RouteState::Failed
        } else {
            RouteState::NotReady
        };
        assert_eq!(
            route(Rights::ReadWrite).await.unwrap().state,
            expected,
            "after {attempts}"
        );
    }
    let tx = world.store.project(&project).await.unwrap();
    assert!(tenants::set_ready(&tx, id).await.unwrap());
    tx.commit().await.unwrap();
    let (rw, ro) = (
        route(Rights::ReadWrite).await.unwrap(),
        route(Rights::ReadOnly).await.unwrap(),
    );
    assert_eq!(
        (rw.state, rw.kind, place(&rw).server.name.as_str()),
        (RouteState::Active, RouteKind::Tenant(id), "main")
    );
    assert_eq!(place(&rw).secret.expose_secret(), "upstream");
    assert_eq!((place(&rw).role.len(), place(&ro).role.ends_with("_ro")), (15, true));
    let steps = [
        (TenantStatus::Ready, TenantStatus::Suspended, RouteState::Suspended),
        (TenantStatus::Suspended, TenantStatus::Deleted, RouteState::Deleted),
        (TenantStatus::Deleted, TenantStatus::Deleting, RouteState::NotReady),
    ];
    for (from, to, expected) in steps {
        let tx = world.store.project(&project).await.unwrap();
        assert!(
            tenants::change_status(&tx, &project, &tenant, &[from], to)
                .await
                .unwrap()
        );
        assert!(
            !tenants::change_status(&tx, &project, &tenant, &[from], to)
                .await
                .unwrap(),
            "applied twice"
        );
        tx.commit().await.unwrap();
        assert_eq!(route(Rights::ReadWrite).await.unwrap().state, expected);
    }
    let other = world.project().await;
    assert!(
        directory
            .route(&other, &name, Rights::ReadWrite)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        directory
            .route(&project, &"app__globex".parse().unwrap(), Rights::ReadWrite)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_workspaces_route_is_its_own() {
    let world = World::start().await;
    let Fleet { project, workspace, .. } = fleet(&world).await;
    let (directory, name) = (world.directory(), "app_dev".parse::<DatabaseName>().unwrap());
    let route = async || {
        directory
            .route(&project, &name, Rights::ReadWrite)
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(route().await.state, RouteState::NotReady);
    let tx = world.store.project(&project).await.unwrap();
    let moved = workspaces::change_status(
        &tx,
        workspace,
        &[WorkspaceStatus::Provisioning],
        WorkspaceStatus::Ready,
        Step::Ready,
    )
    .await;
    assert!(moved.unwrap());
    tx.commit().await.unwrap();
    let route = route().await;
    assert_eq!(
        (route.state, route.kind),
        (RouteState::Active, RouteKind::Workspace(workspace))
    );
}

#[tokio::test]
async fn credentials_are_made_rotated_expired_and_revoked() {
    let world = World::start().await;
    let Fleet {
        project,
        blueprint,
        tenant,
        workspace,
    } = fleet(&world).await;
    world.tenant(&project, &tenant, &blueprint, workspace).await;
    let directory = world.directory();
    let find = async |user: &UserName| directory.credential(user).await.unwrap();
    let tx = world.store.project(&project).await.unwrap();
    let mut made = Vec::new();
    for (scope, pattern) in [
        (Scope::Project, ("tdb_", 14)),
        (Scope::Workspace(blueprint), ("app_", 10)),
        (Scope::Tenant(tenant.clone()), ("acme_", 11)),
    ] {
        let new = credentials::create(&tx, &project, &scope, Rights::ReadOnly, None)
            .await
            .unwrap();
        let user = new.row.user.as_str();
        assert!(user.starts_with(pattern.0) && user.len() == pattern.1, "{user}");
        assert_eq!((&new.row.scope, new.password.expose_secret().len()), (&scope, 32));
        assert_eq!(
            credentials::first_of_scope(&tx, &project, &scope)
                .await
                .unwrap()
                .unwrap()
                .id,
            new.row.id
        );
        made.push(new.row);
    }
    let past = Some(OffsetDateTime::now_utc() - time::Duration::seconds(1));
    let expired = credentials::create(&tx, &project, &Scope::Project, Rights::ReadWrite, past)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert!(find(&expired.row.user).await.is_none());
    let found = find(&made[2].user).await.unwrap();
    assert_eq!(
        (found.id, &found.scope, found.rights),
        (made[2].id, &Scope::Tenant(tenant.clone()), Rights::ReadOnly)
    );
    let tx = world.store.project(&project).await.unwrap();
    assert!(credentials::rotate(&tx, &project, made[0].id).await.unwrap().is_some());
    assert_eq!(credentials::revoke_of_tenant(&tx, &project, &tenant).await.unwrap(), 1);
    assert!(credentials::revoke(&tx, &project, made[1].id).await.unwrap());
    assert!(!credentials::revoke(&tx, &project, made[1].id).await.unwrap());
    tx.commit().await.unwrap();
    let before = found.login.scram_sha_256.to_string();
    assert!(find(&made[1].user).await.is_none() && find(&made[2].user).await.is_none());
    assert_ne!(
        find(&made[0].user).await.unwrap().login.scram_sha_256.to_string(),
        before
    );
}

#[tokio::test]
async fn an_api_key_is_found_by_itself_only() {
    let world = World::start().await;
    let project = world.project().await;
    let key = ApiKey::generate().unwrap();
    let tx = world.store.project(&project).await.unwrap();
    let row = api_keys::insert(&tx, &project, "ci", &key, &["read", "write"])
        .await
        .unwrap();
    assert!(row.last_used_at.is_none());
    tx.commit().await.unwrap();
    let holder = api_keys::authenticate(&world.store, &key).await.unwrap().unwrap();
    assert_eq!(
        (holder.key, &holder.project, holder.scopes.len()),
        (row.id, &project, 2)
    );
    assert!(
        api_keys::authenticate(&world.store, &ApiKey::generate().unwrap())
            .await
            .unwrap()
            .is_none()
    );
    // The same prefix with a different remainder.
    let last = if key.reveal().ends_with('A') { "E" } else { "A" };
    let near = format!("{}{last}", &key.reveal()[..key.reveal().len() - 1]);
    if let Some(near) = ApiKey::parse(&near) {
        assert!(api_keys::authenticate(&world.store, &near).await.unwrap().is_none());
    }
    let tx = world.store.project(&project).await.unwrap();
    assert!(
        api_keys::list(&tx, &project, None, 10).await.unwrap()[0]
            .last_used_at
            .is_some()
    );
    assert!(api_keys::delete(&tx, &project, row.id).await.unwrap());
    tx.commit().await.unwrap();
    assert!(api_keys::authenticate(&world.store, &key).await.unwrap().is_none());
}

#[tokio::test]
async fn a_project_can_be_deleted_with_keys_but_not_with_workspaces() {
    let world = World::start().await;
    let Fleet { project, workspace, .. } = fleet(&world).await;
    let tx = world.store.project(&project).await.unwrap();
    credentials::create(&tx, &project, &Scope::Project, Rights::ReadWrite, None)
        .await
        .unwrap();
    assert_eq!(
        projects::delete(&tx, &project).await.unwrap(),
        ProjectDeletion::NotEmpty
    );
    workspaces::delete(&tx, workspace).await.unwrap();
    assert_eq!(projects::delete(&tx, &project).await.unwrap(), ProjectDeletion::Deleted);
    assert_eq!(projects::delete(&tx, &project).await.unwrap(), ProjectDeletion::Unknown);
    tx.commit().await.unwrap();
    let tx = world.store.jobs().await.unwrap();
    assert!(!projects::any(&tx).await.unwrap());
}

#[tokio::test]
async fn every_kind_of_change_is_notified_in_order() {
    let world = World::start().await;
    let Fleet {
        project,
        blueprint,
        tenant,
        workspace,
    } = fleet(&world).await;
    let database = world.tenant(&project, &tenant, &blueprint, workspace).await;
    let mut feed = world.directory().subscribe().await.unwrap();
    let tx = world.store.project(&project).await.unwrap();
    let new = credentials::create(&tx, &project, &Scope::Project, Rights::ReadWrite, None)
        .await
        .unwrap()
        .row;
    credentials::revoke(&tx, &project, new.id).await.unwrap();
    events::tenant_changed(&tx, &project, &tenant).await.unwrap();
    events::database_closed(&tx, &project, &tenant, database).await.unwrap();
    events::workspace_changed(&tx, &project, &blueprint).await.unwrap();
    events::workspace_closed(&tx, &project, &blueprint, workspace)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut found = Vec::new();
    for _ in 0..6 {
        found.push(next(&mut feed).await);
    }
    assert!(found.windows(2).all(|two| two[0].epoch() < two[1].epoch()), "{found:?}");
    assert!(matches!(&found[0], RouteChange::Credential { user, .. } if *user == new.user));
    assert!(matches!(&found[1], RouteChange::CredentialRevoked { credential, .. } if *credential == new.id));
    assert!(matches!(&found[2], RouteChange::Tenant { .. }));
    assert!(matches!(&found[3], RouteChange::DatabaseClosed { database: found, .. } if *found == database));
    assert!(matches!(&found[4], RouteChange::Workspace { .. }));
    assert!(matches!(&found[5], RouteChange::WorkspaceClosed { workspace: found, .. } if *found == workspace));
}

#[tokio::test]
async fn a_transaction_that_is_overtaken_is_not_missed() {
    let world = World::start().await;
    let project = world.project().await;
    let mut feed = world.directory().subscribe().await.unwrap();
    let slow = world.store.project(&project).await.unwrap();
    events::tenant_changed(&slow, &project, &"slow".parse().unwrap())
        .await
        .unwrap();
    // Written later and committed earlier; it does not wait.
    tell(&world, &project, "fast").await;
    let first = next(&mut feed).await;
    assert_eq!(tenant_of(&first), "fast");
    slow.commit().await.unwrap();
    let second = next(&mut feed).await;
    assert_eq!(tenant_of(&second), "slow");
    assert!(first.epoch() < second.epoch());
}

#[tokio::test]
async fn many_writers_are_all_heard_in_the_order_of_their_epochs() {
    let world = World::start().await;
    let project = world.project().await;
    let mut feed = world.directory().subscribe().await.unwrap();
    let writers: Vec<_> = (0..60)
        .map(|n| {
            let (store, project) = (world.store.clone(), project.clone());
            tokio::spawn(async move {
                let tx = store.project(&project).await.unwrap();
                events::tenant_changed(&tx, &project, &format!("t{n}").parse().unwrap())
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
            })
        })
        .collect();
    let mut last = Epoch(0);
    let mut names = std::collections::BTreeSet::new();
    while names.len() < 60 {
        let change = timeout(NOTIFIED, feed.next()).await.unwrap().unwrap();
        assert!(change.epoch() > last);
        last = change.epoch();
        assert!(names.insert(tenant_of(&change).to_owned()), "twice: {change:?}");
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_feed_that_lost_its_connection_ends_and_the_next_one_misses_nothing() {
    let world = World::start().await;
    let project = world.project().await;
    let directory = world.directory();
    let mut feed = directory.subscribe().await.unwrap();
    tell(&world, &project, "before").await;
    assert_eq!(tenant_of(&next(&mut feed).await), "before");
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity 
                WHERE application_name = 'tenantsdb feed' AND datname = current_database()";
    let killed = world.superuser().await.query(kill, &[]).await.unwrap();
    assert_eq!(killed.len(), 1);
    assert!(
        timeout(NOTIFIED, feed.next())
            .await
            .expect("the end without a heartbeat")
            .is_none()
    );
    tell(&world, &project, "meanwhile").await;
    let mut feed = directory.subscribe().await.unwrap();
    assert_eq!(tenant_of(&next(&mut feed).await), "meanwhile");
}

#[tokio::test]
async fn a_lost_notification_costs_a_heartbeat_only() {
    let world = World::start().await;
    let project = world.project().await;
    let directory = with_lease(&world, Duration::from_secs(6));
    let mut feed = directory.subscribe().await.unwrap();
    let quiet = "ALTER TABLE control_plane.route_events DISABLE TRIGGER number_route_event;
                 INSERT INTO control_plane.route_events (epoch, project_id, kind, tenant) VALUES (1, '%', 'tenant', 'acme')";
    world
        .superuser()
        .await
        .batch_execute(&quiet.replace('%', project.as_str()))
        .await
        .unwrap();
    assert_eq!(tenant_of(&next(&mut feed).await), "acme");
}

#[tokio::test]
async fn a_suspension_waits_for_the_proxies_that_are_alive() {
    let world = World::start().await;
    let project = world.project().await;
    let directory = with_lease(&world, Duration::from_secs(6));
    let wait = |time| events::wait_acknowledged(&world.store, time);
    assert_eq!(wait(NOTIFIED).await.unwrap(), Acknowledged::ByAll, "no proxy at all");
    let mut feed = directory.subscribe().await.unwrap();
    tell(&world, &project, "acme").await;
    let epoch = next(&mut feed).await.epoch();
    // The proxy is alive but has not acted: its lease is renewed, so waiting longer than the lease does not help.
    assert_eq!(wait(Duration::from_secs(8)).await.unwrap(), Acknowledged::NotInTime);
    let (acknowledged, waited) = tokio::join!(directory.acknowledge(epoch), wait(NOTIFIED));
    acknowledged.unwrap();
    assert_eq!(waited.unwrap(), Acknowledged::ByAll);
    // The proxy dies before it has acted on an event: its lease expires.
    tell(&world, &project, "globex").await;
    next(&mut feed).await;
    drop(feed);
    assert_eq!(wait(NOTIFIED).await.unwrap(), Acknowledged::ByAll);
}

#[tokio::test]
async fn a_proxy_that_stopped_in_order_is_not_waited_for() {
    let world = World::start().await;
    let project = world.project().await;
    let directory = world.directory();
    let feed = directory.subscribe().await.unwrap();
    tell(&world, &project, "acme").await;
    drop(feed);
    directory.retire().await.unwrap();
    assert_eq!(
        events::wait_acknowledged(&world.store, NOTIFIED).await.unwrap(),
        Acknowledged::ByAll
    );
}

#[test]
fn the_directory_answers_another_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (world, directory) = runtime.block_on(async {
        let world = World::start().await;
        let directory = world.directory();
        (world, directory)
    });
    let proxy = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    proxy.block_on(async {
        assert!(
            directory
                .credential(&"nobody".parse().unwrap())
                .await
                .unwrap()
                .is_none()
        );
        // A caller that stops waiting leaves no connection in an uncertain state.
        for _ in 0..50 {
            let _ = timeout(Duration::ZERO, directory.credential(&"nobody".parse().unwrap())).await;
        }
        assert!(
            directory
                .credential(&"nobody".parse().unwrap())
                .await
                .unwrap()
                .is_none()
        );
    });
    drop(world);
}

#[tokio::test]
async fn a_store_that_is_gone_is_unavailable_and_works_again_when_it_is_back() {
    let mut world = World::start_durable().await;
    let directory = world.directory();
    let nobody: UserName = "nobody".parse().unwrap();
    assert!(directory.credential(&nobody).await.is_ok());
    let cluster = Arc::get_mut(&mut world.cluster).unwrap();
    cluster.crash().unwrap();
    assert!(directory.credential(&nobody).await.is_err());
    assert!(directory.subscribe().await.is_err());
    let cluster = Arc::get_mut(&mut world.cluster).unwrap();
    cluster.start_server().unwrap();
    let deadline = tokio::time::Instant::now() + NOTIFIED;
    while let Err(error) = directory.credential(&nobody).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
    }
    directory.subscribe().await.unwrap();
}
