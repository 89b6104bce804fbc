//! Why something could not be done to a database server. Classified by SQLSTATE, never by message text.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// The control plane's own sessions, a few deployments and a few clients.
pub(crate) const CONNECTIONS_MIN: i32 = 20;

/// Five characters of a server's error.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SqlState(Box<str>);

#[derive(Debug, Error)]
pub enum EngineError {
    #[error("the database server cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the database server did not answer within {0:?}")]
    Deadline(Duration),
    /// What the server itself said.
    #[error("{message}")]
    Sql {
        sqlstate: SqlState,
        message: String,
        detail: Option<String>,
        hint: Option<String>,
    },
    /// The server lacks something that cannot be done without.
    #[error("{0}")]
    Unfit(String),
    #[error(transparent)]
    Lacks(#[from] Lack),
    #[error("database \"{database}\" does not exist")]
    NoDatabase { database: String },
    /// Other sessions did not leave in time.
    #[error("database \"{database}\" is in use")]
    Busy { database: String },
    #[error("the server has a role \"{role}\" that this installation did not create")]
    RoleTaken { role: String },
    /// An answer of the server that cannot be.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    #[error(transparent)]
    NoRandom(#[from] tdb_auth::NoRandom),
}

/// What a server or its administrator lacks, so that it cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Lack {
    #[error("PostgreSQL 15 or newer is needed, this is {major}")]
    Version { major: i32 },
    #[error("it is a standby, which cannot be written to")]
    Primary,
    #[error("the administrator has no right to {0}")]
    Right(&'static str),
    #[error("the administrator is not a superuser, so that it cannot create event triggers, which capture DDL")]
    EventTriggers,
    #[error("it takes {max} connections, and at least {CONNECTIONS_MIN} are needed")]
    Connections { max: i32 },
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Try again later: a lock, a deadlock, a restart, a lost connection.
    Retry,
    /// The server is out of something: leave it alone for a while.
    Pause,
    /// Trying again would give the same.
    Failed,
}

impl SqlState {
    pub fn new(code: &str) -> Self {
        Self(code.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

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
    /// The server's own code, or the one libpq's world uses for what happened.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            EngineError::Sql { sqlstate, .. } => sqlstate.clone(),
            EngineError::Unreachable(_) | EngineError::Deadline(_) => SqlState::new("08006"),
            EngineError::NoDatabase { .. } => SqlState::new("3D000"),
            EngineError::RoleTaken { .. } => SqlState::new("42710"),
            EngineError::Busy { .. } => SqlState::new("55006"),
            EngineError::Unfit(_) | EngineError::Lacks(_) => SqlState::new("0A000"),
            EngineError::Unexpected(_) | EngineError::NoRandom(_) => SqlState::new("XX000"),
        }
    }

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
}
