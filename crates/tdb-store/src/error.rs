//! The store's errors. Use cases match on the variant; the text is for the log.

use std::error::Error as _;

use thiserror::Error;
use tokio_postgres::error::SqlState;

/// `Result` with [`StoreError`] as the default error.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why an operation on the store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store did not reply. Whether the last statement took effect is unknown.
    #[error("the metadata store is unavailable: {reason}")]
    Unavailable {
        /// For the log.
        reason: String,
    },
    /// The server refused the login of the store's URL or of one of the store's roles.
    #[error("cannot log in to the metadata store at {address}: {reason}")]
    Login {
        /// The host and the port.
        address: String,
        /// PostgreSQL's message.
        reason: String,
    },
    /// No connection became free in time, or the server has run out of connections, disk space or memory.
    #[error("the metadata store is busy: {reason}")]
    Busy {
        /// For the log.
        reason: String,
    },
    /// The store is reachable and did not reply in time. Whether the last statement took effect is unknown.
    #[error("the metadata store did not answer in time: {reason}")]
    TimedOut {
        /// For the log.
        reason: String,
    },
    /// The row already exists, another row refers to it, or it was changed concurrently.
    #[error("conflict in the metadata store: {constraint}")]
    Conflict {
        /// The name of the violated constraint.
        constraint: String,
    },
    /// Another process holds the lease that this write was conditional on.
    #[error("the lease \"{name}\" is lost")]
    LeaseLost {
        /// The lease's name.
        name: String,
    },
    /// A row that must exist does not.
    #[error("{what} does not exist")]
    NotFound {
        /// The kind of object, for the message.
        what: &'static str,
    },
    /// A stored value has a form that this code never writes.
    #[error("the metadata store holds an invalid {what}")]
    Corrupt {
        /// The column or type.
        what: String,
    },
    /// A secret could not be encrypted or decrypted.
    #[error("a secret cannot be sealed or opened: {0}")]
    Seal(#[from] tdb_auth::SealError),
    /// The operating system's random number generator failed.
    #[error(transparent)]
    NoRandom(#[from] tdb_auth::NoRandom),
    /// Any other error that PostgreSQL returned. It is not a source, because its text is in the message.
    #[error("the metadata store refused a statement: {}", detail(.0))]
    Database(tokio_postgres::Error),
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

    /// Whether this is a violation of the constraint of this name.
    pub fn conflicts_with(&self, constraint: &str) -> bool {
        matches!(self, StoreError::Conflict { constraint: found } if found == constraint)
    }
}

/// PostgreSQL's message, or the error with its causes; tokio-postgres itself prints only "db error" or "error connecting to
/// server".
pub(crate) fn detail(error: &tokio_postgres::Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        text = format!("{text}: {found}");
        cause = found.source();
    }
    text
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            // Without an error from the server, the connection failed or a value did not match its type.
            return if error.is_closed() || error.source().is_some_and(|s| s.is::<std::io::Error>()) {
                StoreError::unavailable(detail(&error))
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
            // The timeouts that we set.
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
