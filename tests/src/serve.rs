//! Several `tenantsdb serve` processes with one metadata store and one database server, as on several machines.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use tdb_auth::{ApiKey, MasterKey};
use tdb_testkit::{Cluster, free_port};
use tempfile::TempDir;

use crate::{Api, Binaries, clean, column, connect, eventually};

const START_TIME_MAX: Duration = Duration::from_secs(60);
const STORE: &str = "tdb_control";
/// Kills the process when the pipe closes, even if it is stopped. Arguments: the file for its pid, then its command.
const KEEPER: &str = r#"file=$1; shift; "$@" & echo $! > "$file.new"; mv "$file.new" "$file"; read -r _; kill -KILL $! 2>/dev/null; wait"#;

/// A store and database servers in separate clusters; processes are started that use them.
#[derive(Debug)]
pub struct Site {
    store_url: String,
    pub store: Cluster,
    pub server: Cluster,
    /// A second database server, if there is one.
    pub other: Option<Cluster>,
    dir: TempDir,
    key: ApiKey,
    master_key: String,
}

/// A running `tenantsdb serve`. It is killed when the value is dropped.
#[derive(Debug)]
pub struct Serve {
    name: String,
    proxy: String,
    api_url: String,
    key: String,
    pid: Pid,
    log: PathBuf,
    keeper: Child,
}

impl Site {
    pub async fn new() -> Self {
        let (store, server) = (
            Cluster::start().expect("a cluster"),
            Cluster::start().expect("a cluster"),
        );
        let store_url = store.create_store().await.expect("the store's database");
        Self {
            store,
            store_url,
            server,
            other: None,
            dir: TempDir::with_prefix("tdb-site-").expect("a temporary directory"),
            key: ApiKey::generate().expect("a key"),
            master_key: MasterKey::generate().expect("a key").expose_secret().to_owned(),
        }
    }

    /// Starts a process and waits until it is ready; arms a fault point if one is given.
    pub fn serve(&self, name: &str, fault: Option<&str>) -> Serve {
        let [proxy, api, metrics] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port().expect("a port")));
        let file = self.dir.path().join(format!("{name}.toml"));
        let text = format!(
            r#"
            shutdown_timeout = "2s"
            proxy.listen = "{proxy}"
            api.listen = "{api}"
            metrics.listen = "{metrics}"
            store.url = {{ env = "STORE_URL" }}
            secrets.master_key = {{ env = "MASTER_KEY" }}
            bootstrap.api_key = {{ env = "API_KEY" }}
            {}"#,
            self.servers()
                .map(|(name, cluster)| server_section(name, cluster))
                .collect::<String>(),
        );
        fs::write(&file, text).expect("write the configuration");
        let (pid_file, log) = (
            self.dir.path().join(format!("{name}.pid")),
            self.dir.path().join(format!("{name}.log")),
        );
        let _ = fs::remove_file(&pid_file);
        let mut command = self.keeper(&pid_file, &log);
        command.arg("serve").arg("--config").arg(&file);
        if let Some(fault) = fault {
            command.env("TDB_FAULT", fault);
        }
        let keeper = command.spawn().expect("start tenantsdb serve");
        let pid = eventually(START_TIME_MAX, "its pid is known", || {
            fs::read_to_string(&pid_file).ok()?.trim().parse().ok()
        });
        let serve = Serve {
            name: name.to_owned(),
            proxy,
            api_url: format!("http://{api}"),
            key: self.key.reveal().to_owned(),
            pid: Pid::from_raw(pid),
            log,
            keeper,
        };
        let ready = || {
            Some(
                Api::new(&format!("http://{metrics}"), None)
                    .try_send("GET", "/readyz", None)
                    .ok()?
                    .status,
            )
        };
        eventually(START_TIME_MAX, &format!("{name} is ready"), || {
            ready().filter(|status| *status == 200)
        });
        serve
    }

    fn servers(&self) -> impl Iterator<Item = (&'static str, &Cluster)> {
        let other = self.other.as_ref().map(|cluster| ("other", cluster));
        [("main", &self.server)].into_iter().chain(other)
    }

    fn keeper(&self, pid_file: &PathBuf, log: &PathBuf) -> Command {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("open the log");
        let mut command = clean("/bin/sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .arg(pid_file)
            .arg(&Binaries::built().tenantsdb)
            .env("STORE_URL", &self.store_url)
            .env("MASTER_KEY", &self.master_key)
            .env("API_KEY", self.key.reveal())
            .envs(
                self.servers()
                    .map(|(name, cluster)| (password_of(name), cluster.password())),
            )
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    /// Queries the metadata store as superuser, without row-level security.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        column(&connect(&self.store.url(STORE)).await.expect("the store"), sql).await
    }

    /// Queries a database of the server as its superuser.
    pub async fn in_database(&self, database: &str, sql: &str) -> Vec<String> {
        column(&connect(&self.server.url(database)).await.expect("the database"), sql).await
    }
}

fn password_of(server: &str) -> String {
    format!("PASSWORD_OF_{server}")
}

fn server_section(name: &str, cluster: &Cluster) -> String {
    format!(
        r#"
            [[servers]]
            name = "{name}"
            host = "127.0.0.1"
            port = {}
            user = "{}"
            password = {{ env = "{}" }}
            tls = "disable"
        "#,
        cluster.port(),
        cluster.superuser(),
        password_of(name),
    )
}

impl Serve {
    pub fn api(&self) -> Api {
        Api::new(&self.api_url, Some(&self.key))
    }

    /// The connection string with the address of this process's proxy.
    pub fn at_the_proxy(&self, url: &str) -> String {
        let (before, rest) = url.split_once('@').expect("a connection string with a user");
        let (_, after) = rest.split_once('/').expect("a connection string with a database");
        format!("{before}@{}/{after}", self.proxy)
    }

    /// Sends SIGKILL, SIGSTOP or SIGCONT.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.name));
    }

    /// Whether it was stopped and not continued yet.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, fields)| fields.trim_start().starts_with('T'))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what {} said:\n{}", self.name, self.log());
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
