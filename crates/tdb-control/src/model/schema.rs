//! A schema as the API shows it, drift, and results of queries.

use serde_json::Value;
use tdb_names::{BlueprintName, TenantName};
use time::OffsetDateTime;

use super::deployment::SqlFailure;

#[derive(Clone, Debug, Default)]
pub struct Schema {
    pub tables: Vec<Table>,
}

#[derive(Clone, Debug)]
pub struct Table {
    /// With its schema where that is not `public`.
    pub name: String,
    pub columns: Vec<SchemaColumn>,
    pub indexes: Vec<SchemaObject>,
    pub constraints: Vec<SchemaObject>,
}

#[derive(Clone, Debug)]
pub struct SchemaColumn {
    pub name: String,
    pub type_name: String,
    pub nullable: bool,
    pub default: Option<String>,
}

#[derive(Clone, Debug)]
pub struct SchemaObject {
    pub name: String,
    pub definition: String,
}

/// The last result of a query.
#[derive(Clone, Debug, Default)]
pub struct QueryResult {
    pub columns: Vec<ResultColumn>,
    /// Numbers and booleans native, everything else (int8 and numeric too) PostgreSQL's text.
    pub rows: Vec<Vec<Value>>,
    pub row_count: u64,
    pub command: String,
    /// More rows than the limit were there.
    pub truncated: bool,
}

#[derive(Clone, Debug)]
pub struct ResultColumn {
    pub name: String,
    pub type_name: String,
}

/// A query over tenants of a blueprint.
#[derive(Clone, Debug)]
pub struct TenantQuery {
    pub blueprint: BlueprintName,
    pub tenants: super::deployment::TenantChoice,
    pub sql: String,
}

#[derive(Clone, Debug)]
pub struct TenantQueryResult {
    pub tenant: TenantName,
    pub outcome: Result<QueryResult, SqlFailure>,
}

/// What is stored of looks at tenants' schemas.
#[derive(Clone, Debug)]
pub struct DriftReport {
    /// Only tenants that differ.
    pub tenants: Vec<TenantDrift>,
    /// Only workspaces that differ from the version that their changes give, though nothing is pending.
    pub workspaces: Vec<WorkspaceDrift>,
    pub unchecked: Vec<Unchecked>,
    /// All that are looked at.
    pub databases: u32,
    /// Those that nobody has looked at since they have their version, or since somebody asked.
    pub pending: u32,
    /// The oldest of the looks that count.
    pub checked_at: Option<OffsetDateTime>,
}

#[derive(Clone, Debug)]
pub struct WorkspaceDrift {
    pub blueprint: BlueprintName,
    pub differences: Vec<Difference>,
}

#[derive(Clone, Debug)]
pub struct TenantDrift {
    pub tenant: TenantName,
    pub blueprint: BlueprintName,
    pub version: u32,
    pub checked_at: OffsetDateTime,
    pub differences: Vec<Difference>,
}

/// A tenant that could not be looked at, and why.
#[derive(Clone, Debug)]
pub struct Unchecked {
    pub tenant: TenantName,
    pub blueprint: BlueprintName,
    pub checked_at: OffsetDateTime,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub object: String,
    /// None: should not be there.
    pub expected: Option<String>,
    /// None: is missing.
    pub found: Option<String>,
}
