//! A schema as the API shows it: tables with columns, indexes, constraints.

use serde::Deserialize;

use crate::postgres::error::EngineError;
use crate::postgres::server::Server;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Table {
    /// With its schema where that is not `public`.
    pub name: String,
    pub columns: Vec<Column>,
    pub indexes: Vec<Object>,
    pub constraints: Vec<Object>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    pub name: String,
    pub type_name: String,
    pub nullable: bool,
    pub default: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Object {
    pub name: String,
    pub definition: String,
}

/// The tables of a database, by name. Nothing of ours, of extensions, or temporary.
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
