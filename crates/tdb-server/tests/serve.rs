//! `serve`, `migrate` and `check` with an existing PostgreSQL server.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use support::{http_get, said, tenantsdb};
use tdb_auth::{ApiKey, MasterKey};
use tdb_testkit::{Cluster, free_port};
use tempfile::TempDir;

/// An operator's machine: a cluster with a store owner and an empty database, and a configuration.
struct Site {
    cluster: Cluster,
    dir: TempDir,
    api_key: ApiKey,
    store_url: String,
    metrics: String,
}

impl Site {
    async fn new() -> Self {
        let cluster = Cluster::start().unwrap();
        let store_url = cluster.create_store().await.unwrap();
        let dir = TempDir::new().unwrap();
        let metrics = format!("127.0.0.1:{}", free_port().unwrap());
        let site = Self {
            cluster,
            dir,
            api_key: ApiKey::generate().unwrap(),
            store_url,
            metrics,
        };
        fs::write(site.file(), site.text()).unwrap();
        fs::write(
            site.dir.path().join("master-key"),
            MasterKey::generate().unwrap().expose_secret(),
        )
        .unwrap();
        site
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("proxy.toml")
    }

    fn text(&self) -> String {
        format!(
            r#"
            shutdown_timeout = "2s"
            proxy.listen = "127.0.0.1:0"
            api.listen = "127.0.0.1:0"
            metrics.listen = "{}"
            store.url = {{ env = "TENANTSDB_STORE_URL" }}
            secrets.master_key = {{ file = "master-key" }}
            bootstrap.api_key = {{ env = "TENANTSDB_API_KEY" }}
            [[servers]]
            name = "main"
            host = "127.0.0.1"
            port = {}
            user = "{}"
            password = {{ env = "SERVER_PASSWORD" }}
            tls = "disable"
            "#,
            self.metrics,
            self.cluster.port(),
            self.cluster.superuser(),
        )
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tenantsdb(arguments);
        command
            .arg("--config")
            .arg(self.file())
            .env("TENANTSDB_STORE_URL", &self.store_url);
        command
            .env("TENANTSDB_API_KEY", self.api_key.reveal())
            .env("SERVER_PASSWORD", self.cluster.password());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

#[tokio::test]
async fn migrations_are_pending_then_applied_and_check_reports_both() {
    let site = Site::new().await;
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let before = site.run(&["migrate", "status"]);
    assert!(
        before.status.success() && text(&before).contains("pending"),
        "{}{}",
        text(&before),
        said(&before)
    );
    let check = site.run(&["check"]);
    assert_eq!(check.status.code(), Some(1), "{}", said(&check));

    let up = site.run(&["migrate", "up"]);
    assert!(up.status.success(), "{}", said(&up));
    let after = site.run(&["migrate", "status"]);
    assert!(
        after.status.success() && !text(&after).contains("pending"),
        "{}",
        text(&after)
    );
    let check = site.run(&["check"]);
    assert!(check.status.success(), "{}{}", text(&check), said(&check));
}

#[tokio::test]
async fn check_names_what_cannot_be_reached() {
    let site = Site::new().await;
    assert!(site.run(&["migrate", "up"]).status.success());
    let closed = free_port().unwrap();
    fs::write(
        site.file(),
        site.text()
            .replace(&format!("port = {}", site.cluster.port()), &format!("port = {closed}")),
    )
    .unwrap();
    let check = site.run(&["check"]);
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(1), "{text}");
    assert!(text.contains("server main") && text.contains("store"), "{text}");
}

#[tokio::test]
async fn an_empty_store_demands_the_first_key_before_a_port_is_bound() {
    let site = Site::new().await;
    let without_key = site.text().replace("bootstrap.api_key", "# bootstrap.api_key");
    fs::write(site.file(), without_key).unwrap();
    let output = site.run(&["serve"]);
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert!(said(&output).contains("bootstrap.api_key"), "{}", said(&output));
}

/// A running `tenantsdb serve` that was ready.
struct Serving {
    child: Child,
    before: Vec<String>,
    /// Reads the output continuously, so that the process never blocks on a full pipe.
    rest: JoinHandle<Vec<String>>,
}

impl Serving {
    fn start(site: &Site) -> Self {
        let mut child = site.command(&["serve"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let mut before = Vec::new();
        let is_ready = log.any(|line| {
            let ready = line.contains("ready");
            before.push(line);
            ready
        });
        assert!(is_ready, "it ended instead: {before:#?}");
        let rest = thread::spawn(move || log.collect());
        Self { child, before, rest }
    }

    /// Stops it as a service manager does. Returns its whole log.
    async fn stop(mut self) -> Vec<String> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let waited = tokio::task::spawn_blocking(move || self.child.wait().unwrap());
        let status = tokio::time::timeout(Duration::from_secs(60), waited)
            .await
            .unwrap()
            .unwrap();
        let mut log = self.before;
        log.extend(self.rest.join().unwrap());
        assert!(status.success(), "{log:#?}");
        log
    }
}

#[tokio::test]
async fn serve_gets_ready_and_drains_at_sigterm() {
    let site = Site::new().await;
    let serving = Serving::start(&site);
    assert_eq!(http_get(&format!("http://{}/readyz", site.metrics), None).0, 200);
    serving.stop().await;
}

#[tokio::test]
async fn an_unavailable_server_does_not_delay_others() {
    let site = Site::new().await;
    let other = Cluster::start().unwrap();
    fs::write(site.dir.path().join("other-password"), other.password()).unwrap();
    let port = other.port();
    let add = |name: &str| {
        let entry = format!(
            r#"
            [[servers]]
            name = "{name}"
            host = "127.0.0.1"
            port = {port}
            password = {{ file = "other-password" }}
            user = "{}"
            tls = "disable"
            "#,
            site.cluster.superuser()
        );
        fs::write(site.file(), site.text() + &entry).unwrap();
    };
    add("other");
    Serving::start(&site).stop().await;
    drop(other);
    let log = Serving::start(&site).stop().await;
    let warned = |line: &String| line.contains("cannot be used now") && line.contains("other");
    assert!(log.iter().any(warned), "{log:#?}");

    add("mistyped");
    let output = site.run(&["serve"]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("cannot register the server mistyped"),
        "{}",
        said(&output)
    );
}
