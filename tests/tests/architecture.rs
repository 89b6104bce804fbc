//! Checks of the source code: the dependencies between crates that ARCHITECTURE.md lists, and rules for every source file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::Value;
use tdb_tests::{files, run, workspace_root};

/// Every crate may also use these.
const FOUNDATION: [&str; 2] = ["tdb-names", "tdb-auth"];
/// The allowed dependencies, besides the foundation. `tdb-server` may use all; tests and benches are exempt.
const ARROWS: [(&str, &[&str]); 13] = [
    ("tdb-names", &[]),
    ("tdb-auth", &[]),
    ("tdb-problems", &[]),
    ("tdb-contract", &[]),
    ("tdb-wire-postgres", &[]),
    ("tdb-proxy", &["tdb-contract", "tdb-wire-postgres"]),
    ("tdb-engines", &["tdb-wire-postgres"]),
    ("tdb-store", &["tdb-contract"]),
    (
        "tdb-control",
        &["tdb-contract", "tdb-store", "tdb-engines", "tdb-problems"],
    ),
    ("tdb-client", &["tdb-problems"]),
    ("tdb-api", &["tdb-client", "tdb-control", "tdb-problems"]),
    ("tdb-cli", &["tdb-client", "tdb-problems"]),
    ("tdb-testkit", &[]),
];
const SEES_ALL: &str = "tdb-server";
const EXEMPT: [&str; 2] = ["tdb-tests", "tdb-benches"];
const LINES_MAX: usize = 600;

/// The dependencies of one package: names, separately for builds and for tests.
#[derive(Debug, Default)]
struct Uses {
    normal: BTreeSet<String>,
    dev: BTreeSet<String>,
}

#[test]
fn crate_dependencies_are_those_of_the_architecture() {
    let found = packages();
    for (name, uses) in &found {
        if EXEMPT.contains(&name.as_str()) || name == SEES_ALL {
            continue;
        }
        let (_, allowed) = ARROWS
            .iter()
            .find(|(from, _)| from == name)
            .unwrap_or_else(|| panic!("unknown crate {name}"));
        let ours = |set: &BTreeSet<String>| -> Vec<String> {
            set.iter().filter(|to| to.starts_with("tdb-")).cloned().collect()
        };
        for to in ours(&uses.normal) {
            let fine = FOUNDATION.contains(&to.as_str()) || allowed.contains(&to.as_str());
            assert!(fine, "{name} may not use {to}");
        }
        for to in ours(&uses.dev) {
            let fine = to == "tdb-testkit" || FOUNDATION.contains(&to.as_str()) || allowed.contains(&to.as_str());
            assert!(fine, "the tests of {name} may not use {to}");
        }
    }
    for (name, _) in ARROWS {
        assert!(found.contains_key(name), "{name} is gone; update the list");
    }
}

#[test]
fn the_document_lists_the_dependencies_that_are_checked() {
    let document = fs::read_to_string(workspace_root().join("ARCHITECTURE.md")).expect("the document");
    let arrow = Regex::new("(tdb-[a-z-]+) +→ ?((?:tdb-[a-z-]+(?:, )?)*)").expect("a pattern");
    let listed: BTreeMap<&str, BTreeSet<&str>> = arrow
        .captures_iter(&document)
        .map(|found| {
            let (_, [name, uses]) = found.extract();
            (name, uses.split(", ").filter(|used| !used.is_empty()).collect())
        })
        .filter(|(name, _)| *name != SEES_ALL)
        .collect();
    let checked = ARROWS.map(|(name, uses)| (name, uses.iter().copied().collect()));
    assert_eq!(listed, BTreeMap::from(checked));
}

#[test]
fn the_proxy_reaches_no_metadata_no_http_and_no_deployment() {
    let found = packages();
    let mut reached = BTreeSet::new();
    let mut open = vec!["tdb-proxy".to_owned()];
    while let Some(name) = open.pop() {
        let Some(uses) = found.get(&name) else { continue };
        for to in &uses.normal {
            if reached.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    assert!(reached.contains("tdb-contract"), "the search itself works");
    for forbidden in [
        "tdb-store",
        "tdb-control",
        "tdb-engines",
        "tdb-api",
        "tdb-client",
        "axum",
        "tokio-postgres",
        "pg_query",
    ] {
        assert!(!reached.contains(forbidden), "tdb-proxy reaches {forbidden}");
    }
}

#[test]
fn only_the_engines_parse_sql() {
    for (name, uses) in packages() {
        let parses = uses.normal.contains("pg_query") || uses.dev.contains("pg_query");
        assert_eq!(parses, name == "tdb-engines", "{name}");
    }
}

#[test]
fn every_source_file_has_a_header_and_is_short() {
    let mut files = Vec::new();
    for part in ["crates", "tests", "benches", "fuzz"] {
        rust_files(&workspace_root().join(part), &mut files);
    }
    assert!(files.len() > 20, "found only {} files", files.len());
    for file in files {
        let text = fs::read_to_string(&file).expect("read a source file");
        assert!(
            text.starts_with("//!"),
            "{} does not open with what it is",
            file.display()
        );
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
    }
}

/// Each part of the control plane or of an engine can be understood, and changed, with the parts below it alone.
#[test]
fn no_files_of_control_or_engines_depend_on_each_other_in_a_cycle() {
    for name in ["tdb-control", "tdb-engines"] {
        let uses = files::uses(&workspace_root().join("crates").join(name).join("src"));
        assert!(
            uses.values().map(BTreeSet::len).sum::<usize>() > 50,
            "the search itself works"
        );
        let circle = files::circle(&uses);
        assert!(circle.is_none(), "{name}: {}", circle.unwrap_or_default().join(" → "));
    }
}

/// Hints of the API name endpoints; `tdb` turns them into its own commands (tdb-cli/src/endpoints.rs).
#[test]
fn the_control_plane_and_the_api_name_no_command_of_tdb() {
    let mut files = Vec::new();
    for part in [
        "crates/tdb-control/src",
        "crates/tdb-api/src",
        "crates/tdb-problems/src",
    ] {
        rust_files(&workspace_root().join(part), &mut files);
    }
    let nouns = [
        "workspaces",
        "tenants",
        "deployments",
        "credentials",
        "servers",
        "projects",
        "apikeys",
        "blueprints",
    ];
    let verbs = ["signup", "login", "query", "drift", "psql", "roles"];
    for file in files {
        let text = fs::read_to_string(&file).expect("read a source file");
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let named = nouns
                .iter()
                .chain(&verbs)
                .find(|word| line.contains(&format!("tdb {word}")));
            assert!(named.is_none(), "{}: {line}", file.display());
        }
    }
}

fn packages() -> BTreeMap<String, Uses> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(workspace_root());
    let metadata: Value = serde_json::from_str(&run(command, "").ok().stdout).expect("JSON");
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let mut uses = Uses::default();
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = dependency["name"].as_str().expect("a name").to_owned();
            if dependency["kind"] == "dev" {
                uses.dev.insert(name);
            } else {
                uses.normal.insert(name);
            }
        }
        found.insert(package["name"].as_str().expect("a name").to_owned(), uses);
    }
    found
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        let hidden = path.file_name().is_some_and(|name| name == "target");
        if path.is_dir() && !hidden {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
