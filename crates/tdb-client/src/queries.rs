//! Queries over the API: one workspace, one tenant, all tenants.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub query: String,
}

/// The last result of a query. Numbers and booleans are JSON's own; all else, int8 and numeric too, is PostgreSQL's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueryResult {
    pub columns: Vec<ResultColumn>,
    pub rows: Vec<Vec<Value>>,
    pub row_count: u64,
    /// The command tag.
    pub command: String,
    /// There were more rows than the answer holds.
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResultColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminQuery {
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub blueprint: String,
    /// One tenant; either this or `all_tenants`.
    #[schema(min_length = 1, max_length = 36, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_tenants: bool,
    /// The engine of the blueprint's databases: `PostgreSQL`, in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_type: Option<String>,
    pub query: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AdminQueryResults {
    pub results: Vec<TenantResult>,
}

/// A tenant's result or its error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TenantResult {
    pub tenant_id: String,
    #[serde(flatten)]
    pub outcome: TenantOutcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TenantOutcome {
    Failed { error: QueryError },
    Answered(QueryResult),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueryError {
    pub sqlstate: String,
    pub message: String,
}
