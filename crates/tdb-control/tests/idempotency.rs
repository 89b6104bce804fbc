//! A repeated request continues an attempt that created something and died, for every kind of entry: the secrets are
//! the same, and nothing is created twice.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

mod support;

use secrecy::ExposeSecret;
use support::{World, blueprint, deploy_all, request};
use tdb_control::model::{CredentialRequest, CredentialScope, Rights};
use tdb_control::{IdempotencyKey, Identity, Kept, KeyScope, Once, Page};

async fn once(world: &World, key: &str, body: &[u8]) -> Result<Once, tdb_control::ControlError> {
    let key = IdempotencyKey::parse(key).unwrap();
    world
        .control
        .idempotency
        .once(&world.identity, &key, &[b"/path", body])
        .await
}

async fn go(world: &World, key: &str) -> Identity {
    match once(world, key, b"{}").await.unwrap() {
        Once::Go(identity) => identity,
        Once::Done(kept) => panic!("{key} was answered already: {}", kept.status),
    }
}

/// The first attempt dies after its use case: no answer is stored, and its claim is released.
async fn died(world: &World, identity: &Identity) -> Identity {
    world.control.idempotency.release_key(identity).await.unwrap();
    go(world, "k").await
}

#[tokio::test]
async fn what_a_dead_attempt_created_is_given_and_not_created_again() {
    let world = World::start().await;
    let control = &world.control;
    let finish = async |identity: &Identity| {
        let body = "{}".to_owned().into();
        control
            .idempotency
            .keep_answer(identity, &Kept { status: 201, body })
            .await
            .unwrap();
        let tx = world.store.jobs().await.unwrap();
        tx.execute("DELETE FROM idempotency_keys", &[]).await.unwrap();
        tx.commit().await.unwrap();
    };

    let first = go(&world, "k").await;
    let made = control
        .accounts
        .create_api_key(&first, "one", &[KeyScope::Read])
        .await
        .unwrap();
    let second = died(&world, &first).await;
    let again = control
        .accounts
        .create_api_key(&second, "one", &[KeyScope::Read])
        .await
        .unwrap();
    assert_eq!(again.key.expose_secret(), made.key.expose_secret());
    assert_eq!(
        control
            .accounts
            .api_keys(&world.identity, &Page::default())
            .await
            .unwrap()
            .len(),
        2
    );
    finish(&second).await;

    let first = go(&world, "k").await;
    let made = control.accounts.create_project(&first, "second").await.unwrap();
    let second = died(&world, &first).await;
    let again = control.accounts.create_project(&second, "second").await.unwrap();
    assert_eq!(again.api_key.expose_secret(), made.api_key.expose_secret());
    assert_eq!(
        again.connection.connection_string(),
        made.connection.connection_string()
    );
    assert_eq!(
        control
            .accounts
            .projects(&world.identity, &Page::default())
            .await
            .unwrap()
            .len(),
        2
    );
    finish(&second).await;

    let first = go(&world, "k").await;
    let made = control.workspaces.create(&first, &blueprint("shop")).await.unwrap();
    let second = died(&world, &first).await;
    let again = control.workspaces.create(&second, &blueprint("shop")).await.unwrap();
    assert_eq!(
        again.connection.connection_string(),
        made.connection.connection_string()
    );
    assert!(made.connection.connection_string().contains(':'));
    finish(&second).await;

    world.ddl("shop", "CREATE TABLE t (id int)").await;
    let first = go(&world, "k").await;
    let made = control
        .tenants
        .create(&first, request("acme", "shop", None))
        .await
        .unwrap();
    let second = died(&world, &first).await;
    let again = control
        .tenants
        .create(&second, request("acme", "shop", None))
        .await
        .unwrap();
    let shown = |made: &tdb_control::model::NewTenant| made.tenant.databases[0].connection.connection_string();
    assert_eq!(shown(&again), shown(&made));
    finish(&second).await;

    let first = go(&world, "k").await;
    let read_only = || CredentialRequest {
        scope: CredentialScope::Workspace(blueprint("shop")),
        rights: Rights::ReadOnly,
        name: None,
        expires_at: None,
    };
    let made = control.credentials.create(&first, read_only()).await.unwrap();
    let second = died(&world, &first).await;
    let again = control.credentials.create(&second, read_only()).await.unwrap();
    assert_eq!(
        again.connection.connection_string(),
        made.connection.connection_string()
    );
    finish(&second).await;

    let first = go(&world, "k").await;
    let made = control.deployments.create(&first, deploy_all("shop")).await.unwrap();
    let second = died(&world, &first).await;
    let again = control.deployments.create(&second, deploy_all("shop")).await.unwrap();
    assert_eq!(again.summary.id, made.summary.id);
    assert_eq!(
        control
            .deployments
            .list(&world.identity, &Page::default())
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_project_whose_founding_died_half_way_is_founded_with_the_secrets_that_were_drawn() {
    let world = World::idle(Default::default()).await;
    let first = go(&world, "k").await;
    // The receipt exists, the project does not.
    let made = world.control.accounts.create_project(&first, "second").await.unwrap();
    world
        .control
        .accounts
        .delete_project(&world.identity, made.project.id.as_str())
        .await
        .unwrap();
    let second = died(&world, &first).await;
    let again = world.control.accounts.create_project(&second, "second").await.unwrap();
    assert_eq!(again.project.id, made.project.id);
    assert_eq!(again.api_key.expose_secret(), made.api_key.expose_secret());
}

#[tokio::test]
async fn a_key_is_one_requests_and_one_attempts_at_a_time() {
    let world = World::idle(Default::default()).await;
    let first = go(&world, "k").await;
    let busy = once(&world, "k", b"{}").await.unwrap_err();
    assert_eq!(busy.code().as_str(), "idempotency_in_progress");
    let other = once(&world, "k", b"other").await.unwrap_err();
    assert_eq!(other.code().as_str(), "idempotency_key_reused");
    // The refused attempt created nothing, so the key is free.
    world.control.idempotency.release_key(&first).await.unwrap();
    let second = go(&world, "k").await;
    // The first attempt lost its claim: what it would create now is refused.
    let late = world
        .control
        .accounts
        .create_api_key(&first, "late", &[KeyScope::Read])
        .await
        .unwrap_err();
    assert_eq!(late.code().as_str(), "idempotency_in_progress");
    let made = world
        .control
        .accounts
        .create_api_key(&second, "one", &[KeyScope::Admin])
        .await
        .unwrap();
    assert_eq!(
        world
            .control
            .accounts
            .api_keys(&world.identity, &Page::default())
            .await
            .unwrap()
            .len(),
        2
    );
    let body = made.key.expose_secret().to_owned();
    let kept = Kept {
        status: 201,
        body: body.clone().into(),
    };
    world.control.idempotency.keep_answer(&second, &kept).await.unwrap();
    match once(&world, "k", b"{}").await.unwrap() {
        Once::Done(kept) => assert_eq!((kept.status, kept.body.expose_secret()), (201, body.as_str())),
        Once::Go(_) => panic!("it was done"),
    }
    // Another API key of the project does not get the answer.
    let stranger = world.control.accounts.authenticate(&body).await.unwrap();
    let key = IdempotencyKey::parse("k").unwrap();
    let refused = world
        .control
        .idempotency
        .once(&stranger, &key, &[b"/path", b"{}"])
        .await
        .unwrap_err();
    assert_eq!(refused.code().as_str(), "idempotency_key_reused");
    // The stored answer is encrypted.
    let tx = world.store.jobs().await.unwrap();
    let row = tx
        .query_one("SELECT receipt, answer FROM idempotency_keys", &[])
        .await
        .unwrap();
    let (receipt, answer): (Option<Vec<u8>>, Vec<u8>) = (row.get(0), row.get(1));
    assert_eq!(receipt, None);
    assert!(!String::from_utf8_lossy(&answer).contains(&body[7..]));
    // A day later the key can be used again.
    let sql =
        "UPDATE idempotency_keys SET created_at = now() - interval '25 hours', lease_until = now() - interval '1 hour'";
    tx.execute(sql, &[]).await.unwrap();
    tx.commit().await.unwrap();
    go(&world, "k").await;
}
