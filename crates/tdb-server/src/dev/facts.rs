//! `dev.json`, which has the addresses and secrets of a running instance for `tdb` and tests, and the instance's entry in
//! `$XDG_STATE_HOME/tenantsdb/dev.d`, a file that is named by the process id and contains the path of the data directory. Both
//! exist from readiness to the end of the process. After a kill, the process id shows that they are stale.

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

/// The content of `dev.json`. It contains the administrator's password and an API key, so its mode is 0600.
#[derive(Serialize)]
pub(crate) struct Facts {
    pub api_url: String,
    pub api_key: String,
    pub proxy: ProxyAddresses,
    pub metrics_url: String,
    pub server_url: String,
    pub pid: u32,
}

#[derive(Serialize)]
pub(crate) struct ProxyAddresses {
    pub postgres: String,
}

/// The line that `--json` prints. It contains no secrets, because output is often logged.
#[derive(Serialize)]
pub(crate) struct Ready<'a> {
    pub ready: bool,
    pub api_url: &'a str,
    pub proxy: &'a ProxyAddresses,
    pub metrics_url: &'a str,
    pub facts: PathBuf,
}

impl Facts {
    pub(crate) fn write(&self, directory: &Directory) -> Result<PathBuf> {
        let text = serde_json::to_string_pretty(self)?;
        directory.write_private(FILE, &format!("{text}\n"))?;
        if let Err(error) = enter(directory.path(), self.pid) {
            tracing::warn!("tdb cannot find this instance: {error:#}; set TDB_API_URL and TDB_API_KEY for it");
        }
        Ok(directory.file(FILE))
    }
}

/// Removes `dev.json` and the entry.
pub(crate) fn withdraw(directory: &Directory) {
    // Files that cannot be removed are recognised as stale by their process id.
    let _ = fs::remove_file(directory.file(FILE));
    if let Ok(entries) = entries() {
        let _ = fs::remove_file(entries.join(std::process::id().to_string()));
    }
}

/// `/var/lib/tenantsdb-dev` for root, else the user's data directory.
pub(crate) fn default_data_dir() -> Result<PathBuf> {
    if Uid::effective().is_root() {
        return Ok(PathBuf::from("/var/lib/tenantsdb-dev"));
    }
    let home = home_of("XDG_DATA_HOME", ".local/share").context("use --data-dir")?;
    Ok(home.join("tenantsdb/dev"))
}

/// The directory of the entries of this user's running instances.
fn entries() -> Result<PathBuf> {
    Ok(home_of("XDG_STATE_HOME", ".local/state")?.join("tenantsdb/dev.d"))
}

/// Adds the entry of this instance, and removes entries whose process has ended.
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
