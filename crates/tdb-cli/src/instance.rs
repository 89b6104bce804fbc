//! Which instance is asked, and with which key: flag or environment, configuration file, last running dev instance.
//! A key is only sent to the address it was found with, or was given for.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use tdb_client::http::Client;

use crate::arguments::TargetOptions;
use crate::config_file::{ConfigFile, base_directory};
use crate::errors::Advised;

/// What a dev instance is called among the processes; a process id may be used again by another program.
const PROGRAM: &str = "tenantsdb";

/// An address, the key for it, and where both were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub url: String,
    pub key: String,
    pub found: String,
}

/// A place that may know an address and a key.
#[derive(Clone, Debug, Default)]
struct Place {
    url: Option<String>,
    key: Option<String>,
    name: String,
}

/// What a dev instance writes about itself; it says more.
#[derive(Deserialize)]
struct DevFacts {
    api_url: String,
    api_key: String,
    pid: u32,
}

impl Instance {
    pub fn find(options: &TargetOptions) -> Result<Self> {
        Ok(choose(&places(options)?)?)
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url, Some(self.key.clone()))
    }
}

/// The address alone, for whoever has no key yet.
pub fn address(options: &TargetOptions) -> Result<String> {
    let url = places(options)?.into_iter().find_map(|place| place.url);
    Ok(url.ok_or_else(no_instance)?)
}

/// In the order in which they are asked.
fn places(options: &TargetOptions) -> Result<[Place; 3]> {
    let file = ConfigFile::load()?;
    let path = ConfigFile::path()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    let given = Place {
        url: options.api_url.clone().or_else(|| variable("TDB_API_URL")),
        key: options.api_key.clone().or_else(|| variable("TDB_API_KEY")),
        name: "flag or environment".to_owned(),
    };
    let configured = Place {
        url: file.api_url,
        key: file.api_key,
        name: path,
    };
    Ok([given, configured, running_dev_instance().unwrap_or_default()])
}

/// Not by clap: "tdb config set --api-url" saves what is given, not what the environment has.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The first place with an address decides; its key comes from the same place, from one before it (which was given
/// for it), or from a later one that knows the same address.
fn choose(places: &[Place]) -> Result<Instance, Advised> {
    let at = places.iter().position(|place| place.url.is_some());
    let (url, name, before, after) = at
        .and_then(|at| {
            let place = places.get(at)?;
            Some((
                place.url.clone()?,
                &place.name,
                places.get(..=at)?,
                places.get(at + 1..)?,
            ))
        })
        .ok_or_else(no_instance)?;
    let same = |place: &&Place| {
        place
            .url
            .as_ref()
            .is_some_and(|other| other.trim_end_matches('/') == url.trim_end_matches('/'))
    };
    let key = before
        .iter()
        .find_map(|place| place.key.clone())
        .or_else(|| after.iter().filter(same).find_map(|place| place.key.clone()));
    let key = key.ok_or_else(|| Advised {
        said: format!("no API key for {url} (address from {name})"),
        hint: "Give one with --api-key, TDB_API_KEY, or \"tdb config set api_key KEY\".".to_owned(),
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
        hint: "Start one with \"tenantsdb dev\", or name one with --api-url and --api-key, with TDB_API_URL and TDB_API_KEY, or with \"tdb config set\".".to_owned(),
    }
}

/// Of the dev instances that run, the one that started last. Each has an entry, named by its process id, with its directory.
fn running_dev_instance() -> Option<Place> {
    let entries = base_directory("XDG_STATE_HOME", ".local/state")?.join("tenantsdb/dev.d");
    newest(&entries).into_iter().find_map(|entry| {
        let directory = fs::read_to_string(entry).ok()?;
        dev_instance_in(Path::new(directory.trim_end()))
    })
}

fn newest(entries: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(entries).into_iter().flatten().flatten();
    let dated = found.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
    let mut dated: Vec<_> = dated.collect();
    dated.sort_by(|a, b| b.cmp(a));
    dated.into_iter().map(|(_, path)| path).collect()
}

/// None where its process has ended: a killed one leaves its facts.
fn dev_instance_in(directory: &Path) -> Option<Place> {
    let text = fs::read_to_string(directory.join("dev.json")).ok()?;
    let facts: DevFacts = serde_json::from_str(&text).ok()?;
    let program = fs::read_to_string(format!("/proc/{}/comm", facts.pid)).ok()?;
    if program.trim_end() != PROGRAM {
        return None;
    }
    Some(Place {
        url: Some(facts.api_url),
        key: Some(facts.api_key),
        name: format!("dev instance in {}", directory.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, url: Option<&str>, key: Option<&str>) -> Place {
        Place {
            url: url.map(str::to_owned),
            key: key.map(str::to_owned),
            name: name.to_owned(),
        }
    }

    #[test]
    fn the_first_place_with_an_address_wins_and_keys_do_not_travel() {
        let dev = place("dev", Some("http://dev"), Some("dev-key"));
        let nothing = place("flag", None, None);
        let chosen = |places: &[Place]| choose(places).map(|i| (i.url, i.key, i.found)).map_err(|e| e.said);
        let found = |url: &str, key: &str, name: &str| Ok((url.to_owned(), key.to_owned(), name.to_owned()));
        assert_eq!(
            chosen(&[nothing.clone(), dev.clone()]),
            found("http://dev", "dev-key", "dev")
        );
        let both = place("flag", Some("http://a"), Some("a-key"));
        assert_eq!(chosen(&[both, dev.clone()]), found("http://a", "a-key", "flag"));
        let key_only = place("flag", None, Some("mine"));
        assert_eq!(chosen(&[key_only, dev.clone()]), found("http://dev", "mine", "dev"));
        let same_address = place("flag", Some("http://dev/"), None);
        assert_eq!(
            chosen(&[same_address, dev.clone()]),
            found("http://dev/", "dev-key", "flag")
        );
        let elsewhere = place("flag", Some("http://evil"), None);
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
        // Its process id is now another program's.
        let facts = format!(
            r#"{{"api_url":"http://x","api_key":"k","proxy":{{"postgres":"h:1"}},"metrics_url":"m","server_url":"s","pid":{}}}"#,
            std::process::id()
        );
        fs::write(directory.path().join("dev.json"), facts).unwrap();
        assert!(dev_instance_in(directory.path()).is_none());
    }
}
