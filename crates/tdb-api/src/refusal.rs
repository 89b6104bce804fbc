//! Why a request failed, before it is rendered as a problem document.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tdb_control::{ControlError, EntryKind};
use tdb_problems::ProblemCode;

#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub code: ProblemCode,
    pub detail: String,
    /// Boxed, to keep `Result`s with a refusal small.
    pub more: Box<More>,
}

/// Properties that only some refusals have.
#[derive(Clone, Debug, Default)]
pub(crate) struct More {
    pub hint: Option<String>,
    pub field: Option<String>,
    pub sqlstate: Option<String>,
    /// When a retry may succeed.
    pub retry_after: Option<Duration>,
    /// For the log only; clients must not see it.
    pub reason: Option<String>,
}

pub(crate) type Answer<T> = Result<T, Refusal>;

impl Refusal {
    pub(crate) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            more: Box::default(),
        }
    }

    /// The value of a field or parameter is invalid. `rule` ends the sentence that begins with the field's name.
    pub(crate) fn invalid(field: impl Into<String>, rule: impl std::fmt::Display) -> Self {
        let field = field.into();
        Self::new(ProblemCode::InvalidValue, format!("\"{field}\" {rule}")).about(field)
    }

    pub(crate) fn not_found(what: EntryKind, name: &str) -> Self {
        let name = name.to_owned();
        ControlError::NotFound { what, name }.into()
    }

    pub(crate) fn no_such_endpoint(path: &str) -> Self {
        Self::new(ProblemCode::NoSuchEndpoint, format!("unknown endpoint \"{path}\""))
            .hint("GET /openapi.json describes all endpoints.")
    }

    pub(crate) fn wrong_method(method: &Method) -> Self {
        Self::new(
            ProblemCode::MethodNotAllowed,
            format!("this endpoint does not support {method}"),
        )
        .hint("The header \"Allow\" lists the methods that it supports.")
    }

    pub(crate) fn internal(reason: impl Into<String>) -> Self {
        let mut refusal = Self::new(ProblemCode::Internal, "internal error")
            .hint("Give the request id to the operator of this installation; the log has the reason.");
        refusal.more.reason = Some(reason.into());
        refusal
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.more.hint = Some(hint.into());
        self
    }

    pub(crate) fn about(mut self, field: impl Into<String>) -> Self {
        self.more.field = Some(field.into());
        self
    }
}

/// Only the status: the body is rendered where the request id and path are known (see [`crate::request::serve`]).
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let code = error.code();
        let detail = error.to_string();
        let mut refusal = match error.field() {
            // The rule ends the sentence that begins with the field's name.
            Some(field) => Self::new(
                code,
                format!("\"{field}\"{}", detail.strip_prefix(field).unwrap_or(&detail)),
            )
            .about(field),
            None => Self::new(code, detail),
        };
        refusal.more.hint = error.hint().filter(|hint| !hint.is_empty()).map(str::to_owned);
        refusal.more.retry_after = error.retry_after();
        refusal.more.sqlstate = error.sqlstate().map(str::to_owned);
        refusal.more.reason = error.reason().map(str::to_owned);
        refusal
    }
}
