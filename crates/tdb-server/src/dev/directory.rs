//! The data directory of a development instance, and the secrets in it. Only one process can use it at a time. Files with
//! secrets are created with mode 0600; they never have another mode.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use secrecy::{ExposeSecret, SecretString};

/// The lock file. It also marks a directory as that of an instance, so that `--reset` never empties another directory.
const LOCK: &str = "tenantsdb.lock";

/// A directory that only this process uses.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// The kernel releases it when the process ends in any way.
    _lock: Flock<File>,
}

impl Directory {
    /// Locks the directory and creates it if it is missing. Fails if another process uses it.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        make(path).with_context(|| format!("cannot create the directory {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot open {}", path.display()))?;
        let file = path.join(LOCK);
        ensure!(
            file.exists() || is_empty(&path)?,
            "{} is neither empty nor the directory of a development instance; choose another --data-dir",
            path.display()
        );
        Ok(Self {
            _lock: lock(&file, &path)?,
            path,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes all files and directories in it except the lock file.
    pub(crate) fn reset(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let path = entry.path();
            let removed = match (entry.file_name() == LOCK, entry.file_type()?.is_dir()) {
                (true, _) => Ok(()),
                (false, true) => fs::remove_dir_all(&path),
                (false, false) => fs::remove_file(&path),
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// The secret in the file `name`. If there is none, `make` generates it and it is saved.
    pub(crate) fn secret<E>(&self, name: &str, make: impl FnOnce() -> Result<SecretString, E>) -> Result<SecretString>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned().into()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let secret = make()?;
                self.write_private(name, secret.expose_secret())?;
                Ok(secret)
            }
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes a file with mode 0600, completely or not at all.
    pub(crate) fn write_private(&self, name: &str, text: &str) -> Result<()> {
        write_atomically(&self.file(name), text, 0o600)
    }

    /// Like [`Self::write_private`], with mode 0644.
    pub(crate) fn write_public(&self, name: &str, text: &str) -> Result<()> {
        write_atomically(&self.file(name), text, 0o644)
    }
}

/// Writes another file and renames it, so that readers see either the old or the new text. The file has mode 0600 until it is
/// complete, then `mode`.
pub(crate) fn write_atomically(path: &Path, text: &str, mode: u32) -> Result<()> {
    let fresh = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Creates the directory and its missing parents with mode 0711, independently of the umask: the account that runs PostgreSQL
/// must be able to traverse them, and other users must not list them. Existing directories are not changed.
fn make(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
        && !parent.is_dir()
    {
        make(parent)?;
    }
    match DirBuilder::new().mode(0o711).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o711)),
        Err(_) if path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

fn is_empty(path: &Path) -> Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none())
}

fn lock(file: &Path, directory: &Path) -> Result<Flock<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(file);
    let opened = opened.with_context(|| format!("cannot open {}", file.display()))?;
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            held.set_len(0)?;
            held.rewind()?;
            writeln!(held, "{}", std::process::id())?;
            Ok(held)
        }
        Err((mut taken, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = taken.read_to_string(&mut pid);
            bail!(
                "another tenantsdb (process {}) uses {}; stop it or choose another --data-dir",
                pid.trim(),
                directory.display()
            )
        }
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_once_and_free_again_afterwards() {
        let parent = tempfile::TempDir::new().unwrap();
        let path = parent.path().join("dev");
        let held = Directory::take(&path).unwrap();
        let refused = Directory::take(&path).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        drop(held);
        Directory::take(&path).unwrap();
    }

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let parent = tempfile::TempDir::new().unwrap();
        fs::write(parent.path().join("thesis.txt"), "years of work").unwrap();
        assert!(Directory::take(parent.path()).is_err());
    }

    #[test]
    fn secrets_are_kept_private_and_made_once() {
        let parent = tempfile::TempDir::new().unwrap();
        let directory = Directory::take(&parent.path().join("dev")).unwrap();
        let first = directory.secret("key", tdb_auth::MasterKey::generate).unwrap();
        let again = directory.secret("key", tdb_auth::MasterKey::generate).unwrap();
        assert_eq!(first.expose_secret(), again.expose_secret());
        let mode = fs::metadata(directory.file("key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        directory.reset().unwrap();
        assert!(!directory.file("key").exists());
    }
}
