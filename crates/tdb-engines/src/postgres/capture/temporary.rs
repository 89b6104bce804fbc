//! Temporary tables: they hide others of the same name in their session, and do not exist where a change is replayed.

use serde_json::Value;

use super::expected::Certainty;
use super::split::Split;
use super::tree::{strings, walk};
use crate::postgres::journal::Event;

/// An error with the reason if the statement creates a table from a temporary table. `row` contains the names of the
/// session's temporary tables.
pub(super) fn refuse(split: &Split<'_>, row: &Event) -> Result<(), String> {
    let made = [
        ("CreateStmt", "relation"),
        ("CreateTableAsStmt", "into"),
        ("SelectStmt", "into_clause"),
    ];
    let Some((node, own)) = made.iter().find(|(node, _)| split.tree.get(node).is_some()) else {
        return Ok(());
    };
    if row.temporary.is_empty() {
        return Ok(());
    }
    let mut tree = split.tree.clone();
    if let Some(fields) = tree.get_mut(node).and_then(Value::as_object_mut) {
        fields.remove(*own);
    }
    let mut hidden = Vec::new();
    walk(&tree, &mut |key, value| {
        if let ("ctename", Some(name)) = (key, value.as_str()) {
            hidden.push(name.to_owned());
        }
    });
    let mut found = None;
    walk(&tree, &mut |_, value| {
        let (Some(name), Some(schema)) = (text(value, "relname"), text(value, "schemaname")) else {
            return;
        };
        let may_be = schema == "pg_temp" || schema.is_empty() && !hidden.iter().any(|known| known == name);
        if may_be && row.temporary.iter().any(|temporary| temporary == name) {
            found.get_or_insert_with(|| name.to_owned());
        }
    });
    match found {
        Some(name) => Err(format!(
            "it reads the temporary table \"{name}\", which only its session has"
        )),
        None => Ok(()),
    }
}

/// Marks the statements of a message that can be about a temporary relation which an earlier one created: those write no row.
pub(super) fn may_be_about(statements: &mut [Split<'_>]) {
    let mut hiding: Vec<String> = Vec::new();
    for split in statements {
        let mut is_hidden = false;
        walk(&split.tree, &mut |_, value| {
            let Some(name) = text(value, "relname") else { return };
            let schema = text(value, "schemaname").unwrap_or_default();
            is_hidden |= schema.is_empty() && hiding.iter().any(|known| known == name);
            if text(value, "relpersistence") == Some("t") || schema == "pg_temp" {
                hiding.push(name.to_owned());
            }
        });
        let dropped = split.tree.pointer("/DropStmt/objects").and_then(Value::as_array);
        for object in dropped.into_iter().flatten() {
            is_hidden |= matches!(&strings(object)[..], [name] if hiding.contains(name));
        }
        if let Some(expected) = split.expected.as_mut().filter(|_| is_hidden) {
            expected.certainty = Certainty::Perhaps;
        }
    }
}

fn text<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    value.get(field).and_then(Value::as_str)
}
