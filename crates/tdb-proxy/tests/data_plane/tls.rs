//! TLS with clients and with database servers.

use std::sync::Arc;

use tdb_auth::{ClientTls, Roots};
use tdb_names::TlsMode;
use tdb_proxy::ClientTlsMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::support::{Lab, Options, TENANT, TENANT_USER, certificate, refusal, with_tls};
use crate::wire::{Wire, cancel_request};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

fn unverified(alpn: &[&[u8]]) -> MakeRustlsConnect {
    let tls = ClientTls::new(&Roots::system()).unwrap();
    let config = tls.config(TlsMode::Require).unwrap().unwrap();
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    MakeRustlsConnect::new(config)
}

async fn encrypted(config: &Config, alpn: &[&[u8]]) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(unverified(alpn)).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test]
async fn clients_can_use_tls_and_channel_binding() {
    let lab = Lab::start_with(with_tls(ClientTlsMode::Prefer)).await;
    lab.tenant().await;
    let mut config = lab.config(TENANT_USER, TENANT);
    for binding in [ChannelBinding::Require, ChannelBinding::Disable, ChannelBinding::Prefer] {
        config.ssl_mode(SslMode::Require).channel_binding(binding);
        let client = encrypted(&config, &[]).await.unwrap();
        let wide = "x".repeat(3_000_000);
        let row = client.query_one("SELECT $1 || '!'", &[&wide]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0).len(), wide.len() + 1);
    }
    config.password("wrong");
    let refused = encrypted(&config, &[]).await.err().unwrap();
    assert_eq!(refused.code().unwrap().code(), "28P01");
}

#[tokio::test]
async fn a_cancel_request_over_tls_ends_with_close_notify() {
    let lab = Lab::start_with(with_tls(ClientTlsMode::Prefer)).await;
    let mut session = Wire::login(&lab, TENANT_USER, TENANT).await.unwrap();
    for (secret, sends) in [(b"none".to_vec(), 0.0), (session.secret.clone(), 1.0)] {
        let mut wire = Wire::dial(&lab).await;
        wire.send_raw(&SSL_REQUEST).await;
        assert_eq!(wire.stream.read_u8().await.unwrap(), b'S');
        let tls = ClientTls::new(&Roots::system()).unwrap();
        let connector = TlsConnector::from(tls.config(TlsMode::Require).unwrap().unwrap());
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, wire.stream).await.unwrap();
        stream.write_all(&cancel_request(session.pid, &secret)).await.unwrap();
        let mut answer = Vec::new();
        // An error if close_notify is missing.
        let len = stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!((len, lab.proxy.metric("cancels_total")), (0, sends));
    }
    session.query("SELECT 1").await;
}

#[tokio::test]
async fn direct_tls_requires_the_alpn_name() {
    let lab = Lab::start_with(with_tls(ClientTlsMode::Require)).await;
    let mut config = lab.config(TENANT_USER, TENANT);
    config
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    encrypted(&config, &[b"postgresql"]).await.unwrap();
    assert!(encrypted(&config, &[]).await.is_err());
    assert!(encrypted(&config, &[b"h2"]).await.is_err());
}

#[tokio::test]
async fn unencrypted_clients_are_refused_if_tls_is_required() {
    let lab = Lab::start_with(with_tls(ClientTlsMode::Require)).await;
    let mut config = lab.config(TENANT_USER, TENANT);
    config.ssl_mode(SslMode::Disable);
    assert_eq!(refusal(&config).await.0, "28000");
    config.ssl_mode(SslMode::Require);
    encrypted(&config, &[]).await.unwrap();
}

#[tokio::test]
async fn encryption_requests_are_declined_without_a_certificate() {
    let lab = Lab::start().await;
    let mut wire = Wire::dial(&lab).await;
    for request in [GSSENC_REQUEST, SSL_REQUEST] {
        wire.send_raw(&request).await;
        assert_eq!(wire.stream.read_u8().await.unwrap(), b'N');
    }
    wire.send_raw(&crate::wire::startup(
        3 << 16,
        &["user", TENANT_USER, "database", TENANT],
    ))
    .await;
    wire.authenticate(crate::support::PASSWORD).await.unwrap();
}

#[tokio::test]
async fn unencrypted_bytes_before_the_handshake_are_never_processed() {
    let lab = Lab::start_with(with_tls(ClientTlsMode::Prefer)).await;
    let mut wire = Wire::dial(&lab).await;
    let stuffed = crate::wire::startup(3 << 16, &["user", TENANT_USER, "database", TENANT]);
    wire.send_raw(&[&SSL_REQUEST[..], &stuffed].concat()).await;
    assert_eq!(wire.stream.read_u8().await.unwrap(), b'S');
    let mut answer = Vec::new();
    // A TLS alert or a reset, never an authentication request.
    let _ = wire.stream.read_to_end(&mut answer).await;
    assert_ne!(answer.first(), Some(&b'R'));
    assert_ne!(answer.first(), Some(&b'E'));
}

#[tokio::test]
async fn the_number_of_encryption_requests_is_limited() {
    let lab = Lab::start().await;
    let mut wire = Wire::dial(&lab).await;
    for _ in 0..4 {
        wire.send_raw(&GSSENC_REQUEST).await;
        assert_eq!(wire.stream.read_u8().await.unwrap(), b'N');
    }
    assert_eq!(wire.read().await.unwrap().field(b'C').as_deref(), Some("08P01"));
    assert_eq!(wire.read().await, None);
}

#[tokio::test]
async fn connections_to_servers_use_tls_according_to_their_mode() {
    let plain = Lab::start_with(Options {
        server_tls: TlsMode::Prefer,
        ..Options::default()
    })
    .await;
    let row = plain
        .tenant()
        .await
        .query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[])
        .await;
    assert!(!row.unwrap().get::<_, bool>(0));
    let demanding = Lab::start_with(Options {
        server_tls: TlsMode::Require,
        ..Options::default()
    })
    .await;
    assert_eq!(refusal(&demanding.config(TENANT_USER, TENANT)).await.0, "08006");
    let _ = certificate();
}
