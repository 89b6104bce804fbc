//! The private PostgreSQL of a development instance. It is stopped with this process, and a PostgreSQL that an earlier
//! process left running on the same data is stopped before the start. It runs with PostgreSQL's default durability.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::SecretString;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::cluster;
use super::directory::Directory;
use super::programs::Programs;

pub(crate) const ADMINISTRATOR: &str = "postgres";
const DATA: &str = "postgres";
const SOCKETS: &str = "run";
const LOG: &str = "postgres.log";
/// How many lines of the log an error message shows.
const LAST_WORDS: usize = 4;
/// How many bytes of the log are read for them.
const LOG_READ_MAX: u64 = 8 * 1024;
/// Includes crash recovery.
const START_TIME_MAX: Duration = Duration::from_secs(120);
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// Larger than PostgreSQL's default, because each client has a separate server connection while it is connected.
const CONNECTIONS_MAX: u32 = 500;
/// The longest path of a Unix socket (sun_path) in bytes, less the length of the socket's name.
const SOCKET_DIRECTORY_LEN_MAX: usize = 107 - "/.s.PGSQL.65535.lock".len();

/// A running PostgreSQL on 127.0.0.1.
#[derive(Debug)]
pub(crate) struct Postgres {
    child: Child,
    port: u16,
}

/// The port to listen on: a given one, or any free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamPort {
    Any,
    Fixed(u16),
}

impl Postgres {
    /// Starts PostgreSQL on the data in `directory`, and creates the data if there is none, with the administrator's password
    /// `password`. No other PostgreSQL may run on this data.
    pub(crate) async fn start(directory: &Directory, password: &SecretString, port: UpstreamPort) -> Result<Self> {
        let data = directory.file(DATA);
        let programs = Programs::find(major_of(&data))?;
        cluster::remove_unfinished(directory)?;
        if !data.join("PG_VERSION").exists() {
            cluster::make(directory, DATA, &programs, password).await?;
        }
        make_socket_directory(directory, &programs)?;
        // Another process can take the free port before PostgreSQL binds it.
        for _ in 0..5 {
            let number = match port {
                UpstreamPort::Fixed(number) => number,
                UpstreamPort::Any => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(),
            };
            match launch(directory, &programs, number).await? {
                Launch::Ready(child) => return Ok(Self { child, port: number }),
                Launch::PortTaken if port == UpstreamPort::Any => {}
                Launch::PortTaken => bail!(
                    "port {number} for the private PostgreSQL is in use; choose another with --upstream-port (0: any free port)"
                ),
            }
        }
        bail!("no free port for the private PostgreSQL")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until PostgreSQL exits. Cancel safe.
    pub(crate) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Stops it with a fast shutdown: sessions are ended and all committed data is on disk.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop_within(STOP_TIME_MAX).await
    }

    /// `limit`: for each of the two kinds of shutdown.
    async fn stop_within(mut self, limit: Duration) -> Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        signal(pid.cast_signed(), Signal::SIGINT)?;
        if timeout(limit, self.child.wait()).await.is_err() {
            // Immediate shutdown: the next start recovers from the write-ahead log.
            signal(pid.cast_signed(), Signal::SIGQUIT)?;
            let stopped = timeout(limit, self.child.wait()).await;
            stopped.with_context(|| format!("PostgreSQL (process {pid}) does not stop"))??;
        }
        Ok(())
    }
}

/// Stops a PostgreSQL that a killed process left running on this data, so that the data can be used, moved or removed.
pub(crate) async fn stop_orphan(directory: &Directory) -> Result<()> {
    let data = directory.file(DATA);
    let Some(pid) = running_on(&data) else { return Ok(()) };
    tracing::info!(pid, "an earlier PostgreSQL still runs on this data; stopping it");
    for attempt in [Signal::SIGINT, Signal::SIGQUIT] {
        signal(pid, attempt)?;
        let deadline = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < deadline {
            if running_on(&data).is_none() {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }
    bail!("PostgreSQL (process {pid}) on {} does not stop", data.display())
}

/// The process id of the postmaster on this data. It is read from the pid file and verified by the process's working
/// directory, because process ids are reused.
fn running_on(data: &Path) -> Option<i32> {
    let pid_file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: i32 = pid_file.lines().next()?.trim().parse().ok()?;
    let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (works_in == data.canonicalize().ok()?).then_some(pid)
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("cannot signal PostgreSQL (process {pid})")),
    }
}

fn make_socket_directory(directory: &Directory, programs: &Programs) -> Result<()> {
    let sockets = directory.file(SOCKETS);
    if !sockets.exists() {
        DirBuilder::new().mode(0o700).create(&sockets)?;
    }
    programs.give(&sockets)
}

enum Launch {
    Ready(Child),
    PortTaken,
}

/// Stops PostgreSQL if this guard is dropped before its start is complete.
struct Starting {
    pid: Option<u32>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = signal(pid.cast_signed(), Signal::SIGQUIT);
        }
    }
}

async fn launch(directory: &Directory, programs: &Programs, port: u16) -> Result<Launch> {
    let mut child = spawn(directory, programs, port)?;
    let mut starting = Starting { pid: child.id() };
    let data = directory.file(DATA);
    let deadline = Instant::now() + START_TIME_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            starting.pid = None;
            return match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Err(_) => Ok(Launch::PortTaken),
                Ok(_) => bail!("PostgreSQL ended with {status}; {}", last_words(directory)),
            };
        }
        if is_ready(&data, &child) {
            starting.pid = None;
            return Ok(Launch::Ready(child));
        }
        ensure!(
            Instant::now() < deadline,
            "PostgreSQL is not ready after {START_TIME_MAX:?}; {}",
            last_words(directory)
        );
        sleep(POLL).await;
    }
}

/// The path of PostgreSQL's log and its last lines, without statements, which can contain secrets.
pub(crate) fn last_words(directory: &Directory) -> String {
    let file = directory.file(LOG);
    let text = end_of(&file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("STATEMENT:")).collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LAST_WORDS));
    last.fold(format!("see {}, which ends with", file.display()), |said, line| {
        format!("{said}\n  {line}")
    })
}

fn end_of(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_READ_MAX)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// PostgreSQL writes its state to the eighth line of its pid file, as `pg_ctl -w` uses it.
fn is_ready(data: &Path, child: &Child) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines();
    let own = lines.next().and_then(|line| line.trim().parse().ok()) == child.id();
    own && lines.nth(6).is_some_and(|state| state.starts_with("ready"))
}

fn spawn(directory: &Directory, programs: &Programs, port: u16) -> Result<Child> {
    let log = directory.file(LOG);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .context("cannot open postgres.log")?;
    let mut command = programs.command("postgres");
    command
        .arg("-D")
        .arg(directory.file(DATA))
        .args(["-p", &port.to_string()]);
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", socket_directory(directory)),
        format!("max_connections={CONNECTIONS_MAX}"),
        // The log must be in the file above, even if postgresql.conf says otherwise.
        "logging_collector=off".to_owned(),
        "log_destination=stderr".to_owned(),
    ];
    for setting in settings {
        command.args(["-c", &setting]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C is sent to the terminal's process group; PostgreSQL must keep running during the drain.
    command.process_group(0);
    command.spawn().context("cannot start PostgreSQL")
}

/// The directory of the Unix socket, quoted because the setting is a list. Empty, which means no socket, if the path is too
/// long.
fn socket_directory(directory: &Directory) -> String {
    let path = directory.file(SOCKETS).display().to_string();
    if path.len() <= SOCKET_DIRECTORY_LEN_MAX {
        format!("\"{}\"", path.replace('"', "\"\""))
    } else {
        String::new()
    }
}

fn major_of(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    #[tokio::test]
    async fn the_stop_of_a_postgresql_that_ignores_signals_ends_with_an_error() {
        let script = "trap '' INT QUIT; echo ready; while :; do sleep 1; done";
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut ready = [0; 6];
        tokio::io::AsyncReadExt::read_exact(child.stdout.as_mut().unwrap(), &mut ready)
            .await
            .unwrap();
        let stubborn = Postgres { child, port: 0 };
        let limit = Duration::from_millis(100);
        let stopped = timeout(Duration::from_secs(30), stubborn.stop_within(limit)).await;
        assert!(stopped.unwrap().unwrap_err().to_string().ends_with("does not stop"));
    }

    #[tokio::test]
    async fn an_orphan_is_stopped_and_its_data_used_again() {
        let parent = tempfile::TempDir::new().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let directory = Directory::take(&parent.path().join("dev")).unwrap();
        let password = SecretString::from("only for this test");
        let orphan = Postgres::start(&directory, &password, UpstreamPort::Any).await.unwrap();
        let pid = orphan.child.id();
        // The killed process's child goes on; dropping the handle leaves it running.
        drop(orphan);
        stop_orphan(&directory).await.unwrap();
        let again = Postgres::start(&directory, &password, UpstreamPort::Any).await.unwrap();
        assert_ne!(again.child.id(), pid);
        let url = crate::dev::store::provision(again.port(), &password, &password)
            .await
            .unwrap();
        let (client, connection) = tokio_postgres::connect(url.expose_secret(), tokio_postgres::NoTls)
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let row = client.query_one("SHOW fsync", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "on");
        drop(client);
        connection.await.unwrap().unwrap();
        again.stop().await.unwrap();
        assert_eq!(running_on(&directory.file(DATA)), None);
    }
}
