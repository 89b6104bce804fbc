//! Finds PostgreSQL's programs, and runs them under another account if this process runs as root, because PostgreSQL refuses
//! to run as root.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid, User};
use tokio::process::Command;

const DEBIAN: &str = "/usr/lib/postgresql";
/// The oldest supported major version for workspaces and tenants.
const OLDEST: u32 = 15;

/// `postgres --version` only prints a line; a wrapper of a package manager or a network file system can be slow.
const VERSION_TIME_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// The directory of `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    bin: PathBuf,
    account: Option<Account>,
}

/// The account that PostgreSQL runs under if this process runs as root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Programs {
    /// Uses `PG_BIN_DIR` if it is set. Otherwise searches Debian's directory of the major version `major`, which is that of an
    /// existing data directory, then `PATH`, then Debian's newest version.
    pub(crate) fn find(major: Option<u32>) -> Result<Self> {
        let bin = match env::var_os("PG_BIN_DIR").map(PathBuf::from) {
            // An absolute path, because the programs run in another working directory.
            Some(dir) if is_complete(&dir) => Some(dir.canonicalize()?),
            Some(dir) => bail!(
                "PG_BIN_DIR is {}, which does not contain both initdb and postgres; correct it or unset it",
                dir.display()
            ),
            None => debian(major).or_else(on_path).or_else(|| debian(None)),
        };
        let bin = bin.context(
            "PostgreSQL's initdb and postgres are neither on PATH nor in /usr/lib/postgresql/*/bin; \
             install the Debian package postgresql, or set PG_BIN_DIR to their directory",
        )?;
        let found = version_of(&bin, VERSION_TIME_MAX)?;
        ensure!(
            found >= OLDEST,
            "the PostgreSQL in {} is version {found}, and {OLDEST} or later is needed; install the Debian package \
             postgresql, or set PG_BIN_DIR to the directory of a newer one",
            bin.display()
        );
        if let Some(major) = major.filter(|major| *major != found) {
            bail!(
                "the data was created by PostgreSQL {major}, and the PostgreSQL in {} is version {found}; install \
                 postgresql-{major}, or set PG_BIN_DIR to its directory, or start again with --reset, which removes the data",
                bin.display()
            );
        }
        Ok(Self {
            bin,
            account: account()?,
        })
    }

    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    pub(crate) fn account(&self) -> Option<Account> {
        self.account
    }

    /// Changes the owner of a file or directory to PostgreSQL's account, if that is a different one.
    pub(crate) fn give(&self, path: &Path) -> Result<()> {
        let Some(account) = self.account else {
            return Ok(());
        };
        chown(path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("cannot change the owner of {}", path.display()))
    }

    /// A command that runs under PostgreSQL's account, without the caller's locale and libpq variables.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir("/")
            .env_clear()
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "UTC");
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }
}

/// Debian's directory of a major version, or of the newest version.
fn debian(major: Option<u32>) -> Option<PathBuf> {
    let versions = fs::read_dir(DEBIAN)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut complete: Vec<u32> = versions.filter(|version| is_complete(&bin_of(*version))).collect();
    complete.sort_unstable();
    match major {
        Some(major) => complete.contains(&major).then(|| bin_of(major)),
        None => complete.pop().map(bin_of),
    }
}

fn bin_of(major: u32) -> PathBuf {
    Path::new(DEBIAN).join(major.to_string()).join("bin")
}

/// The directory of the `postgres` in PATH. Symbolic links are followed, so that `initdb` is in the same directory.
fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let candidates = env::split_paths(&path).map(|dir| dir.join("postgres"));
    let mut found = candidates.filter_map(|program| Some(program.canonicalize().ok()?.parent()?.to_owned()));
    found.find(|dir| is_complete(dir))
}

/// The major version. Fails if the program does not end within `limit`.
fn version_of(bin: &Path, limit: Duration) -> Result<u32> {
    let postgres = bin.join("postgres");
    let cannot = |why: &str| format!("cannot determine the version of {}{why}", postgres.display());
    let mut child = std::process::Command::new(&postgres)
        .arg("--version")
        // This process handles Ctrl-C.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot(""))?;
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            child.wait()?;
            bail!(cannot(&format!(": it did not end within {limit:?}")));
        }
        sleep(POLL);
    }
    let output = child.wait_with_output()?;
    // postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1), or 19devel
    let printed = String::from_utf8_lossy(&output.stdout);
    let version = printed.split_whitespace().nth(2).unwrap_or_default();
    let major: String = version.chars().take_while(char::is_ascii_digit).collect();
    major.parse().map_err(|_| {
        let why = String::from_utf8_lossy(&output.stderr);
        anyhow!(cannot(&format!(": it exited with {}; {}", output.status, why.trim())))
    })
}

fn is_complete(bin: &Path) -> bool {
    ["initdb", "postgres"]
        .iter()
        .map(OsStr::new)
        .all(|program| bin.join(program).is_file())
}

fn account() -> Result<Option<Account>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")?.context(
        "PostgreSQL refuses to run as root, and there is no user postgres to run it; create the user \
         (useradd --system postgres), or run tenantsdb as an ordinary user",
    )?;
    Ok(Some(Account {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed_and_reported() {
        let dir = tempfile::TempDir::new().unwrap();
        // Another process writes the file: while this process has it open, a program that another test starts can inherit it.
        let write = std::process::Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\nsleep 60\n' > postgres && chmod 755 postgres"])
            .current_dir(dir.path())
            .status();
        assert!(write.unwrap().success());
        let error = version_of(dir.path(), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().ends_with("it did not end within 50ms"), "{error}");
    }
}
