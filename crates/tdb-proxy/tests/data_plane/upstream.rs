//! Connections to database servers: with TLS, with and without verification of the certificate, and over a Unix socket.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tdb_auth::Roots;
use tdb_contract::Rights;
use tdb_names::TlsMode;
use tokio_postgres::NoTls;

use crate::support::{Lab, Options, TENANT, TENANT_USER, refusal};

/// A server with a certificate for `names` from an authority that the proxy trusts, and a proxy that uses `mode`.
async fn encrypted(mode: TlsMode, names: &[&str]) -> Lab {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority);
    let lab = Lab::start_with(Options {
        server_tls: mode,
        roots: Roots::from_pem(authority.pem().as_bytes()).unwrap(),
        ..Options::default()
    })
    .await;
    let admin = lab.cluster.connect("postgres").await.unwrap();
    // Written by the server, so that it owns them.
    for (file, pem) in [
        ("server.crt", certificate.unwrap().pem()),
        ("server.key", key.serialize_pem()),
    ] {
        let sql = format!(
            "COPY (SELECT regexp_split_to_table($pem${pem}$pem$, E'\\r?\\n')) TO PROGRAM 'umask 077; cat > {file}'"
        );
        admin.batch_execute(&sql).await.unwrap();
    }
    admin.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    while admin.query_one("SHOW ssl", &[]).await.unwrap().get::<_, &str>(0) != "on" {}
    lab
}

/// Whether the server reports that the tenant's session uses TLS.
async fn is_encrypted(lab: &Lab) -> bool {
    let client = lab.tenant().await;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn sessions_are_encrypted_if_the_server_supports_it() {
    for mode in [
        TlsMode::Prefer,
        TlsMode::Require,
        TlsMode::VerifyCa,
        TlsMode::VerifyFull,
    ] {
        let lab = encrypted(mode, &["127.0.0.1"]).await;
        assert!(is_encrypted(&lab).await, "{mode}");
    }
    let lab = encrypted(TlsMode::Disable, &["127.0.0.1"]).await;
    assert!(!is_encrypted(&lab).await);
}

#[tokio::test]
async fn the_verifying_modes_refuse_a_certificate_for_another_name_or_of_an_unknown_authority() {
    let lab = encrypted(TlsMode::VerifyCa, &["db.example"]).await;
    assert!(is_encrypted(&lab).await, "verify-ca does not check the name");
    let lab = encrypted(TlsMode::VerifyFull, &["db.example"]).await;
    assert_eq!(refusal(&lab.config(TENANT_USER, TENANT)).await.0, "08006");
    // The second server's certificate is from an authority that the first proxy does not trust.
    let (trusting, untrusted) = (
        encrypted(TlsMode::VerifyCa, &["127.0.0.1"]).await,
        encrypted(TlsMode::Require, &["127.0.0.1"]).await,
    );
    assert!(is_encrypted(&untrusted).await);
    let port = untrusted.cluster.port();
    trusting.directory.set_server(TENANT, |server| server.port = port);
    assert_eq!(refusal(&trusting.config(TENANT_USER, TENANT)).await.0, "08006");
}

#[tokio::test]
async fn large_replies_and_cancel_requests_work_over_tls() {
    let lab = encrypted(TlsMode::VerifyFull, &["127.0.0.1"]).await;
    let client = lab.tenant().await;
    let row = client.query_one("SELECT repeat('x', 20000000)", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0).len(), 20_000_000);
    let admin = lab.cluster.connect("postgres").await.unwrap();
    let token = client.cancel_token();
    let canceller = async {
        let sleeping = "SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
        while admin.query(sleeping, &[]).await.unwrap().is_empty() {}
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(60)"), canceller);
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
}

#[tokio::test]
async fn a_server_on_the_same_machine_can_be_reached_over_its_socket() {
    let lab = Lab::start().await;
    let host = lab.cluster.socket_dir().to_str().unwrap().to_owned();
    lab.directory.set_server(TENANT, |server| server.host = host);
    let client = lab.tenant().await;
    let row = client
        .query_one("SELECT inet_client_addr() IS NULL", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "a socket has no client address");
}

#[tokio::test]
async fn a_refused_role_is_restored_and_the_login_retried_once() {
    let lab = Lab::start().await;
    let role: String = lab
        .tenant()
        .await
        .query_one("SELECT current_user::text", &[])
        .await
        .unwrap()
        .get(0);
    let admin = lab.cluster.connect("postgres").await.unwrap();
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
    let verifier: String = admin.query_one(sql, &[&role]).await.unwrap().get(0);
    let repair = format!("ALTER ROLE {role} PASSWORD '{verifier}'; ALTER ROLE {role} RESET ALL");
    // The role changes itself, as psql's \\password does.
    let own = lab.tenant().await;
    for broken in [
        "ALTER ROLE CURRENT_USER PASSWORD 'x'",
        "ALTER ROLE CURRENT_USER SET local_preload_libraries = 'nonesuch'",
    ] {
        own.batch_execute(broken).await.unwrap();
        let refused = lab.journal.refused();
        assert!(["08006", "58P01"].contains(&refusal(&lab.config(TENANT_USER, TENANT)).await.0.as_str()));
        assert_eq!(lab.journal.refused(), refused + 1, "reported once, not retried");
        let administrator = lab.cluster.connect("postgres").await.unwrap();
        *lab.journal.repair.lock().unwrap() = Some((administrator, repair.clone()));
        lab.tenant().await.batch_execute("SELECT 1").await.unwrap();
    }
}

#[tokio::test]
async fn a_read_only_session_starts_read_only_whatever_its_startup_parameters() {
    let lab = Lab::start().await;
    lab.directory.set_rights(TENANT_USER, Rights::ReadOnly);
    let mut config = lab.config(TENANT_USER, TENANT);
    config.options("-c default_transaction_read_only=off");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    for sql in [
        "SELECT 1",
        "RESET default_transaction_read_only",
        "RESET ALL",
        "DISCARD ALL",
    ] {
        client.batch_execute(sql).await.unwrap();
        let row = client.query_one("SHOW transaction_read_only", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "on", "after {sql}");
    }
}
