//! Where PostgreSQL's programs are and which account runs them: PostgreSQL refuses to run as root.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};
use nix::unistd::{Uid, User};
use tokio::process::Command;

const DEBIAN: &str = "/usr/lib/postgresql";

/// The directory of `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub struct Programs {
    bin: PathBuf,
    account: Option<Account>,
}

/// The account PostgreSQL runs under when we run as root.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Programs {
    /// Looks at `PG_BIN_DIR`, `PATH` and Debian's directories, in this order. `major` is the version of an existing data
    /// directory: among Debian's it wins over the newest.
    pub fn find(major: Option<u32>) -> Result<Self> {
        let bin = match env::var_os("PG_BIN_DIR") {
            Some(dir) => Some(PathBuf::from(dir)).filter(|dir| is_complete(dir)),
            None => debian(major).or_else(on_path).or_else(|| debian(None)),
        };
        let bin = bin.context(
            "PostgreSQL's initdb and postgres are in none of PG_BIN_DIR, PATH and /usr/lib/postgresql/*/bin; \
             install the Debian package postgresql or set PG_BIN_DIR",
        )?;
        Ok(Self {
            bin,
            account: account()?,
        })
    }

    pub fn account(&self) -> Option<Account> {
        self.account
    }

    /// A command that runs under PostgreSQL's account, untouched by the caller's locale and libpq settings.
    pub fn command(&self, program: &str) -> Command {
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

/// Debian's directory of one major version, or of the newest.
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

/// The directory behind `postgres` on the path; a link there is followed, so that its neighbours are found.
fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let candidates = env::split_paths(&path).map(|dir| dir.join("postgres"));
    let mut found = candidates.filter_map(|program| Some(program.canonicalize().ok()?.parent()?.to_owned()));
    found.find(|dir| is_complete(dir))
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
    let user = User::from_name("postgres")?
        .context("as root, PostgreSQL runs as the user postgres, who does not exist; install the package postgresql")?;
    Ok(Some(Account {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    }))
}
