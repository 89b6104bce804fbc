//! A query must not reach a server that has not proven that it knows the role's secret.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use tdb_auth::{ClientTls, Roots};
use tdb_engines::postgres::query::{self, QueryLimits};
use tdb_engines::postgres::{DatabaseLogin, EngineError};
use tdb_names::{ServerEndpoint, TlsMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

/// Offers SCRAM, accepts any answer, reports a successful login, then answers a query.
async fn impostor(mut client: TcpStream) {
    let mut buffer = vec![0; 4096];
    let _ = client.read(&mut buffer).await;
    let offer = [&10i32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat();
    let _ = client.write_all(&frame(b'R', &offer)).await;
    let _ = client.read(&mut buffer).await;
    let welcome = [frame(b'R', &[0; 4]), frame(b'K', &[1; 8]), frame(b'Z', b"I")].concat();
    let _ = client.write_all(&welcome).await;
    let _ = client.read(&mut buffer).await;
    let answer = [frame(b'C', b"SELECT 0\0"), frame(b'Z', b"I")].concat();
    let _ = client.write_all(&answer).await;
}

#[tokio::test]
async fn a_query_does_not_reach_a_server_that_skips_the_end_of_scram() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let login = DatabaseLogin {
        endpoint: ServerEndpoint {
            name: "main".parse().unwrap(),
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            tls: TlsMode::Disable,
        },
        tls: ClientTls::new(&Roots::system()).unwrap(),
        database: "d".to_owned(),
        role: "r".to_owned(),
        secret: "secret".to_owned().into(),
        application_name: "test".to_owned(),
    };
    let server = async { impostor(listener.accept().await.unwrap().0).await };
    let limits = QueryLimits::default();
    let (answer, ()) = tokio::join!(query::run(&login, "SELECT 'secret'", &limits), server);
    assert!(matches!(answer, Err(EngineError::Unexpected(_))), "{answer:?}");
}
