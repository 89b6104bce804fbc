//! `dev.json`, from which `tdb` and tests read where a running instance is, and the instance's entry in
//! `$XDG_STATE_HOME/tenantsdb/dev.d`, a file named by the process id that holds the data directory. Both exist from readiness to
//! the end of the process; after a kill the process id tells that they are stale.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, Uid};
use serde::Serialize;

use super::directory::{Directory, write_atomically};

const FILE: &str = "dev.json";

/// What `dev.json` says; it holds the administrator's passwords of everything, hence 0600.
#[derive(Serialize)]
pub struct Facts {
    pub api_url: String,
    pub api_key: String,
    pub proxy: ProxyAddresses,
    pub metrics_url: String,
    pub server_url: String,
    pub pid: u32,
}

#[derive(Serialize)]
pub struct ProxyAddresses {
    pub postgres: String,
}

/// The readiness line of `--json`: without secrets, because output ends in logs.
#[derive(Serialize)]
pub struct Ready<'a> {
    pub ready: bool,
    pub api_url: &'a str,
    pub proxy: &'a ProxyAddresses,
    pub metrics_url: &'a str,
    pub facts: PathBuf,
}

impl Facts {
    pub fn write(&self, directory: &Directory) -> Result<PathBuf> {
        let text = serde_json::to_string_pretty(self)?;
        directory.write_private(FILE, &format!("{text}\n"))?;
        if let Err(error) = enter(directory.path(), self.pid) {
            tracing::warn!("tdb cannot find this instance: {error:#}; set TDB_API_URL and TDB_API_KEY for it");
        }
        Ok(directory.file(FILE))
    }
}

/// Nothing runs here any more.
pub fn withdraw(directory: &Directory) {
    // A failure leaves files whose pid tells the same.
    let _ = fs::remove_file(directory.file(FILE));
    if let Ok(entries) = entries() {
        let _ = fs::remove_file(entries.join(std::process::id().to_string()));
    }
}

/// `/var/lib/tenantsdb-dev` for root, else the user's data directory.
pub fn default_data_dir() -> Result<PathBuf> {
    match Uid::effective().is_root() {
        true => Ok(PathBuf::from("/var/lib/tenantsdb-dev")),
        false => {
            let home = home_of("XDG_DATA_HOME", ".local/share").context("give --data-dir")?;
            Ok(home.join("tenantsdb/dev"))
        }
    }
}

/// Where running instances of this user have their entries.
fn entries() -> Result<PathBuf> {
    Ok(home_of("XDG_STATE_HOME", ".local/state")?.join("tenantsdb/dev.d"))
}

/// Adds this instance, and removes entries whose process is gone.
fn enter(directory: &Path, pid: u32) -> Result<()> {
    let entries = entries()?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&entries);
    made.with_context(|| format!("cannot create the directory {}", entries.display()))?;
    for entry in fs::read_dir(&entries)?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    write_atomically(
        &entries.join(pid.to_string()),
        &format!("{}\n", directory.display()),
        0o600,
    )
}

fn home_of(variable: &str, below_home: &str) -> Result<PathBuf> {
    let set = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(below_home));
    set.or_else(home)
        .with_context(|| format!("neither {variable} nor HOME is set"))
}
