//! Problem codes, each with its HTTP status and title. The control plane, the API, the client and the documentation use
//! this one list. It contains no message about a particular case.

pub mod system;

/// Declares the enum and its table in one place. The codes are matched as `tt` because the OpenAPI derive cannot read a
/// token that a macro has matched as `literal`.
macro_rules! problems {
    ($($variant:ident = $code:tt, $status:literal, $title:literal;)+) => {
        /// What went wrong, for programs. The meaning of a code does not change between versions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub enum ProblemCode {
            $(#[doc = $title] #[serde(rename = $code)] $variant,)+
        }

        impl ProblemCode {
            /// All codes, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code's text, as problem documents show it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            /// The HTTP status: 400 malformed, 401 missing or wrong key, 403 not allowed, 404 not found, 409 conflict with
            /// the current state, 422 invalid value, 429 limit reached, 502 database server, 503 unavailable, 504 timeout.
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)+
                }
            }

            /// A short description, the same for every problem with this code.
            pub fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)+
                }
            }
        }
    };
}

problems! {
    MalformedRequest = "malformed_request", 400, "The request is malformed";
    UnknownField = "unknown_field", 400, "The body has an unknown field";
    UnknownParameter = "unknown_parameter", 400, "The query string has an unknown parameter";
    Unauthorized = "unauthorized", 401, "The API key is missing or not valid";
    WrongLogin = "wrong_login", 401, "Email or password is wrong";
    Forbidden = "forbidden", 403, "The API key does not have the required scope";
    SignupClosed = "signup_closed", 403, "Sign-up is disabled";
    OperatorOnly = "operator_only", 403, "Only the operator's account may do this";
    NotFound = "not_found", 404, "Not found";
    NoSuchEndpoint = "no_such_endpoint", 404, "Unknown endpoint";
    MethodNotAllowed = "method_not_allowed", 405, "The endpoint does not support this method";
    AlreadyExists = "already_exists", 409, "Already exists";
    AmbiguousName = "ambiguous_name", 409, "More than one object has this name";
    WrongState = "wrong_state", 409, "The current state does not allow this";
    WorkspaceHasTenants = "workspace_has_tenants", 409, "The workspace's blueprint still has tenants";
    WorkspaceNotReady = "workspace_not_ready", 409, "The workspace is being created or deleted";
    TenantDeleted = "tenant_deleted", 409, "The tenant is deleted and can be restored";
    TenantDeleting = "tenant_deleting", 409, "The tenant is being deleted";
    HeadBroken = "head_broken", 409, "A change of the blueprint cannot be replayed";
    HeadDiffers = "head_differs", 409, "Replaying the blueprint does not give the workspace's schema";
    HeadBusy = "head_busy", 409, "The workspace is currently being modified";
    ChangeHeld = "change_held", 409, "A version or a tenant already has the change";
    ChangeNeeded = "change_needed", 409, "A later change depends on this one";
    ChangeNotPending = "change_not_pending", 409, "The change is not pending";
    ChangeNotRevertible = "change_not_revertible", 409, "The change has no certain inverse";
    NothingToRetry = "nothing_to_retry", 409, "The deployment has no failed tenant";
    ExtensionNotAllowed = "extension_not_allowed", 409, "The server does not allow the extension";
    ProjectNotEmpty = "project_not_empty", 409, "The project still has workspaces or tenants";
    NoServer = "no_server", 409, "No database server is available";
    ServerNotEmpty = "server_not_empty", 409, "The server still has databases";
    DatabaseRenamed = "database_renamed", 409, "The database on the server has another name";
    RoleInUse = "role_in_use", 409, "The declared role is in use";
    RoleTaken = "role_taken", 409, "A server has another role of this name";
    DatabaseInUse = "database_in_use", 409, "The database is in use";
    IdempotencyInProgress = "idempotency_in_progress", 409, "A request with this key is still running";
    TooLarge = "too_large", 413, "The body is too large";
    UnsupportedMediaType = "unsupported_media_type", 415, "The body is not declared as JSON";
    InvalidValue = "invalid_value", 422, "A value is not valid";
    QueryFailed = "query_failed", 422, "The database refused the query";
    ServerUnreachable = "server_unreachable", 422, "The server cannot be reached";
    ServerVersion = "server_version", 422, "The server's PostgreSQL version is too old";
    ServerStandby = "server_standby", 422, "The server is a standby";
    ServerRights = "server_rights", 422, "The server's administrator lacks a right";
    ServerEventTriggers = "server_event_triggers", 422, "The server's administrator cannot create event triggers";
    ServerCapacity = "server_capacity", 422, "The server allows too few connections";
    ServerLogin = "server_login", 422, "The server refuses its administrator's login";
    IdempotencyKeyReused = "idempotency_key_reused", 422, "The idempotency key was used for another request";
    LimitReached = "limit_reached", 429, "A limit is reached";
    Internal = "internal_error", 500, "Internal error";
    DatabaseUnreachable = "database_unreachable", 502, "The database server cannot be reached";
    DatabaseFailed = "database_failed", 502, "The database server refused an operation";
    Unavailable = "control_plane_unavailable", 503, "The metadata store cannot be reached";
    StoreBusy = "store_busy", 503, "The metadata store has no free capacity";
    ServerBusy = "server_busy", 503, "The database server has no free capacity";
    LoginsBusy = "logins_busy", 503, "Too many logins at the same time";
    TimedOut = "timed_out", 504, "The request took too long";
    StoreTimedOut = "store_timed_out", 504, "The metadata store did not answer in time";
    DatabaseTimedOut = "database_timed_out", 504, "The database server did not answer in time";
}

impl ProblemCode {
    /// The `type` member of problem documents with this code.
    pub fn urn(self) -> String {
        format!("urn:tenantsdb:problem:{}", self.as_str())
    }
}

impl std::fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_unique_and_has_an_error_status_and_a_title() {
        let texts: BTreeSet<&str> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), ProblemCode::ALL.len());
        for code in ProblemCode::ALL {
            assert!((400..600).contains(&code.status()), "{code}");
            assert!(!code.title().ends_with('.') && code.title().len() > 8, "{code}");
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
