//! Leases in a real store: one holder at a time, and a holder that lost its lease writes nothing.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

mod support;

use std::time::Duration;

use support::{World, tls};
use tdb_store::{Store, StoreError, leases};
use tokio::time::timeout;
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(60);

/// Another process with the same store.
async fn second(world: &World) -> Store {
    let store = Store::connect(&world.settings(), world.master_key.clone(), &tls())
        .await
        .unwrap();
    assert_ne!(store.instance(), world.store.instance());
    store
}

async fn confirms(store: &Store, token: Uuid) -> bool {
    let tx = store.jobs().await.unwrap();
    match leases::confirm(&tx, "a", token).await {
        Ok(()) => true,
        Err(StoreError::LeaseLost { name }) => name != "a",
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_lease_has_one_holder_until_it_is_released_or_its_time_is_over() {
    let world = World::start().await;
    let (one, two) = (&world.store, second(&world).await);
    let token = leases::take(one, "a", LONG).await.unwrap().unwrap();
    assert_eq!(leases::take(&two, "a", LONG).await.unwrap(), None);
    assert_eq!(
        leases::take(one, "a", LONG).await.unwrap(),
        None,
        "not even by its own process"
    );
    assert!(leases::take(&two, "b", LONG).await.unwrap().is_some());
    leases::release(one, "a", token).await.unwrap();
    let token = leases::take(&two, "a", Duration::ZERO).await.unwrap().unwrap();
    // It has expired, but no other process has taken it: the holder can continue.
    assert!(leases::renew(&two, "a", token, Duration::ZERO).await.unwrap());
    let other = leases::take(one, "a", LONG).await.unwrap().unwrap();
    assert!(!leases::renew(&two, "a", token, LONG).await.unwrap());
    leases::release(&two, "a", token).await.unwrap();
    assert!(
        leases::renew(one, "a", other, LONG).await.unwrap(),
        "released by one who lost it"
    );
}

#[tokio::test]
async fn a_holder_that_lost_its_lease_writes_nothing() {
    let world = World::start().await;
    let (one, two) = (&world.store, second(&world).await);
    let late = leases::take(one, "a", Duration::ZERO).await.unwrap().unwrap();
    assert!(confirms(one, late).await);
    let token = leases::take(&two, "a", LONG).await.unwrap().unwrap();
    assert!(!confirms(one, late).await);
    leases::release(&two, "a", token).await.unwrap();
    assert!(
        !confirms(one, late).await,
        "a name that is free again is not the old holder's"
    );
}

#[tokio::test]
async fn a_confirmed_transaction_delays_the_next_holder_but_not_renewals() {
    let world = World::start().await;
    let (one, two) = (world.store.clone(), second(&world).await);
    let token = leases::take(&one, "a", Duration::ZERO).await.unwrap().unwrap();
    let tx = one.jobs().await.unwrap();
    leases::confirm(&tx, "a", token).await.unwrap();
    assert!(
        timeout(LONG, leases::renew(&one, "a", token, Duration::ZERO))
            .await
            .unwrap()
            .unwrap()
    );
    let taking = tokio::spawn(async move { leases::take(&two, "a", LONG).await });
    world.until_a_session_waits_for_a_lock().await;
    assert!(!taking.is_finished(), "taken under an open transaction of its holder");
    tx.commit().await.unwrap();
    assert!(taking.await.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn taking_over_a_home_ends_what_its_last_process_held_and_nothing_of_others() {
    let world = World::start().await;
    let (one, two, three) = (&world.store, second(&world).await, second(&world).await);
    for (store, name, home) in [(one, "a", "/here"), (&two, "b", "/there")] {
        take_over(store, home).await;
        leases::take(store, name, LONG).await.unwrap().unwrap();
    }
    leases::take(&three, "c", LONG).await.unwrap().unwrap();
    let next = second(&world).await;
    take_over(&next, "/here").await;
    assert!(leases::take(&next, "a", LONG).await.unwrap().is_some());
    assert_eq!(leases::take(&next, "b", LONG).await.unwrap(), None);
    assert_eq!(leases::take(&next, "c", LONG).await.unwrap(), None);
    // The same process, when it asks again, ends none of its leases.
    take_over(&next, "/here").await;
    assert_eq!(leases::take(&next, "a", LONG).await.unwrap(), None);
}

async fn take_over(store: &Store, home: &str) {
    let tx = store.jobs().await.unwrap();
    leases::take_over(&tx, store, home).await.unwrap();
    tx.commit().await.unwrap();
}
