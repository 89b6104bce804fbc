//! PostgreSQL's programs and the two binaries as child processes, each with a time limit.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tdb_testkit::BinDir;

use crate::wait::eventually;

/// The time limit for a program, unless a test sets another.
const RUN_TIME_MAX: Duration = Duration::from_secs(180);
/// The time limit for a child that was asked to end, or has finished its work.
const END_TIME_MAX: Duration = Duration::from_secs(60);

/// The exit status and the output of a program.
#[derive(Clone, Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    line: String,
}

impl Ran {
    /// Panics unless the program succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}{}", self.line, self.stdout, self.stderr);
        self
    }

    /// Panics unless the program failed and wrote `text` to standard error.
    #[track_caller]
    pub fn fails_saying(self, text: &str) -> Self {
        assert_ne!(self.code, 0, "{} should have failed:\n{}", self.line, self.stdout);
        let said = self.stderr.contains(text);
        assert!(said, "{} should have said {text:?}:\n{}", self.line, self.stderr);
        self
    }

    /// Standard output without surrounding line breaks.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

/// Runs a program with `input` as standard input. Kills it and panics after the time limit.
#[track_caller]
pub fn run(mut command: Command, input: &str) -> Ran {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("start {line}: {e}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    // A child that does not read its input must not block the test; the pipe breaks when the child ends.
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let deadline = Instant::now() + RUN_TIME_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{line} did not end within {RUN_TIME_MAX:?}");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let _ = writer.join();
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: stdout.join().expect("read output"),
        stderr: stderr.join().expect("read output"),
        line,
    }
}

/// A child that runs beside the test. It is killed when the value is dropped.
pub struct Background {
    child: Child,
}

impl Background {
    pub fn start(mut command: Command) -> Self {
        let child = command.spawn();
        Self {
            child: child.unwrap_or_else(|e| panic!("start {command:?}: {e}")),
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signal a child");
    }

    pub fn close_input(&mut self) {
        self.child.stdin.take();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("look at a child").is_some()
    }

    /// Waits for the child to end, and returns its exit status.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        eventually(END_TIME_MAX, "a child ends", || {
            self.child.try_wait().expect("look at a child")
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A program of the installed PostgreSQL.
pub fn pg_program(name: &str) -> PathBuf {
    BinDir::find().expect("an installed PostgreSQL").program(name)
}

/// Whether a process ignores a signal: proc(5), `SigIgn`.
pub fn ignores(process: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(mask.expect("SigIgn").trim(), 16).expect("a mask");
    mask & (1 << (signal as u64 - 1)) != 0
}

/// A command without the environment variables that refer to servers, instances and terminals.
pub fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let diverts = ["PG", "TDB_API_", "XDG_", "CLICOLOR"]
            .iter()
            .any(|start| text.starts_with(start));
        let paints = ["NO_COLOR", "CI", "COLUMNS", "LINES"].contains(&text.as_ref());
        if (diverts || paints) && text != "PG_BIN_DIR" {
            command.env_remove(&name);
        }
    }
    command
        .env("PGCONNECT_TIMEOUT", "30")
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C.UTF-8");
    command
}

/// Runs SQL through psql's standard input: each statement is a separate message; stops at the first error.
#[track_caller]
pub fn psql(url: &str, sql: &str) -> Ran {
    let mut command = clean(pg_program("psql"));
    command.args([
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=verbose",
        "-d",
        url,
    ]);
    run(command, sql)
}

/// `psql URL -f FILE`.
#[track_caller]
pub fn psql_file(url: &str, file: &Path) -> Ran {
    let mut command = clean(pg_program("psql"));
    command
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-f"])
        .arg(file);
    run(command, "")
}

#[track_caller]
pub fn pg_dump(url: &str, arguments: &[&str]) -> Ran {
    let mut command = clean(pg_program("pg_dump"));
    command.args(arguments).args(["-d", url]);
    run(command, "")
}

/// Restores into a database that has tables, as docs/connecting.md describes it, without the entries of `file` that contain
/// one of `left_out`. The list of entries is written to a file beside it.
#[track_caller]
pub fn pg_restore_over(url: &str, file: &str, left_out: &[&str]) -> Ran {
    let mut command = clean(pg_program("pg_restore"));
    command.args(["--list", file]);
    let entries = run(command, "").ok().stdout;
    let stays = |line: &&str| !left_out.iter().any(|text| line.contains(text));
    let kept: Vec<&str> = entries.lines().filter(stays).collect();
    let list = format!("{file}.entries");
    fs::write(&list, kept.join("\n")).expect("write the list");
    let mut command = clean(pg_program("pg_restore"));
    command.args(["--clean", "--single-transaction", "--use-list", &list, "-d", url, file]);
    run(command, "")
}

#[track_caller]
pub fn pgbench(url: &str, arguments: &[&str]) -> Ran {
    let mut command = clean(pg_program("pgbench"));
    command.args(arguments).arg(url);
    run(command, "")
}

/// The schema as written by `pg_dump`, with the owner's name replaced and without parts that differ from run to run. Empty,
/// with a message, if the installed pg_dump is older than the server.
#[track_caller]
pub fn schema_dump(url: &str, owner: &str) -> String {
    let ran = pg_dump(url, &["--schema-only"]);
    if ran.stderr.contains("server version mismatch") {
        eprintln!("no comparison of dumps: {}", ran.stderr.trim());
        return String::new();
    }
    let dump = ran.ok().stdout;
    let kept = dump.lines().filter(|line| {
        let random = line.starts_with("\\restrict") || line.starts_with("\\unrestrict");
        !random && !line.starts_with("--") && !line.trim().is_empty()
    });
    kept.map(|line| line.replace(owner, "OWNER") + "\n").collect()
}
