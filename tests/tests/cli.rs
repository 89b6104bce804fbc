//! Complete outputs of `tdb`, compared with `tests/snapshots`; see `tests/src/transcript.rs` for how to rewrite them.

use std::process::Command;
use std::time::Duration;

use tdb_tests::{Binaries, Instance, Ran, Transcript, clean, eventually, run};

const SOON: Duration = Duration::from_secs(60);
const SCHEMA: &str = "\
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL,
    kind text DEFAULT 'member'
);
CREATE INDEX users_by_kind ON users (kind);
";

/// `tdb` that knows no instance except the one in its arguments and this environment.
fn lonely(arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command: Command = clean(&Binaries::built().tdb);
    command.args(arguments);
    for name in ["TDB_API_URL", "TDB_API_KEY", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied());
    run(command, "")
}

/// The command line as typed into a shell.
fn typed(arguments: &[&str]) -> String {
    let quoted = |argument: &&str| match argument.contains([' ', '*', '\'', '"', ';']) {
        true => format!("'{}'", argument.replace('\'', "'\\''")),
        false => (*argument).to_owned(),
    };
    let words: Vec<String> = arguments.iter().map(quoted).collect();
    format!("tdb {}", words.join(" "))
}

/// Runs a command, adds it to the transcript, and returns the result.
fn show(transcript: &mut Transcript, instance: &Instance, arguments: &[&str]) -> Ran {
    let ran = instance.tdb(arguments);
    transcript.add(&typed(arguments), &ran);
    ran
}

/// As [`show`], for arguments without spaces.
fn show_line(transcript: &mut Transcript, instance: &Instance, line: &str) -> Ran {
    show(transcript, instance, &line.split(' ').collect::<Vec<_>>())
}

/// Shows a query in the workspace.
fn show_query(transcript: &mut Transcript, instance: &Instance, sql: &str) -> Ran {
    show(transcript, instance, &["workspaces", "query", "myapp", "--query", sql])
}

/// The names under "Commands:" of a help text.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = listed.take_while(|line| line.starts_with("  "));
    let names = lines
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_has_help_with_an_example() {
    let mut transcript = Transcript::plain("help");
    let mut open = vec![Vec::new()];
    let mut count = 0;
    while let Some(path) = open.pop() {
        let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let ran = lonely(&arguments, &[]).ok();
        assert!(ran.stderr.is_empty(), "{ran:?}");
        assert!(
            ran.stdout.contains("\n\nExample"),
            "{}: no example\n{}",
            typed(&arguments),
            ran.stdout
        );
        for line in ran.stdout.lines() {
            assert!(line.chars().count() <= 100, "{}: too wide: {line}", typed(&arguments));
        }
        transcript.add(&typed(&arguments), &ran);
        let below = subcommands(&ran.stdout).into_iter().rev();
        open.extend(below.map(|name| [path.clone(), vec![name]].concat()));
        count += 1;
    }
    assert!(count > 50, "{count} commands");
    transcript.compare();
}

/// The example of `tdb --help` is a session that works, line by line.
#[test]
fn the_example_of_the_help_can_be_executed() {
    let instance = Instance::start();
    let help = lonely(&["--help"], &[]).ok().stdout;
    let lines: Vec<&str> = help.lines().filter(|line| line.starts_with("  tdb ")).collect();
    assert!(lines.len() >= 8, "{help}");
    let directory = Binaries::built()
        .tdb
        .parent()
        .expect("a directory")
        .display()
        .to_string();
    let path = format!("{directory}:{}", std::env::var("PATH").expect("a PATH"));
    for line in lines {
        let mut shell = clean("/bin/sh");
        shell
            .args(["-c", line])
            .env("PATH", &path)
            .env("XDG_STATE_HOME", instance.state_home());
        for name in ["TDB_API_URL", "TDB_API_KEY"] {
            shell.env_remove(name);
        }
        run(shell, "").ok();
    }
    let tenant = instance.tdb(&["psql", "myapp__acme", "--", "-XAtc", "SELECT email FROM users"]);
    assert_eq!(tenant.ok().text(), "", "the tenant has the later column");
}

#[test]
fn outputs_without_an_instance() {
    let mut transcript = Transcript::new("alone");
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path().display().to_string();
    transcript.hide(&home, "<home>");
    transcript.hide(env!("CARGO_PKG_VERSION"), "<version>");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let unused = format!("http://{}", free.local_addr().expect("its number"));
    drop(free);
    let mut add = |arguments: &[&str]| {
        let ran = lonely(arguments, &[("HOME", &home)]);
        transcript.add(&typed(arguments), &ran);
    };
    add(&["version"]);
    add(&["--json", "version"]);
    add(&["tenants", "list"]);
    add(&["config", "show"]);
    add(&["--api-url", &unused, "tenants", "list"]);
    add(&["--api-url", &unused, "--api-key", "k", "tenants", "list"]);
    add(&["--json", "--api-url", &unused, "--api-key", "k", "tenants", "list"]);
    add(&["config", "set", "api_url", "db.example.com"]);
    add(&["config", "set", "api_url", "https://db.example.com"]);
    add(&["config", "set", "api_key", "tdb_sk_abcdefgh27"]);
    add(&["config", "show"]);
    add(&["--json", "config", "show"]);
    add(&["tenant", "list"]);
    add(&["tenants", "list", "--colour"]);
    add(&["tenants", "create", "--name", "acme"]);
    add(&[
        "tenants",
        "create",
        "--name",
        "acme",
        "--blueprint",
        "myapp",
        "--isolation",
        "2",
    ]);
    add(&["deployments", "create", "--blueprint", "myapp"]);
    add(&["credentials", "create", "--tenant", "acme", "--expires-at", "tomorrow"]);
    add(&["psql", "myapp"]);
    add(&["workspaces"]);
    transcript.compare();
}

/// A sequence of commands on one instance; each part has a separate file.
#[test]
fn outputs_with_an_instance() {
    let instance = Instance::start();
    let mut differences = Vec::new();
    let mut part = |name: &'static str, tell: &mut dyn FnMut(&mut Transcript)| {
        let mut transcript = Transcript::new(name);
        tell(&mut transcript);
        differences.extend(transcript.difference());
    };
    part("empty", &mut |t| empty(t, &instance));
    part("workspaces", &mut |t| workspaces(t, &instance));
    part("tenants", &mut |t| tenants(t, &instance));
    part("deployments", &mut |t| deployments(t, &instance));
    part("query", &mut |t| query(t, &instance));
    part("access", &mut |t| access(t, &instance));
    part("errors", &mut |t| errors(t, &instance));
    part("forms", &mut |t| forms(t, &instance));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn empty(t: &mut Transcript, instance: &Instance) {
    for list in [
        "workspaces",
        "blueprints",
        "tenants",
        "deployments",
        "credentials",
        "servers",
        "projects",
        "apikeys",
    ] {
        show(t, instance, &[list, "list"]);
    }
    show_line(t, instance, "drift");
}

fn workspaces(t: &mut Transcript, instance: &Instance) {
    show_line(t, instance, "workspaces create --name myapp");
    show_line(t, instance, "workspaces diff myapp");
    show_line(t, instance, "workspaces schema myapp");
    show_query(t, instance, SCHEMA);
    show_line(t, instance, "workspaces schema myapp");
    show_query(
        t,
        instance,
        "ALTER TABLE users ADD COLUMN nick text; UPDATE users SET nick = email",
    );
    show_query(t, instance, "CREATE TABLE notes (body text)");
    show_query(
        t,
        instance,
        "INSERT INTO users (email) VALUES ('ada@example.com'), ('bob@example.com')",
    );
    show_query(t, instance, "SELECT id, email, nick FROM users");
    show_query(t, instance, "CREATE EXTENSION file_fdw");
    show_line(t, instance, "workspaces extensions myapp --create bloom");
    show_line(t, instance, "workspaces diff myapp");
    show_line(t, instance, "workspaces diff-skip myapp 3");
    show_line(t, instance, "workspaces diff-revert myapp 2");
    show_line(t, instance, "workspaces settings myapp");
    show_line(t, instance, "workspaces list");
    show_line(t, instance, "workspaces get myapp");
    show_line(t, instance, "blueprints list");
    show_line(t, instance, "blueprints get myapp");
    show_line(t, instance, "workspaces create --name scratch");
    show_line(t, instance, "workspaces delete scratch");
}

fn tenants(t: &mut Transcript, instance: &Instance) {
    for name in ["acme", "globex", "initech"] {
        show_line(t, instance, &format!("tenants create --name {name} --blueprint myapp"));
        instance.wait_until_ready(name);
    }
    show_line(t, instance, "tenants suspend globex");
    show_line(t, instance, "tenants list");
    show_line(t, instance, "tenants get acme");
    show_line(t, instance, "tenants resume globex");
    show_line(t, instance, "tenants delete globex");
    show_line(t, instance, "tenants restore globex");
    show_line(t, instance, "tenants deployments globex");
    tenant_ddl(instance, "deny");
    show_line(t, instance, "workspaces settings myapp");
    tenant_ddl(instance, "allow");
    show_line(t, instance, "blueprints get myapp");
    show_line(t, instance, "workspaces delete myapp");
}

/// Changes the setting, and waits until every tenant's database has it.
fn tenant_ddl(instance: &Instance, word: &str) {
    let change = ["workspaces", "settings", "myapp", "--tenant-ddl", word];
    instance.tdb(&change).ok();
    eventually(SOON, "the setting is everywhere", || {
        let settings = instance.tdb_json(&["workspaces", "settings", "myapp"]);
        (settings["applied"]["waiting_tenants"] == 0).then_some(())
    });
}

fn deployments(t: &mut Transcript, instance: &Instance) {
    instance
        .tdb(&[
            "query",
            "--blueprint",
            "myapp",
            "--tenant",
            "globex",
            "--query",
            "INSERT INTO users (email) VALUES ('twice@example.com'), ('twice@example.com')",
        ])
        .ok();
    show_query(t, instance, "CREATE UNIQUE INDEX users_email ON users (email)");
    show_line(t, instance, "deployments create --blueprint myapp --all --dry-run");
    show_line(
        t,
        instance,
        "deployments create --blueprint myapp --tenant acme --watch",
    );
    show_line(
        t,
        instance,
        "deployments create --blueprint myapp --tenant globex --watch",
    );
    let failed = instance.tdb_json(&["deployments", "list"]);
    let failed = failed["jobs"][0]["job_id"].as_str().expect("an id").to_owned();
    show(t, instance, &["deployments", "status", &failed]);
    show_line(t, instance, "tenants deployments globex");
    instance
        .tdb(&[
            "query",
            "--blueprint",
            "myapp",
            "--tenant",
            "globex",
            "--query",
            "DELETE FROM users",
        ])
        .ok();
    show(t, instance, &["deployments", "retry", &failed, "--watch"]);
    show_line(t, instance, "deployments list");
    show_line(t, instance, "deployments create --blueprint myapp --all --dry-run");
    show_line(t, instance, "blueprints versions myapp");
}

fn query(t: &mut Transcript, instance: &Instance) {
    let acme = ["--tenant", "acme"];
    let mut ask = |which: &[&str], sql: &str| {
        show(
            t,
            instance,
            &[&["query", "--blueprint", "myapp"], which, &["--query", sql]].concat(),
        )
    };
    ask(
        &acme,
        "INSERT INTO users (email, kind) VALUES ('ada@example.com', NULL), ('grüße@example.com', 'owner')",
    );
    ask(
        &acme,
        "SELECT id, email, kind, kind IS NULL AS unknown, 1.50 AS price FROM users ORDER BY id",
    );
    ask(&["--all"], "SELECT count(*) FROM users");
    ask(&["--all"], "SELECT 1 / count(*) FROM users");
    ask(&acme, "DROP INDEX users_by_kind; ALTER TABLE users ADD COLUMN own int");
    show_line(t, instance, "drift");
    show_line(t, instance, "drift --blueprint myapp");
}

fn access(t: &mut Transcript, instance: &Instance) {
    show_line(t, instance, "credentials create --tenant acme");
    show_line(
        t,
        instance,
        "credentials create --workspace myapp --rights ro --expires-at 2099-01-31T00:00:00Z",
    );
    show_line(t, instance, "credentials list");
    let list = instance.tdb_json(&["credentials", "list"]);
    let credential = list["credentials"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["rights"] == "ro"));
    let credential = credential.expect("the read-only one")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    show(t, instance, &["credentials", "delete", &credential]);
    show_line(t, instance, "apikeys create --name ci --scope read");
    show_line(t, instance, "apikeys list");
    show(t, instance, &["projects", "create", "--name", "Second shop"]);
    show_line(t, instance, "projects list");
    show_line(t, instance, "servers list");
    show_line(t, instance, "servers get dev");
    show_line(t, instance, "servers test dev");
}

fn errors(t: &mut Transcript, instance: &Instance) {
    show_line(t, instance, "tenants get unheard");
    show_line(t, instance, "tenants create --name Acme --blueprint myapp");
    show_line(t, instance, "tenants create --name acme --blueprint myapp");
    show_line(t, instance, "tenants create --name new --blueprint unheard");
    show_line(t, instance, "tenants create --name new --blueprint myapp --version 99");
    show_line(t, instance, "workspaces create --name myapp");
    show_line(t, instance, "workspaces get unheard");
    show_query(t, instance, "SELEC 1");
    show_line(t, instance, "workspaces diff-skip myapp 99");
    show_line(t, instance, "deployments create --blueprint unheard --all");
    show_line(t, instance, "deployments status dep_abcdefgh27");
    show_line(t, instance, "credentials delete not-an-id");
    show_line(t, instance, "servers get unheard");
    show_line(t, instance, "psql unheard_dev");
    show_line(t, instance, "psql other__acme");
    show_line(t, instance, "--api-key tdb_sk_wrong tenants list");
    show_line(t, instance, "--json tenants get unheard");
    show_line(t, instance, "--quiet tenants get unheard");
    show_line(t, instance, "--verbose tenants get unheard");
}

fn forms(t: &mut Transcript, instance: &Instance) {
    show_line(t, instance, "--json tenants get acme");
    show_line(t, instance, "--json workspaces list");
    show(
        t,
        instance,
        &[
            "--json",
            "query",
            "--blueprint",
            "myapp",
            "--tenant",
            "acme",
            "--query",
            "SELECT 1 AS one",
        ],
    );
    show_line(t, instance, "--quiet credentials create --tenant acme");
    show_line(
        t,
        instance,
        "--quiet deployments create --blueprint myapp --all --watch",
    );
    show_line(
        t,
        instance,
        "--json deployments create --blueprint myapp --all --dry-run",
    );
    show_line(t, instance, "tenants delete initech --hard");
    show_line(t, instance, "tenants delete initech --hard --yes");
    show_line(t, instance, "tenants list");
}
