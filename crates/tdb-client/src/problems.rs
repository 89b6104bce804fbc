//! Problem documents (RFC 9457) and their stable codes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lists::words;

/// The media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

words! {
    /// What went wrong, for programs. A code never changes its meaning.
    ProblemCode {
        MalformedRequest = "malformed_request",
        UnknownField = "unknown_field",
        UnknownParameter = "unknown_parameter",
        Unauthorized = "unauthorized",
        WrongLogin = "wrong_login",
        SignupClosed = "signup_closed",
        Forbidden = "forbidden",
        NotFound = "not_found",
        NoSuchEndpoint = "no_such_endpoint",
        MethodNotAllowed = "method_not_allowed",
        AlreadyExists = "already_exists",
        WrongState = "wrong_state",
        WorkspaceHasTenants = "workspace_has_tenants",
        WorkspaceNotReady = "workspace_not_ready",
        TenantDeleted = "tenant_deleted",
        TenantDeleting = "tenant_deleting",
        HeadBroken = "head_broken",
        HeadDiffers = "head_differs",
        HeadBusy = "head_busy",
        ChangeHeld = "change_held",
        ChangeNeeded = "change_needed",
        ChangeNotPending = "change_not_pending",
        ChangeNotRevertible = "change_not_revertible",
        NothingToRetry = "nothing_to_retry",
        ExtensionNotAllowed = "extension_not_allowed",
        ProjectNotEmpty = "project_not_empty",
        NoServer = "no_server",
        TooLarge = "too_large",
        UnsupportedMediaType = "unsupported_media_type",
        InvalidValue = "invalid_value",
        QueryFailed = "query_failed",
        OperatorOnly = "operator_only",
        ServerNotEmpty = "server_not_empty",
        ServerUnreachable = "server_unreachable",
        ServerVersion = "server_version",
        ServerStandby = "server_standby",
        ServerRights = "server_rights",
        ServerEventTriggers = "server_event_triggers",
        ServerCapacity = "server_capacity",
        ServerLogin = "server_login",
        IdempotencyInProgress = "idempotency_in_progress",
        IdempotencyKeyReused = "idempotency_key_reused",
        LimitReached = "limit_reached",
        Internal = "internal_error",
        DatabaseUnreachable = "database_unreachable",
        Unavailable = "control_plane_unavailable",
        TimedOut = "timed_out",
    }
}

/// Every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URN made of the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The path that was asked for.
    pub instance: String,
    pub code: ProblemCode,
    /// Names this request in the log; also the header `X-Request-Id`.
    pub request_id: String,
    /// The field or parameter at fault, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What the database said, where it was the database that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<String>,
    pub success: bool,
}

impl ProblemCode {
    pub fn status(self) -> u16 {
        match self {
            ProblemCode::MalformedRequest | ProblemCode::UnknownField | ProblemCode::UnknownParameter => 400,
            ProblemCode::Unauthorized | ProblemCode::WrongLogin => 401,
            ProblemCode::Forbidden | ProblemCode::SignupClosed | ProblemCode::OperatorOnly => 403,
            ProblemCode::NotFound | ProblemCode::NoSuchEndpoint => 404,
            ProblemCode::MethodNotAllowed => 405,
            ProblemCode::AlreadyExists
            | ProblemCode::WrongState
            | ProblemCode::WorkspaceHasTenants
            | ProblemCode::WorkspaceNotReady
            | ProblemCode::TenantDeleted
            | ProblemCode::TenantDeleting
            | ProblemCode::HeadBroken
            | ProblemCode::HeadDiffers
            | ProblemCode::HeadBusy
            | ProblemCode::ChangeHeld
            | ProblemCode::ChangeNeeded
            | ProblemCode::ChangeNotPending
            | ProblemCode::ChangeNotRevertible
            | ProblemCode::NothingToRetry
            | ProblemCode::ExtensionNotAllowed
            | ProblemCode::ProjectNotEmpty
            | ProblemCode::NoServer
            | ProblemCode::ServerNotEmpty
            | ProblemCode::IdempotencyInProgress => 409,
            ProblemCode::TooLarge => 413,
            ProblemCode::UnsupportedMediaType => 415,
            ProblemCode::InvalidValue
            | ProblemCode::QueryFailed
            | ProblemCode::ServerUnreachable
            | ProblemCode::ServerVersion
            | ProblemCode::ServerStandby
            | ProblemCode::ServerRights
            | ProblemCode::ServerEventTriggers
            | ProblemCode::ServerCapacity
            | ProblemCode::ServerLogin
            | ProblemCode::IdempotencyKeyReused => 422,
            ProblemCode::LimitReached => 429,
            ProblemCode::Internal => 500,
            ProblemCode::DatabaseUnreachable => 502,
            ProblemCode::Unavailable => 503,
            ProblemCode::TimedOut => 504,
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            ProblemCode::MalformedRequest => "The request is malformed",
            ProblemCode::UnknownField => "The body has a field that is not known",
            ProblemCode::UnknownParameter => "The query has a parameter that is not known",
            ProblemCode::Unauthorized => "No API key, or one that is not valid",
            ProblemCode::WrongLogin => "Email or password is wrong",
            ProblemCode::SignupClosed => "Signing up is not open",
            ProblemCode::Forbidden => "The API key may not do this",
            ProblemCode::NotFound => "There is no such thing",
            ProblemCode::NoSuchEndpoint => "There is no such endpoint",
            ProblemCode::MethodNotAllowed => "The endpoint does not take this method",
            ProblemCode::AlreadyExists => "It exists already",
            ProblemCode::WrongState => "Its state does not allow this",
            ProblemCode::WorkspaceHasTenants => "The workspace's blueprint still has tenants",
            ProblemCode::WorkspaceNotReady => "The workspace is being made or deleted",
            ProblemCode::TenantDeleted => "The tenant is deleted and can be restored",
            ProblemCode::TenantDeleting => "The tenant is being deleted",
            ProblemCode::HeadBroken => "A change of the blueprint cannot be replayed",
            ProblemCode::HeadDiffers => "Replaying the blueprint does not give the workspace's schema",
            ProblemCode::HeadBusy => "The workspace is being changed right now",
            ProblemCode::ChangeHeld => "A version or a tenant holds the change already",
            ProblemCode::ChangeNeeded => "A later change needs this one",
            ProblemCode::ChangeNotPending => "The change is not pending",
            ProblemCode::ChangeNotRevertible => "What undoes the change is not certain",
            ProblemCode::NothingToRetry => "The deployment has no failed tenant",
            ProblemCode::ExtensionNotAllowed => "The server does not allow the extension",
            ProblemCode::ProjectNotEmpty => "The project still has workspaces or tenants",
            ProblemCode::NoServer => "There is no database server to use",
            ProblemCode::TooLarge => "The body is too large",
            ProblemCode::UnsupportedMediaType => "The body is not JSON",
            ProblemCode::InvalidValue => "A value is not valid",
            ProblemCode::QueryFailed => "The database refused the query",
            ProblemCode::OperatorOnly => "Only whoever runs the installation may do this",
            ProblemCode::ServerNotEmpty => "The server still has databases",
            ProblemCode::ServerUnreachable => "The server cannot be reached",
            ProblemCode::ServerVersion => "The server's PostgreSQL is too old",
            ProblemCode::ServerStandby => "The server is a standby",
            ProblemCode::ServerRights => "The server's administrator lacks a right",
            ProblemCode::ServerEventTriggers => "The server's administrator cannot create event triggers",
            ProblemCode::ServerCapacity => "The server takes too few connections",
            ProblemCode::ServerLogin => "The server refuses its administrator",
            ProblemCode::IdempotencyInProgress => "The same request is still at work",
            ProblemCode::IdempotencyKeyReused => "The idempotency key names another request",
            ProblemCode::LimitReached => "A limit is reached",
            ProblemCode::Internal => "An internal fault",
            ProblemCode::DatabaseUnreachable => "A database server cannot be reached",
            ProblemCode::Unavailable => "The metadata store cannot be reached",
            ProblemCode::TimedOut => "It took too long",
        }
    }

    /// The `type` of its documents.
    pub fn urn(self) -> String {
        format!("urn:tenantsdb:problem:{}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_of_failure_and_a_sentence() {
        for code in ProblemCode::ALL {
            assert!((400..600).contains(&code.status()), "{code}");
            assert!(!code.title().ends_with('.') && code.title().len() > 10, "{code}");
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
