//! Errors of applying changes.

use crate::postgres::error::{EngineError, ErrorClass, SqlState};

/// Why not all changes were applied. The changes that committed before stay.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApplyError {
    /// Whether to retry.
    pub class: ErrorClass,
    /// The server's code, or the code for an error that the server did not report ([`EngineError::sqlstate`]).
    pub sqlstate: SqlState,
    /// What failed: the server's message, if it reported one.
    pub message: String,
    /// The server's DETAIL.
    pub detail: Option<String>,
    /// The server's HINT.
    pub hint: Option<String>,
    /// The id of the change that failed; `None` if the error is not about a change, for example at login.
    pub change: Option<i64>,
    /// The text of the statement that failed, with `owner` for the owner role.
    pub statement: Option<String>,
    /// The declared role that the change names, if another role of the server has its name ([`EngineError::RoleTaken`]).
    pub taken: Option<String>,
    /// The number of changes of the plan that the database has.
    pub changes_done: u32,
}

/// An error in a step, without the id of the change and the number of changes already applied.
pub(crate) struct StepError {
    pub class: ErrorClass,
    pub error: EngineError,
    pub statement: Option<String>,
}

impl StepError {
    pub(crate) fn refused(message: String, statement: Option<String>) -> Self {
        Self {
            statement,
            ..Self::from(EngineError::Refused(message))
        }
    }

    pub(crate) fn while_running(statement: String) -> impl FnOnce(EngineError) -> Self {
        move |error| Self {
            statement: Some(statement),
            ..Self::from(error)
        }
    }

    pub(super) fn at(self, change: Option<i64>, changes_done: u32) -> ApplyError {
        let (detail, hint) = match &self.error {
            EngineError::Sql { detail, hint, .. } => (detail.clone(), hint.clone()),
            _ => (None, None),
        };
        let taken = match &self.error {
            EngineError::RoleTaken { role } => Some(role.clone()),
            _ => None,
        };
        ApplyError {
            taken,
            class: self.class,
            sqlstate: self.error.sqlstate(),
            message: self.error.to_string(),
            detail,
            hint,
            change,
            statement: self.statement,
            changes_done,
        }
    }
}

impl From<EngineError> for StepError {
    fn from(error: EngineError) -> Self {
        Self {
            class: error.class(),
            error,
            statement: None,
        }
    }
}
