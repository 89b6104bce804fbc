//! Why a use case did not happen. The edge chooses the HTTP status from [`Kind`]; nothing in here names a secret.

use std::fmt::Display;
use std::time::Duration;

use tdb_engines::postgres::EngineError;
use tdb_names::ServerName;
use tdb_store::StoreError;
use thiserror::Error;

pub type Result<T, E = ControlError> = std::result::Result<T, E>;

/// What sort of refusal it is; one problem status per kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 409
    Conflict,
    /// 422
    Invalid,
    /// 429
    Limited,
    /// 502
    Upstream,
    /// 503
    Unavailable,
    /// 500: a broken invariant; the log has the detail.
    Internal,
}

#[derive(Debug, Error)]
pub enum ControlError {
    #[error("the API key is unknown or was deleted")]
    Unauthorized,
    #[error("this needs an API key with the scope \"{needs}\"")]
    Forbidden { needs: &'static str },
    #[error("{what} \"{name}\" does not exist")]
    NotFound { what: &'static str, name: String },
    #[error("{what} \"{name}\" exists already")]
    Exists {
        what: &'static str,
        name: String,
        hint: Option<String>,
    },
    /// The thing exists but is not in a state for this; `code` is stable.
    #[error("{detail}")]
    Conflict {
        code: &'static str,
        detail: String,
        hint: Option<String>,
    },
    /// A refusal with a stable code of its own.
    #[error("{detail}")]
    Refused {
        kind: Kind,
        code: &'static str,
        detail: String,
        hint: String,
        /// When asking again may help.
        retry_after: Option<Duration>,
    },
    #[error("{field} {rule}")]
    Invalid { field: &'static str, rule: String },
    /// PostgreSQL refused a user's own statement.
    #[error("{message}")]
    Query {
        sqlstate: String,
        message: String,
        hint: Option<String>,
    },
    #[error("database server \"{server}\" cannot be used: {reason}")]
    Upstream { server: String, reason: String },
    #[error("the metadata store cannot be reached")]
    Unavailable { reason: String },
    #[error("internal error")]
    Internal { reason: String },
}

impl ControlError {
    pub fn kind(&self) -> Kind {
        match self {
            ControlError::Unauthorized => Kind::Unauthorized,
            ControlError::Forbidden { .. } => Kind::Forbidden,
            ControlError::NotFound { .. } => Kind::NotFound,
            ControlError::Exists { .. } | ControlError::Conflict { .. } => Kind::Conflict,
            ControlError::Refused { kind, .. } => *kind,
            ControlError::Invalid { .. } | ControlError::Query { .. } => Kind::Invalid,
            ControlError::Upstream { .. } => Kind::Upstream,
            ControlError::Unavailable { .. } => Kind::Unavailable,
            ControlError::Internal { .. } => Kind::Internal,
        }
    }

    /// The stable code of the problem document.
    pub fn code(&self) -> &'static str {
        match self {
            ControlError::Unauthorized => "unauthorized",
            ControlError::Forbidden { .. } => "forbidden",
            ControlError::NotFound { .. } => "not_found",
            ControlError::Exists { .. } => "already_exists",
            ControlError::Conflict { code, .. } | ControlError::Refused { code, .. } => code,
            ControlError::Invalid { .. } => "invalid_value",
            ControlError::Query { .. } => "query_failed",
            ControlError::Upstream { .. } => "database_unreachable",
            ControlError::Unavailable { .. } => "control_plane_unavailable",
            ControlError::Internal { .. } => "internal_error",
        }
    }

    /// What the caller can do about it, a full sentence.
    pub fn hint(&self) -> Option<&str> {
        match self {
            ControlError::Exists { what, hint, .. } => hint.as_deref().or_else(|| whereabouts(what)),
            ControlError::Conflict { hint, .. } | ControlError::Query { hint, .. } => hint.as_deref(),
            ControlError::Refused { hint, .. } => Some(hint),
            ControlError::NotFound { what, .. } => whereabouts(what),
            _ => None,
        }
    }

    /// How long to wait before asking again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ControlError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The field that was wrong, for 422.
    pub fn field(&self) -> Option<&str> {
        match self {
            ControlError::Invalid { field, .. } => Some(field),
            _ => None,
        }
    }

    /// PostgreSQL's SQLSTATE, where PostgreSQL refused a user's statement.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            ControlError::Query { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }

    /// For the log, never for a client.
    pub fn reason(&self) -> Option<&str> {
        match self {
            ControlError::Unavailable { reason } | ControlError::Internal { reason } => Some(reason),
            _ => None,
        }
    }
}

impl ControlError {
    pub(crate) fn internal(reason: impl Display) -> Self {
        ControlError::Internal {
            reason: reason.to_string(),
        }
    }

    pub(crate) fn not_found(what: &'static str, name: impl Display) -> Self {
        ControlError::NotFound {
            what,
            name: name.to_string(),
        }
    }

    pub(crate) fn conflict(code: &'static str, detail: impl Into<String>, hint: &str) -> Self {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        ControlError::Conflict {
            code,
            detail: detail.into(),
            hint,
        }
    }

    /// The same error about the same thing by its other name.
    pub(crate) fn naming(self, what: &'static str) -> Self {
        match self {
            ControlError::NotFound { name, .. } => ControlError::NotFound { what, name },
            other => other,
        }
    }

    /// With what only the log may say.
    pub(crate) fn explained(&self) -> String {
        match self.reason() {
            Some(reason) => format!("{self}: {reason}"),
            None => self.to_string(),
        }
    }
}

/// Where one sees what there is.
fn whereabouts(what: &str) -> Option<&'static str> {
    match what {
        "API key" => Some("List API keys with \"tdb apikeys list\" or GET /apikeys."),
        "blueprint" => Some("List blueprints with \"tdb blueprints list\" or GET /blueprints."),
        "change" => Some("List changes with \"tdb workspaces diff\" or GET /workspaces/{id}/diff."),
        "credential" => Some("List credentials with \"tdb credentials list\" or GET /credentials."),
        "deployment" => Some("List deployments with \"tdb deployments list\" or GET /deployments."),
        "project" => Some("List projects with \"tdb projects list\" or GET /projects."),
        "server" => Some("List servers with \"tdb servers list\" or GET /servers."),
        "tenant" => Some("List tenants with \"tdb tenants list\" or GET /tenants."),
        "version" => Some("List versions with \"tdb blueprints versions\" or GET /blueprints/{name}/versions."),
        "workspace" => Some("List workspaces with \"tdb workspaces list\" or GET /workspaces."),
        _ => None,
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { reason } => ControlError::Unavailable { reason },
            // Of every table with databases: the server was removed between its choice and the intent.
            StoreError::Conflict { constraint } if constraint.ends_with("_server_fkey") => {
                let detail = "the database server that was chosen has just been removed";
                ControlError::conflict("no_server", detail, "Try again.")
            }
            other => ControlError::internal(chain(&other)),
        }
    }
}

/// What a server, or its administrator's session, did not do.
pub(crate) fn upstream(server: &ServerName, error: EngineError) -> ControlError {
    ControlError::Upstream {
        server: server.to_string(),
        reason: chain(&error),
    }
}

/// PostgreSQL's answer to a user's text; anything else is the server's fault.
pub(crate) fn query_failed(server: &ServerName, error: EngineError) -> ControlError {
    match error {
        EngineError::Sql {
            sqlstate,
            message,
            hint,
            ..
        } => ControlError::Query {
            sqlstate: sqlstate.as_str().to_owned(),
            message,
            hint,
        },
        other => upstream(server, other),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
