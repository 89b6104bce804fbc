//! Runs `tenantsdb` as a separate process with separate directories. Processes are stopped when their value is dropped.
#![allow(dead_code, reason = "every test file is a separate crate and uses only a part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const STOP_TIME_MAX: Duration = Duration::from_secs(60);

/// `tenantsdb ARGUMENTS`, without the surrounding environment's settings.
pub(crate) fn tenantsdb(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantsdb"));
    command.args(arguments).stdin(Stdio::null());
    for name in [
        "TENANTSDB_STORE_URL",
        "TENANTSDB_MASTER_KEY",
        "TENANTSDB_API_KEY",
        "TENANTSDB_LOG",
        "TDB_FAULT",
    ] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The directory of a development instance.
pub(crate) struct Home {
    dir: TempDir,
}

/// A running `tenantsdb dev`.
pub(crate) struct Dev {
    child: Child,
    pub(crate) ready: Value,
    pub(crate) facts: Value,
    data: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = TempDir::with_prefix("tdb-dev-").unwrap();
        // PostgreSQL runs as another user when the tests run as root.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self { dir }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// `tenantsdb dev` on this directory. All ports are free ones, unless `arguments` set others.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tenantsdb(&["dev", "--json", "--data-dir"]);
        command
            .arg(self.data())
            .args(arguments)
            .env("XDG_STATE_HOME", self.state());
        for option in ["--postgres-port", "--api-port", "--metrics-port", "--upstream-port"] {
            if !arguments.contains(&option) {
                command.args([option, "0"]);
            }
        }
        command
    }

    pub(crate) fn start(&self) -> Dev {
        self.start_with(&[])
    }

    pub(crate) fn start_with(&self, arguments: &[&str]) -> Dev {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let log = || fs::read_to_string(self.dir.path().join("log")).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not ready ({e}): {line}\n{}", log()));
        let facts = fs::read_to_string(self.data().join("dev.json")).unwrap();
        Dev {
            child,
            ready,
            facts: serde_json::from_str(&facts).unwrap(),
            data: self.data(),
        }
    }

    /// Runs it until it exits, which is immediately if the start is refused.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(!output.status.success(), "it should have been refused");
        said(&output)
    }
}

impl Dev {
    /// Stops it as an operator does. Returns its exit status.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not stop");
    }

    /// `kill -9`: its PostgreSQL keeps running as an orphan.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The process id of its PostgreSQL; `None` if it has ended.
    pub(crate) fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data.join("postgres/postmaster.pid")).ok()?;
        Some(Pid::from_raw(text.lines().next()?.parse().ok()?))
    }

    pub(crate) fn fact(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(postmaster) = self.postmaster() {
            let _ = kill(postmaster, Signal::SIGQUIT);
        }
    }
}

/// `GET url` with a bearer key, if any: status and body.
pub(crate) fn http_get(url: &str, key: Option<&str>) -> (u16, String) {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let key = key
        .map(|key| format!("Authorization: Bearer {key}\r\n"))
        .unwrap_or_default();
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\n{key}Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
