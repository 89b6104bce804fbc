//! Names that users choose. Grammar: segments of `[a-z0-9]+`, joined by a single `_` or `-`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names that have another meaning for PostgreSQL or for the proxy.
const RESERVED_BLUEPRINTS: [&str; 5] = ["postgres", "template0", "template1", "tenantsdb", "pgbouncer"];

/// The text is not a name. The message states the violated rule and follows a subject: "the tenant's name must …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than the limit.
    #[error("must be at most {max} bytes long")]
    TooLong {
        /// The limit in bytes.
        max: usize,
    },
    /// The text has other characters, or two separators in a row, or one at an end.
    #[error("must be made of lower-case letters and digits, joined by single \"_\" or \"-\"")]
    Grammar,
    /// The name has another meaning for PostgreSQL or for the proxy.
    #[error("is reserved")]
    Reserved,
    /// A blueprint name that could be mistaken for a workspace's database.
    #[error("must not end in \"_dev\"")]
    EndsInDev,
    /// A blueprint name with the prefix of TenantsDB's internal databases and roles.
    #[error("must not start with \"tdb\"")]
    StartsWithTdb,
}

/// Name of a blueprint (and of its workspace): 1 to 25 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlueprintName(Box<str>);

/// Name of a tenant: 1 to 36 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(Box<str>);

impl BlueprintName {
    /// The longest name, in bytes. With a tenant's name and `__` it fits [`crate::PHYSICAL_NAME_LEN_MAX`].
    pub const LEN_MAX: usize = 25;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TenantName {
    /// The longest name, in bytes: a UUID in its usual form fits.
    pub const LEN_MAX: usize = 36;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BlueprintName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_grammar(text, Self::LEN_MAX)?;
        if RESERVED_BLUEPRINTS.contains(&text) {
            return Err(NameError::Reserved);
        }
        if text.ends_with("_dev") {
            return Err(NameError::EndsInDev);
        }
        // The prefix of TenantsDB's internal databases and roles.
        if text.starts_with("tdb") {
            return Err(NameError::StartsWithTdb);
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for TenantName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_grammar(text, Self::LEN_MAX)?;
        if text == "dev" {
            return Err(NameError::Reserved);
        }
        Ok(Self(text.into()))
    }
}

fn check_grammar(text: &str, len_max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > len_max {
        return Err(NameError::TooLong { max: len_max });
    }
    let segment = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if text.split(['_', '-']).all(segment) {
        Ok(())
    } else {
        Err(NameError::Grammar)
    }
}

macro_rules! text_conversions {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }
    )+};
}
text_conversions!(BlueprintName, TenantName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_of_the_grammar() {
        for name in ["a", "myapp", "my-app", "my_app", "a1_b2-c3", "1", "dev", "x-dev"] {
            assert!(name.parse::<BlueprintName>().is_ok(), "{name}");
        }
        for name in ["a", "acme-corp", "0", "x_dev", "postgres", "tdb"] {
            assert!(name.parse::<TenantName>().is_ok(), "{name}");
        }
    }

    #[test]
    fn refuses_each_breach_with_its_rule() {
        let blueprint = |t: &str| t.parse::<BlueprintName>().unwrap_err();
        assert_eq!(blueprint(""), NameError::Empty);
        assert_eq!(blueprint(&"a".repeat(26)), NameError::TooLong { max: 25 });
        for text in [
            "A", "a__b", "_a", "a_", "a-", "-a", "a_-b", "a b", "a\"", "a\0", "ä", "a.b", "a/b", "a%",
        ] {
            assert_eq!(blueprint(text), NameError::Grammar, "{text:?}");
            assert_eq!(text.parse::<TenantName>().unwrap_err(), NameError::Grammar, "{text:?}");
        }
        assert_eq!(blueprint("postgres"), NameError::Reserved);
        assert_eq!(blueprint("foo_dev"), NameError::EndsInDev);
        assert_eq!(blueprint("tdb_base"), NameError::StartsWithTdb);
        assert_eq!("dev".parse::<TenantName>().unwrap_err(), NameError::Reserved);
        assert_eq!(
            "a".repeat(37).parse::<TenantName>().unwrap_err(),
            NameError::TooLong { max: 36 }
        );
    }
}
