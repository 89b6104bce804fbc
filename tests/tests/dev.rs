//! `tenantsdb dev` as a command: one process per directory, plain refusals, nothing left behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use serde_json::Value;
use tdb_tests::{
    Background, Binaries, Instance, InstanceOptions, clean, connect, eventually, ignores, psql, run, terminal,
};

#[tokio::test]
async fn survives_kill_9_and_leaves_no_postgresql_when_it_is_stopped() {
    let mut instance = Instance::start();
    let workspace = instance.workspace("durable");
    psql(&workspace.url, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)").ok();
    let tenant = instance.tenant("kept", "durable");
    psql(&tenant.url, "INSERT INTO t VALUES (1), (2)").ok();
    let key = instance.api_key().to_owned();
    instance.kill();
    instance.restart();
    assert_eq!(instance.api_key(), key, "the key of an instance stays");
    assert_eq!(
        psql(&instance.at_the_proxy(&tenant.url), "SELECT count(*) FROM t")
            .ok()
            .text(),
        "2"
    );
    assert_eq!(instance.diff("durable").len(), 0);
    let server = instance.server_url("postgres");
    connect(&server).await.expect("PostgreSQL runs");
    assert!(instance.stop().success(), "{}", instance.log());
    assert!(connect(&server).await.is_err(), "PostgreSQL goes on without its owner");
    instance.restart();
    assert_eq!(
        psql(&instance.at_the_proxy(&tenant.url), "SELECT count(*) FROM t")
            .ok()
            .text(),
        "2"
    );
}

/// `tenantsdb dev` on any free ports, in the directory of an instance that is not running.
fn dev(instance: &Instance) -> Command {
    let mut command = clean(&Binaries::built().tenantsdb);
    command.args(["dev", "--json"]);
    for flag in ["--postgres-port", "--api-port", "--metrics-port", "--upstream-port"] {
        command.args([flag, "0"]);
    }
    command
        .arg("--data-dir")
        .arg(instance.data_dir())
        .env("XDG_STATE_HOME", instance.state_home());
    command
}

/// The processes that have the path in their command line.
fn processes_on(path: &Path) -> Vec<String> {
    let path = path.display().to_string();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&path)).collect()
}

#[test]
fn ctrl_c_while_it_starts_leaves_nothing_behind() {
    let mut instance = Instance::prepare();
    for patience in [20, 300, 600, 900, 1500] {
        let mut command = dev(&instance);
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Background::start(command);
        thread::sleep(Duration::from_millis(patience));
        // Sent to the process group, as a terminal does.
        killpg(child.pid(), Signal::SIGINT).expect("signal it");
        child.end();
        eventually(Duration::from_secs(60), "PostgreSQL and initdb end too", || {
            processes_on(&instance.data_dir()).is_empty().then_some(())
        });
    }
    instance.restart();
    assert!(instance.stop().success());
    let left = fs::read_dir(instance.data_dir()).expect("the directory").flatten();
    let left = left.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let left: Vec<String> = left
        .filter(|name| name.starts_with("postgres.new") || name == "initdb-password")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn data_of_another_major_version_is_distinguished_from_damage() {
    let mut instance = Instance::start();
    instance.stop();
    let version = instance.data_dir().join("postgres/PG_VERSION");
    let own = fs::read_to_string(&version).expect("PG_VERSION");
    fs::write(&version, "14\n").expect("pretend");
    run(dev(&instance), "").fails_saying("the data was created by PostgreSQL 14");
    fs::write(&version, own).expect("undo it");
    instance.restart();
}

/// The same, started by a program that takes the command line as arguments.
fn dev_by(instance: &Instance, starter: &[&str]) -> Command {
    let started = dev(instance);
    let (program, arguments) = starter.split_first().expect("a program");
    let mut command = clean(program);
    command
        .args(arguments)
        .arg(started.get_program())
        .args(started.get_args())
        .env("XDG_STATE_HOME", instance.state_home())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn wait_until_ready(data: &Path) {
    let ready = data.join("dev.json");
    eventually(Duration::from_secs(60), "it gets ready", || {
        ready.exists().then_some(())
    });
}

#[test]
fn a_closed_terminal_ends_the_process_and_its_postgresql() {
    let instance = Instance::prepare();
    let (master, slave) = terminal();
    let mut command = dev_by(&instance, &["setsid", "--ctty"]);
    command.stdin(slave);
    let mut child = Background::start(command);
    wait_until_ready(&instance.data_dir());
    drop(master);
    assert!(child.end().success());
    assert_eq!(processes_on(&instance.data_dir()), Vec::<String>::new());
}

#[test]
fn under_nohup_a_closed_terminal_is_ignored() {
    let instance = Instance::prepare();
    let command = dev_by(&instance, &["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]);
    let mut child = Background::start(command);
    wait_until_ready(&instance.data_dir());
    assert!(ignores(child.pid(), Signal::SIGHUP));
    child.signal(Signal::SIGINT);
    assert!(child.end().success());
}

#[test]
fn a_restrictive_umask_does_not_affect_postgresql() {
    let instance = Instance::prepare();
    let mut command = dev_by(&instance, &["sh", "-c", "umask 077; exec \"$@\"", "sh"]);
    let data = instance.data_dir().join("of/new/directories");
    command.arg("--data-dir").arg(&data);
    let mut child = Background::start(command);
    wait_until_ready(&data);
    let mode = |name: &str| {
        let found = fs::metadata(data.join(name)).expect("a file");
        found.permissions().mode() & 0o777
    };
    assert_eq!((mode("proxy.crt"), mode("proxy.key")), (0o644, 0o600));
    child.signal(Signal::SIGINT);
    assert!(child.end().success());
}

#[test]
fn a_directory_without_postgresql_is_named() {
    let instance = Instance::prepare();
    let mut command = dev(&instance);
    command.env("PG_BIN_DIR", "/nowhere");
    run(command, "").fails_saying("PG_BIN_DIR is /nowhere");
}

#[test]
fn unusual_paths_work() {
    let instance = Instance::prepare();
    let long = "x".repeat(120);
    for (name, has_socket) in [("a b, \"c\" 'd'", true), (long.as_str(), false)] {
        let data = instance.data_dir().join(name);
        let mut command = dev_by(&instance, &["env"]);
        command.arg("--data-dir").arg(&data);
        let mut child = Background::start(command);
        wait_until_ready(&data);
        let sockets = fs::read_dir(data.join("run"))
            .expect("the directory for sockets")
            .count();
        assert_eq!(sockets > 0, has_socket, "{}", data.display());
        child.signal(Signal::SIGINT);
        assert!(child.end().success());
    }
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let instance = Instance::start();
    let refused = run(dev(&instance), "").fails_saying(&instance.data_dir().display().to_string());
    assert!(
        refused.stderr.contains(&instance.pid().to_string()),
        "names the process: {}",
        refused.stderr
    );
    instance.api().get("/workspaces").ok();
}

#[test]
fn a_taken_port_is_named() {
    let mut instance = Instance::start();
    instance.stop();
    for flag in ["--postgres-port", "--api-port", "--metrics-port", "--upstream-port"] {
        let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = holder.local_addr().expect("its number").port().to_string();
        let options = InstanceOptions {
            arguments: vec![flag.to_owned(), port.clone()],
            ..InstanceOptions::default()
        };
        let status = instance.try_restart(&options).expect_err("it should not start");
        assert!(!status.success());
        let log = instance.log();
        let last: Vec<&str> = log.lines().rev().take(10).collect();
        let named = last.iter().find(|line| line.contains(&port));
        let named = named.unwrap_or_else(|| panic!("{flag} {port}: {last:?}"));
        assert!(named.contains(flag), "{flag}: {named}");
    }
    instance.restart();
}

#[test]
fn all_taken_ports_are_named_at_once() {
    let instance = Instance::prepare();
    let mut command = clean(&Binaries::built().tenantsdb);
    command
        .args(["dev", "--json", "--data-dir"])
        .arg(instance.data_dir())
        .env("XDG_STATE_HOME", instance.state_home());
    let flags = ["--postgres-port", "--api-port", "--metrics-port", "--upstream-port"];
    let holders = flags.map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    for (flag, holder) in flags.iter().zip(&holders) {
        let port = holder.local_addr().expect("its number").port();
        command.args([flag, port.to_string().as_str()]);
    }
    let refused = run(command, "").fails_saying("is taken");
    for flag in flags {
        assert!(refused.stderr.contains(flag), "{flag}: {}", refused.stderr);
    }
    assert!(!instance.data_dir().join("postgres").exists(), "nothing is made before");
}

#[test]
fn tdb_finds_the_running_instance_by_itself() {
    let mut instance = Instance::start();
    let tdb = |instance: &Instance| {
        let mut command = clean(&Binaries::built().tdb);
        command
            .args(["workspaces", "list"])
            .env_remove("TDB_API_URL")
            .env_remove("TDB_API_KEY");
        command
            .env("XDG_STATE_HOME", instance.state_home())
            .env("XDG_CONFIG_HOME", instance.state_home());
        run(command, "")
    };
    instance.workspace("found");
    assert!(tdb(&instance).ok().stdout.contains("found"));
    instance.stop();
    let said = tdb(&instance);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr.contains("tenantsdb dev") || said.stderr.contains("TDB_API_URL"),
        "says how: {}",
        said.stderr
    );
}

#[test]
fn tdb_uses_the_instance_that_still_runs_when_a_later_one_has_ended() {
    let first = Instance::start();
    let state = first.state_home().display().to_string();
    let shared = InstanceOptions {
        state_home: Some(first.state_home()),
        ..InstanceOptions::default()
    };
    let asked = || {
        let mut command = clean(&Binaries::built().tdb);
        command
            .args(["--json", "config", "show"])
            .env_remove("TDB_API_URL")
            .env_remove("TDB_API_KEY")
            .env("XDG_STATE_HOME", &state)
            .env("XDG_CONFIG_HOME", &state);
        let shown: Value = serde_json::from_str(&run(command, "").ok().stdout).expect("JSON");
        shown["api_url"].as_str().expect("an address").to_owned()
    };
    assert_eq!(asked(), first.api_url());
    let mut second = Instance::start_with(&shared);
    assert_eq!(asked(), second.api_url(), "the one that started last");
    second.stop();
    assert_eq!(asked(), first.api_url(), "stopped");
    second.restart_with(&shared);
    assert_eq!(asked(), second.api_url());
    second.kill();
    assert_eq!(asked(), first.api_url(), "killed: it could not remove its entry");
}

#[test]
fn the_terminal_shows_no_line_per_request_and_session() {
    let instance = Instance::start_with(&InstanceOptions {
        environment: vec![("TENANTSDB_LOG".to_owned(), String::new())],
        ..InstanceOptions::default()
    });
    let (workspace, _) = instance.simple("quiet", &["silent"]);
    let before = instance.log();
    for _ in 0..5 {
        instance.api().get("/tenants").ok();
        instance.api().get("/tenants/nobody").problem(404);
        psql(&workspace.url, "SELECT 1").ok();
    }
    assert_eq!(instance.log(), before);
    assert!(before.contains("ready"), "{before}");
}

#[test]
fn files_with_secrets_are_private() {
    let instance = Instance::start();
    let mode = |name: &str| {
        fs::metadata(instance.data_dir().join(name))
            .expect("a file")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("dev.json"), 0o600);
    let files = fs::read_dir(instance.data_dir()).expect("the directory");
    for entry in files {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("its metadata");
        if metadata.is_file() && entry.file_name() != "tenantsdb.lock" {
            let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()).into_owned();
            let secret = text.contains("PRIVATE KEY") || text.contains("tdb_sk_") || text.contains("postgresql://");
            let readable = metadata.permissions().mode() & 0o077 != 0;
            assert!(!(secret && readable), "{:?} is readable for others", entry.path());
        }
    }
    assert!(!instance.log().contains(instance.api_key()), "the log shows the key");
}
