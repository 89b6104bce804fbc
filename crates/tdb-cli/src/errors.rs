//! What went wrong, for people: one sentence, then what to do about it. With `--json` the API's problem document.

use anyhow::Error;
use tdb_client::http::ClientError;
use tdb_client::problems::Problem;
use thiserror::Error;

use crate::printer::Printer;

/// A failure of tdb's own that knows its way out.
#[derive(Debug, Error)]
#[error("{said}")]
pub struct Advised {
    pub said: String,
    pub hint: String,
}

pub fn report(error: &Error, printer: &Printer) {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Problem(problem)) => report_problem(problem, printer),
        Some(unreachable @ ClientError::Unreachable { source, .. }) => {
            printer.error(&format!("{unreachable}: {source}"));
            printer.hint("Start an instance with \"tenantsdb dev\", or name one with --api-url or TDB_API_URL.");
        }
        Some(foreign @ ClientError::Foreign { .. }) => {
            printer.error(&foreign.to_string());
            printer.hint("Check the address: --api-url, TDB_API_URL, or \"tdb config show\".");
        }
        None => {
            printer.error(&format!("{error:#}"));
            if let Some(advised) = error.downcast_ref::<Advised>() {
                printer.hint(&advised.hint);
            }
        }
    }
}

fn report_problem(problem: &Problem, printer: &Printer) {
    if printer.is_json() {
        return printer.error_document(problem);
    }
    match &problem.sqlstate {
        Some(sqlstate) => printer.error(&format!("{} (SQLSTATE {sqlstate})", problem.detail)),
        None => printer.error(&problem.detail),
    }
    if let Some(hint) = &problem.hint {
        printer.hint(hint);
    }
    printer.verbose(&format!(
        "code {}, status {}, request {}",
        problem.code, problem.status, problem.request_id
    ));
}
