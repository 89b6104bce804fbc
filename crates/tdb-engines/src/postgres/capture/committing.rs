//! Changes of a DO or CALL that calls a procedure that commits after the DDL. No row of the journal has the body of that procedure,
//! so it is read from the workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::tree::strings;
use super::{bodies, split};
use crate::postgres::ident::last_name;
use crate::postgres::journal::{Begun, Caller, Event};

/// The names of the procedures that the statement of a transaction may have called, if it is a DO or CALL outside of a
/// transaction block.
pub(super) fn calls(rows: &[&Event]) -> Vec<String> {
    let Some(first) = rows.first() else { return Vec::new() };
    let is_one_call =
        |row: &&Event| Arc::ptr_eq(&row.message, &first.message) && matches!(row.caller, Caller::Function(_));
    if first.begun != Some(Begun::Here) || !rows.iter().all(is_one_call) {
        return Vec::new();
    }
    let statements = split::split(&first.message.query).unwrap_or_default();
    let [statement] = statements.as_slice() else {
        return Vec::new();
    };
    if !statement.calls() {
        return Vec::new();
    }
    let blocks = statement.tree.get("DoStmt").map(strings).unwrap_or_default();
    let in_blocks = blocks.iter().flat_map(|body| bodies::calls(body));
    let called: BTreeSet<String> = rows.iter().flat_map(|row| running(row)).chain(in_blocks).collect();
    called.into_iter().collect()
}

/// The names, without schemas, of the PL/pgSQL functions and procedures in whose calls the row was written. The journal has
/// the bodies of some of them only.
fn running(row: &Event) -> impl Iterator<Item = String> {
    let context = match &row.caller {
        Caller::Function(context) => context.as_str(),
        Caller::Client | Caller::Unknown => "",
    };
    context.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("PL/pgSQL function ")?.split_once('(')?;
        Some(last_name(name))
    })
}

/// The procedures, by name and body, that contain COMMIT or ROLLBACK or call one that does.
pub(super) fn committing(bodies_of: &BTreeMap<String, String>) -> BTreeSet<&str> {
    let names = |test: &dyn Fn(&str) -> bool| -> BTreeSet<&str> {
        let those = bodies_of.iter().filter(|(_, body)| test(body));
        those.map(|(name, _)| name.as_str()).collect()
    };
    let mut committing = names(&bodies::ends_transactions);
    loop {
        let calling = names(&|body| {
            bodies::calls(body)
                .iter()
                .any(|name| committing.contains(name.as_str()))
        });
        let before = committing.len();
        committing.extend(calling);
        if committing.len() == before {
            return committing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_procedure_commits_if_one_that_it_calls_does() {
        let bodies_of = [
            ("ends", "BEGIN COMMIT; END"),
            ("over", "BEGIN CALL ends(); END"),
            ("again", "BEGIN CALL again(); CALL x.over(); END"),
            ("other", "BEGIN CALL other(); PERFORM over(); END"),
        ];
        let bodies_of = bodies_of.map(|(name, body)| (name.to_owned(), body.to_owned()));
        assert_eq!(
            committing(&BTreeMap::from(bodies_of)),
            BTreeSet::from(["again", "ends", "over"])
        );
    }
}
