//! Clients that send bytes which no driver sends.

use crate::support::{Lab, TENANT, TENANT_USER};
use crate::wire::{Wire, startup};

/// Sends `bytes` on a new connection and returns the SQLSTATE of the error, after which the connection is closed; `None` if it
/// is closed without an error.
async fn answer(lab: &Lab, bytes: &[u8]) -> Option<String> {
    let mut wire = Wire::dial(lab).await;
    wire.send_raw(bytes).await;
    let frame = wire.read().await?;
    assert_eq!(frame.tag, b'E', "{bytes:?}: {frame:?}");
    while wire.read().await.is_some() {}
    frame.field(b'C')
}

#[tokio::test]
async fn invalid_startup_packets_are_refused_with_a_reason() {
    let lab = Lab::start().await;
    let user = |user: &str| startup(3 << 16, &["user", user]);
    let mut unterminated = user("ann");
    let last = unterminated.len() - 1;
    unterminated[last] = b'x';
    for (bytes, code) in [
        (0_u32.to_be_bytes().to_vec(), "08P01"),
        (7_u32.to_be_bytes().to_vec(), "08P01"),
        (10_001_u32.to_be_bytes().to_vec(), "08P01"),
        (u32::MAX.to_be_bytes().to_vec(), "08P01"),
        (b"GET / HTTP/1.1\r\nHost: db\r\n\r\n".to_vec(), "08P01"),
        (unterminated, "08P01"),
        (startup(3 << 16, &["user", "a", "user", "b"]), "08P01"),
        (startup(3 << 16, &["database", "d"]), "28000"),
        (startup(2 << 16, &["user", "a"]), "0A000"),
        (startup(4 << 16, &["user", "a"]), "0A000"),
        ([&[0, 0, 0, 13, 0, 3, 0, 0][..], b"\xff\0\xff\0\0"].concat(), "08P01"),
    ] {
        assert_eq!(answer(&lab, &bytes).await.as_deref(), Some(code), "{bytes:?}");
    }
    assert_eq!(
        answer(&lab, b"X\0\0\0\x04").await,
        None,
        "Terminate before the startup packet is not an error"
    );
    lab.tenant().await.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn messages_other_than_scram_are_refused_during_authentication() {
    let lab = Lab::start().await;
    let message = |tag: u8, body: &[u8]| {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &len.to_be_bytes(), body].concat()
    };
    let sasl = |mechanism: &str, data: &[u8]| {
        let len = u32::try_from(data.len()).unwrap();
        message(b'p', &[mechanism.as_bytes(), &[0], &len.to_be_bytes(), data].concat())
    };
    for bytes in [
        message(b'Q', b"SELECT 1\0"),
        message(b'p', b"a password\0"),
        message(b'p', b""),
        vec![b'p', 0, 0, 0, 3],
        vec![b'p', 0x7f, 0xff, 0xff, 0xff],
        vec![b'p', 0, 0, 0x20, 0],
        sasl("SCRAM-SHA-256", b""),
        sasl("SCRAM-SHA-256", b"n,,n=,r="),
        sasl("SCRAM-SHA-256", b"\xff\xfe"),
        sasl("SCRAM-SHA-1", b"n,,n=,r=abc"),
        sasl("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"),
    ] {
        let mut wire = Wire::dial(&lab).await;
        wire.send_raw(&startup(3 << 16, &["user", TENANT_USER, "database", TENANT]))
            .await;
        assert_eq!(wire.read().await.unwrap().tag, b'R');
        wire.send_raw(&bytes).await;
        let refused = wire.read().await.unwrap();
        assert_eq!(refused.field(b'C').as_deref(), Some("08P01"), "{bytes:?}: {refused:?}");
        assert_eq!(wire.read().await, None);
    }
}

#[tokio::test]
async fn clients_that_disconnect_at_any_byte_of_their_login_release_their_slots() {
    let lab = Lab::start().await;
    let whole = startup(3 << 16, &["user", TENANT_USER, "database", TENANT]);
    for len in 0..=whole.len() {
        let mut wire = Wire::dial(&lab).await;
        wire.send_raw(&whole[..len]).await;
    }
    lab.tenant().await.batch_execute("SELECT 1").await.unwrap();
    while lab.proxy.metric("clients") > 0.0 {
        tokio::task::yield_now().await;
    }
}
