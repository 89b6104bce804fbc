//! tdb's configuration file, `$XDG_CONFIG_HOME/tenantsdb/config.toml`. Its mode is 0600 because it contains an API key.

use std::env;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// Whether `tdb login` created the key, so that only this file has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub api_key_of_login: bool,
}

impl ConfigFile {
    pub(crate) fn path() -> Option<PathBuf> {
        base_directory("XDG_CONFIG_HOME", ".config").map(|base| base.join("tenantsdb/config.toml"))
    }

    /// Reads the file; empty if it does not exist.
    pub(crate) fn load() -> Result<Self> {
        Self::path().map_or_else(|| Ok(Self::default()), |path| Self::load_from(&path))
    }

    fn load_from(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("cannot parse {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(crate) fn save(&self) -> Result<PathBuf> {
        let path = Self::path().context("neither XDG_CONFIG_HOME nor HOME is set")?;
        self.save_to(&path)?;
        Ok(path)
    }

    /// Writes a new file and renames it, so that a crash leaves either the old or the new content.
    fn save_to(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self)?;
        let write = || {
            if let Some(directory) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            }
            let fresh = path.with_extension(format!("{}.new", std::process::id()));
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A base directory of the XDG specification: the value of its variable if that is an absolute path, else the default below
/// HOME.
pub(crate) fn base_directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    set.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(below_home)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_readable_by_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/config.toml");
        assert_eq!(ConfigFile::load_from(&path).unwrap(), ConfigFile::default());
        for url in ["http://one", "http://two"] {
            let config = ConfigFile {
                api_url: Some(url.to_owned()),
                api_key: Some("k".to_owned()),
                api_key_of_login: true,
            };
            config.save_to(&path).unwrap();
            assert_eq!(ConfigFile::load_from(&path).unwrap(), config);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "api_ulr = 'x'").unwrap();
        assert!(format!("{:#}", ConfigFile::load_from(&path).unwrap_err()).contains("api_ulr"));
    }
}
