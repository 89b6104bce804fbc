//! PostgreSQL's context lines about the calls in which a statement ran. The journal records them in English, whatever
//! `lc_messages` the server, the database or the role has.

use crate::postgres::journal::Caller;

/// The text of the statement that a function ran, if the context contains it.
pub(super) fn run_by_function(caller: &Caller) -> Option<&str> {
    match caller {
        Caller::Function(context) => {
            let statement = context.strip_prefix(STATEMENT)?;
            statement.split_once("\"\n").map(|(statement, _)| statement)
        }
        Caller::Client | Caller::Unknown => None,
    }
}

/// The same, if the function of the context line `line` ran it itself.
pub(super) fn run_in<'a>(caller: &'a Caller, line: &str) -> Option<&'a str> {
    let Caller::Function(context) = caller else {
        return None;
    };
    let (statement, rest) = context.strip_prefix(STATEMENT)?.split_once("\"\n")?;
    (rest.lines().next() == Some(line)).then_some(statement)
}

/// The beginning of the context line about a statement that a function runs.
pub(super) const STATEMENT: &str = "SQL statement \"";
