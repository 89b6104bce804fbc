//! Runs a user's query as a role that can reach one database, with limits on time and on the size of the result.

mod budget;
mod connection;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use serde_json::Value;
use tdb_wire_postgres::reading::{Effect, Release, examine};
use tdb_wire_postgres::tokens::{ScanSettings, Strings};
use tokio_postgres::types::Type;

use crate::postgres::error::EngineError;
use crate::postgres::login::DatabaseLogin;
pub use budget::ResultBudget;
use budget::Share;
use connection::{Connection, Head, server_error, unexpected};

/// Limits of one query.
#[derive(Clone, Copy, Debug)]
pub struct QueryLimits {
    /// The statement_timeout of the session. The answer has 10 s more.
    pub time: Duration,
    /// The most rows in the result; it is truncated after them.
    pub rows: usize,
    /// The most bytes of rows in the result, as received from the server; it is truncated before the row that exceeds it.
    pub bytes: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(30),
            rows: 1_000,
            bytes: 16 * 1024 * 1024,
        }
    }
}

/// The result of the last statement of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryResult {
    /// Empty if the statement returns no rows.
    pub columns: Vec<Column>,
    /// Values of int2, int4, float4, float8 and bool are JSON numbers and booleans, NULL is null; every other value is
    /// a string with PostgreSQL's text.
    pub rows: Vec<Vec<Value>>,
    /// The number of rows returned or changed, including those that are not in `rows`.
    pub row_count: u64,
    /// The command tag without its numbers: `SELECT`, `CREATE TABLE`.
    pub command: String,
    /// Whether rows are missing because of the limits.
    pub truncated: bool,
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name, which need not be unique.
    pub name: String,
    /// The name in `pg_type`, such as `int4` or `timestamptz`; the type's oid if the name could not be read.
    pub type_name: String,
}

/// An open session for one query.
pub struct Query {
    connection: Connection,
    limits: QueryLimits,
    budget: Arc<ResultBudget>,
}

impl Query {
    /// Logs in, within 10 s.
    pub async fn open(login: &DatabaseLogin, limits: QueryLimits) -> Result<Self, EngineError> {
        // The server ends a slow statement itself. If the user's text disables statement_timeout, the server ends it
        // when it notices that the connection is closed.
        let options = format!(
            "-c statement_timeout={} -c client_connection_check_interval=1000",
            limits.time.as_millis()
        );
        let connection = crate::postgres::session::within(LOGIN_TIME_MAX, Connection::open(login, &options)).await?;
        Ok(Self {
            connection,
            limits,
            // The columns of a result are limited by the length of their frame.
            budget: ResultBudget::new(usize::MAX),
        })
    }

    /// Takes the memory of the result from `budget`, which other queries share. The result is truncated when it is used up.
    pub fn sharing(self, budget: &Arc<ResultBudget>) -> Self {
        let budget = Arc::clone(budget);
        Self { budget, ..self }
    }

    /// The server process of the session.
    pub fn server_pid(&self) -> i32 {
        self.connection.server_pid()
    }

    /// Runs the query and closes the session. [`EngineError::Sql`] is an error in the user's text. Not cancel safe: a
    /// dropped future closes the connection, and the server then ends the statement.
    pub async fn run(mut self, sql: &str, access: Access) -> Result<QueryResult, EngineError> {
        let (limits, budget) = (self.limits, self.budget);
        let work = async {
            match access {
                Access::ReadWrite => self.connection.query(sql).await?,
                Access::ReadOnly => {
                    self.connection.query(BEGIN_READ_ONLY).await?;
                    let begun = collect(&mut self.connection, &limits, &budget).await?;
                    refuse_writing(sql, &begun.result)?;
                    self.connection.statement(sql).await?;
                }
            }
            let mut answer = collect(&mut self.connection, &limits, &budget).await?;
            name_types(&mut self.connection, &mut answer, &limits).await?;
            answer.share.keep();
            Ok::<_, EngineError>(answer.result)
        };
        crate::postgres::session::within(limits.time + ANSWER_MARGIN, work).await
    }
}

/// What a query may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Any number of statements, which may write.
    ReadWrite,
    /// One statement, in a READ ONLY transaction that cannot be made READ WRITE.
    ReadOnly,
}

/// The query in it takes the transaction's snapshot; after that, PostgreSQL refuses SET TRANSACTION READ WRITE. The extended
/// protocol allows only one statement per message.
const BEGIN_READ_ONLY: &str = "BEGIN READ ONLY; SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('standard_conforming_strings')";

/// Refuses what the proxy refuses for read-only credentials: statements that write, or could leave the transaction, and that
/// PostgreSQL allows in a READ ONLY transaction. The role has no privileges to write, so this matters only for privileges
/// that the schema grants to PUBLIC.
fn refuse_writing(sql: &str, settings: &QueryResult) -> Result<(), EngineError> {
    let setting = |at: usize| {
        settings
            .rows
            .first()
            .and_then(|row| row.get(at))
            .and_then(Value::as_str)
    };
    let release = Release::of(setting(0).unwrap_or_default().as_bytes());
    // The client encoding is UTF-8.
    let scan = ScanSettings {
        strings: Strings::of(setting(1).unwrap_or_default().as_bytes()),
        ..ScanSettings::USUAL
    };
    let Effect::Refused(writing) = examine(sql.as_bytes(), release, std::iter::once(scan)) else {
        return Ok(());
    };
    Err(EngineError::Writes(writing.message().to_owned()))
}

/// Runs `sql`, which may write, in a new session.
pub async fn run(login: &DatabaseLogin, sql: &str, limits: &QueryLimits) -> Result<QueryResult, EngineError> {
    let query = Query::open(login, *limits).await?;
    query.run(sql, Access::ReadWrite).await
}

const LOGIN_TIME_MAX: Duration = Duration::from_secs(10);
/// Added to the time limit for the transfer of the result.
const ANSWER_MARGIN: Duration = Duration::from_secs(10);

struct Answer {
    result: QueryResult,
    types: Vec<TypeId>,
    bytes: usize,
    share: Share,
}

impl Answer {
    fn new(budget: &Arc<ResultBudget>) -> Self {
        Self {
            result: QueryResult::default(),
            types: Vec::new(),
            bytes: 0,
            share: Share::of(budget),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct TypeId(u32);

/// Reads up to ReadyForQuery and keeps the last statement's result. Returns the server's error, if any, after reading all.
async fn collect(
    connection: &mut Connection,
    limits: &QueryLimits,
    budget: &Arc<ResultBudget>,
) -> Result<Answer, EngineError> {
    let mut answer = Answer::new(budget);
    let mut failed = None;
    loop {
        let head = connection.head().await?;
        match head.tag {
            b'D' => keep_row(connection, head, &mut answer, limits).await?,
            b'd' => connection.skip(head).await?,
            b'T' => {
                let body = connection.body(head).await?;
                answer = Answer::new(budget);
                describe(body, &mut answer).ok_or_else(|| unexpected("a malformed row description"))?;
            }
            b'C' => {
                let body = connection.body(head).await?;
                complete(&body, &mut answer, budget);
            }
            b'G' => {
                connection.body(head).await?;
                connection.refuse_copy().await?;
            }
            b'E' => failed = Some(server_error(&connection.body(head).await?)),
            b'Z' => {
                connection.body(head).await?;
                return failed.map_or(Ok(answer), Err);
            }
            _ => connection.skip(head).await?,
        }
    }
}

fn describe(mut body: Bytes, answer: &mut Answer) -> Option<()> {
    let count = body.try_get_u16().ok()?;
    for _ in 0..count {
        let end = body.iter().position(|byte| *byte == 0)?;
        let name = String::from_utf8_lossy(&body.split_to(end)).into_owned();
        // The terminator, table oid and column number.
        body.try_get_u8().ok()?;
        body.try_get_u32().ok()?;
        body.try_get_u16().ok()?;
        answer.types.push(TypeId(body.try_get_u32().ok()?));
        // Length, modifier, format.
        body.try_get_u16().ok()?;
        body.try_get_u32().ok()?;
        body.try_get_u16().ok()?;
        answer.result.columns.push(Column {
            name,
            type_name: String::new(),
        });
    }
    let lens = answer
        .result
        .columns
        .iter()
        .map(|column| size_of::<Column>() + column.name.len());
    if !answer.share.takes_columns(lens) {
        (answer.result.columns, answer.result.truncated) = (Vec::new(), true);
    }
    Some(())
}

async fn keep_row(
    connection: &mut Connection,
    head: Head,
    answer: &mut Answer,
    limits: &QueryLimits,
) -> Result<(), EngineError> {
    let room = limits.bytes.saturating_sub(answer.bytes);
    let is_full = answer.result.truncated || answer.result.rows.len() >= limits.rows || head.len > room;
    // Taken before the row is read, so that the rows being read count too.
    if is_full || !answer.share.takes_row(head.len, answer.types.len()) {
        answer.result.truncated = true;
        return connection.skip(head).await;
    }
    let body = connection.body_up_to(head, room).await?;
    answer.bytes += head.len;
    let row = values(body, &answer.types).ok_or_else(|| unexpected("a malformed row"))?;
    if answer.share.takes_escapes(&row) {
        answer.result.rows.push(row);
    } else {
        answer.result.truncated = true;
    }
    Ok(())
}

fn values(mut body: Bytes, types: &[TypeId]) -> Option<Vec<Value>> {
    let count = usize::from(body.try_get_u16().ok()?);
    let mut row = Vec::with_capacity(count);
    for index in 0..count {
        let len = body.try_get_i32().ok()?;
        let Ok(len) = usize::try_from(len) else {
            row.push(Value::Null);
            continue;
        };
        if len > body.len() {
            return None;
        }
        let text = body.split_to(len);
        row.push(value(&String::from_utf8_lossy(&text), types.get(index).copied()));
    }
    Some(row)
}

/// Converts numbers that JSON represents exactly and booleans; every other value stays PostgreSQL's text.
fn value(text: &str, id: Option<TypeId>) -> Value {
    let known = id.and_then(|id| Type::from_oid(id.0));
    let native = match known {
        Some(Type::BOOL) => Some(Value::Bool(text == "t")),
        Some(Type::INT2 | Type::INT4) => text.parse::<i32>().ok().map(Value::from),
        // JSON has no NaN and no infinities.
        Some(Type::FLOAT4 | Type::FLOAT8) => text
            .parse()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number),
        _ => None,
    };
    native.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// A CommandComplete: `SELECT 3`, `INSERT 0 1`, `CREATE TABLE`.
fn complete(body: &[u8], answer: &mut Answer, budget: &Arc<ResultBudget>) {
    let tag = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body)).into_owned();
    let words: Vec<&str> = tag.split(' ').filter(|word| word.parse::<u64>().is_err()).collect();
    let count = tag.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
    if !answer.result.command.is_empty() {
        // There was no row description since the last statement, so this one returns no rows.
        *answer = Answer::new(budget);
    }
    answer.result.command = words.join(" ");
    answer.result.row_count = count;
}

/// Looks up the names of types that are not built in. Uses the same session, whose transaction may have created them.
async fn name_types(connection: &mut Connection, answer: &mut Answer, limits: &QueryLimits) -> Result<(), EngineError> {
    let builtin = |id: &TypeId| Type::from_oid(id.0).map(|known| known.name().to_owned());
    let mut names: HashMap<u32, String> = answer
        .types
        .iter()
        .filter_map(|id| builtin(id).map(|name| (id.0, name)))
        .collect();
    let unknown: Vec<String> = answer
        .types
        .iter()
        .map(|id| id.0)
        .filter(|id| !names.contains_key(id))
        .map(|id| id.to_string())
        .collect();
    if !unknown.is_empty() {
        let list = unknown.join(",");
        connection.query(&format!(
            "SELECT t.oid, t.typname FROM pg_catalog.pg_type t WHERE t.oid OPERATOR(pg_catalog.=) ANY ('{{{list}}}'::pg_catalog.oid[])"
        ))
        .await?;
        // In a failed transaction the lookup fails too; then the oids are used as names.
        let found = collect(connection, limits, &ResultBudget::new(usize::MAX)).await;
        for row in found.map(|found| found.result.rows).unwrap_or_default() {
            if let [Value::String(id), Value::String(name)] = row.as_slice() {
                names.extend(id.parse().ok().map(|id: u32| (id, name.clone())));
            }
        }
    }
    for (column, id) in answer.result.columns.iter_mut().zip(&answer.types) {
        column.type_name = names.get(&id.0).cloned().unwrap_or_else(|| id.0.to_string());
    }
    Ok(())
}
