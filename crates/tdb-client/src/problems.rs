//! Problem documents (RFC 9457).

use serde::{Deserialize, Serialize};
use tdb_problems::ProblemCode;
use utoipa::ToSchema;

/// The media type of problem documents.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URN with the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short description, the same for every problem with this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened in this case.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The path of the request.
    pub instance: String,
    /// What went wrong, for programs.
    pub code: ProblemCode,
    /// Identifies this request in the log; also in the header `X-Request-Id`.
    pub request_id: String,
    /// The field or parameter that is invalid, if the problem is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The SQLSTATE, if a database refused the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<String>,
    /// Always false.
    pub success: bool,
}
