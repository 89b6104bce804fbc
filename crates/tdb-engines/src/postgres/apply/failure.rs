//! Why a database was not brought to what was planned.

use crate::postgres::error::{EngineError, ErrorClass, SqlState};

/// Why the database does not have all changes. Those that committed stay.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApplyError {
    pub class: ErrorClass,
    pub sqlstate: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// The change and statement that failed, where one did.
    pub change: Option<i64>,
    pub statement: Option<String>,
    /// How many of the changes are on the database.
    pub changes_done: u32,
}

impl ApplyError {
    /// The server did not let the deployer in; nothing was run.
    pub fn is_refused_login(&self) -> bool {
        self.change.is_none()
            && ["28", "58"]
                .iter()
                .any(|class| self.sqlstate.as_str().starts_with(class))
    }
}

/// What stopped a step, before it is known how far the whole got.
pub(crate) struct StepError {
    pub class: ErrorClass,
    pub error: EngineError,
    pub statement: Option<String>,
}

impl StepError {
    pub fn refused(message: String, statement: Option<String>) -> Self {
        let error = EngineError::Sql {
            sqlstate: SqlState::new("55000"),
            message,
            detail: None,
            hint: None,
        };
        Self {
            class: ErrorClass::Failed,
            error,
            statement,
        }
    }

    pub fn while_running(statement: String) -> impl FnOnce(EngineError) -> Self {
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
        ApplyError {
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
