//! Queries over the API: in one workspace, one tenant or all tenants.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The request to run SQL in a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// One or more SQL statements. A key of scope `read` can send only one.
    pub query: String,
}

/// The last result of a query. Numbers and booleans are JSON values; all other types, and int8 and numeric, are
/// PostgreSQL's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueryResult {
    /// The columns; empty if the statement returns no rows.
    pub columns: Vec<ResultColumn>,
    /// The rows, each with a value for every column.
    pub rows: Vec<Vec<Value>>,
    /// How many rows the statement returned or changed.
    pub row_count: u64,
    /// The command tag, such as `SELECT 3`.
    pub command: String,
    /// Whether `rows` omits rows because the answer would be too large.
    pub truncated: bool,
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResultColumn {
    /// The column's name.
    pub name: String,
    /// The name of the column's type.
    #[serde(rename = "type")]
    pub data_type: String,
}

/// The request to run SQL in the databases of one tenant or of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminQuery {
    /// The blueprint that selects the tenants' databases.
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub blueprint: String,
    /// The tenant; either this or `all_tenants`.
    #[schema(min_length = 1, max_length = 36, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Run the query in every tenant that has the blueprint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_tenants: bool,
    /// The engine of the blueprint's databases: `PostgreSQL`, in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_type: Option<String>,
    /// One or more SQL statements. A key of scope `read` can send only one.
    pub query: String,
}

/// The results of a query, one for each tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AdminQueryResults {
    /// The result or the error of each tenant.
    pub results: Vec<TenantResult>,
}

/// The result or the error of a query in one tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TenantResult {
    /// The tenant's name.
    pub tenant_id: String,
    /// The result or the error.
    #[serde(flatten)]
    pub outcome: TenantOutcome,
}

/// A result or an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TenantOutcome {
    /// The query failed in this tenant.
    Failed {
        /// Why.
        error: QueryError,
    },
    /// The query succeeded in this tenant.
    Answered(QueryResult),
}

/// The error of a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueryError {
    /// The SQLSTATE.
    pub sqlstate: String,
    /// The error message.
    pub message: String,
}
