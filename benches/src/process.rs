//! Programs that a benchmark starts, and their CPU time. A program is stopped when its value is dropped.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};

const START_TIME_MAX: Duration = Duration::from_secs(60);
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

/// A child process that is stopped when the value is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    child: Child,
}

/// CPU time of a process, all threads, since it started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuTime {
    pub total: Duration,
    user_ticks: u64,
    kernel_ticks: u64,
}

impl Program {
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { name, child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program accepts connections at `address`.
    pub(crate) fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        while Instant::now() < deadline {
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            self.still_running()?;
            thread::sleep(Duration::from_millis(20));
        }
        bail!("{} does not listen on {address}", self.name)
    }

    pub(crate) fn still_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl CpuTime {
    /// The run time of all threads in nanoseconds from `schedstat`. User and kernel time, which Linux counts in ticks, are used
    /// only for the kernel's share.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut total = Duration::ZERO;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("look at process {pid}"))?;
        for task in tasks {
            // A thread can end between the listing and the reading.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let nanoseconds = text.split_whitespace().next().and_then(|field| field.parse().ok());
            total += Duration::from_nanos(nanoseconds.context("read schedstat")?);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name in parentheses and can contain spaces; utime and stime are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').context("read stat")?;
        let mut ticks = fields.split_whitespace().skip(11).map(str::parse);
        let mut tick = || ticks.next().context("read stat")?.context("read stat");
        Ok(Self {
            total,
            user_ticks: tick()?,
            kernel_ticks: tick()?,
        })
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            kernel_ticks: self.kernel_ticks.saturating_sub(earlier.kernel_ticks),
        }
    }

    /// The kernel's share, 0 to 1.
    pub(crate) fn kernel_share(self) -> f64 {
        let all = self.user_ticks + self.kernel_ticks;
        if all == 0 {
            return 0.0;
        }
        self.kernel_ticks as f64 / all as f64
    }
}

/// A command that the kernel kills when this program ends, also by a kill. `setpriv` replaces itself by the program, so the
/// process id is the program's.
pub(crate) fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// Runs `command` as the user `postgres` if this program runs as root, because PgBouncer refuses to run as root.
pub(crate) fn unprivileged(command: &mut Command, readable: &[&Path]) -> Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let user = User::from_name("postgres")?.context("no user postgres; install the package postgresql")?;
    for path in readable {
        nix::unistd::chown(*path, Some(user.uid), Some(user.gid)).with_context(|| format!("give {path:?} away"))?;
    }
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    Ok(())
}
