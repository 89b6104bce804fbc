//! Why the store did not do something. Use cases look at the kind; the text is for the log.

use thiserror::Error;
use tokio_postgres::error::SqlState;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum StoreError {
    /// The store did not answer: nothing is known about what was asked last.
    #[error("the metadata store is unavailable: {reason}")]
    Unavailable { reason: String },
    /// No connection became free in time, or the server is out of connections, disk or memory.
    #[error("the metadata store is busy: {reason}")]
    Busy { reason: String },
    /// The store was reached and did not answer in time: nothing is known about what was asked last.
    #[error("the metadata store did not answer in time: {reason}")]
    TimedOut { reason: String },
    /// The row exists already, or another refers to it, or it was changed meanwhile.
    #[error("conflict in the metadata store: {constraint}")]
    Conflict { constraint: String },
    /// Another process holds the lease under which this was to be written.
    #[error("the lease \"{name}\" is lost")]
    LeaseLost { name: String },
    #[error("{what} does not exist")]
    NotFound { what: &'static str },
    /// A stored value is none that this code wrote.
    #[error("the metadata store holds an invalid {what}")]
    Corrupt { what: String },
    #[error("a secret cannot be sealed or opened: {0}")]
    Seal(#[from] tdb_auth::SealError),
    #[error(transparent)]
    NoRandom(#[from] tdb_auth::NoRandom),
    #[error("the metadata store refused a statement: {}", detail(.0))]
    Database(#[source] tokio_postgres::Error),
}

impl StoreError {
    pub(crate) fn corrupt(what: &str) -> Self {
        StoreError::Corrupt { what: what.to_owned() }
    }

    pub(crate) fn unavailable(reason: impl std::fmt::Display) -> Self {
        StoreError::Unavailable {
            reason: reason.to_string(),
        }
    }

    pub(crate) fn busy(reason: impl std::fmt::Display) -> Self {
        StoreError::Busy {
            reason: reason.to_string(),
        }
    }

    pub(crate) fn timed_out(reason: impl std::fmt::Display) -> Self {
        StoreError::TimedOut {
            reason: reason.to_string(),
        }
    }

    /// The constraint that was violated, by its name in the schema.
    pub fn conflicts_with(&self, constraint: &str) -> bool {
        matches!(self, StoreError::Conflict { constraint: found } if found == constraint)
    }
}

/// What PostgreSQL said; tokio-postgres itself says "db error".
pub(crate) fn detail(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(refusal) => format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code()),
        None => error.to_string(),
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            // Without an answer from the server it is the connection, or a value that did not fit its type.
            return if error.is_closed() || std::error::Error::source(&error).is_some_and(|s| s.is::<std::io::Error>()) {
                StoreError::unavailable(error)
            } else {
                StoreError::Database(error)
            };
        };
        let code = refusal.code();
        let class = code.code().get(..2).unwrap_or_default();
        if code == &SqlState::UNIQUE_VIOLATION
            || code == &SqlState::FOREIGN_KEY_VIOLATION
            || code == &SqlState::EXCLUSION_VIOLATION
        {
            let constraint = refusal.constraint().unwrap_or_default().to_owned();
            return StoreError::Conflict { constraint };
        }
        if code == &SqlState::T_R_SERIALIZATION_FAILURE || code == &SqlState::T_R_DEADLOCK_DETECTED {
            return StoreError::Conflict {
                constraint: refusal.message().to_owned(),
            };
        }
        match class {
            // Our own deadlines.
            _ if code == &SqlState::LOCK_NOT_AVAILABLE || code == &SqlState::QUERY_CANCELED => {
                StoreError::timed_out(refusal.message())
            }
            // Insufficient resources: connections, memory, disk.
            "53" => StoreError::busy(refusal.message()),
            // Connection exceptions, shutdown.
            "08" | "57" => StoreError::unavailable(refusal.message()),
            _ => StoreError::Database(error),
        }
    }
}
