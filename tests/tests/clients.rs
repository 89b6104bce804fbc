//! The clients of `make test-clients` that take only seconds: psycopg 2, asyncpg, pg8000 and, if node is installed,
//! node-postgres. Each runs the same program as there, with a separate tenant.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tdb_tests::{Instance, clean, psql_file, python, run, target_dir, workspace_root};

const BLUEPRINT: &str = "clients";
/// The number of checks that each program reports; `tests/clients/README.md` lists them.
const CHECKS: usize = 16;

fn instance() -> &'static Instance {
    static INSTANCE: OnceLock<Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let instance = Instance::start();
        let workspace = instance.workspace(BLUEPRINT);
        psql_file(&workspace.url, &clients().join("schema.sql")).ok();
        instance
    })
}

fn clients() -> PathBuf {
    workspace_root().join("tests/clients")
}

/// Checks that every check is reported and none failed; `skipped` are those that the driver does not support.
#[track_caller]
fn passes(name: &str, mut command: Command, skipped: &[&str]) {
    command.env("CLIENT_URL", instance().tenant(name, BLUEPRINT).url);
    let ran = run(command, "").ok();
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split('\t').collect()).collect();
    let named = |word: &str| -> Vec<&str> {
        let of_word = lines.iter().filter(|line| line.get(1) == Some(&word));
        of_word.map(|line| line[0]).collect()
    };
    assert_eq!(named("skipped"), skipped, "{}", ran.stdout);
    assert_eq!(
        named("ok").len(),
        CHECKS - skipped.len(),
        "{}\n{}",
        ran.stdout,
        ran.stderr
    );
}

fn python_program(file: &str) -> Command {
    let mut command = clean(python());
    command
        .arg(clients().join("python").join(file))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[test]
fn psycopg_2_works() {
    passes("psycopg2", python_program("psycopg2_client.py"), &[]);
}

#[test]
fn asyncpg_works() {
    passes("asyncpg", python_program("asyncpg_client.py"), &[]);
}

#[test]
fn pg8000_works() {
    passes("pg8000", python_program("pg8000_client.py"), &["cancel", "pipeline"]);
}

#[test]
fn node_postgres_works() {
    let there = ["node", "npm"].map(|program| Command::new(program).arg("--version").output().is_ok());
    if there.contains(&false) {
        eprintln!("node-postgres is not tried: no node or no npm on this machine");
        return;
    }
    let mut command = clean("node");
    command.arg(node_program());
    passes("node-pg", command, &[]);
}

/// A copy of the program beside the modules that it needs, in the versions of `make test-clients`.
fn node_program() -> PathBuf {
    let (from, into) = (clients().join("node"), target_dir().join("node"));
    fs::create_dir_all(&into).expect("make a directory");
    for file in ["checks.js", "pg_client.js"] {
        fs::copy(from.join(file), into.join(file)).expect("copy the program");
    }
    let listed = fs::read_to_string(from.join("package.json")).expect("read package.json");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let dependencies = ["pg", "pg-copy-streams"].map(|name| (name.to_owned(), listed["dependencies"][name].clone()));
    let dependencies: serde_json::Map<String, Value> = dependencies.into_iter().collect();
    let package = serde_json::json!({"private": true, "type": "module", "dependencies": dependencies}).to_string();
    if !is_installed(&into, &package) {
        fs::write(into.join("package.json"), &package).expect("write package.json");
        let mut command = Command::new("npm");
        let flags = [
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ];
        command.args(flags).current_dir(&into);
        run(command, "").ok();
        // npm rewrites package.json.
        fs::write(into.join("installed"), &package).expect("note what is installed");
    }
    into.join("pg_client.js")
}

fn is_installed(into: &Path, package: &str) -> bool {
    fs::read_to_string(into.join("installed")).is_ok_and(|found| found == package)
}
