//! Schemas as the API shows them, differences between schemas, and results of queries.

use serde_json::Value;
use tdb_names::{BlueprintName, TenantName};
use time::OffsetDateTime;

use super::deployment::SqlFailure;

/// The tables of a database, without those of extensions and of this program.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// By name.
    pub tables: Vec<Table>,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Prefixed with its schema if that is not `public`.
    pub name: String,
    /// The columns, in their order.
    pub columns: Vec<SchemaColumn>,
    /// The indexes.
    pub indexes: Vec<SchemaObject>,
    /// The constraints.
    pub constraints: Vec<SchemaObject>,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct SchemaColumn {
    /// The column's name.
    pub name: String,
    /// The type as `format_type` shows it, such as `character varying(20)`.
    pub type_name: String,
    /// Whether the column may be null.
    pub nullable: bool,
    /// The expression of its default.
    pub default: Option<String>,
}

/// An index or a constraint.
#[derive(Clone, Debug)]
pub struct SchemaObject {
    /// Its name.
    pub name: String,
    /// Its definition, as PostgreSQL shows it.
    pub definition: String,
}

/// The result of the last statement of a query.
#[derive(Clone, Debug, Default)]
pub struct QueryResult {
    /// The columns, in order.
    pub columns: Vec<ResultColumn>,
    /// The values of each row: int2, int4, floating-point numbers and booleans as JSON values, all others (also int8
    /// and numeric) as PostgreSQL's text.
    pub rows: Vec<Vec<Value>>,
    /// How many rows were returned or changed, including those that are left out.
    pub row_count: u64,
    /// The first words of the command tag: `SELECT`, `CREATE TABLE`.
    pub command: String,
    /// Whether rows are left out because of a limit.
    pub truncated: bool,
}

/// A column of a result.
#[derive(Clone, Debug)]
pub struct ResultColumn {
    /// The column's name.
    pub name: String,
    /// The name of its type in `pg_type`: `int4`, `timestamptz`.
    pub type_name: String,
}

/// A query in tenants of a blueprint.
#[derive(Clone, Debug)]
pub struct TenantQuery {
    /// The blueprint of the databases.
    pub blueprint: BlueprintName,
    /// The tenants to query.
    pub tenants: super::deployment::TenantChoice,
    /// The text of the query.
    pub sql: String,
}

/// The result of a query in one tenant.
#[derive(Clone, Debug)]
pub struct TenantQueryResult {
    /// The tenant's name.
    pub tenant: TenantName,
    /// The rows, or why the query failed in this tenant.
    pub outcome: Result<QueryResult, SqlFailure>,
}

/// The stored results of comparisons.
#[derive(Clone, Debug)]
pub struct DriftReport {
    /// The tenants that differ from their version.
    pub tenants: Vec<TenantDrift>,
    /// The workspaces with objects that no change accounts for.
    pub workspaces: Vec<WorkspaceDrift>,
    /// The tenants that could not be compared.
    pub unchecked: Vec<Unchecked>,
    /// How many databases are compared in total.
    pub databases: u32,
    /// How many of them have not been compared since they got their version, or since a comparison was requested.
    pub pending: u32,
    /// When the oldest comparison in the report was made.
    pub checked_at: Option<OffsetDateTime>,
}

/// A workspace with objects that no change accounts for.
#[derive(Clone, Debug)]
pub struct WorkspaceDrift {
    /// The blueprint's name.
    pub blueprint: BlueprintName,
    /// The objects that differ from the result of the changes.
    pub differences: Vec<Difference>,
}

/// A tenant whose schema differs from its version.
#[derive(Clone, Debug)]
pub struct TenantDrift {
    /// The tenant's name.
    pub tenant: TenantName,
    /// The blueprint of the compared database.
    pub blueprint: BlueprintName,
    /// The version that it was compared with.
    pub version: u32,
    /// When it was compared.
    pub checked_at: OffsetDateTime,
    /// The objects that differ.
    pub differences: Vec<Difference>,
}

/// A tenant that could not be compared.
#[derive(Clone, Debug)]
pub struct Unchecked {
    /// The tenant's name.
    pub tenant: TenantName,
    /// The blueprint of its database.
    pub blueprint: BlueprintName,
    /// When the comparison was tried.
    pub checked_at: OffsetDateTime,
    /// Why it was not possible.
    pub reason: String,
}

/// An object that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The object's identity.
    pub object: String,
    /// The definition that it should have; `None` if the object should not exist.
    pub expected: Option<String>,
    /// The definition that it has; `None` if the object is missing.
    pub found: Option<String>,
}
