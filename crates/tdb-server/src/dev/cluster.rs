//! Creates the database cluster with initdb. It has a temporary name until it is complete, so that an interrupted start
//! leaves no incomplete cluster under the final name.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use secrecy::{ExposeSecret, SecretString};
use tokio::process::Child;
use tokio::time::timeout;

use super::directory::Directory;
use super::postgres::ADMINISTRATOR;
use super::programs::Programs;

/// The prefix of temporary names; the process id of the creating process follows.
const UNFINISHED: &str = "postgres.new-";
const PASSWORD: &str = "initdb-password";
/// initdb takes seconds; on a slow disk, a minute.
const INIT_TIME_MAX: Duration = Duration::from_secs(300);

/// Resources that are removed at the end of an attempt, also if it fails.
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

/// Creates the cluster `name` in the directory, with the administrator's password `password`.
pub(crate) async fn make(
    directory: &Directory,
    name: &str,
    programs: &Programs,
    password: &SecretString,
) -> Result<()> {
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
        // This process handles Ctrl-C.
        .process_group(0);
    let child = command.spawn().map_err(|error| {
        let hint = reach_hint(
            programs.bin(),
            programs,
            "copy this PostgreSQL to a directory that it can access",
        );
        anyhow!("cannot run {}/initdb: {error}{hint}", programs.bin().display())
    })?;
    attempt.group = child.id();
    let output = output_within(INIT_TIME_MAX, child).await?;
    attempt.group = None;
    ensure!(
        output.status.success(),
        "initdb failed: {}{}",
        String::from_utf8_lossy(&output.stderr).trim(),
        reach_hint(directory.path(), programs, "choose a --data-dir that it can access")
    );
    fs::rename(&fresh, directory.file(name))?;
    Ok(())
}

/// The output of initdb when it has ended. On an error, the caller kills it.
async fn output_within(limit: Duration, child: Child) -> Result<Output> {
    let ended = timeout(limit, child.wait_with_output()).await;
    Ok(ended.with_context(|| format!("initdb did not end within {limit:?}"))??)
}

/// Removes incomplete clusters of earlier attempts. Errors are ignored: the initdb of a killed process may still be writing,
/// and the next start removes its cluster.
pub(crate) fn remove_unfinished(directory: &Directory) -> Result<()> {
    for entry in fs::read_dir(directory.path())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// A hint for the most frequent reason why the user postgres cannot use a directory.
fn reach_hint(path: &Path, programs: &Programs, advice: &str) -> String {
    let closed = |dir: &&Path| fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 == 0);
    match (programs.account(), path.ancestors().find(closed)) {
        (Some(_), Some(dir)) => format!("\nThe user postgres cannot access {}; {advice}.", dir.display()),
        (None, _) | (Some(_), None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_initdb_that_does_not_end_is_an_error() {
        let child = tokio::process::Command::new("sleep")
            .arg("60")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let error = output_within(Duration::from_millis(50), child).await.unwrap_err();
        assert_eq!(error.to_string(), "initdb did not end within 50ms");
    }
}
