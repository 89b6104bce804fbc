//! `tenantsdb dev` as an operator meets it: one process a directory, plain refusals, nothing left behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use tdb_tests::{Binaries, Instance, InstanceOptions, clean, connect, psql, run};

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

#[test]
fn a_second_one_on_the_same_directory_is_refused_clearly() {
    let instance = Instance::start();
    let mut command = clean(&Binaries::built().tenantsdb);
    command.args([
        "dev",
        "--json",
        "--postgres-port",
        "0",
        "--api-port",
        "0",
        "--metrics-port",
        "0",
        "--upstream-port",
        "0",
    ]);
    command
        .arg("--data-dir")
        .arg(instance.data_dir())
        .env("XDG_STATE_HOME", instance.state_home());
    let refused = run(command, "").fails_saying(&instance.data_dir().display().to_string());
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
        assert!(last.iter().any(|line| line.contains(&port)), "{flag} {port}: {last:?}");
    }
    instance.restart();
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
fn its_files_keep_their_secrets() {
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
