//! The errors of use cases. The code determines the HTTP status. No error contains a secret. Hints name endpoints
//! (`POST /login`); `tdb` shows its own commands instead.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use tdb_engines::postgres::{EngineError, ErrorClass};
use tdb_names::{BlueprintName, ServerName, TenantName};
use tdb_problems::ProblemCode;
use tdb_problems::system::{described, without_codes};
use tdb_store::StoreError;
use thiserror::Error;

use crate::entry::EntryKind;

pub(crate) type Result<T, E = ControlError> = std::result::Result<T, E>;

/// After how long to retry a request that a full queue refused.
const QUEUE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a use case failed. `Display` is the sentence that the client sees.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The API key is malformed, unknown or deleted.
    #[error("the API key is unknown or was deleted")]
    Unauthorized,
    /// The API key lacks a scope.
    #[error("this needs an API key with the scope \"{needs}\"")]
    Forbidden {
        /// The scope that the request needs, as in JSON.
        needs: &'static str,
    },
    /// The project has no entry of this name or id.
    #[error("{what} \"{name}\" does not exist")]
    NotFound {
        /// The kind of entry.
        what: EntryKind,
        /// The name or id, as requested.
        name: String,
    },
    /// The tenant does not exist, or has no database of the blueprint.
    #[error("tenant \"{tenant}\" with blueprint \"{blueprint}\" does not exist")]
    NoDatabase {
        /// The tenant, as requested.
        tenant: TenantName,
        /// The blueprint, as requested.
        blueprint: BlueprintName,
    },
    /// There is an entry of this name.
    #[error("{what} \"{name}\" already exists")]
    Exists {
        /// The kind of entry.
        what: EntryKind,
        /// The name.
        name: String,
        /// What to do; by default, the endpoint that lists entries of this kind.
        hint: Option<String>,
    },
    /// The tenant has a database of the blueprint.
    #[error("tenant \"{tenant}\" with blueprint \"{blueprint}\" already exists")]
    DatabaseExists {
        /// The tenant.
        tenant: TenantName,
        /// The blueprint.
        blueprint: BlueprintName,
    },
    /// The request is valid but cannot be carried out in the current state.
    #[error("{detail}")]
    Refused {
        /// Why, for programs.
        code: ProblemCode,
        /// Why, for people.
        detail: String,
        /// What to do, a full sentence.
        hint: Option<String>,
        /// After how long a retry may succeed, if that is known.
        retry_after: Option<Duration>,
    },
    /// A field of the request has an invalid value.
    #[error("{field} {rule}")]
    Invalid {
        /// The field's name in JSON.
        field: &'static str,
        /// The rest of the sentence: what the value must be.
        rule: String,
    },
    /// PostgreSQL refused a user's own statement.
    #[error("{message}")]
    Query {
        /// PostgreSQL's SQLSTATE.
        sqlstate: String,
        /// PostgreSQL's message.
        message: String,
        /// PostgreSQL's hint, or one about an extension that could not be created.
        hint: Option<String>,
    },
    /// A database server cannot be reached, or failed.
    #[error("database server \"{server}\" cannot be used: {reason}")]
    Upstream {
        /// Distinguishes an outage, a timeout, a full server and a failed operation.
        code: ProblemCode,
        /// The server's name.
        server: String,
        /// What failed. Clients see it.
        reason: String,
    },
    /// The metadata store is unreachable, busy or slow, or a lease was lost.
    #[error("{}", sentence(.code))]
    Unavailable {
        /// Distinguishes an outage from a full queue and a timeout.
        code: ProblemCode,
        /// What failed, for the log.
        reason: String,
    },
    /// A bug, or an invalid row in the store.
    #[error("internal error")]
    Internal {
        /// What failed, for the log.
        reason: String,
    },
}

impl ControlError {
    /// The code of the problem document (RFC 9457).
    pub fn code(&self) -> ProblemCode {
        match self {
            ControlError::Unauthorized => ProblemCode::Unauthorized,
            ControlError::Forbidden { .. } => ProblemCode::Forbidden,
            ControlError::NotFound { .. } | ControlError::NoDatabase { .. } => ProblemCode::NotFound,
            ControlError::Exists { .. } | ControlError::DatabaseExists { .. } => ProblemCode::AlreadyExists,
            ControlError::Refused { code, .. }
            | ControlError::Upstream { code, .. }
            | ControlError::Unavailable { code, .. } => *code,
            ControlError::Invalid { .. } => ProblemCode::InvalidValue,
            ControlError::Query { .. } => ProblemCode::QueryFailed,
            ControlError::Internal { .. } => ProblemCode::Internal,
        }
    }

    /// What the caller can do, a full sentence.
    pub fn hint(&self) -> Option<&str> {
        match self {
            ControlError::Exists { what, hint, .. } => hint.as_deref().or_else(|| what.whereabouts()),
            ControlError::Refused { hint, .. } | ControlError::Query { hint, .. } => hint.as_deref(),
            ControlError::NotFound { what, .. } => what.whereabouts(),
            ControlError::NoDatabase { .. } | ControlError::DatabaseExists { .. } => EntryKind::Tenant.whereabouts(),
            _ => None,
        }
    }

    /// After how long a retry may succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ControlError::Refused { retry_after, .. } => *retry_after,
            ControlError::Unavailable {
                code: ProblemCode::StoreBusy,
                ..
            } => Some(QUEUE_RETRY_AFTER),
            _ => None,
        }
    }

    /// The field whose value is invalid.
    pub fn field(&self) -> Option<&str> {
        match self {
            ControlError::Invalid { field, .. } => Some(field),
            _ => None,
        }
    }

    /// PostgreSQL's SQLSTATE, if PostgreSQL refused a user's statement.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            ControlError::Query { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }

    /// What failed, for the log. It must not be sent to a client.
    pub fn reason(&self) -> Option<&str> {
        match self {
            ControlError::Unavailable { reason, .. } | ControlError::Internal { reason } => Some(reason),
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

    pub(crate) fn not_found(what: EntryKind, name: impl Display) -> Self {
        ControlError::NotFound {
            what,
            name: name.to_string(),
        }
    }

    /// A tenant is being deleted permanently. `but` says what is not possible any more.
    pub(crate) fn being_deleted(name: &TenantName, but: &str) -> Self {
        let detail = format!("tenant \"{name}\" is being deleted and {but}");
        ControlError::refused(ProblemCode::TenantDeleting, detail, "")
    }

    /// An error with this code. An empty hint counts as none.
    pub(crate) fn refused(code: ProblemCode, detail: impl Into<String>, hint: &str) -> Self {
        ControlError::Refused {
            code,
            detail: detail.into(),
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
            retry_after: None,
        }
    }

    /// An error for a full queue, or for too long a wait in one.
    pub(crate) fn busy(code: ProblemCode, detail: impl Into<String>) -> Self {
        ControlError::Refused {
            code,
            detail: detail.into(),
            hint: Some("Try again in a moment.".to_owned()),
            retry_after: Some(QUEUE_RETRY_AFTER),
        }
    }

    /// The same error with another kind of entry: a blueprint and its workspace have one name.
    pub(crate) fn naming(self, what: EntryKind) -> Self {
        match self {
            ControlError::NotFound { name, .. } => ControlError::NotFound { what, name },
            other => other,
        }
    }

    /// The error with its reason, for the log.
    pub(crate) fn explained(&self) -> String {
        match self.reason() {
            Some(reason) => format!("{self}: {reason}"),
            None => self.to_string(),
        }
    }
}

/// The title of a code with a lower-case first letter.
fn sentence(code: &ProblemCode) -> String {
    let title = code.title();
    let mut chars = title.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        let unavailable = |code, reason| ControlError::Unavailable { code, reason };
        match error {
            StoreError::Unavailable { reason } => unavailable(ProblemCode::Unavailable, reason),
            StoreError::Busy { reason } => unavailable(ProblemCode::StoreBusy, reason),
            StoreError::TimedOut { reason } => unavailable(ProblemCode::StoreTimedOut, reason),
            StoreError::LeaseLost { .. } => unavailable(ProblemCode::Unavailable, error.to_string()),
            // The server was removed between its choice and the insertion of a row that refers to it.
            StoreError::Conflict { constraint } if constraint.ends_with("_server_fkey") => {
                let detail = "the database server that was chosen has just been removed";
                ControlError::refused(ProblemCode::NoServer, detail, "Try again.")
            }
            other => ControlError::internal(chain(&other)),
        }
    }
}

/// The error for a failure of a server or of its administrator's session.
pub(crate) fn upstream(server: &ServerName, error: EngineError) -> ControlError {
    ControlError::Upstream {
        code: upstream_code(&error),
        server: server.to_string(),
        reason: chain(&error),
    }
}

/// Separate codes for an outage, a timeout, a full server and a refused operation: the remedies differ.
fn upstream_code(error: &EngineError) -> ProblemCode {
    match error {
        EngineError::Unreachable(_) => ProblemCode::DatabaseUnreachable,
        EngineError::Deadline(_) => ProblemCode::DatabaseTimedOut,
        EngineError::Busy { .. } => ProblemCode::DatabaseInUse,
        EngineError::NoRandom(_) => ProblemCode::Internal,
        EngineError::Sql { sqlstate, .. } => match (sqlstate.class(), sqlstate.as_str()) {
            (ErrorClass::Pause, _) => ProblemCode::ServerBusy,
            (ErrorClass::Retry, code) if code.starts_with("08") || code.starts_with("57P0") => {
                ProblemCode::DatabaseUnreachable
            }
            (_, "57014" | "55P03") => ProblemCode::DatabaseTimedOut,
            (ErrorClass::Retry | ErrorClass::Failed, _) => ProblemCode::DatabaseFailed,
        },
        EngineError::Locked { .. } => ProblemCode::DatabaseTimedOut,
        EngineError::Refused(_)
        | EngineError::Writes(_)
        | EngineError::Unfit(_)
        | EngineError::Lacks(_)
        | EngineError::NoDatabase { .. }
        | EngineError::Unexpected(_) => ProblemCode::DatabaseFailed,
        EngineError::RoleTaken { .. } => ProblemCode::RoleTaken,
    }
}

/// The error for a user's text that PostgreSQL refused; any other failure is one of the server.
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
        error @ EngineError::Writes(_) => ControlError::Query {
            sqlstate: error.sqlstate().as_str().to_owned(),
            message: error.to_string(),
            hint: None,
        },
        other => upstream(server, other),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = without_codes(&error.to_string());
    let mut source = error.source();
    while let Some(error) = source {
        let more = match error.downcast_ref::<io::Error>() {
            Some(io) => described(io),
            None => without_codes(&error.to_string()),
        };
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tdb_engines::postgres::SqlState;

    use super::*;

    #[test]
    fn an_error_about_a_tenants_database_names_the_tenant_and_the_blueprint() {
        let (tenant, blueprint): (TenantName, BlueprintName) = ("acme".parse().unwrap(), "shop".parse().unwrap());
        let missing = ControlError::NoDatabase {
            tenant: tenant.clone(),
            blueprint: blueprint.clone(),
        };
        let exists = ControlError::DatabaseExists { tenant, blueprint };
        for (error, code, text) in [
            (missing, ProblemCode::NotFound, "does not exist"),
            (exists, ProblemCode::AlreadyExists, "already exists"),
        ] {
            assert_eq!(
                error.to_string(),
                format!("tenant \"acme\" with blueprint \"shop\" {text}")
            );
            assert_eq!(
                (error.code(), error.hint()),
                (code, Some("GET /tenants lists the tenants."))
            );
        }
    }

    #[test]
    fn a_full_queue_a_timeout_and_an_outage_are_different_codes() {
        let reason = || "r".to_owned();
        let store = |error: StoreError| ControlError::from(error).code();
        assert_eq!(
            store(StoreError::Unavailable { reason: reason() }),
            ProblemCode::Unavailable
        );
        assert_eq!(store(StoreError::Busy { reason: reason() }), ProblemCode::StoreBusy);
        assert_eq!(
            store(StoreError::TimedOut { reason: reason() }),
            ProblemCode::StoreTimedOut
        );
        let sql = |sqlstate: &str| EngineError::Sql {
            sqlstate: SqlState::new(sqlstate),
            message: String::new(),
            detail: None,
            hint: None,
        };
        for (error, code) in [
            (EngineError::Deadline(Duration::ZERO), ProblemCode::DatabaseTimedOut),
            (sql("57P03"), ProblemCode::DatabaseUnreachable),
            (sql("08006"), ProblemCode::DatabaseUnreachable),
            (sql("53300"), ProblemCode::ServerBusy),
            (sql("57014"), ProblemCode::DatabaseTimedOut),
            (sql("55P03"), ProblemCode::DatabaseTimedOut),
            (sql("2BP01"), ProblemCode::DatabaseFailed),
        ] {
            assert_eq!(upstream_code(&error), code, "{error:?}");
        }
    }
}
