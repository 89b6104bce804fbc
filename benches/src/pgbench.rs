//! Runs pgbench and counts its transactions between two points in time, after logins and warm-up.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use tdb_testkit::BinDir;

/// How long a run can print nothing before it fails; pgbench reports once a second.
const SILENCE_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Simple,
    Extended,
    Prepared,
}

/// The address and the user that pgbench connects with.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    pub database: String,
}

/// The result between the first and the last report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<T> {
    pub queries: f64,
    pub elapsed: Duration,
    pub first: T,
    pub last: T,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

impl Endpoint {
    /// A PostgreSQL client program with this endpoint in its environment; without TLS, as every path is measured.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        Ok(self.command_of(BinDir::find()?.program(program)))
    }

    /// Any program, with this endpoint in its environment.
    pub(crate) fn command_of(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.user)
            .env("PGPASSWORD", &self.password)
            .env("PGDATABASE", &self.database)
            .env("PGSSLMODE", "disable")
            .env("PGGSSENCMODE", "disable");
        command
    }

    /// The database's name on its server, which can differ from the logical name.
    pub(crate) fn current_database(&self) -> Result<String> {
        let output = self
            .command("psql")?
            .args(["-XAtc", "SELECT current_database()"])
            .output()?;
        ensure!(
            output.status.success(),
            "psql failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// Creates pgbench's tables through `endpoint`.
pub(crate) fn initialize(endpoint: &Endpoint, scale: u32) -> Result<()> {
    let output = endpoint
        .command("pgbench")?
        .args(["-i", "-q", "-s", &scale.to_string()])
        .output()
        .context("run pgbench -i")?;
    ensure!(
        output.status.success(),
        "pgbench -i failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Runs select-only pgbench until each client has run `each` transactions. Returns their total number.
pub(crate) fn select_count(endpoint: &Endpoint, mode: Mode, clients: u32, each: u32) -> Result<f64> {
    let output = select_only_command(endpoint, mode, clients)?
        .args(["-t", &each.to_string()])
        .output()
        .context("run pgbench")?;
    ensure!(
        output.status.success(),
        "pgbench failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(f64::from(clients) * f64::from(each))
}

/// Runs select-only pgbench for `seconds` after one second of warm-up. `sample` is called at both ends of the window.
pub(crate) fn select_only<T>(
    endpoint: &Endpoint,
    mode: Mode,
    clients: u32,
    seconds: u32,
    mut sample: impl FnMut() -> Result<T>,
) -> Result<Window<T>> {
    let mut child = select_only_command(endpoint, mode, clients)?
        .args(["-P", "1", "--progress-timestamp", "-T", "3600"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start pgbench")?;
    let window = watch(&mut child, seconds, &mut sample);
    // The reports contain everything that is needed; pgbench's summary is not read.
    let _ = child.kill();
    let _ = child.wait();
    window
}

fn select_only_command(endpoint: &Endpoint, mode: Mode, clients: u32) -> Result<Command> {
    let mut command = endpoint.command("pgbench")?;
    command
        .args(["-n", "-S", "-M", mode.name()])
        .args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string()]);
    Ok(command)
}

fn watch<T>(child: &mut Child, seconds: u32, sample: &mut impl FnMut() -> Result<T>) -> Result<Window<T>> {
    let reports = BufReader::new(child.stderr.take().context("read pgbench's reports")?);
    let mut first: Option<(f64, T)> = None;
    let (mut queries, mut count, mut before) = (0.0, 0, 0.0);
    let mut heard = Instant::now();
    let mut said = String::new();
    for line in reports.lines() {
        let line = line?;
        ensure!(
            heard.elapsed() < SILENCE_MAX,
            "pgbench was silent for {:?}",
            heard.elapsed()
        );
        heard = Instant::now();
        let Some((at, rate)) = report(&line) else {
            said.push_str(&line);
            said.push('\n');
            continue;
        };
        let Some((start, _)) = first else {
            first = Some((at, sample()?));
            before = at;
            continue;
        };
        queries += rate * (at - before);
        (before, count) = (at, count + 1);
        if count == seconds {
            let (_, first) = first.context("no first report")?;
            return Ok(Window {
                queries,
                elapsed: Duration::from_secs_f64(at - start),
                first,
                last: sample()?,
            });
        }
    }
    bail!("pgbench ended early: {said}")
}

/// `progress: 1700000000.123 s, 15000.0 tps, lat …` → (seconds, transactions per second).
fn report(line: &str) -> Option<(f64, f64)> {
    let (at, rest) = line.strip_prefix("progress: ")?.split_once(" s, ")?;
    let (rate, _) = rest.split_once(" tps")?;
    Some((at.parse().ok()?, rate.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines_give_time_and_rate_and_other_lines_nothing() {
        let line = "progress: 1700000000.125 s, 15012.9 tps, lat 0.532 ms stddev 0.101, 0 failed";
        assert_eq!(report(line), Some((1_700_000_000.125, 15_012.9)));
        assert_eq!(report("pgbench (15.14 (Debian 15.14-0+deb12u1))"), None);
    }
}
