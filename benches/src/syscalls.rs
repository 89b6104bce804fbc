//! System calls per query. They are counted by the kernel's trace point (`perf stat`), which hardly slows down the process, or by
//! `strace -c`, which does, if perf is not permitted.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time for the counter to attach before the measurement, and to write its result after it was stopped.
const SETTLE: Duration = Duration::from_millis(300);

/// The calls that are counted in addition to the sum: those that a relay makes.
const NAMED: [&str; 9] = [
    "read",
    "write",
    "readv",
    "writev",
    "recvfrom",
    "sendto",
    "recvmsg",
    "sendmsg",
    "epoll_wait",
];

/// The calls made while `work` ran; the sum has the name `all`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(pub Vec<(String, u64)>);

impl Counts {
    pub(crate) fn all(&self) -> Option<u64> {
        self.0.iter().find(|(name, _)| name == "all").map(|(_, count)| *count)
    }
}

/// A running counter of one process.
#[derive(Debug)]
pub(crate) struct Counter {
    child: Child,
    output: tempfile::NamedTempFile,
    tool: Tool,
}

#[derive(Clone, Copy, Debug)]
enum Tool {
    Perf,
    Strace,
}

impl Counter {
    pub(crate) fn attach(pid: u32) -> Result<Self> {
        let output = tempfile::NamedTempFile::new()?;
        let tool = if perf_counts() { Tool::Perf } else { Tool::Strace };
        let mut command = match tool {
            Tool::Perf => perf(pid, output.path()),
            Tool::Strace => strace(pid, output.path()),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the counter of system calls; install perf or strace")?;
        thread::sleep(SETTLE);
        Ok(Self { child, output, tool })
    }

    pub(crate) fn finish(mut self) -> Result<Counts> {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            kill(Pid::from_raw(pid), Signal::SIGINT)?;
        }
        self.child.wait()?;
        let text = fs::read_to_string(self.output.path())?;
        Ok(match self.tool {
            Tool::Perf => perf_report(&text),
            Tool::Strace => strace_report(&text),
        })
    }
}

fn perf(pid: u32, output: &Path) -> Command {
    let mut events = String::from("raw_syscalls:sys_enter");
    for name in NAMED {
        events.push_str(",syscalls:sys_enter_");
        events.push_str(name);
    }
    let mut command = Command::new("perf");
    command
        .args(["stat", "-x,", "-e", &events, "-p", &pid.to_string(), "-o"])
        .arg(output);
    command
}

fn strace(pid: u32, output: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-p", &pid.to_string(), "-o"]).arg(output);
    command
}

/// Whether perf can use the trace points on this machine.
fn perf_counts() -> bool {
    let status: io::Result<_> = Command::new("perf")
        .args(["stat", "-e", "raw_syscalls:sys_enter", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Lines such as `82311,,syscalls:sys_enter_recvfrom,…`.
fn perf_report(text: &str) -> Counts {
    let counts = text.lines().filter_map(|line| {
        let mut fields = line.split(',');
        let count = fields.next()?.parse().ok()?;
        let event = fields.nth(1)?;
        let name = match event.strip_prefix("syscalls:sys_enter_") {
            Some(name) => name,
            None if event == "raw_syscalls:sys_enter" => "all",
            None => return None,
        };
        Some((name.to_owned(), count))
    });
    Counts(counts.filter(|(_, count)| *count > 0).collect())
}

/// Lines such as ` 45.10    0.312345           4     78000       120 recvfrom`, and the same for `total`.
fn strace_report(text: &str) -> Counts {
    let counts = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let count = fields.get(3)?.parse().ok()?;
        let name = match *fields.last()? {
            "total" => "all",
            name => name,
        };
        Some((name.to_owned(), count))
    });
    Counts(counts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_both_tools_give_calls_by_name() {
        let perf = perf_report(
            "# started\n\n200,,raw_syscalls:sys_enter,99,100.00,,\n90,,syscalls:sys_enter_sendto,1,100.00,,\n0,,syscalls:sys_enter_read,1,100.00,,\n",
        );
        assert_eq!(perf.0, [("all".to_owned(), 200), ("sendto".to_owned(), 90)]);
        let strace = strace_report(
            "% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n 60.00    0.100000           2       400        20 recvfrom\n100.00    0.200000           2       900        20 total\n",
        );
        assert_eq!(strace.0, [("recvfrom".to_owned(), 400), ("all".to_owned(), 900)]);
        assert_eq!(strace.all(), Some(900));
    }
}
