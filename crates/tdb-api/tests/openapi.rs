//! The committed description of the API is what the handlers say.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

fn committed() -> io::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json");
    fs::read_to_string(path)
}

#[test]
fn openapi_json_is_up_to_date() {
    let generated = format!("{}\n", tdb_api::openapi().to_pretty_json().unwrap());
    assert!(
        committed().unwrap() == generated,
        "openapi.json differs from the handlers; run: cargo run -p tdb-api --example openapi > openapi.json"
    );
}

#[test]
fn every_reference_leads_somewhere_and_operations_have_names_of_their_own() {
    let document: Value = serde_json::from_str(&committed().unwrap()).unwrap();
    let (mut references, mut names) = (BTreeSet::new(), Vec::new());
    walk(&document, &mut references, &mut names);
    for reference in references {
        let found = document.pointer(reference.trim_start_matches('#'));
        assert!(found.is_some(), "{reference} leads nowhere");
    }
    assert!(names.len() > 30, "{names:?}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
}

fn walk(value: &Value, references: &mut BTreeSet<String>, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("$ref", Value::String(text)) => _ = references.insert(text.clone()),
                    ("operationId", Value::String(text)) => names.push(text.clone()),
                    _ => walk(field, references, names),
                }
            }
        }
        Value::Array(entries) => entries.iter().for_each(|entry| walk(entry, references, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
