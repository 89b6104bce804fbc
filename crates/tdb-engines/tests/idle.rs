//! Idle administrator sessions: reused, and limited in number.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::BTreeSet;

use support::World;
use tdb_engines::postgres::fingerprint;

/// More databases than fit in the cache.
const MANY: usize = 45;
const FEW: usize = 24;
/// The limit of idle sessions.
const IDLE_MAX: usize = 40;

async fn use_each(world: &World, databases: usize) {
    for number in 0..databases {
        let database = format!("d{number}");
        let owner = world.cluster.superuser();
        fingerprint::catalog_state(&world.server, &database, owner)
            .await
            .unwrap();
    }
}

/// The administrator's sessions in these databases.
async fn sessions(world: &World) -> BTreeSet<i32> {
    let observer = world.cluster.connect("postgres").await.unwrap();
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tdb' AND datname LIKE 'd%'";
    let rows = observer.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_many_databases_are_reused_and_limited() {
    let world = World::start().await;
    let admin = world.cluster.connect("postgres").await.unwrap();
    for number in 0..MANY {
        admin
            .batch_execute(&format!("CREATE DATABASE d{number}"))
            .await
            .unwrap();
    }
    use_each(&world, FEW).await;
    let first = sessions(&world).await;
    assert_eq!(first.len(), FEW);
    use_each(&world, FEW).await;
    assert_eq!(sessions(&world).await, first, "no login is repeated");
    use_each(&world, MANY).await;
    let left = sessions(&world).await;
    assert!(left.len() <= IDLE_MAX + 1, "one may be closing: {}", left.len());
    assert!(
        left.len() > FEW,
        "only the least recently used ones are closed: {}",
        left.len()
    );
}
