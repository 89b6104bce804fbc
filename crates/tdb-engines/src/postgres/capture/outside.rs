//! The session's settings outside the call of a function that ran a statement. The journal records the settings inside,
//! where the SET clauses of the functions apply.

use std::collections::{BTreeMap, BTreeSet};

use super::attribution::is_about;
use super::bodies;
use super::context::STATEMENT;
use super::split::Split;
use super::tree::walk;
use super::units::Unit;
use crate::postgres::journal::{Caller, Event, Function};

/// The settings to replay a statement with.
pub(super) struct Session<'a> {
    pub search_path: &'a str,
    pub settings: BTreeMap<String, String>,
}

/// The session's settings when it sent the statement that wrote `units`, or the reason why they are not known.
pub(super) fn session<'a>(split: &Split<'_>, units: &[Unit<'a>], row: &Unit<'a>) -> Result<Session<'a>, String> {
    let rows = std::iter::once(row).chain(units).flat_map(|unit| {
        let dropped = unit.dropped;
        std::iter::once(unit.row).chain(dropped)
    });
    if let Some(outside) = rows.into_iter().find(|row| overridden(row).is_empty()) {
        return Ok(Session {
            search_path: &outside.search_path,
            settings: outside.settings.clone(),
        });
    }
    within(split, row.row)
}

/// The same for a statement all of whose rows have settings of functions. If it only calls the function that sets them, the
/// call depends on nothing but the schema that has the function, and on how its arguments are read. A function whose body sets
/// them may also read them before.
fn within<'a>(split: &Split<'_>, row: &'a Event) -> Result<Session<'a>, String> {
    let names = overridden(row);
    let known = outermost(row).filter(|function| {
        let in_clause = |name: &&str| function.sets.iter().any(|set| set.eq_ignore_ascii_case(name));
        let sets = |name: &&str| in_clause(name) || bodies::sets(function, name) && !bodies::reads_settings(function);
        only_calls(split, &names) && names.iter().all(sets)
    });
    let Some(function) = known else {
        let names: Vec<&str> = names.into_iter().collect();
        return Err(format!(
            "a function that sets {} ran DDL, and the session's own value is not known: call that function with a SELECT or CALL \
             that does nothing else",
            names.join(" and ")
        ));
    };
    let is_inside = |name: &String| names.iter().any(|set| name.eq_ignore_ascii_case(set));
    Ok(Session {
        search_path: if names.contains("search_path") {
            &function.schema
        } else {
            &row.search_path
        },
        settings: row
            .settings
            .iter()
            .filter(|(name, _)| !is_inside(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    })
}

/// The settings that functions in whose calls the row was written set.
fn overridden(row: &Event) -> BTreeSet<&str> {
    let in_clauses = called(row).flat_map(|function| function.sets.iter().map(String::as_str));
    let in_bodies = calls(row).flat_map(|line| {
        let functions = row.functions.iter().filter(move |function| may_be(line, function));
        functions.flat_map(move |function| bodies::set_before(function, line, row))
    });
    in_clauses.chain(in_bodies).collect()
}

/// The functions in whose calls the row may have been written.
pub(super) fn called(row: &Event) -> impl Iterator<Item = &Function> {
    row.functions
        .iter()
        .filter(|function| calls(row).any(|line| may_be(line, function)))
}

/// The context lines about calls.
fn calls(row: &Event) -> impl Iterator<Item = &str> {
    let context = match &row.caller {
        Caller::Function(context) => context.as_str(),
        Caller::Client | Caller::Unknown => "",
    };
    context.lines().filter(|line| !line.starts_with(STATEMENT))
}

/// The function that the statement called, if the context tells it from the others with its name.
fn outermost(row: &Event) -> Option<&Function> {
    let Caller::Function(context) = &row.caller else {
        return None;
    };
    let line = context.trim_end().lines().next_back()?;
    let mut functions = row.functions.iter().filter(|function| may_be(line, function));
    let function = functions.next()?;
    functions
        .all(|other| (&other.schema, &other.sets, &other.body) == (&function.schema, &function.sets, &function.body))
        .then_some(function)
}

/// Whether a context line can be about a function: it has the function's name, and no other schema.
fn may_be(line: &str, function: &Function) -> bool {
    if !is_about(line, &function.name) {
        return false;
    }
    let quoted = crate::postgres::ident::quote(&function.name);
    let qualified = [&function.name, &quoted]
        .into_iter()
        .any(|name| line.contains(&format!(".{name}(")));
    let with_schema = |name: &String| line.contains(&format!(" {}.{name}(", function.schema));
    !qualified || [&function.name, &quoted].into_iter().any(with_schema)
}

/// Whether a statement only calls one function, with constants. Settings other than the path can change how strings are read.
fn only_calls(split: &Split<'_>, names: &BTreeSet<&str>) -> bool {
    const CALL: [&str; 11] = [
        "SelectStmt",
        "CallStmt",
        "ResTarget",
        "RangeFunction",
        "List",
        "FuncCall",
        "String",
        "AConst",
        "Ival",
        "Fval",
        "Boolval",
    ];
    let reads_strings = names.iter().all(|name| *name == "search_path");
    let (mut calls, mut others) = (0, false);
    walk(&split.tree, &mut |key, _| {
        let is_node = key.starts_with(|c: char| c.is_ascii_uppercase());
        calls += usize::from(key == "funcname");
        others |= is_node && !CALL.contains(&key) && !(key == "Sval" && reads_strings);
    });
    calls == 1 && !others
}
