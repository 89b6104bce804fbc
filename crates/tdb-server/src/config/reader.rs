//! Reads a parsed TOML document key by key and collects every problem with its path, so that one start shows all of
//! them. A key nobody asked for is a problem of its own: a misspelt option must not be ignored.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// What is wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// Where values outside the document come from: environment variables and files.
pub struct Outside<'a> {
    /// Relative paths in the document start here.
    pub directory: &'a Path,
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// One table of the document. [`Section::close`] reports what was not asked for.
pub struct Section<'a> {
    path: String,
    values: Table,
    outside: &'a Outside<'a>,
}

/// A secret is named, never written into the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretReference {
    env: Option<String>,
    file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Human(#[serde(with = "humantime_serde")] Duration);

impl<'a> Section<'a> {
    pub fn root(values: Table, outside: &'a Outside<'a>) -> Self {
        Self {
            path: String::new(),
            values,
            outside,
        }
    }

    /// The value of `key`, `default` where it is absent or wrong.
    pub fn value<T: DeserializeOwned>(&mut self, key: &str, default: T, problems: &mut Vec<Problem>) -> T {
        self.optional(key, problems).unwrap_or(default)
    }

    /// The value of `key`; `None` where it is absent or wrong.
    pub fn optional<T: DeserializeOwned>(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<T> {
        let value = self.values.remove(key)?;
        let read = value.try_into::<T>();
        read.map_err(|e| problems.push(self.problem(key, e.message()))).ok()
    }

    /// The value of `key`, which has no default.
    pub fn required<T: DeserializeOwned>(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<T> {
        if !self.values.contains_key(key) {
            problems.push(self.problem(key, "is missing"));
        }
        self.optional(key, problems)
    }

    /// A positive duration such as `"30s"` or `"2m 30s"`.
    pub fn duration(&mut self, key: &str, default: Duration, problems: &mut Vec<Problem>) -> Duration {
        match self.optional::<Human>(key, problems) {
            Some(Human(Duration::ZERO)) => {
                problems.push(self.problem(key, "must be longer than zero"));
                default
            }
            Some(Human(duration)) => duration,
            None => default,
        }
    }

    /// A file's path, relative to the document's directory.
    pub fn file(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<PathBuf> {
        let path: PathBuf = self.optional(key, problems)?;
        Some(self.outside.directory.join(path))
    }

    /// A secret by `{ env = "NAME" }` or `{ file = "path" }`; `None` where it is absent or wrong.
    pub fn secret(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<SecretString> {
        let value = self.values.remove(key)?;
        let resolved = match value {
            Value::String(_) => {
                Err("is a secret; name where it is: { env = \"NAME\" } or { file = \"path\" }".to_owned())
            }
            other => other
                .try_into::<SecretReference>()
                .map_err(|e| e.message().to_owned())
                .and_then(|reference| self.resolve(reference)),
        };
        resolved
            .map_err(|message| problems.push(self.problem(key, &message)))
            .ok()
    }

    pub fn required_secret(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<SecretString> {
        if !self.values.contains_key(key) {
            problems.push(self.problem(key, "is missing"));
        }
        self.secret(key, problems)
    }

    /// The table `[key]`, empty where it is absent.
    pub fn section(&mut self, key: &str, problems: &mut Vec<Problem>) -> Section<'a> {
        let values = self.value(key, Table::new(), problems);
        Section {
            path: self.path_of(key),
            values,
            outside: self.outside,
        }
    }

    /// The tables `[[key]]`.
    pub fn sections(&mut self, key: &str, problems: &mut Vec<Problem>) -> Vec<Section<'a>> {
        let tables: Vec<Table> = self.value(key, Vec::new(), problems);
        let path = self.path_of(key);
        let numbered = tables.into_iter().enumerate();
        numbered
            .map(|(at, values)| Section {
                path: format!("{path}[{at}]"),
                values,
                outside: self.outside,
            })
            .collect()
    }

    /// Reports the keys nobody asked for.
    pub fn close(self, problems: &mut Vec<Problem>) {
        for key in self.values.keys() {
            problems.push(self.problem(key, "is not an option"));
        }
    }

    pub fn problem(&self, key: &str, message: &str) -> Problem {
        Problem {
            path: self.path_of(key),
            message: message.to_owned(),
        }
    }

    fn path_of(&self, key: &str) -> String {
        match self.path.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.path),
        }
    }

    fn resolve(&self, reference: SecretReference) -> Result<SecretString, String> {
        let text = match (reference.env, reference.file) {
            (Some(name), None) => {
                (self.outside.environment)(&name).ok_or_else(|| format!("the environment has no {name}"))?
            }
            (None, Some(file)) => {
                let path = self.outside.directory.join(file);
                std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?
            }
            (None, None) | (Some(_), Some(_)) => return Err("needs either env or file".to_owned()),
        };
        match text.trim() {
            "" => Err("is empty".to_owned()),
            text => Ok(text.to_owned().into()),
        }
    }
}
