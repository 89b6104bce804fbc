//! Searches in parse trees as JSON, where node types do not matter.

use serde_json::Value;

/// Calls `visit` with the name and value of every field of the tree, parents first.
pub(super) fn walk(tree: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    match tree {
        Value::Object(fields) => {
            for (key, value) in fields {
                visit(key, value);
                walk(value, visit);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| walk(value, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The values of all string nodes in the tree, in order.
pub(super) fn strings(tree: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(tree, &mut |key, value| {
        if let ("sval", Some(text)) = (key, value.as_str()) {
            found.push(text.to_owned());
        }
    });
    found
}
