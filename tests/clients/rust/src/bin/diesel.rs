//! Diesel over libpq, and its migrations.

use std::collections::HashSet;
use std::panic;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::pg::CopyFormat;
use diesel::prelude::*;
use diesel::sql_types::{Array, Integer, Nullable, Text, Timestamptz};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tdb_test_clients::*;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/diesel");

diesel::table! {
    items (id) {
        id -> Integer,
        name -> Nullable<Text>,
        price -> Nullable<Numeric>,
        data -> Nullable<Bytea>,
        doc -> Nullable<Jsonb>,
        made -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    authors (id) {
        id -> BigInt,
        email -> Text,
    }
}

#[derive(Clone, Debug, Default, PartialEq, Queryable, Insertable)]
#[diesel(table_name = items)]
struct Item {
    id: i32,
    name: Option<String>,
    price: Option<BigDecimal>,
    data: Option<Vec<u8>>,
    doc: Option<serde_json::Value>,
    made: Option<DateTime<Utc>>,
}

#[derive(QueryableByName)]
struct Sized {
    #[diesel(sql_type = Text)]
    text: String,
}

#[derive(Insertable, Queryable, Debug, PartialEq)]
#[diesel(table_name = items)]
struct Named {
    id: i32,
    name: Option<String>,
}

fn connect() -> Result<PgConnection, ConnectionError> {
    PgConnection::establish(&url())
}

fn answers(mode: &str) -> Outcome {
    let mut session = PgConnection::establish(&url_with(&format!("sslmode={mode}")))?;
    assert_eq!(diesel::select(sql::<Integer>("1")).get_result::<i32>(&mut session)?, 1);
    Ok(())
}

fn written(item: Item) -> Outcome {
    let mut session = connect()?;
    diesel::delete(items::table).execute(&mut session)?;
    diesel::insert_into(items::table)
        .values(item.clone())
        .execute(&mut session)?;
    assert_eq!(
        items::table
            .find(item.id)
            .select(items::all_columns)
            .first::<Item>(&mut session)?,
        item
    );
    Ok(())
}

fn parameters() -> Outcome {
    written(Item {
        id: 1,
        name: Some(TEXT.to_owned()),
        price: Some(PRICE.parse()?),
        data: Some(data()),
        doc: Some(document()),
        made: Some(made()),
    })
}

fn transaction() -> Outcome {
    let mut session = connect()?;
    session.transaction(|session| {
        diesel::delete(items::table).execute(session)?;
        diesel::insert_into(items::table)
            .values(items::id.eq(1))
            .execute(session)?;
        let inner: QueryResult<()> = session.transaction(|session| {
            diesel::delete(items::table).execute(session)?;
            Err(diesel::result::Error::RollbackTransaction)
        });
        assert!(inner.is_err());
        diesel::QueryResult::Ok(())
    })?;
    assert_eq!(items::table.select(items::id).load::<i32>(&mut session)?, [1]);
    Ok(())
}

fn copy() -> Outcome {
    use std::io::Read;
    let mut session = PgConnection::establish(&url_with("sslmode=require"))?;
    diesel::delete(items::table).execute(&mut session)?;
    let lines: String = (0..50_000).map(|n| format!("{n}\tname\n")).collect();
    let copied = diesel::copy_from(items::table)
        .from_raw_data((items::id, items::name), |copying| {
            copying.write_all(lines.as_bytes()).expect("a buffer");
            diesel::QueryResult::Ok(())
        })
        .with_format(CopyFormat::Text)
        .execute(&mut session)?;
    assert_eq!(copied, 50_000);
    let mut out = Vec::new();
    diesel::copy_to(items::table)
        .with_format(CopyFormat::Text)
        .load_raw(&mut session)?
        .read_to_end(&mut out)?;
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 50_000);
    Ok(())
}

fn refused() -> Outcome {
    // Diesel keeps libpq's text of a failed login only.
    for (url, said) in [
        (url_with_password("wrong"), "password authentication failed"),
        (url_of_unknown_database(), "nothing__"),
    ] {
        let refusal = PgConnection::establish(&url).err().ok_or("not refused")?.to_string();
        assert!(refusal.contains(said), "{refusal}");
    }
    Ok(())
}

fn prepared() -> Outcome {
    let mut session = connect()?;
    for n in 0..200 {
        let more = diesel::select(sql::<Integer>("").bind::<Integer, _>(n).sql(" + 1"));
        assert_eq!(more.get_result::<i32>(&mut session)?, n + 1);
    }
    Ok(())
}

fn pipeline() -> Outcome {
    let mut session = connect()?;
    diesel::delete(items::table).execute(&mut session)?;
    let rows: Vec<Named> = (0..5000)
        .map(|id| Named {
            id,
            name: Some(id.to_string()),
        })
        .collect();
    let given = diesel::insert_into(items::table)
        .values(&rows)
        .returning((items::id, items::name));
    assert_eq!(given.get_results::<Named>(&mut session)?, rows);
    Ok(())
}

fn notify() -> Outcome {
    let (mut listener, mut speaker) = (connect()?, connect()?);
    listener.batch_execute("LISTEN channel")?;
    speaker.batch_execute("NOTIFY channel, 'hello'")?;
    let deadline = deadline();
    loop {
        // It is read on the way to the answer of a query.
        listener.batch_execute("SELECT 1")?;
        if let Some(heard) = listener.notifications_iter().next() {
            let heard = heard?;
            assert_eq!((heard.channel.as_str(), heard.payload.as_str()), ("channel", "hello"));
            return Ok(());
        }
        assert!(std::time::Instant::now() < deadline, "nothing heard");
    }
}

fn large() -> Outcome {
    let mut session = PgConnection::establish(&url_with("sslmode=require"))?;
    let rows: Vec<Sized> = diesel::sql_query(LARGE).load(&mut session)?;
    assert_eq!(rows.iter().map(|row| row.text.len()).sum::<usize>(), LARGE_BYTES);
    Ok(())
}

fn concurrent() -> Outcome {
    let mut sessions = (0..CONNECTIONS).map(|_| connect()).collect::<Result<Vec<_>, _>>()?;
    let mut pids = HashSet::new();
    for session in &mut sessions {
        pids.insert(diesel::select(sql::<Integer>("pg_backend_pid()")).get_result::<i32>(session)?);
    }
    assert_eq!(pids.len(), CONNECTIONS);
    Ok(())
}

fn arrays() -> Outcome {
    type Numbers = Vec<Option<i32>>;
    let (numbers, texts) = (
        vec![Some(1), None, Some(3)],
        vec![Some("a"), Some("b\"c"), Some("{,}"), Some(""), None],
    );
    let mut session = connect()?;
    let sent = sql::<Array<Nullable<Integer>>>("").bind::<Array<Nullable<Integer>>, _>(&numbers);
    assert_eq!(diesel::select(sent).get_result::<Numbers>(&mut session)?, numbers);
    let sent = sql::<Array<Nullable<Text>>>("").bind::<Array<Nullable<Text>>, _>(&texts);
    let found: Vec<Option<String>> = diesel::select(sent).get_result(&mut session)?;
    assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), texts);
    Ok(())
}

fn timezones() -> Outcome {
    let mut session = connect()?;
    // The driver sets UTC at login.
    session.batch_execute("SET TIME ZONE 'Asia/Kathmandu'")?;
    let shown = sql::<Text>("cast(").bind::<Timestamptz, _>(made()).sql(" AS text)");
    assert_eq!(
        diesel::select(shown).get_result::<String>(&mut session)?,
        "2026-03-29 15:30:00.123456+05:45"
    );
    Ok(())
}

fn migrate() -> Outcome {
    let ran = connect()?.run_pending_migrations(MIGRATIONS)?.len();
    assert_eq!(ran, 2);
    Ok(())
}

fn use_it() -> Outcome {
    let mut session = connect()?;
    let insert = |email: &'static str| diesel::insert_into(authors::table).values(authors::email.eq(email));
    let given = insert("ann@example.com")
        .returning(authors::email)
        .get_result::<String>(&mut session)?;
    assert_eq!(given, "ann@example.com");
    let wrong = insert("nobody").execute(&mut session).err().ok_or("taken")?;
    assert!(wrong.to_string().contains("email_has_at"), "{wrong}");
    Ok(())
}

/// What a check asserts ends it alone.
fn run(name: &str, check: impl FnOnce() -> Outcome + panic::UnwindSafe) {
    told(
        name,
        panic::catch_unwind(check).unwrap_or_else(|_| Err("it panicked, see standard error".into())),
    );
}

fn main() -> Outcome {
    match step().as_deref() {
        Some("migrate") => return migrate(),
        Some(_) => return use_it(),
        None => version(env!("DIESEL_VERSION")),
    }
    run("tls", || answers("require"));
    run("plain", || answers("disable"));
    run("parameters", parameters);
    run("transaction", transaction);
    run("copy", copy);
    skipped("cancel", "the driver has no cancel");
    run("refused", refused);
    run("prepared", prepared);
    run("pipeline", pipeline);
    run("notify", notify);
    run("large", large);
    run("concurrent", concurrent);
    run("unicode", || {
        written(Item {
            id: 1,
            name: Some(UNICODE.to_owned()),
            ..Item::default()
        })
    });
    run("nulls", || {
        written(Item {
            id: 1,
            ..Item::default()
        })
    });
    run("arrays", arrays);
    run("timezones", timezones);
    Ok(())
}
