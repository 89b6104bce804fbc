//! A new database cluster, made by initdb under another name first: a start that ends in the middle leaves nothing that
//! looks complete.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use secrecy::{ExposeSecret, SecretString};

use super::directory::Directory;
use super::postgres::ADMINISTRATOR;
use super::programs::Programs;

/// Before the process that makes it.
const UNFINISHED: &str = "postgres.new-";
const PASSWORD: &str = "initdb-password";

/// What ends with the attempt, however it ends.
struct Attempt {
    /// The group of initdb and of the servers it starts.
    group: Option<u32>,
    password: PathBuf,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = killpg(Pid::from_raw(group.cast_signed()), Signal::SIGKILL);
        }
        let _ = fs::remove_file(&self.password);
    }
}

/// Makes the cluster `name` of the directory, with `password` as its administrator's.
pub async fn make(directory: &Directory, name: &str, programs: &Programs, password: &SecretString) -> Result<()> {
    let fresh = directory.file(&format!("{UNFINISHED}{}", std::process::id()));
    let mut attempt = Attempt {
        group: None,
        password: directory.file(PASSWORD),
    };
    DirBuilder::new().mode(0o700).create(&fresh)?;
    programs.give(&fresh)?;
    directory.write_private(PASSWORD, password.expose_secret())?;
    programs.give(&attempt.password)?;
    let mut command = programs.command("initdb");
    let settings = [
        "-A",
        "scram-sha-256",
        "-U",
        ADMINISTRATOR,
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
    ];
    command
        .args(settings)
        .arg("-D")
        .arg(&fresh)
        .arg(format!("--pwfile={}", attempt.password.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C is ours to answer.
        .process_group(0);
    let child = command.spawn().map_err(|error| {
        let hint = reach_hint(programs.bin(), programs, "copy this PostgreSQL to where it can");
        anyhow!("cannot run {}/initdb: {error}{hint}", programs.bin().display())
    })?;
    attempt.group = child.id();
    let output = child.wait_with_output().await?;
    attempt.group = None;
    ensure!(
        output.status.success(),
        "initdb failed: {}{}",
        String::from_utf8_lossy(&output.stderr).trim(),
        reach_hint(directory.path(), programs, "give a --data-dir that it can reach")
    );
    fs::rename(&fresh, directory.file(name))?;
    Ok(())
}

/// Removes what earlier attempts left. The initdb of a process that was killed may still write into its own: that one is
/// left to the next start.
pub fn remove_unfinished(directory: &Directory) -> Result<()> {
    for entry in fs::read_dir(directory.path())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// The most frequent reason why another account cannot use a directory.
fn reach_hint(path: &Path, programs: &Programs, advice: &str) -> String {
    let closed = |dir: &&Path| fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 == 0);
    match (programs.account(), path.ancestors().find(closed)) {
        (Some(_), Some(dir)) => format!("\nThe user postgres cannot pass through {}; {advice}.", dir.display()),
        (None, _) | (Some(_), None) => String::new(),
    }
}
