//! A separate `tenantsdb dev` process with a separate directory. It is ended when the value is dropped, and also when the test
//! process is killed: a shell reads from a pipe and cleans up when the pipe closes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tdb_testkit::Durability;
use tempfile::TempDir;

use crate::programs::{Ran, clean, pg_program, run};
use crate::{Api, Binaries, Session, connect, eventually, url_with};

/// The time limit from start to readiness, including initdb, on a machine that also runs other tests.
const START_TIME_MAX: Duration = Duration::from_secs(120);
const STOP_TIME_MAX: Duration = Duration::from_secs(60);
/// Ends the processes left under a directory when the pipe is closed, and removes the directory. Arguments: the directory.
const KEEPER: &str = r#"
read -r _
[ -s "$1/pid" ] && kill -KILL "$(cat "$1/pid")" 2>/dev/null
find "$1" -maxdepth 4 -name postmaster.pid | while read -r file; do kill -QUIT "$(head -1 "$file")" 2>/dev/null; done
for attempt in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" 2>/dev/null; [ -e "$1" ] || exit 0; sleep 0.2; done
"#;

#[derive(Clone, Debug)]
pub struct InstanceOptions {
    /// `Safe` keeps PostgreSQL's settings as `tenantsdb dev` sets them.
    pub durability: Durability,
    pub environment: Vec<(String, String)>,
    pub arguments: Vec<String>,
    /// The directory in which it registers itself as running; by default a separate one.
    pub state_home: Option<PathBuf>,
}

impl Default for InstanceOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Fast,
            environment: Vec::new(),
            arguments: Vec::new(),
            state_home: None,
        }
    }
}

impl InstanceOptions {
    /// For tests that kill the process.
    pub fn safe() -> Self {
        Self {
            durability: Durability::Safe,
            ..Self::default()
        }
    }

    /// Clients of tenants share at most this number of server connections.
    pub fn pooled(server_connections_max: usize) -> Self {
        let max = server_connections_max.to_string();
        let arguments = ["--pool-mode", "auto", "--server-connections-max", &max];
        Self {
            arguments: arguments.map(str::to_owned).into(),
            ..Self::default()
        }
    }

    /// Arms a fault point: the process kills itself there.
    pub fn with_fault(mut self, point: &str) -> Self {
        self.environment.push(("TDB_FAULT".to_owned(), point.to_owned()));
        self
    }
}

/// A running development instance.
#[derive(Debug)]
pub struct Instance {
    dir: PathBuf,
    process: Option<Child>,
    ready: Value,
    /// Looked up once; it does not change.
    store_database: OnceLock<String>,
    _keeper: Keeper,
}

/// How a process ended that should be killed at a fault point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    AtThePoint,
    NotReached,
}

#[derive(Debug)]
struct Keeper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Instance {
    /// Starts a new instance.
    pub fn start() -> Self {
        Self::start_with(&InstanceOptions::default())
    }

    pub fn start_with(options: &InstanceOptions) -> Self {
        let mut instance = Self::prepare();
        instance.restart_with(options);
        instance
    }

    /// Creates the directory of an instance without starting it.
    pub fn prepare() -> Self {
        let dir = TempDir::with_prefix("tdb-e2e-").expect("a temporary directory").keep();
        // PostgreSQL runs as another user when the tests run as root.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("open the directory");
        let keeper = Keeper::start(&dir);
        Self {
            dir,
            process: None,
            ready: Value::Null,
            store_database: OnceLock::new(),
            _keeper: keeper,
        }
    }

    /// Starts again with the same data after the process has ended.
    pub fn restart(&mut self) {
        self.restart_with(&InstanceOptions::default());
    }

    pub fn restart_with(&mut self, options: &InstanceOptions) {
        self.try_restart(options).unwrap_or_else(|status| {
            panic!(
                "tenantsdb dev ended with {status} instead of getting ready:\n{}",
                self.log()
            );
        });
    }

    /// As [`Self::restart_with`]; the exit status if the process ended before it was ready.
    pub fn try_restart(&mut self, options: &InstanceOptions) -> Result<(), ExitStatus> {
        assert!(self.process.is_none(), "it still runs");
        let (child, lines) = self.spawn(options);
        let child = self.process.insert(child);
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let Ok(ready) = serde_json::from_str::<Value>(&line) else {
                        continue;
                    };
                    if ready["api_url"].is_string() {
                        self.ready = self.facts();
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.wait().expect("wait for tenantsdb");
                    self.process = None;
                    return Err(status);
                }
                Err(RecvTimeoutError::Timeout) => panic!("not ready within {START_TIME_MAX:?}:\n{}", self.log()),
            }
        }
    }

    /// `kill -9` of tenantsdb only: its PostgreSQL continues as an orphan, as on a real machine.
    pub fn kill(&mut self) {
        let mut child = self.process.take().expect("a running tenantsdb");
        child.kill().expect("kill tenantsdb");
        child.wait().expect("wait for tenantsdb");
    }

    /// Stops it as an operator does (SIGTERM).
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.process.take().expect("a running tenantsdb");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("signal tenantsdb");
        eventually(STOP_TIME_MAX, "tenantsdb stops after SIGTERM", || {
            child.try_wait().expect("wait")
        })
    }

    /// Waits until an armed fault point has killed it; `NotReached` after `limit`, and then it continues to run.
    pub fn wait_for_the_kill(&mut self, limit: Duration) -> Killed {
        let deadline = Instant::now() + limit;
        let child = self.process.as_mut().expect("a running tenantsdb");
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().expect("wait for tenantsdb") {
                assert_eq!(
                    status.signal(),
                    Some(9),
                    "ended by itself with {status}:\n{}",
                    self.log()
                );
                self.process = None;
                return Killed::AtThePoint;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Killed::NotReached
    }

    pub fn is_running(&mut self) -> bool {
        let child = self.process.as_mut();
        child.is_some_and(|child| child.try_wait().expect("wait for tenantsdb").is_none())
    }

    /// The content of `dev.json`.
    pub fn facts(&self) -> Value {
        let path = self.data_dir().join("dev.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
        serde_json::from_str(&text).expect("dev.json is JSON")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The directory in which this instance registers itself; a test must not use the user's own.
    pub fn state_home(&self) -> PathBuf {
        self.dir.join("home")
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running tenantsdb").id()
    }

    pub fn api_url(&self) -> &str {
        self.fact("api_url")
    }

    pub fn api_key(&self) -> &str {
        self.fact("api_key")
    }

    pub fn metrics_url(&self) -> &str {
        self.fact("metrics_url")
    }

    /// `host:port` of the proxy.
    pub fn proxy(&self) -> &str {
        self.ready["proxy"]["postgres"]
            .as_str()
            .expect("proxy.postgres in dev.json")
    }

    pub fn api(&self) -> Api {
        Api::new(self.api_url(), Some(self.api_key()))
    }

    /// `tdb ARGUMENTS`, with the address of this instance.
    #[track_caller]
    pub fn tdb(&self, arguments: &[&str]) -> Ran {
        self.tdb_with(arguments, &[], "")
    }

    /// The same with additional environment variables and standard input.
    #[track_caller]
    pub fn tdb_with(&self, arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Ran {
        let mut command = clean(&Binaries::built().tdb);
        command
            .args(arguments)
            .env("TDB_API_URL", self.api_url())
            .env("TDB_API_KEY", self.api_key())
            .envs(environment.iter().copied());
        run(command, input)
    }

    /// `tdb --json ARGUMENTS`; panics unless it succeeds.
    #[track_caller]
    pub fn tdb_json(&self, arguments: &[&str]) -> Value {
        let ran = self.tdb(&[&["--json"], arguments].concat()).ok();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {}", ran.stdout))
    }

    /// A connection string for the superuser of the private PostgreSQL, without the proxy.
    pub fn server_url(&self, database: &str) -> String {
        url_with(self.fact("server_url"), None, None, Some(database))
    }

    pub async fn server(&self, database: &str) -> Session {
        connect(&self.server_url(database))
            .await
            .expect("the private PostgreSQL")
    }

    /// A superuser session in the metadata store, without row-level security.
    pub async fn store(&self) -> Session {
        if let Some(name) = self.store_database.get() {
            return self.server(name).await;
        }
        let server = self.server("postgres").await;
        let names = server
            .query("SELECT datname::text FROM pg_database WHERE datallowconn", &[])
            .await;
        for row in names.expect("databases") {
            let name: String = row.get(0);
            // A database that is being created or removed may no longer exist.
            let Ok(session) = connect(&self.server_url(&name)).await else {
                continue;
            };
            let found = session
                .query_one("SELECT to_regnamespace('control_plane') IS NOT NULL", &[])
                .await;
            if found.is_ok_and(|row| row.get(0)) {
                let _ = self.store_database.set(name);
                return session;
            }
        }
        panic!("no database of the private PostgreSQL holds a schema control_plane");
    }

    /// The same connection string with the proxy's current address: a restart uses other ports.
    pub fn at_the_proxy(&self, url: &str) -> String {
        let (before, rest) = url.split_once('@').expect("a connection string with a user");
        let (_, after) = rest.split_once('/').expect("a connection string with a database");
        format!("{before}@{}/{after}", self.proxy())
    }

    /// The standard error of tenantsdb.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn fact(&self, name: &str) -> &str {
        self.ready[name]
            .as_str()
            .unwrap_or_else(|| panic!("no {name} in dev.json: {}", self.ready))
    }

    fn spawn(&self, options: &InstanceOptions) -> (Child, Receiver<String>) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .expect("open the log");
        let mut command = Command::new(&Binaries::built().tenantsdb);
        command.arg("dev").arg("--data-dir").arg(self.data_dir());
        for flag in ["--postgres-port", "--api-port", "--metrics-port", "--upstream-port"] {
            if !options.arguments.iter().any(|argument| argument == flag) {
                command.args([flag, "0"]);
            }
        }
        command
            .arg("--json")
            .args(&options.arguments)
            .env("XDG_STATE_HOME", self.state_home());
        for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env(name, self.dir.join("home"));
        }
        if options.durability == Durability::Fast {
            command.env("PG_BIN_DIR", self.fast_programs());
        }
        // Tests read the log, so it is complete unless a test sets another level.
        command.env("TENANTSDB_LOG", "info");
        for (name, value) in &options.environment {
            if value.is_empty() {
                command.env_remove(name);
            } else {
                command.env(name, value);
            }
        }
        // `dev` registers itself as running under these directories; tests must not see each other or the user's own instance.
        for name in ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env(name, self.dir.join("home"));
        }
        if let Some(state_home) = &options.state_home {
            command.env("XDG_STATE_HOME", state_home);
        }
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().expect("start tenantsdb");
        fs::write(self.dir.join("pid"), child.id().to_string()).expect("note the pid");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines) = channel();
        // Continues to read after readiness, so that tenantsdb never blocks on the pipe.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        (child, lines)
    }
}

impl Instance {
    /// A directory with PostgreSQL's programs that do not wait for the disk; this matters only if the machine crashes.
    fn fast_programs(&self) -> PathBuf {
        let dir = self.dir.join("bin");
        if dir.exists() {
            return dir;
        }
        fs::create_dir(&dir).expect("make a directory");
        let flags = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off";
        for (name, flags) in [("postgres", flags), ("initdb", "--no-sync")] {
            let script = format!("#!/bin/sh\nexec '{}' \"$@\" {flags}\n", pg_program(name).display());
            fs::write(dir.join(name), script).expect("write a wrapper");
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).expect("make it executable");
        }
        dir
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Keeper {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", KEEPER, "keeper"]).arg(dir);
        // Not in the test's process group: Ctrl-C must not end the process that cleans up.
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("start the keeper");
        let pipe = child.stdin.take();
        Self { child, pipe }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}
