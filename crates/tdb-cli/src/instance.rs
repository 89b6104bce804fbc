//! Chooses the instance and the API key: from flags or the environment, the configuration file, or a running dev instance.
//! A key is sent only to the address from the same source, or to one that the user explicitly combined it with.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use tdb_client::http::Client;

use crate::arguments::TargetOptions;
use crate::config_file::{ConfigFile, base_directory};
use crate::errors::Advised;

/// The process name of a dev instance. It is checked because a process id can be reused by another program.
const PROGRAM: &str = "tenantsdb";

/// An address and the key for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub url: String,
    pub key: String,
    /// The source of the address, for messages.
    pub found: String,
}

/// A source of an address and a key. Either can be missing.
#[derive(Clone, Debug, Default)]
struct Source {
    url: Option<String>,
    key: Option<String>,
    name: String,
}

/// The fields of a dev instance's `dev.json` that are used here.
#[derive(Deserialize)]
struct DevFacts {
    api_url: String,
    api_key: String,
    pid: u32,
}

impl Instance {
    pub(crate) fn find(options: &TargetOptions) -> Result<Self> {
        Ok(choose(&sources(options)?)?)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url, Some(self.key.clone()))
    }
}

/// The address alone, for requests without a key.
pub(crate) fn address(options: &TargetOptions) -> Result<String> {
    let url = sources(options)?.into_iter().find_map(|source| source.url);
    Ok(url.ok_or_else(no_instance)?)
}

/// All sources, in order of precedence.
fn sources(options: &TargetOptions) -> Result<[Source; 3]> {
    let file = ConfigFile::load()?;
    let path = ConfigFile::path()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    let given = Source {
        url: options.api_url.clone().or_else(|| variable("TDB_API_URL")),
        key: options.api_key.clone().or_else(|| variable("TDB_API_KEY")),
        name: "flag or environment".to_owned(),
    };
    let configured = Source {
        url: file.api_url,
        key: file.api_key,
        name: path,
    };
    Ok([given, configured, running_dev_instance().unwrap_or_default()])
}

/// Clap does not read these variables, because "tdb config set --api-url" must save only values from the command line.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The first source with an address decides. Its key comes from the same source, from an earlier one (which has a key
/// without an address, meant for this one), or from a later one with the same address.
fn choose(sources: &[Source]) -> Result<Instance, Advised> {
    let at = sources.iter().position(|source| source.url.is_some());
    let (url, name, before, after) = at
        .and_then(|at| {
            let source = sources.get(at)?;
            Some((
                source.url.clone()?,
                &source.name,
                sources.get(..=at)?,
                sources.get(at + 1..)?,
            ))
        })
        .ok_or_else(no_instance)?;
    let same = |source: &&Source| {
        source
            .url
            .as_ref()
            .is_some_and(|other| other.trim_end_matches('/') == url.trim_end_matches('/'))
    };
    let key = before
        .iter()
        .find_map(|source| source.key.clone())
        .or_else(|| after.iter().filter(same).find_map(|source| source.key.clone()));
    let key = key.ok_or_else(|| Advised {
        said: format!("no API key for {url} (address from {name})"),
        hint: "Set one with --api-key, TDB_API_KEY, or \"tdb config set api_key KEY\".".to_owned(),
    })?;
    Ok(Instance {
        url,
        key,
        found: name.clone(),
    })
}

fn no_instance() -> Advised {
    Advised {
        said: "no TenantsDB instance found".to_owned(),
        hint: "Start one with \"tenantsdb dev\", or set its address and key with --api-url and --api-key, with TDB_API_URL and TDB_API_KEY, or with \"tdb config set\".".to_owned(),
    }
}

/// The running dev instance that was started last. Each instance has a file, named by its process id, that contains the path
/// of its data directory.
fn running_dev_instance() -> Option<Source> {
    let entries = base_directory("XDG_STATE_HOME", ".local/state")?.join("tenantsdb/dev.d");
    newest(&entries).into_iter().find_map(|entry| {
        let directory = fs::read_to_string(entry).ok()?;
        dev_instance_in(Path::new(directory.trim_end()))
    })
}

fn newest(entries: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(entries).into_iter().flatten().flatten();
    let dated = files.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
    let mut dated: Vec<_> = dated.collect();
    dated.sort_by(|a, b| b.cmp(a));
    dated.into_iter().map(|(_, path)| path).collect()
}

/// `None` if the instance's process has ended. An instance that was killed leaves its `dev.json`.
fn dev_instance_in(directory: &Path) -> Option<Source> {
    let text = fs::read_to_string(directory.join("dev.json")).ok()?;
    let facts: DevFacts = serde_json::from_str(&text).ok()?;
    let program = fs::read_to_string(format!("/proc/{}/comm", facts.pid)).ok()?;
    if program.trim_end() != PROGRAM {
        return None;
    }
    Some(Source {
        url: Some(facts.api_url),
        key: Some(facts.api_key),
        name: format!("dev instance in {}", directory.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, url: Option<&str>, key: Option<&str>) -> Source {
        Source {
            url: url.map(str::to_owned),
            key: key.map(str::to_owned),
            name: name.to_owned(),
        }
    }

    #[test]
    fn the_first_source_with_an_address_wins_and_keys_are_not_sent_elsewhere() {
        let dev = source("dev", Some("http://dev"), Some("dev-key"));
        let nothing = source("flag", None, None);
        let chosen = |sources: &[Source]| choose(sources).map(|i| (i.url, i.key, i.found)).map_err(|e| e.said);
        let found = |url: &str, key: &str, name: &str| Ok((url.to_owned(), key.to_owned(), name.to_owned()));
        assert_eq!(
            chosen(&[nothing.clone(), dev.clone()]),
            found("http://dev", "dev-key", "dev")
        );
        let both = source("flag", Some("http://a"), Some("a-key"));
        assert_eq!(chosen(&[both, dev.clone()]), found("http://a", "a-key", "flag"));
        let key_only = source("flag", None, Some("mine"));
        assert_eq!(chosen(&[key_only, dev.clone()]), found("http://dev", "mine", "dev"));
        let same_address = source("flag", Some("http://dev/"), None);
        assert_eq!(
            chosen(&[same_address, dev.clone()]),
            found("http://dev/", "dev-key", "flag")
        );
        let elsewhere = source("flag", Some("http://evil"), None);
        assert!(
            chosen(&[elsewhere, dev])
                .unwrap_err()
                .contains("no API key for http://evil")
        );
        assert!(chosen(&[nothing]).unwrap_err().contains("no TenantsDB instance"));
    }

    #[test]
    fn a_dev_instance_that_ended_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        assert!(dev_instance_in(directory.path()).is_none());
        // The process id is that of another program.
        let facts = format!(
            r#"{{"api_url":"http://x","api_key":"k","proxy":{{"postgres":"h:1"}},"metrics_url":"m","server_url":"s","pid":{}}}"#,
            std::process::id()
        );
        fs::write(directory.path().join("dev.json"), facts).unwrap();
        assert!(dev_instance_in(directory.path()).is_none());
    }
}
