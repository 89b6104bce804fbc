//! `tdb psql`: psql with a temporary credential, which is deleted when psql ends.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tdb_tests::{Background, Binaries, Instance, Ran, clean, eventually, ignores, psql};

const SOON: Duration = Duration::from_secs(60);

/// One test at a time: every test checks that all credentials are deleted.
fn alone() -> (&'static Instance, MutexGuard<'static, ()>) {
    static INSTANCE: OnceLock<Instance> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let instance = INSTANCE.get_or_init(|| {
        let instance = Instance::start();
        let (workspace, tenants) = instance.simple("myapp", &["acme"]);
        for url in [&workspace.url, &tenants[0].url] {
            psql(url, "INSERT INTO t VALUES (7)").ok();
        }
        instance
    });
    (instance, turn)
}

#[track_caller]
fn run(instance: &Instance, arguments: &[&str], input: &str) -> Ran {
    let before = credentials(instance);
    // Variables that divert libpq must have no effect.
    let environment = [
        ("PGHOST", "192.0.2.1"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGSERVICE", "elsewhere"),
        ("PGPASSFILE", "/nonexistent"),
        ("PGSSLMODE", "require"),
        ("PGAPPNAME", "mine"),
    ];
    let ran = instance.tdb_with(&[&["psql"], arguments].concat(), &environment, input);
    assert_eq!(credentials(instance), before, "the credential is gone: {ran:?}");
    ran
}

fn credentials(instance: &Instance) -> Vec<Value> {
    let list = instance.api().get("/credentials?limit=1000").ok();
    list["credentials"].as_array().expect("credentials").clone()
}

/// A `tdb psql` that runs until it is ended, and the credential that it created.
fn start(instance: &Instance, arguments: &[&str]) -> (Background, Value) {
    start_by(instance, clean(&Binaries::built().tdb), arguments)
}

fn start_by(instance: &Instance, mut command: Command, arguments: &[&str]) -> (Background, Value) {
    let before = credentials(instance);
    command
        .arg("psql")
        .args(arguments)
        .env("TDB_API_URL", instance.api_url())
        .env("TDB_API_KEY", instance.api_key())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = Background::start(command);
    let credential = eventually(SOON, "psql has its credential", || {
        credentials(instance).into_iter().find(|one| !before.contains(one))
    });
    (child, credential)
}

/// The process that `parent` started, once it runs psql.
fn child_of(parent: &Background) -> Pid {
    eventually(SOON, "tdb runs psql", || {
        let processes = fs::read_dir("/proc").expect("processes").flatten();
        let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
        // 4711 (psql) S 4710 …
        stats.into_iter().find_map(|stat| {
            let (pid, rest) = stat.split_once(" (psql) ")?;
            let of = rest.split(' ').nth(1)?.parse().ok().map(Pid::from_raw)?;
            (of == parent.pid()).then(|| pid.parse().ok().map(Pid::from_raw))?
        })
    })
}

#[test]
fn it_runs_what_psql_runs_in_workspaces_and_tenants() {
    let (instance, _turn) = alone();
    let arguments = [
        "myapp__acme",
        "--",
        "-X",
        "-A",
        "-t",
        "-c",
        "SELECT id, current_database() FROM t",
    ];
    assert_eq!(run(instance, &arguments, "").ok().text(), "7|myapp__acme");
    // The user's sslmode is respected.
    let encrypted = ["myapp_dev", "--", "-X", "-c", "\\conninfo"];
    assert!(run(instance, &encrypted, "").ok().stdout.contains("SSL"));
    let sql = "SELECT id, current_setting('application_name') FROM t;\n";
    assert_eq!(run(instance, &["myapp_dev", "--", "-XAt"], sql).ok().text(), "7|mine");
    run(instance, &["myapp_dev"], "CREATE TABLE by_psql (id int);").ok();
    let changes = instance.diff("myapp");
    assert!(
        changes.iter().any(|change| change.to_string().contains("by_psql")),
        "{changes:#?}"
    );
}

#[test]
fn read_only_credentials_cannot_write() {
    let (instance, _turn) = alone();
    for database in ["myapp_dev", "myapp__acme"] {
        let reads = [database, "--read-only", "--", "-XAtc", "SELECT id FROM t"];
        assert_eq!(run(instance, &reads, "").ok().text(), "7");
        let writes = [database, "--read-only", "--", "-Xc", "INSERT INTO t VALUES (8)"];
        assert_eq!(run(instance, &writes, "").fails_saying("ERROR").code, 1);
    }
}

#[test]
fn the_exit_status_is_psqls() {
    let (instance, _turn) = alone();
    let stop = ["myapp_dev", "--", "-X", "-v", "ON_ERROR_STOP=1"];
    assert_eq!(run(instance, &stop, "SELECT 1/0;").code, 3);
    assert_eq!(
        run(instance, &["myapp_dev", "--", "-X", "-c", "SELECT 1/0"], "").code,
        1
    );
    assert_eq!(run(instance, &["myapp_dev", "--", "-X"], "SELECT 1/0;").code, 0);
    instance.api().post("/tenants/acme/suspend", json!({})).ok();
    let refused = run(instance, &["myapp__acme", "--", "-X"], "SELECT 1;");
    instance.api().post("/tenants/acme/resume", json!({})).ok();
    assert_eq!(refused.fails_saying("suspended").code, 2);
}

#[test]
fn an_invalid_database_name_is_refused_before_anything_is_created() {
    let (instance, _turn) = alone();
    for name in ["myapp", "Myapp_dev", "myapp__a__b", "postgres"] {
        let refused = run(instance, &[name], "");
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.stderr.contains(name), "{refused:?}");
    }
    run(instance, &["postgres"], "").fails_saying("<blueprint>_dev nor <blueprint>__<tenant>");
    let unknown = run(instance, &["unheard_dev"], "").fails_saying("there is no database \"unheard_dev\"");
    assert!(unknown.stderr.contains("tdb workspaces list"), "{unknown:?}");
    let unknown = run(instance, &["myapp__unheard"], "").fails_saying("there is no database \"myapp__unheard\"");
    assert!(unknown.stderr.contains("tdb tenants list"), "{unknown:?}");
    let other = run(instance, &["other__acme"], "").fails_saying("no database of a blueprint \"other\"");
    assert!(other.stderr.contains("It has myapp__acme."), "{other:?}");
    run(instance, &["myapp_dev", "--expires-at", "2001-01-01T00:00:00Z"], "").fails_saying("expires_at");
    for option in [&["--json"][..], &["--output", "/nonexistent/file"]] {
        run(instance, &[&["myapp_dev"], option].concat(), "").fails_saying("psql prints its results");
    }
}

#[test]
fn without_psql_the_error_says_how_to_install_it() {
    let (instance, _turn) = alone();
    let before = credentials(instance);
    let empty = tempfile::tempdir().expect("a directory");
    let path = empty.path().display().to_string();
    let refused = instance.tdb_with(&["psql", "myapp_dev"], &[("PATH", &path)], "");
    assert_eq!(refused.clone().fails_saying("psql was not found").code, 1);
    assert!(
        refused.stderr.contains("apt-get install postgresql-client"),
        "{refused:?}"
    );
    assert_eq!(credentials(instance), before);
}

#[test]
fn the_password_is_on_no_command_line() {
    let (instance, _turn) = alone();
    let (mut tdb, credential) = start(instance, &["myapp_dev"]);
    let psql = child_of(&tdb);
    let of_psql = |file: &str| fs::read(format!("/proc/{psql}/{file}")).expect("a file of psql's");
    let environment = String::from_utf8(of_psql("environ")).expect("text");
    let value = |name: &str| {
        environment
            .split('\0')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    assert_eq!(value("PGUSER"), credential["user"].as_str());
    let password = value("PGPASSWORD").expect("a password");
    assert!(password.len() >= 16, "{}", password.len());
    for process in fs::read_dir("/proc").expect("processes") {
        let path = process.expect("a process").path().join("cmdline");
        let line = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        assert!(!line.contains(password), "{}", line.replace('\0', " "));
    }
    tdb.close_input();
    assert!(tdb.end().success());
    assert!(!credentials(instance).contains(&credential));
}

#[test]
fn the_credential_of_a_killed_tdb_expires_within_8_hours() {
    let (instance, _turn) = alone();
    let (mut tdb, credential) = start(instance, &["myapp_dev"]);
    let expiry = credential["expires_at"].as_str().expect("an expiry");
    let asked = format!("SELECT '{expiry}'::timestamptz - now() BETWEEN '7 h' AND '8 h'");
    assert_eq!(psql(&instance.server_url("postgres"), &asked).ok().text(), "t");
    tdb.signal(Signal::SIGKILL);
    // This also closes psql's standard input.
    tdb.end();
    let id = credential["id"].as_str().expect("an id");
    instance.api().delete(&format!("/credentials/{id}")).ok();
}

#[test]
fn interrupts_are_handled_by_psql_and_termination_is_forwarded() {
    let (instance, _turn) = alone();
    // Ctrl-C reaches both processes; tdb continues until psql ends, and psql has the default handler.
    let (mut tdb, credential) = start(instance, &["myapp_dev"]);
    let psql = child_of(&tdb);
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        tdb.signal(signal);
    }
    assert!(!ignores(psql, Signal::SIGINT), "psql hears Ctrl-C");
    assert!(credentials(instance).contains(&credential), "the session goes on");
    assert!(!tdb.has_ended());
    // SIGTERM to tdb alone ends both and deletes the credential.
    tdb.signal(Signal::SIGTERM);
    assert_eq!(tdb.end().code(), Some(128 + Signal::SIGTERM as i32));
    assert!(!credentials(instance).contains(&credential));
}

#[test]
fn under_nohup_a_closed_terminal_ends_neither_process() {
    let (instance, _turn) = alone();
    let mut nohup = clean("nohup");
    nohup.arg(&Binaries::built().tdb);
    let (mut tdb, credential) = start_by(instance, nohup, &["myapp_dev"]);
    let psql = child_of(&tdb);
    for process in [tdb.pid(), psql] {
        assert!(ignores(process, Signal::SIGHUP));
    }
    tdb.close_input();
    assert!(tdb.end().success());
    assert!(!credentials(instance).contains(&credential));
}
