//! `dev.json`, from which `tdb` and tests learn where a running instance is, and the note that says which directory the
//! last one used. The file is there from readiness to the end of the process; after a kill its pid tells that it is stale.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::Uid;
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
        if let Err(error) = note(directory.path()) {
            tracing::warn!(
                "tdb cannot find this instance by itself: {error:#}; set TDB_API_URL and TDB_API_KEY for it"
            );
        }
        Ok(directory.file(FILE))
    }
}

/// Nothing runs here any more.
pub fn withdraw(directory: &Directory) {
    // A failure leaves a file whose pid tells the same.
    let _ = fs::remove_file(directory.file(FILE));
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

/// Says where `tdb` finds the last instance.
fn note(directory: &Path) -> Result<()> {
    let state = home_of("XDG_STATE_HOME", ".local/state")?.join("tenantsdb");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&state);
    made.with_context(|| format!("cannot make the directory {}", state.display()))?;
    write_atomically(&state.join("dev"), &format!("{}\n", directory.display()), 0o600)
}

fn home_of(variable: &str, below_home: &str) -> Result<PathBuf> {
    let set = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(below_home));
    set.or_else(home)
        .with_context(|| format!("neither {variable} nor HOME is set"))
}
