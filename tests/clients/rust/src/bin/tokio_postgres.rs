//! tokio-postgres with rustls.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use rust_decimal::Decimal;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tdb_test_clients::*;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// `sslmode=require` means this: encrypted, to whom does not matter.
#[derive(Debug)]
struct Anybody(rustls::crypto::CryptoProvider);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn tls() -> MakeRustlsConnect {
    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    MakeRustlsConnect::new(config)
}

type Notices = UnboundedReceiver<AsyncMessage>;

async fn open(url: &str, mode: SslMode) -> Result<(Client, Notices), Error> {
    let (client, mut connection) = url.parse::<Config>()?.ssl_mode(mode).connect(tls()).await?;
    let (send, notices) = unbounded_channel();
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            let _ = send.send(message);
        }
    });
    Ok((client, notices))
}

async fn connect() -> Result<Client, Error> {
    Ok(open(&url(), SslMode::Prefer).await?.0)
}

async fn answers(mode: SslMode) -> Outcome {
    let (client, _) = open(&url(), mode).await?;
    assert_eq!(client.query_one("SELECT 1", &[]).await?.get::<_, i32>(0), 1);
    Ok(())
}

async fn parameters() -> Outcome {
    let client = connect().await?;
    client.execute("DELETE FROM items", &[]).await?;
    let price: Decimal = PRICE.parse()?;
    let insert = "INSERT INTO items (id, name, price, data, doc, made) VALUES ($1, $2, $3, $4, $5, $6)";
    client
        .execute(insert, &[&1, &TEXT, &price, &data(), &document(), &made()])
        .await?;
    let row = client
        .query_one("SELECT name, price, data, doc, made FROM items WHERE id = $1", &[&1])
        .await?;
    assert_eq!(
        (
            row.get::<_, &str>(0),
            row.get::<_, Decimal>(1),
            row.get::<_, Vec<u8>>(2)
        ),
        (TEXT, price, data())
    );
    assert_eq!((row.get::<_, serde_json::Value>(3), row.get(4)), (document(), made()));
    Ok(())
}

async fn transaction() -> Outcome {
    let mut client = connect().await?;
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("DELETE FROM items; INSERT INTO items (id) VALUES (1)")
        .await?;
    transaction.commit().await?;
    let mut transaction = client.transaction().await?;
    let savepoint = transaction.savepoint("here").await?;
    assert!(
        savepoint
            .batch_execute("INSERT INTO items (id) VALUES (1)")
            .await
            .is_err()
    );
    savepoint.rollback().await?;
    transaction.batch_execute("DELETE FROM items").await?;
    drop(transaction);
    assert_eq!(
        client
            .query_one("SELECT count(*) FROM items", &[])
            .await?
            .get::<_, i64>(0),
        1
    );
    Ok(())
}

async fn copy() -> Outcome {
    let (client, _) = open(&url(), SslMode::Require).await?;
    client.batch_execute("DELETE FROM items").await?;
    let mut sink = pin!(
        client
            .copy_in::<_, bytes::Bytes>("COPY items (id, name) FROM STDIN")
            .await?
    );
    for block in 0..50 {
        let lines: String = (0..1000).map(|n| format!("{}\tname\n", block * 1000 + n)).collect();
        sink.send(lines.into()).await?;
    }
    assert_eq!(sink.finish().await?, 50_000);
    let out = client.copy_out("COPY items TO STDOUT").await?;
    let len = out.try_fold(0, async |sum, part| Ok(sum + part.len())).await?;
    assert!(len > 50_000, "{len}");
    Ok(())
}

async fn cancel() -> Outcome {
    for mode in [SslMode::Disable, SslMode::Require] {
        let (client, other) = (open(&url(), mode).await?.0, connect().await?);
        let token = client.cancel_token();
        let (slept, stopped) = tokio::join!(client.batch_execute(SLEEP), async {
            let deadline = deadline();
            while other.query_one(SLEEPERS, &[]).await?.get::<_, i64>(0) == 0 {
                assert!(std::time::Instant::now() < deadline, "it took too long");
            }
            match mode {
                SslMode::Require => token.cancel_query(tls()).await,
                _ => token.cancel_query(NoTls).await,
            }
        });
        stopped?;
        assert_eq!(slept.unwrap_err().code().map(|code| code.code()), Some("57014"));
        client.batch_execute("SELECT 1").await?;
    }
    Ok(())
}

async fn refused() -> Outcome {
    for mode in [SslMode::Disable, SslMode::Require] {
        for (url, code) in [
            (url_with_password("wrong"), "28P01"),
            (url_of_unknown_database(), "3D000"),
        ] {
            let refusal = open(&url, mode).await.err().ok_or("not refused")?;
            assert_eq!(refusal.code().map(|code| code.code()), Some(code));
        }
    }
    Ok(())
}

async fn prepared() -> Outcome {
    let client = connect().await?;
    let statement = client.prepare("SELECT $1::int + 1").await?;
    for n in 0..500 {
        assert_eq!(client.query_one(&statement, &[&n]).await?.get::<_, i32>(0), n + 1);
    }
    Ok(())
}

async fn pipeline() -> Outcome {
    let client = connect().await?;
    let statement = client.prepare("SELECT $1::int").await?;
    let numbers: Vec<i32> = (0..1000).collect();
    let parameters: Vec<[&(dyn tokio_postgres::types::ToSql + Sync); 1]> = numbers.iter().map(|n| [n as _]).collect();
    let rows = try_join_all(parameters.iter().map(|one| client.query_one(&statement, one))).await?;
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), numbers);
    let mixed = join_all(["SELECT 1", "SELECT 1/0", "SELECT 2"].map(|sql| client.simple_query(sql))).await;
    assert_eq!(mixed.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    Ok(())
}

async fn notify() -> Outcome {
    let (listener, mut heard) = open(&url(), SslMode::Require).await?;
    listener.batch_execute("LISTEN channel").await?;
    connect().await?.batch_execute("NOTIFY channel, 'hello'").await?;
    match heard.recv().await {
        Some(AsyncMessage::Notification(heard)) => assert_eq!((heard.channel(), heard.payload()), ("channel", "hello")),
        other => return Err(format!("heard {other:?}").into()),
    }
    Ok(())
}

async fn large() -> Outcome {
    let (client, _) = open(&url(), SslMode::Require).await?;
    let rows = client.query(LARGE, &[]).await?;
    assert_eq!(
        rows.iter().map(|row| row.get::<_, &str>(1).len()).sum::<usize>(),
        LARGE_BYTES
    );
    Ok(())
}

async fn concurrent() -> Outcome {
    let clients = try_join_all((0..CONNECTIONS).map(|_| connect())).await?;
    let mut pids = HashSet::new();
    for client in &clients {
        pids.insert(client.query_one("SELECT pg_backend_pid()", &[]).await?.get::<_, i32>(0));
    }
    assert_eq!(pids.len(), CONNECTIONS);
    Ok(())
}

async fn unicode() -> Outcome {
    let row = connect().await?.query_one("SELECT $1::text", &[&UNICODE]).await?;
    assert_eq!(row.get::<_, &str>(0), UNICODE);
    Ok(())
}

async fn nulls() -> Outcome {
    let none = (None::<i32>, None::<String>);
    let row = connect()
        .await?
        .query_one("SELECT $1::int, $2::text, ''", &[&none.0, &none.1])
        .await?;
    assert_eq!((row.get(0), row.get(1), row.get::<_, &str>(2)), (none.0, none.1, ""));
    Ok(())
}

async fn arrays() -> Outcome {
    let (numbers, texts) = (
        vec![Some(1), None, Some(3)],
        vec![Some("a"), Some("b\"c"), Some("{,}"), Some(""), None],
    );
    let row = connect()
        .await?
        .query_one("SELECT $1::int[], $2::text[]", &[&numbers, &texts])
        .await?;
    assert_eq!(
        (row.get::<_, Vec<Option<i32>>>(0), row.get::<_, Vec<Option<&str>>>(1)),
        (numbers, texts)
    );
    Ok(())
}

async fn timezones() -> Outcome {
    let (client, _) = open(&url_with("options=-c%20TimeZone%3DAsia/Kathmandu"), SslMode::Prefer).await?;
    let row = client
        .query_one("SELECT $1::timestamptz, $1::timestamptz::text", &[&made()])
        .await?;
    assert_eq!(
        (row.get(0), row.get::<_, &str>(1)),
        (made(), "2026-03-29 15:30:00.123456+05:45")
    );
    Ok(())
}

#[tokio::main]
async fn main() {
    version(env!("TOKIO_POSTGRES_VERSION"));
    check("tls", || answers(SslMode::Require)).await;
    check("plain", || answers(SslMode::Disable)).await;
    check("parameters", parameters).await;
    check("transaction", transaction).await;
    check("copy", copy).await;
    check("cancel", cancel).await;
    check("refused", refused).await;
    check("prepared", prepared).await;
    check("pipeline", pipeline).await;
    check("notify", notify).await;
    check("large", large).await;
    check("concurrent", concurrent).await;
    check("unicode", unicode).await;
    check("nulls", nulls).await;
    check("arrays", arrays).await;
    check("timezones", timezones).await;
}
