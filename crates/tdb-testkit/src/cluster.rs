//! A temporary PostgreSQL cluster. It is stopped when its value is dropped, and also when the test process is killed: a
//! shell reads from a pipe to the test process and stops the server when the pipe closes.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

const SUPERUSER: &str = "postgres";
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// A shell script that runs PostgreSQL and stops it immediately when standard input closes.
const KEEPER: &str = r#""$@" & server=$!; read -r _; kill -QUIT "$server" 2>/dev/null; wait "$server""#;

/// The directory of `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub struct BinDir(PathBuf);

/// Whether the cluster may lose committed data in a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It may: no fsync. For most tests.
    Fast,
    /// It may not: PostgreSQL's defaults. For tests that kill processes.
    Safe,
}

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Whether it may lose data in a crash.
    pub durability: Durability,
    /// Additional `name=value` settings for `postgres -c`.
    pub settings: Vec<String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Fast,
            settings: Vec::new(),
        }
    }
}

/// A running cluster. It listens on 127.0.0.1 and on a Unix socket in its directory, and requires SCRAM of every user.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    port: u16,
    password: String,
    bin: BinDir,
    account: Option<Account>,
    keeper: Option<Child>,
    options: ClusterOptions,
}

/// The operating system's user that runs PostgreSQL if the test runs as root, because PostgreSQL refuses to run as root.
#[derive(Clone, Copy, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

impl BinDir {
    /// The directory in the environment variable `PG_BIN_DIR`, else the newest version under `/usr/lib/postgresql`.
    pub fn find() -> Result<Self> {
        if let Some(dir) = env::var_os("PG_BIN_DIR") {
            return Ok(Self(dir.into()));
        }
        let mut installed: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .context("list /usr/lib/postgresql")?
            .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
            .filter(|bin| bin.join("initdb").exists())
            .collect();
        installed.sort_by_key(|bin| {
            bin.components()
                .rev()
                .nth(1)
                .and_then(|v| v.as_os_str().to_str()?.parse::<u32>().ok())
        });
        installed
            .pop()
            .map(Self)
            .context("PostgreSQL is not installed; install the package postgresql or set PG_BIN_DIR")
    }

    /// The path of a program of PostgreSQL. A client program that is not in this directory is taken from `/usr/bin`.
    pub fn program(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        if path.exists() {
            path
        } else {
            Path::new("/usr/bin").join(name)
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Cluster {
    /// Starts a cluster with the default options: [`Durability::Fast`], no additional settings.
    pub fn start() -> Result<Self> {
        Self::start_with(ClusterOptions::default())
    }

    /// Runs `initdb` in a temporary directory and starts the server on a free port. Blocks until the server accepts
    /// connections.
    pub fn start_with(options: ClusterOptions) -> Result<Self> {
        let account = account()?;
        let dir = TempDir::with_prefix("tdb-test-").context("create a temporary directory")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        let mut cluster = Self {
            dir,
            port: 0,
            password,
            bin: BinDir::find()?,
            account,
            keeper: None,
            options,
        };
        cluster.initdb()?;
        cluster.start_server()?;
        Ok(cluster)
    }

    /// The IP address that the server listens on.
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// The directory of the server's Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's TCP port. It stays the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name of the superuser.
    pub fn superuser(&self) -> &'static str {
        SUPERUSER
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The directory of the programs that the cluster was started with.
    pub fn bin(&self) -> &BinDir {
        &self.bin
    }

    /// The superuser's connection string for `database`, password included.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgresql://{SUPERUSER}:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    /// Connects as the superuser. The connection's task runs on the current Tokio runtime.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        self.connect_as(SUPERUSER, &self.password, database).await
    }

    /// Connects as another user, with SCRAM and without TLS.
    pub async fn connect_as(&self, user: &str, password: &str, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(user)
            .password(password)
            .dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Creates the owner and the empty database of a metadata store. Returns the owner's connection string.
    pub async fn create_store(&self) -> Result<String> {
        let admin = self.connect("postgres").await?;
        let owner = "CREATE ROLE cp_owner LOGIN CREATEROLE PASSWORD 'owner'";
        admin.batch_execute(owner).await?;
        admin
            .batch_execute("CREATE DATABASE tdb_control OWNER cp_owner")
            .await?;
        let port = self.port;
        Ok(format!(
            "postgresql://cp_owner:owner@127.0.0.1:{port}/tdb_control?sslmode=disable"
        ))
    }

    /// Stops every server process with SIGQUIT, which has the effect of a crash: nothing is flushed. The next
    /// [`Self::start_server`] runs crash recovery.
    pub fn crash(&mut self) -> Result<()> {
        self.stop();
        Ok(())
    }

    /// Stops every server process where it is, as a machine does whose disk or memory hangs: connections are neither
    /// answered nor closed.
    pub fn freeze(&self) -> Result<()> {
        self.signal_all(Signal::SIGSTOP)
    }

    /// Undoes [`Self::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal_all(Signal::SIGCONT)
    }

    /// The postmaster first: it starts no further process meanwhile.
    fn signal_all(&self, signal: Signal) -> Result<()> {
        let pid_file = fs::read_to_string(self.data_dir().join("postmaster.pid")).context("read postmaster.pid")?;
        let postmaster: i32 = pid_file.lines().next().context("an empty postmaster.pid")?.parse()?;
        kill(Pid::from_raw(postmaster), signal)?;
        for entry in fs::read_dir("/proc").context("list /proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if parent_of(pid) == Some(postmaster) {
                // One that has just ended is none.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        Ok(())
    }

    /// Starts the server, after a crash on the same data and port.
    pub fn start_server(&mut self) -> Result<()> {
        let fixed = (self.port != 0).then_some(self.port);
        for _ in 0..5 {
            self.port = match fixed {
                Some(port) => port,
                None => crate::free_port()?,
            };
            self.keeper = Some(self.spawn()?);
            if self.wait_until_ready()? {
                return Ok(());
            }
            self.stop();
        }
        bail!("PostgreSQL did not start; its log:\n{}", self.log())
    }

    /// The server's log since the cluster was created.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn initdb(&self) -> Result<()> {
        let password_file = self.dir.path().join("password");
        fs::write(&password_file, &self.password)?;
        if let Some(account) = self.account {
            chown(self.dir.path(), Some(account.uid), Some(account.gid))?;
            chown(&password_file, Some(account.uid), Some(account.gid))?;
        }
        let output = self
            .command(&self.bin.program("initdb"))
            .args([
                "-A",
                "scram-sha-256",
                "-U",
                SUPERUSER,
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "-D",
            ])
            .arg(self.data_dir())
            .arg(format!("--pwfile={}", password_file.display()))
            .output()
            .context("run initdb")?;
        ensure!(
            output.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn spawn(&self) -> Result<Child> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))?;
        let mut command = self.command(Path::new("/bin/sh"));
        command
            .args(["-c", KEEPER, "keeper"])
            .arg(self.bin.program("postgres"))
            .arg("-D")
            .arg(self.data_dir());
        command.args(["-p", &self.port.to_string()]);
        let socket_dir = format!("unix_socket_directories={}", self.dir.path().display());
        let fast: &[&str] = match self.options.durability {
            Durability::Fast => &["fsync=off", "synchronous_commit=off", "full_page_writes=off"],
            Durability::Safe => &[],
        };
        let base = [
            "listen_addresses=127.0.0.1",
            "shared_buffers=32MB",
            "max_connections=200",
            "max_wal_size=512MB",
        ];
        let further = self.options.settings.iter().map(String::as_str);
        for setting in base
            .into_iter()
            .chain([socket_dir.as_str()])
            .chain(fast.iter().copied())
            .chain(further)
        {
            command.args(["-c", setting]);
        }
        command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start PostgreSQL")
    }

    /// Returns `true` when the server accepts connections, `false` if it has exited or did not start in time.
    fn wait_until_ready(&mut self) -> Result<bool> {
        let deadline = Instant::now() + START_TIME_MAX;
        while Instant::now() < deadline {
            let ended = match &mut self.keeper {
                Some(keeper) => !self.dir.path().join("data/postmaster.pid").exists() && keeper.try_wait()?.is_some(),
                None => true,
            };
            if ended {
                return Ok(false);
            }
            // Another process may have taken the port before PostgreSQL could bind it.
            if self.owns_port() {
                return Ok(true);
            }
            if self.log().contains("could not bind") && !self.owns_port() {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }

    fn owns_port(&self) -> bool {
        let pid_file = fs::read_to_string(self.data_dir().join("postmaster.pid")).unwrap_or_default();
        let mut lines = pid_file.lines();
        lines.nth(3) == Some(&self.port.to_string()) && lines.nth(3).is_some_and(|status| status.starts_with("ready"))
    }

    fn stop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("LC_ALL", "C.UTF-8");
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A stopped process would not see that it is to end.
        let _ = self.thaw();
        self.stop();
    }
}

/// The fourth field of /proc/PID/stat; the command's name before it may hold spaces and parentheses.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn account() -> Result<Option<Account>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")?.context("no user postgres; install the package postgresql")?;
    Ok(Some(Account {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_recovers_from_a_crash_and_stops_when_dropped() {
        let mut cluster = Cluster::start_with(ClusterOptions {
            durability: Durability::Safe,
            ..Default::default()
        })
        .unwrap();
        cluster
            .connect("postgres")
            .await
            .unwrap()
            .batch_execute("CREATE TABLE t AS SELECT 1 AS a")
            .await
            .unwrap();
        cluster.crash().unwrap();
        assert!(cluster.connect("postgres").await.is_err());
        cluster.start_server().unwrap();
        let row = cluster
            .connect("postgres")
            .await
            .unwrap()
            .query_one("SELECT a FROM t", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i32>(0), 1);
        let port = cluster.port();
        drop(cluster);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
