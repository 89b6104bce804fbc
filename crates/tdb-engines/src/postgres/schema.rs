//! The description of a schema that the API returns: tables with columns, indexes and constraints.

use serde::Deserialize;

use crate::postgres::error::EngineError;
use crate::postgres::server::Server;

/// An ordinary or partitioned table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Table {
    /// The name, quoted where necessary; qualified with the schema unless that is `public`.
    pub name: String,
    /// In the order of the table.
    pub columns: Vec<Column>,
    /// By name. Includes the indexes of primary keys and unique constraints.
    pub indexes: Vec<Object>,
    /// By name. Without constraint triggers.
    pub constraints: Vec<Object>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    /// The name, unquoted.
    pub name: String,
    /// The type as `format_type` writes it, such as `character varying(20)`.
    pub type_name: String,
    /// Whether it has no NOT NULL.
    pub nullable: bool,
    /// The expression of its default or of a generated column; `None` if it has none.
    pub default: Option<String>,
}

/// An index or a constraint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Object {
    /// The name, unquoted and without a schema.
    pub name: String,
    /// For an index the CREATE INDEX statement; for a constraint the text that ALTER TABLE … ADD CONSTRAINT takes.
    pub definition: String,
}

/// Returns the tables of a database, by name, without temporary tables, members of extensions and those of schema
/// `tdb`. Fails with a lock timeout if it waits 1 s for a client's DDL.
pub async fn describe(server: &Server, database: &str) -> Result<Vec<Table>, EngineError> {
    let inside = server.dedicated(database).await?;
    inside
        .run("SET search_path = ''; SET lock_timeout = '1s'; SET default_transaction_read_only = on")
        .await?;
    let row = inside.row(include_str!("../../sql/postgres/describe.sql"), &[]).await?;
    let described: Option<serde_json::Value> = row.map(|row| row.try_get(0)).transpose()?.flatten();
    let tables = described.map(serde_json::from_value).transpose();
    tables
        .map(Option::unwrap_or_default)
        .map_err(|error| EngineError::Unexpected(format!("schema: {error}")))
}
