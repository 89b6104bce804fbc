//! The relay between client and server: drivers work as on a direct connection, and memory is bounded.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::NoTls;

use crate::support::{Lab, TENANT, TENANT_USER, WORKSPACE, WORKSPACE_USER};
use crate::wire::{Wire, cancel_request};

#[tokio::test]
async fn transactions_prepared_statements_and_notifications_work() {
    let lab = Lab::start().await;
    let (mut client, listener) = (lab.tenant().await, lab.tenant().await);
    client.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute(&insert, &[&1]).await.unwrap();
    transaction.rollback().await.unwrap();
    for number in 0..50_i32 {
        client.execute(&insert, &[&number]).await.unwrap();
    }
    listener.batch_execute("LISTEN news").await.unwrap();
    client.batch_execute("NOTIFY news").await.unwrap();
    let count: i64 = listener.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(count, 50);
}

#[tokio::test]
async fn large_copies_and_wide_rows_work_in_both_directions() {
    let lab = Lab::start().await;
    let client = lab.tenant().await;
    client.batch_execute("CREATE TABLE t (a text)").await.unwrap();
    let line = Bytes::from([vec![b'y'; 99_999], b"\n".to_vec()].concat());
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.unwrap());
    for _ in 0..300 {
        sink.send(line.clone()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 300);
    let out: Vec<Bytes> = client
        .copy_out("COPY t TO STDOUT")
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(out.iter().map(Bytes::len).sum::<usize>(), 300 * line.len());
    let wide: String = client
        .query_one("SELECT repeat('z', 50000000)", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(wide.len(), 50_000_000);
    assert!(lab.proxy.metric("from_clients_bytes_total") > 30e6);
    assert!(lab.proxy.metric("to_clients_bytes_total") > 80e6);
}

#[tokio::test]
async fn a_pipeline_of_many_syncs_is_answered_in_order() {
    let lab = Lab::start().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    const COUNT: usize = 2_000;
    wire.send(|out| {
        for number in 0..COUNT {
            frontend::parse("", &format!("SELECT {number}"), [], out).unwrap();
            frontend::bind("", "", [], std::iter::empty::<()>(), |_, _| unreachable!(), [1], out).unwrap_or_default();
            frontend::execute("", 0, out).unwrap();
            frontend::sync(out);
        }
    })
    .await;
    for number in 0..COUNT {
        let rows = wire.until_ready().await.unwrap();
        let row = rows.iter().find(|frame| frame.tag == b'D').unwrap();
        assert_eq!(row.body[6..], i32::try_from(number).unwrap().to_be_bytes());
    }
}

#[tokio::test]
async fn a_slow_reader_delays_the_server_and_fills_no_buffer() {
    let lab = Lab::start().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    wire.send(|out| frontend::query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)", out).unwrap())
        .await;
    let relayed = || lab.proxy.metric("to_clients_bytes_total");
    let mut before = -1.0;
    // The client does not read, so the count stops increasing when the socket buffers are full.
    while relayed() > before {
        before = relayed();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < 50e6, "{before} bytes were read from the server");
    let mut read = 0_usize;
    let mut buffer = vec![0; 1 << 20];
    while read < 200_000_000 {
        read += wire.stream.read(&mut buffer).await.unwrap();
    }
}

#[tokio::test]
async fn a_cancel_with_the_right_secret_ends_the_query_and_one_with_a_wrong_secret_does_not() {
    let lab = Lab::start().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    let pid = wire.query("SELECT pg_backend_pid()").await;
    let shown = String::from_utf8(pid.iter().find(|frame| frame.tag == b'D').unwrap().body[6..].to_vec()).unwrap();
    assert_eq!(shown, wire.pid.to_string(), "the driver's pid equals the server's");
    wire.send(|out| frontend::query("SELECT pg_sleep(60)", out).unwrap())
        .await;
    until_it_sleeps(&lab).await;
    let mut wrong = wire.secret.clone();
    wrong[0] ^= 1;
    for (key, stays) in [((wire.pid, wrong), true), ((wire.pid + 1, wire.secret.clone()), true)] {
        send_cancel(&lab, key.0, &key.1).await;
        assert_eq!(wire.read_within(Duration::from_millis(200)).await.is_err(), stays);
    }
    assert_eq!(lab.proxy.metric("cancels_total"), 0.0);
    send_cancel(&lab, wire.pid, &wire.secret.clone()).await;
    let mut codes = Vec::new();
    while let Some(frame) = wire.read().await {
        codes.extend((frame.tag == b'E').then(|| frame.field(b'C').unwrap()));
        if frame.tag == b'Z' {
            break;
        }
    }
    assert_eq!(codes, ["57014"]);
    assert_eq!(wire.query("SELECT 1").await.last().unwrap().body, b"I");
}

#[tokio::test]
async fn a_cancel_has_no_effect_after_its_session_has_ended() {
    let lab = Lab::start().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    wire.send(frontend::terminate).await;
    assert_eq!(wire.read().await, None);
    send_cancel(&lab, wire.pid, &wire.secret.clone()).await;
    assert_eq!(lab.proxy.metric("cancels_total"), 0.0);
}

#[tokio::test]
async fn a_drivers_cancel_works() {
    let lab = Lab::start().await;
    let client = lab.tenant().await;
    let token = client.cancel_token();
    let canceller = async {
        until_it_sleeps(&lab).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(60)"), canceller);
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
}

/// Waits until the server executes the tenant's `pg_sleep`: an earlier cancel has no effect.
async fn until_it_sleeps(lab: &Lab) {
    let admin = lab.superuser().await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'
                    AND usename = 'r_acme'";
    while admin.query_one(sleeping, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
}

async fn send_cancel(lab: &Lab, pid: i32, secret: &[u8]) {
    let mut cancel = Wire::dial(lab).await;
    cancel.send_raw(&cancel_request(pid, secret)).await;
    assert_eq!(cancel.read().await, None, "closed without a reply");
}

#[tokio::test]
async fn a_half_closed_client_still_receives_its_replies() {
    let lab = Lab::start().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    wire.send(|out| frontend::query("SELECT pg_sleep(0.2), 7", out).unwrap())
        .await;
    wire.stream.shutdown().await.unwrap();
    assert!(wire.until_ready().await.unwrap().iter().any(|frame| frame.tag == b'D'));
    assert_eq!(wire.read().await, None);
}

/// node-postgres sends queued messages after Terminate.
#[tokio::test]
async fn messages_after_terminate_are_not_forwarded_and_not_answered() {
    let lab = Lab::start().await;
    for (user, database) in [(TENANT_USER, TENANT), (WORKSPACE_USER, WORKSPACE)] {
        for _ in 0..10 {
            let mut wire = Wire::login(&lab, user, database).await.unwrap();
            wire.send(|out| {
                frontend::query("SELECT pg_sleep(0.01), 7", out).unwrap();
                frontend::terminate(out);
                // More than the server reads at once: with unread data, it would reset the connection.
                for _ in 0..1_000 {
                    frontend::query("SELECT 8", out).unwrap();
                }
            })
            .await;
            let mut tags = Vec::new();
            while let Some(frame) = wire.read().await {
                tags.push(char::from(frame.tag));
            }
            assert_eq!(tags, ['T', 'D', 'C', 'Z']);
        }
    }
}

#[tokio::test]
async fn the_servers_last_error_reaches_the_client() {
    let lab = Lab::start().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    let admin = lab.superuser().await;
    admin
        .execute("SELECT pg_terminate_backend($1)", &[&wire.pid])
        .await
        .unwrap();
    let last = wire.read().await.unwrap();
    assert_eq!((last.tag, last.field(b'C').as_deref()), (b'E', Some("57P01")));
    assert_eq!(wire.read().await, None);
}

/// Found by the differential test: the server resets the connection, because it has not read all messages.
#[tokio::test]
async fn no_message_follows_the_servers_last_error() {
    let lab = Lab::start().await;
    for (user, database) in [(TENANT_USER, TENANT), (WORKSPACE_USER, WORKSPACE)] {
        for _ in 0..10 {
            let mut wire = Wire::login(&lab, user, database).await.unwrap();
            wire.send(|out| {
                frontend::query("SELECT pg_terminate_backend(pg_backend_pid())", out).unwrap();
                // More than the server reads at once.
                for _ in 0..1_000 {
                    frontend::query("SELECT 8", out).unwrap();
                }
            })
            .await;
            let mut errors = Vec::new();
            while let Some(frame) = wire.read().await {
                if frame.tag == b'E' {
                    errors.push(frame.field(b'C').unwrap());
                }
            }
            assert_eq!(errors, ["57P01"]);
        }
    }
}

#[tokio::test]
async fn a_protocol_violation_closes_the_client_and_its_server_session() {
    let lab = Lab::start().await;
    let mut wire = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    wire.send_raw(&[b'Q', 0, 0, 0, 3]).await;
    let last = wire.read().await.unwrap();
    assert_eq!((last.tag, last.field(b'C').as_deref()), (b'E', Some("08P01")));
    let admin = lab.superuser().await;
    let running = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    while admin.query_one(running, &[&wire.pid]).await.unwrap().get::<_, i64>(0) > 0 {}
}

#[tokio::test]
async fn a_hundred_idle_clients_are_served() {
    let lab = Lab::start().await;
    let clients = futures_util::stream::iter(0..100)
        .then(|_| lab.tenant())
        .collect::<Vec<_>>()
        .await;
    // Sessions are counted after ReadyForQuery was sent, so the count can lag behind.
    while lab.proxy.metric("sessions") < 100.0 {
        tokio::task::yield_now().await;
    }
    for client in &clients {
        client.batch_execute("SELECT 1").await.unwrap();
    }
}
