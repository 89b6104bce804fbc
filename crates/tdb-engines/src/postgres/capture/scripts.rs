//! Recognizes the journal rows that the script of an extension wrote. The script is no statement of the client: replaying
//! CREATE EXTENSION or ALTER EXTENSION runs it again. The journal leaves out what a script creates, but not what it drops.

use super::context::run_by_function;
use super::split::concerns_extension;
use crate::postgres::journal::{Caller, Event, EventKind, Rights};

/// Whether the script of a trusted extension wrote the row. Such a script runs as a superuser; a client and its DO never
/// do. A SECURITY DEFINER function of a superuser does too: its rows belong to the statement that called it.
pub(super) fn is_trusted(row: &Event) -> bool {
    if row.kind == EventKind::Extension || row.rights == Rights::Role {
        return false;
    }
    match &row.caller {
        Caller::Client | Caller::Unknown => true,
        Caller::Function(context) => {
            let innermost = context.lines().find(|line| is_call(line));
            innermost.is_none_or(|line| line.starts_with(BLOCK))
                || context.lines().any(|line| line.starts_with(SCRIPT))
                || run_by_function(&row.caller).is_some_and(concerns_extension)
        }
    }
}

/// Whether the script of an extension that every role may create wrote the row, or can have written it and no function of the
/// client did. Such a script runs as the client. PostgreSQL 18 says where it is.
pub(super) fn may_be(row: &Event) -> bool {
    match &row.caller {
        Caller::Client => may_be_within(row),
        Caller::Function(context) => {
            let outermost = context.trim_end().lines().next_back();
            row.kind == EventKind::Drop && outermost.is_some_and(|line| line.starts_with(SCRIPT))
        }
        Caller::Unknown => false,
    }
}

/// Whether the row can be of such a script or of a function that the script called: PostgreSQL switches off
/// `check_function_bodies` and ends the search_path with `pg_temp` for it.
pub(super) fn may_be_within(row: &Event) -> bool {
    let unchecked = row.settings.get("check_function_bodies").map(String::as_str) == Some("off");
    row.kind == EventKind::Drop && unchecked && row.search_path.ends_with(", pg_temp")
}

/// PostgreSQL's context lines that name a function, and a DO.
fn is_call(line: &str) -> bool {
    line.starts_with("PL/pgSQL function ") || line.starts_with("SQL function ")
}

const BLOCK: &str = "PL/pgSQL function inline_code_block ";
const SCRIPT: &str = "extension script file ";
