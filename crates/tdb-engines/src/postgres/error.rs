//! Errors of operations on a database server. They are classified by SQLSTATE, never by message text.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// The smallest usable `max_connections`: for the control plane's sessions, a few deployments and a few clients.
pub(crate) const CONNECTIONS_MIN: i32 = 20;

/// A five-character error code (PostgreSQL manual, appendix A).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SqlState(Box<str>);

/// Why an operation on a database server failed.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No connection, or the connection was lost.
    #[error("the database server cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No complete answer within the time limit. Whether the statement took effect is unknown.
    #[error("the database server did not answer within {0:?}")]
    Deadline(Duration),
    /// An error that the server reported.
    #[error("{message}")]
    Sql {
        /// The server's error code.
        sqlstate: SqlState,
        /// The primary message, in the language of the server.
        message: String,
        /// The DETAIL field.
        detail: Option<String>,
        /// The HINT field.
        hint: Option<String>,
    },
    /// TenantsDB refused to apply a change, or found that it has not been applied; the text says why.
    #[error("{0}")]
    Refused(String),
    /// Another deployer held the deployment lock until the time limit.
    #[error("the deployment lock of this database is held by {holder}")]
    Locked {
        /// The session that holds it.
        holder: String,
    },
    /// A text that may write, with read access.
    #[error("{0} with a key that may only read")]
    Writes(String),
    /// The connection cannot be made as configured: TLS or an authentication method is missing or unusable.
    #[error("{0}")]
    Unfit(String),
    /// [`Server::probe`](super::Server::probe) found the server unsuitable.
    #[error(transparent)]
    Lacks(#[from] Lack),
    /// A database that the operation needs does not exist.
    #[error("database \"{database}\" does not exist")]
    NoDatabase {
        /// The name on the server.
        database: String,
    },
    /// Other sessions kept using the database until the time limit.
    #[error("database \"{database}\" is in use")]
    Busy {
        /// The name on the server.
        database: String,
    },
    /// The name of a declared role is used by a role that is not a declared role of this installation.
    #[error("the server has a role \"{role}\" that this installation did not create")]
    RoleTaken {
        /// The name of the role.
        role: String,
    },
    /// An answer that violates the protocol or what the statement returns; the text says what is wrong.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// The operating system did not provide random bytes for a name or secret.
    #[error(transparent)]
    NoRandom(#[from] tdb_auth::NoRandom),
}

/// Why a server cannot be used, or its administrator is not sufficient.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Lack {
    /// The version is too old.
    #[error("PostgreSQL 15 or newer is required, this is {major}")]
    Version {
        /// The server's major version.
        major: i32,
    },
    /// The server is in recovery.
    #[error("it is a standby, which is read-only")]
    Primary,
    /// The administrator's role lacks an attribute; the text says what it allows and its name.
    #[error("the administrator has no right to {0}")]
    Right(&'static str),
    /// The administrator's role is not a superuser.
    #[error("the administrator is not a superuser, so it cannot create the event triggers that capture DDL")]
    EventTriggers,
    /// `max_connections` is too small.
    #[error("it accepts {max} connections, and at least {CONNECTIONS_MIN} are required")]
    Connections {
        /// The server's `max_connections`.
        max: i32,
    },
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Retry: a lock timeout, a deadlock, a restart of the server, a lost connection.
    Retry,
    /// Wait before the next attempt: the server is out of a resource (SQLSTATE class 53).
    Pause,
    /// Do not retry: the result would be the same.
    Failed,
}

impl SqlState {
    /// Takes the code as it is; its form is not checked.
    pub fn new(code: &str) -> Self {
        Self(code.into())
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How to react to an error with this code.
    pub fn class(&self) -> ErrorClass {
        match self.as_str() {
            "55P03" | "40P01" | "40001" => ErrorClass::Retry,
            code if code.starts_with("57P0") || code.starts_with("08") => ErrorClass::Retry,
            code if code.starts_with("53") => ErrorClass::Pause,
            _ => ErrorClass::Failed,
        }
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl EngineError {
    /// The server's code; for errors that the server did not report, the code that PostgreSQL uses for this case.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            EngineError::Sql { sqlstate, .. } => sqlstate.clone(),
            EngineError::Unreachable(_) | EngineError::Deadline(_) => SqlState::new("08006"),
            EngineError::NoDatabase { .. } => SqlState::new("3D000"),
            EngineError::Refused(_) => SqlState::new("55000"),
            EngineError::Locked { .. } => SqlState::new("55P03"),
            EngineError::Writes(_) => SqlState::new("25006"),
            EngineError::RoleTaken { .. } => SqlState::new("42710"),
            EngineError::Busy { .. } => SqlState::new("55006"),
            EngineError::Unfit(_) | EngineError::Lacks(_) => SqlState::new("0A000"),
            EngineError::Unexpected(_) | EngineError::NoRandom(_) => SqlState::new("XX000"),
        }
    }

    /// How to react to the error: the class of its code, except that [`EngineError::Busy`] is retried.
    pub fn class(&self) -> ErrorClass {
        match self {
            EngineError::Busy { .. } => ErrorClass::Retry,
            other => other.sqlstate().class(),
        }
    }

    pub(crate) fn has(&self, code: &str) -> bool {
        matches!(self, EngineError::Sql { sqlstate, .. } if sqlstate.as_str() == code)
    }
}

impl From<tokio_postgres::Error> for EngineError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(said) => EngineError::Sql {
                sqlstate: SqlState::new(said.code().code()),
                message: said.message().to_owned(),
                detail: said.detail().map(str::to_owned),
                hint: said.hint().map(str::to_owned),
            },
            None => EngineError::Unreachable(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_sqlstate() {
        let cases = [
            ("55P03", ErrorClass::Retry),
            ("40P01", ErrorClass::Retry),
            ("40001", ErrorClass::Retry),
            ("57P01", ErrorClass::Retry),
            ("57P03", ErrorClass::Retry),
            ("57014", ErrorClass::Failed),
            ("08006", ErrorClass::Retry),
            ("53300", ErrorClass::Pause),
            ("2BP01", ErrorClass::Failed),
            ("23502", ErrorClass::Failed),
            ("42P07", ErrorClass::Failed),
            ("XX000", ErrorClass::Failed),
        ];
        for (code, class) in cases {
            assert_eq!(SqlState::new(code).class(), class, "{code}");
        }
    }

    #[test]
    fn what_the_server_did_not_report_has_a_class_too() {
        let holder = "another session".to_owned();
        let cases = [
            (EngineError::Locked { holder }, "55P03", ErrorClass::Retry),
            (EngineError::Refused(String::new()), "55000", ErrorClass::Failed),
            (EngineError::Writes(String::new()), "25006", ErrorClass::Failed),
        ];
        for (error, code, class) in cases {
            assert_eq!((error.sqlstate().as_str(), error.class()), (code, class), "{error:?}");
        }
    }
}
