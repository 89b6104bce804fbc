//! Reads a parsed TOML document key by key and collects all errors with their paths, so that they are shown together. A key
//! that is not an option is an error, because a misspelled option must not be ignored.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::expected::{OptionValue, read};

/// An error in the value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub path: String,
    pub message: String,
}

impl Problem {
    /// The error of a document that is not TOML, with its place.
    pub(super) fn of_syntax(error: &toml::de::Error) -> Self {
        let (text, reason) = (error.to_string(), error.message());
        // The parser names a type of Rust.
        let message = if reason.contains(" as i128") {
            text.replace(reason, "the number is out of range")
        } else {
            text
        };
        Self {
            path: String::new(),
            message,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// The sources of values outside the document: environment variables and files.
pub(crate) struct Outside<'a> {
    /// Relative paths in the document start here.
    pub directory: &'a Path,
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// The keys that were read so far, in order: the options that the document can contain.
    pub asked: RefCell<Vec<Asked>>,
}

/// A key that was read.
pub(crate) struct Asked {
    pub section: String,
    pub key: String,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "docs/configuration.md is written from it, by a test")
    )]
    pub kind: Kind,
}

#[cfg_attr(not(test), expect(dead_code, reason = "as above"))]
pub(crate) enum Kind {
    Default(Value),
    Optional,
    Required,
    Section,
}

/// A table of the document. [`Section::close`] reports the keys that were not read.
pub(crate) struct Section<'a> {
    path: String,
    values: Table,
    outside: &'a Outside<'a>,
}

/// What the value of a secret's key must be.
const SECRET_EXPECTED: &str = "{ env = \"NAME\" } or { file = \"path\" }";

/// A reference to a secret, which is never written into the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretReference {
    env: Option<String>,
    file: Option<PathBuf>,
}

#[derive(Deserialize, Serialize)]
#[serde(transparent)]
struct Human(#[serde(with = "humantime_serde")] Duration);

impl<'a> Outside<'a> {
    pub(crate) fn new(directory: &'a Path, environment: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            directory,
            environment,
            asked: RefCell::default(),
        }
    }
}

impl OptionValue for Human {
    const EXPECTED: &'static str = "a duration in quotes, such as \"30s\" or \"2m 30s\"";
}

fn with_default(default: &impl Serialize) -> Kind {
    Value::try_from(default).map_or(Kind::Optional, Kind::Default)
}

impl<'a> Section<'a> {
    pub(crate) fn root(values: Table, outside: &'a Outside<'a>) -> Self {
        Self {
            path: String::new(),
            values,
            outside,
        }
    }

    /// The value of `key`; `default` if it is missing or invalid.
    pub(crate) fn value<T>(&mut self, key: &str, default: T, problems: &mut Vec<Problem>) -> T
    where
        T: OptionValue + Serialize,
    {
        self.note(key, with_default(&default));
        self.take(key, problems).unwrap_or(default)
    }

    /// The value of `key`; `None` if it is missing or invalid.
    pub(crate) fn optional<T: OptionValue>(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<T> {
        self.note(key, Kind::Optional);
        self.take(key, problems)
    }

    /// The value of `key`, which has no default; a missing key is an error.
    pub(crate) fn required<T: OptionValue>(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<T> {
        self.demand(key, problems);
        self.take(key, problems)
    }

    /// Like [`Self::required`], for text that must not be empty.
    pub(crate) fn required_text(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<String> {
        let text: String = self.required(key, problems)?;
        if text.trim().is_empty() {
            problems.push(self.problem(key, "is empty"));
        }
        Some(text)
    }

    /// A positive duration such as `"30s"` or `"2m 30s"`.
    pub(crate) fn duration(&mut self, key: &str, default: Duration, problems: &mut Vec<Problem>) -> Duration {
        self.note(key, with_default(&Human(default)));
        match self.take::<Human>(key, problems) {
            Some(Human(Duration::ZERO)) => {
                problems.push(self.problem(key, "must be longer than zero"));
                default
            }
            Some(Human(duration)) => duration,
            None => default,
        }
    }

    /// The path of a file that can be read, relative to the document's directory.
    pub(crate) fn file(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<PathBuf> {
        let path: PathBuf = self.optional(key, problems)?;
        let path = self.outside.directory.join(path);
        if let Err(error) = File::open(&path) {
            problems.push(self.problem(key, &format!("cannot read {}: {error}", path.display())));
        }
        Some(path)
    }

    /// A secret given as `{ env = "NAME" }` or `{ file = "path" }`; `None` if it is missing or invalid.
    pub(crate) fn secret(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<SecretString> {
        self.note(key, Kind::Optional);
        self.take_secret(key, problems)
    }

    /// Like [`Self::secret`], but a missing key is an error.
    pub(crate) fn required_secret(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<SecretString> {
        self.demand(key, problems);
        self.take_secret(key, problems)
    }

    fn take_secret(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<SecretString> {
        let value = self.values.remove(key)?;
        // The value may be a secret and is not repeated.
        let resolved = match value {
            Value::Table(_) => value
                .try_into::<SecretReference>()
                .map_err(|_| format!("must be {SECRET_EXPECTED}"))
                .and_then(|reference| self.resolve(reference)),
            _ => Err(format!("is a secret; use {SECRET_EXPECTED}")),
        };
        resolved
            .map_err(|message| problems.push(self.problem(key, &message)))
            .ok()
    }

    /// The table `[key]`; empty if it is missing.
    pub(crate) fn section(&mut self, key: &str, problems: &mut Vec<Problem>) -> Section<'a> {
        self.note(key, Kind::Section);
        let values = self.take(key, problems).unwrap_or_default();
        Section {
            path: self.path_of(key),
            values,
            outside: self.outside,
        }
    }

    /// The tables `[[key]]`.
    pub(crate) fn sections(&mut self, key: &str, problems: &mut Vec<Problem>) -> Vec<Section<'a>> {
        self.note(key, Kind::Section);
        let tables: Vec<Table> = self.take(key, problems).unwrap_or_default();
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

    /// Reports the keys that were not read.
    pub(crate) fn close(self, problems: &mut Vec<Problem>) {
        let asked = self.outside.asked.borrow();
        let here = asked.iter().filter(|asked| asked.section == self.path);
        let here: Vec<_> = here.map(|asked| asked.key.as_str()).collect();
        let message = format!("is not an option; valid here are {}", here.join(", "));
        problems.extend(self.values.keys().map(|key| self.problem(key, &message)));
    }

    pub(crate) fn problem(&self, key: &str, message: &str) -> Problem {
        Problem {
            path: self.path_of(key),
            message: message.to_owned(),
        }
    }

    fn take<T: OptionValue>(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<T> {
        let value = self.values.remove(key)?;
        let read = read(value);
        read.map_err(|message| problems.push(self.problem(key, &message))).ok()
    }

    fn demand(&self, key: &str, problems: &mut Vec<Problem>) {
        self.note(key, Kind::Required);
        if !self.values.contains_key(key) {
            problems.push(self.problem(key, "is missing"));
        }
    }

    fn note(&self, key: &str, kind: Kind) {
        self.outside.asked.borrow_mut().push(Asked {
            section: self.path.clone(),
            key: key.to_owned(),
            kind,
        });
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn resolve(&self, reference: SecretReference) -> Result<SecretString, String> {
        let text = match (reference.env, reference.file) {
            (Some(name), None) => {
                (self.outside.environment)(&name).ok_or_else(|| format!("environment variable {name} is not set"))?
            }
            (None, Some(file)) => {
                let path = self.outside.directory.join(file);
                std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?
            }
            (None, None) | (Some(_), Some(_)) => return Err(format!("must be {SECRET_EXPECTED}")),
        };
        match text.trim() {
            "" => Err("is empty".to_owned()),
            text => Ok(text.to_owned().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_too_large_is_refused_without_a_type_of_rust() {
        let error = "a = 99999999999999999999".parse::<Table>().unwrap_err();
        let message = Problem::of_syntax(&error).message;
        assert!(message.ends_with("the number is out of range\n"), "{message}");
        assert!(message.contains("line 1, column 5"), "{message}");
    }
}
