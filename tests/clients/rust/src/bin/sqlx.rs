//! sqlx, its pool and its migrations.

use std::collections::HashSet;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions, PgSslMode};
use sqlx::{Connection, Error, Executor, Row};
use tdb_test_clients::*;

type Texts = Vec<Option<String>>;

fn options(mode: PgSslMode) -> Result<PgConnectOptions, Error> {
    Ok(PgConnectOptions::from_str(&url())?.ssl_mode(mode))
}

async fn connect() -> Result<PgConnection, Error> {
    PgConnection::connect(&url()).await
}

async fn answers(mode: PgSslMode) -> Outcome {
    let mut session = PgConnection::connect_with(&options(mode)?).await?;
    session.ping().await?;
    assert_eq!(
        sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&mut session).await?,
        1
    );
    Ok(session.close().await?)
}

async fn parameters() -> Outcome {
    let mut session = connect().await?;
    session.execute("DELETE FROM items").await?;
    let price: BigDecimal = PRICE.parse()?;
    sqlx::query("INSERT INTO items (id, name, price, data, doc, made) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(1)
        .bind(TEXT)
        .bind(&price)
        .bind(data())
        .bind(document())
        .bind(made())
        .execute(&mut session)
        .await?;
    let found: (String, BigDecimal, Vec<u8>, serde_json::Value, DateTime<Utc>) =
        sqlx::query_as("SELECT name, price, data, doc, made FROM items WHERE id = $1")
            .bind(1)
            .fetch_one(&mut session)
            .await?;
    assert_eq!(found, (TEXT.to_owned(), price, data(), document(), made()));
    Ok(())
}

async fn transaction() -> Outcome {
    let mut session = connect().await?;
    let mut transaction = session.begin().await?;
    transaction
        .execute("DELETE FROM items; INSERT INTO items (id) VALUES (1)")
        .await?;
    transaction.commit().await?;
    let mut transaction = session.begin().await?;
    transaction.execute("DELETE FROM items").await?;
    // Rolled back when it is dropped, with the next query.
    drop(transaction);
    assert_eq!(
        sqlx::query_scalar::<_, i32>("SELECT id FROM items")
            .fetch_all(&mut session)
            .await?,
        [1]
    );
    Ok(())
}

async fn copy() -> Outcome {
    let mut session = PgConnection::connect_with(&options(PgSslMode::Require)?).await?;
    session.execute("DELETE FROM items").await?;
    let mut copying = session.copy_in_raw("COPY items (id, name) FROM STDIN").await?;
    for block in 0..50 {
        let lines: String = (0..1000).map(|n| format!("{}\tname\n", block * 1000 + n)).collect();
        copying.send(lines.into_bytes()).await?;
    }
    assert_eq!(copying.finish().await?, 50_000);
    let out = session.copy_out_raw("COPY items TO STDOUT").await?;
    let len = out.try_fold(0, async |sum, part| Ok(sum + part.len())).await?;
    assert!(len > 50_000, "{len}");
    Ok(())
}

async fn refused() -> Outcome {
    for (url, code) in [
        (url_with_password("wrong"), "28P01"),
        (url_of_unknown_database(), "3D000"),
    ] {
        for mode in [PgSslMode::Disable, PgSslMode::Require] {
            let refusal = PgConnection::connect_with(&PgConnectOptions::from_str(&url)?.ssl_mode(mode)).await;
            let refusal = refusal.err().ok_or("not refused")?;
            assert_eq!(
                refusal.as_database_error().and_then(|e| e.code()).as_deref(),
                Some(code),
                "{refusal}"
            );
        }
    }
    Ok(())
}

async fn prepared() -> Outcome {
    let mut session = connect().await?;
    for n in 0..500 {
        let more: i32 = sqlx::query_scalar("SELECT $1::int + 1")
            .bind(n)
            .fetch_one(&mut session)
            .await?;
        assert_eq!(more, n + 1);
    }
    assert_eq!(session.cached_statements_size(), 1);
    session.clear_cached_statements().await?;
    assert_eq!(
        sqlx::query_scalar::<_, i32>("SELECT $1::int + 1")
            .bind(1)
            .fetch_one(&mut session)
            .await?,
        2
    );
    Ok(())
}

async fn pipeline() -> Outcome {
    let mut session = connect().await?;
    session.execute("DELETE FROM items").await?;
    let (ids, names): (Vec<i32>, Vec<String>) = (0..5000).map(|n| (n, n.to_string())).unzip();
    sqlx::query("INSERT INTO items (id, name) SELECT * FROM unnest($1::int[], $2::text[])")
        .bind(ids)
        .bind(names)
        .execute(&mut session)
        .await?;
    assert_eq!(
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM items")
            .fetch_one(&mut session)
            .await?,
        5000
    );
    Ok(())
}

async fn notify() -> Outcome {
    let mut listener = PgListener::connect(&url()).await?;
    listener.listen("channel").await?;
    connect().await?.execute("NOTIFY channel, 'hello'").await?;
    let heard = listener.recv().await?;
    assert_eq!((heard.channel(), heard.payload()), ("channel", "hello"));
    Ok(())
}

async fn large() -> Outcome {
    let mut session = PgConnection::connect_with(&options(PgSslMode::Require)?).await?;
    let rows = session.fetch(LARGE);
    let len = rows
        .try_fold(0, async |sum, row| Ok(sum + row.get::<&str, _>(1).len()))
        .await?;
    assert_eq!(len, LARGE_BYTES);
    Ok(())
}

async fn concurrent() -> Outcome {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS as u32)
        .connect(&url())
        .await?;
    let mut sessions = try_join_all((0..CONNECTIONS).map(|_| pool.acquire())).await?;
    let mut pids = HashSet::new();
    for session in &mut sessions {
        pids.insert(
            sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()")
                .fetch_one(&mut **session)
                .await?,
        );
    }
    assert_eq!(pids.len(), CONNECTIONS);
    Ok(())
}

async fn unicode() -> Outcome {
    let text: String = sqlx::query_scalar("SELECT $1::text")
        .bind(UNICODE)
        .fetch_one(&mut connect().await?)
        .await?;
    assert_eq!(text, UNICODE);
    Ok(())
}

async fn nulls() -> Outcome {
    let query = sqlx::query_as("SELECT $1::int, $2::text, ''")
        .bind(None::<i32>)
        .bind(None::<String>);
    let found: (Option<i32>, Option<String>, String) = query.fetch_one(&mut connect().await?).await?;
    assert_eq!(found, (None, None, String::new()));
    Ok(())
}

async fn arrays() -> Outcome {
    let numbers = vec![Some(1), None, Some(3)];
    let texts: Texts = vec![
        Some("a".into()),
        Some("b\"c".into()),
        Some("{,}".into()),
        Some(String::new()),
        None,
    ];
    let query = sqlx::query_as("SELECT $1::int[], $2::text[]")
        .bind(&numbers)
        .bind(&texts);
    let found: (Vec<Option<i32>>, Texts) = query.fetch_one(&mut connect().await?).await?;
    assert_eq!(found, (numbers, texts));
    Ok(())
}

async fn timezones() -> Outcome {
    // The driver sets UTC at login.
    let mut session = connect().await?;
    session.execute("SET TIME ZONE 'Asia/Kathmandu'").await?;
    let query = sqlx::query_as("SELECT $1::timestamptz, $1::timestamptz::text").bind(made());
    let found: (DateTime<Utc>, String) = query.fetch_one(&mut session).await?;
    assert_eq!(found, (made(), "2026-03-29 15:30:00.123456+05:45".to_owned()));
    Ok(())
}

async fn migrate() -> Outcome {
    // Takes an advisory lock and notes what it did in a table of its own.
    Ok(sqlx::migrate!("migrations/sqlx").run(&mut connect().await?).await?)
}

async fn use_it() -> Outcome {
    let mut session = connect().await?;
    let author: i64 = sqlx::query_scalar("INSERT INTO authors (email) VALUES ('ann@example.com') RETURNING id")
        .fetch_one(&mut session)
        .await?;
    sqlx::query("INSERT INTO books (author, price) VALUES ($1, $2)")
        .bind(author)
        .bind(BigDecimal::from_str("1.5")?)
        .execute(&mut session)
        .await?;
    let wrong = session
        .execute("INSERT INTO authors (email) VALUES ('nobody')")
        .await
        .err()
        .ok_or("taken")?;
    assert_eq!(
        wrong.as_database_error().and_then(|e| e.constraint()),
        Some("email_has_at")
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    match step().as_deref() {
        Some("migrate") => return migrate().await,
        Some(_) => return use_it().await,
        None => version(env!("SQLX_VERSION")),
    }
    check("tls", || answers(PgSslMode::Require)).await;
    check("plain", || answers(PgSslMode::Disable)).await;
    check("parameters", parameters).await;
    check("transaction", transaction).await;
    check("copy", copy).await;
    skipped(
        "cancel",
        "the driver has no cancel; a dropped query closes its connection",
    );
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
    Ok(())
}
