//! Error messages: one line, and a hint that says what to do. With `--json`, the API's problem document.

use anyhow::Error;
use tdb_client::http::{ClientError, reason};
use tdb_client::problems::Problem;
use tdb_problems::ProblemCode;
use tdb_problems::system::without_codes;
use thiserror::Error;

use crate::endpoints::as_commands;
use crate::printer::Printer;
use crate::table::harmless;

const WRONG_KEY: &str = "\"tdb config show\" shows which key is used. Set another one with --api-key, TDB_API_KEY or \"tdb config set api_key KEY\", or get one with \"tdb login\".";

/// An error that tdb detects itself, with a hint.
#[derive(Debug, Error)]
#[error("{said}")]
pub(crate) struct Advised {
    pub said: String,
    pub hint: String,
}

pub(crate) fn report(error: &Error, printer: &Printer) {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Problem(problem)) => report_problem(problem, printer),
        Some(unreachable @ ClientError::Unreachable { source, .. }) => {
            printer.error(&format!("{unreachable}: {}", reason(source)));
            printer.hint("Start an instance with \"tenantsdb dev\", or set its address with --api-url or TDB_API_URL.");
        }
        Some(foreign @ ClientError::Foreign { .. }) => {
            // The answer can come from any program and contain any bytes.
            printer.error(&harmless(&foreign.to_string()));
            printer.hint("Check the address: --api-url, TDB_API_URL, or \"tdb config show\".");
        }
        None => {
            printer.error(&without_codes(&format!("{error:#}")));
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
    // The message can come from a function in a user's database and contain any bytes.
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
