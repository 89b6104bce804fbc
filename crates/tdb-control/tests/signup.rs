//! Sign-up while it is closed and while it is open, and the operator's account.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

mod support;

use std::net::Ipv4Addr;

use secrecy::ExposeSecret;
use support::World;
use tdb_control::{ControlSettings, Page, Signup};

const PASSWORD: &str = "correct horse battery";

#[tokio::test]
async fn a_closed_installation_makes_no_users() {
    let world = World::idle(ControlSettings::default()).await;
    let refused = world
        .control
        .users
        .sign_up(
            "ada@example.com",
            PASSWORD.to_owned().into(),
            Some("shop"),
            Ipv4Addr::LOCALHOST.into(),
        )
        .await
        .unwrap_err();
    assert_eq!(refused.code().as_str(), "signup_closed");
    assert!(refused.hint().unwrap().contains("signup = true"), "{refused:?}");
}

#[tokio::test]
async fn a_new_user_is_not_the_operator_even_after_the_operators_project_was_deleted() {
    let settings = ControlSettings {
        signup: Signup::Open,
        ..ControlSettings::default()
    };
    let world = World::idle(settings).await;
    let made = world
        .control
        .users
        .sign_up(
            "ada@example.com",
            PASSWORD.to_owned().into(),
            Some("shop"),
            Ipv4Addr::LOCALHOST.into(),
        )
        .await
        .unwrap();
    let ada = world
        .control
        .accounts
        .authenticate(made.api_key.expose_secret())
        .await
        .unwrap();
    assert_eq!(
        world
            .control
            .registry
            .list(&world.identity, &Page::default())
            .await
            .unwrap()
            .len(),
        1
    );
    world
        .control
        .accounts
        .delete_project(&world.identity, world.identity.project().as_str())
        .await
        .unwrap();
    let refused = world.control.registry.list(&ada, &Page::default()).await.unwrap_err();
    assert_eq!(refused.code().as_str(), "operator_only");
    let name = "main".parse().unwrap();
    for refused in [
        world.control.registry.drain(&ada, &name).await.unwrap_err(),
        world.control.registry.remove(&ada, &name).await.unwrap_err(),
        world.control.registry.test(&ada, &name).await.unwrap_err(),
    ] {
        assert_eq!(refused.code().as_str(), "operator_only");
    }
}
