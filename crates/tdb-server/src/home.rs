//! Shows that the last process with the same configuration file is dead, so that what it held in the metadata store need not
//! expire first. Each process holds a lock on its configuration file until it ends in any way; a second process with the
//! same file runs without. If in doubt, nothing is concluded.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

/// Differs between kernels, also between boots of one machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The lock on a configuration file.
#[derive(Debug)]
pub(crate) struct Home {
    name: String,
    /// The kernel releases it when the process ends.
    _lock: Flock<File>,
}

impl Home {
    /// Locks the file. `None` if another process holds it, or if the file cannot be locked.
    pub(crate) fn take(file: &Path) -> Option<Self> {
        let boot = fs::read_to_string(BOOT_ID).ok()?;
        let lock = Flock::lock(File::open(file).ok()?, FlockArg::LockExclusiveNonblock).ok()?;
        // The number of an open file is not given to another one, so all holders of this name locked the same file.
        let facts = lock.metadata().ok()?;
        Some(Self {
            name: format!("file:{}:{}:{}", boot.trim(), facts.dev(), facts.ino()),
            _lock: lock,
        })
    }

    /// The name under which the store knows the holder. Different kernels never use the same one.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_once_under_the_same_name_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = Home::take(file.path()).unwrap();
        assert!(Home::take(file.path()).is_none(), "it is held");
        let name = first.name().to_owned();
        drop(first);
        assert_eq!(Home::take(file.path()).unwrap().name(), name);
        assert!(Home::take(&file.path().with_extension("missing")).is_none());
    }
}
