//! Sessions that end on request: suspension, revocation, shutdown.

use std::time::Duration;

use postgres_protocol::message::frontend;
use tdb_contract::RouteState;
use tokio::time::{Instant, timeout};

use crate::support::{Lab, Options, PROJECT_USER, TENANT, TENANT_USER, TIME_MAX, refusal};
use crate::wire::{Wire, startup};

async fn ended_with(wire: &mut Wire) -> Option<String> {
    let last = wire.read().await?;
    assert_eq!(last.tag, b'E', "{last:?}");
    assert_eq!(wire.read().await, None);
    last.field(b'C')
}

#[tokio::test]
async fn a_suspension_ends_idle_sessions_and_refuses_new_ones_before_it_is_acknowledged() {
    let lab = Lab::start().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    lab.directory
        .set_route(TENANT, |route| route.state = RouteState::Suspended);
    let epoch = lab.directory.publish_tenant_closed().await;
    lab.directory.acknowledged(epoch).await;
    assert_eq!(
        lab.superuser()
            .await
            .query("SELECT FROM pg_stat_activity WHERE usename = 'r_acme'", &[])
            .await
            .unwrap()
            .len(),
        0
    );
    assert_eq!(ended_with(&mut wire).await.as_deref(), Some("57P01"));
    assert_eq!(refusal(&lab.config(TENANT_USER, TENANT)).await.0, "57P03");
}

#[tokio::test]
async fn a_running_transaction_may_finish_and_one_that_does_not_is_ended() {
    let lab = Lab::start().await;
    let mut short = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    let mut long = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    short.query("CREATE TABLE t ()").await;
    for wire in [&mut short, &mut long] {
        wire.query("BEGIN").await;
        wire.query("INSERT INTO t DEFAULT VALUES").await;
    }
    let begun = Instant::now();
    let epoch = lab.directory.publish_tenant_closed().await;
    assert_eq!(short.query("COMMIT").await.last().unwrap().body, b"I");
    assert_eq!(ended_with(&mut short).await.as_deref(), Some("57P01"));
    assert_eq!(ended_with(&mut long).await.as_deref(), Some("57P01"));
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    lab.directory.acknowledged(epoch).await;
    let admin = lab.superuser().await;
    assert_eq!(
        admin
            .query_one("SELECT count(*) FROM t", &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
}

#[tokio::test]
async fn a_revoked_credential_ends_only_its_own_sessions() {
    let lab = Lab::start().await;
    let mut own = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    let mut other = Wire::login(&lab, PROJECT_USER, TENANT).await.unwrap();
    lab.directory.remove_credential(TENANT_USER);
    let epoch = lab.directory.publish_revoked(TENANT_USER, 11).await;
    lab.directory.acknowledged(epoch).await;
    assert_eq!(ended_with(&mut own).await.as_deref(), Some("57P01"));
    assert_eq!(other.query("SELECT 1").await.last().unwrap().tag, b'Z');
    assert_eq!(refusal(&lab.config(TENANT_USER, TENANT)).await.0, "28P01");
}

#[tokio::test]
async fn a_credential_revoked_during_a_login_is_refused() {
    let lab = Lab::start().await;
    let mut wire = Wire::dial(&lab).await;
    wire.send_raw(&startup(3 << 16, &["user", TENANT_USER, "database", TENANT]))
        .await;
    // When the proxy requests the password, it has read the verifier.
    let mut peeked = [0];
    wire.stream.peek(&mut peeked).await.unwrap();
    lab.directory.remove_credential(TENANT_USER);
    let epoch = lab.directory.publish_revoked(TENANT_USER, 11).await;
    lab.directory.acknowledged(epoch).await;
    let refused = wire.authenticate(crate::support::PASSWORD).await.unwrap_err();
    assert_eq!(refused.field(b'C').as_deref(), Some("28P01"));
}

#[tokio::test]
async fn a_stop_ends_idle_sessions_lets_transactions_finish_and_refuses_new_clients() {
    let mut lab = Lab::start().await;
    let mut idle = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    let mut busy = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    busy.query("BEGIN").await;
    // Connected, but not logged in yet.
    let mut late = Wire::dial(&lab).await;
    late.send_raw(&startup(3 << 16, &["user", TENANT_USER, "database", TENANT]))
        .await;
    let mut peeked = [0];
    late.stream.peek(&mut peeked).await.unwrap();
    lab.proxy.stop.drain.cancel();
    assert_eq!(ended_with(&mut idle).await.as_deref(), Some("57P01"));
    assert!(tokio::net::TcpStream::connect(lab.proxy.address).await.is_err());
    let refused = match late.authenticate(crate::support::PASSWORD).await {
        Err(refused) => refused,
        Ok(()) => late.until_ready().await.unwrap_err(),
    };
    assert_eq!(refused.field(b'C').as_deref(), Some("57P01"));
    assert_eq!(busy.query("COMMIT").await.last().unwrap().body, b"I");
    assert_eq!(ended_with(&mut busy).await.as_deref(), Some("57P01"));
    timeout(TIME_MAX, lab.proxy.ended()).await.unwrap();
}

#[tokio::test]
async fn a_stop_ends_transactions_after_its_timeout_or_at_a_second_signal() {
    for (drain_timeout, second) in [(Duration::from_millis(200), false), (TIME_MAX * 10, true)] {
        let mut lab = Lab::start_with(Options {
            drain_timeout,
            ..Options::default()
        })
        .await;
        let mut busy = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
        busy.query("BEGIN").await;
        busy.send(|out| frontend::query("SELECT pg_sleep(600)", out).unwrap())
            .await;
        lab.proxy.stop.drain.cancel();
        if second {
            lab.proxy.stop.now.cancel();
        }
        assert_eq!(ended_with(&mut busy).await.as_deref(), Some("57P01"));
        timeout(TIME_MAX, lab.proxy.ended()).await.unwrap();
    }
}
