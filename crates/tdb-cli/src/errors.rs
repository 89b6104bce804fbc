//! What went wrong, for people: one sentence, then what to do about it. With `--json` the API's problem document.

use anyhow::Error;
use tdb_client::http::{ClientError, reason};
use tdb_client::problems::Problem;
use tdb_problems::ProblemCode;
use thiserror::Error;

use crate::endpoints::as_commands;
use crate::printer::Printer;
use crate::table::harmless;

const WRONG_KEY: &str = "\"tdb config show\" says which key is used; give another with --api-key, TDB_API_KEY or \"tdb config set api_key KEY\", or get one with \"tdb login\".";

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
            printer.error(&format!("{unreachable}: {}", reason(source)));
            printer.hint("Start an instance with \"tenantsdb dev\", or name one with --api-url or TDB_API_URL.");
        }
        Some(foreign @ ClientError::Foreign { .. }) => {
            // Anything may have answered.
            printer.error(&harmless(&foreign.to_string()));
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
    // A user's own function may have said it.
    let detail = harmless(&problem.detail);
    match &problem.sqlstate {
        Some(sqlstate) => printer.error(&format!("{detail} (SQLSTATE {})", harmless(sqlstate))),
        None => printer.error(&detail),
    }
    match (&problem.hint, problem.code) {
        (Some(hint), _) => printer.hint(&harmless(&as_commands(hint))),
        (None, ProblemCode::Unauthorized) => printer.hint(WRONG_KEY),
        (None, _) => {}
    }
    printer.verbose(&format!(
        "code {}, status {}, request {}",
        problem.code,
        problem.status,
        harmless(&problem.request_id)
    ));
}
