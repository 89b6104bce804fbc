//! Names of roles that a project declares. On its servers a role has exactly this name, beside roles of everybody else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What PostgreSQL's grammar takes for something other than a role's name.
const WORDS: [&str; 7] = [
    "current_role",
    "current_user",
    "none",
    "public",
    "session_user",
    "system_user",
    "user",
];
/// Of PostgreSQL, of database servers' common groups and of the metadata store's roles.
const PREFIXES: [&str; 3] = ["pg_", "tdb_", "cp_"];
/// Characters after `r_` in the name of a database's own role.
const OPAQUE_LEN: usize = 13;
/// Reserved in new declarations: of databases' roles, and of PostgreSQL's usual superuser. Earlier releases accepted them.
const PREFIX_OF_DATABASES: &str = "r_";
const SUPERUSER: &str = "postgres";

/// Why a text is not a role's name; the message is the rule, fit for the end of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RoleNameError {
    /// It is empty or too long.
    #[error("must be 1 to {} bytes long", RoleName::LEN_MAX)]
    Length,
    /// It has other characters, or would need quotes.
    #[error("must be made of lower-case letters, digits and \"_\", and not start with a digit")]
    Grammar,
    /// It means something else to PostgreSQL, or is of the form of an internal role's name.
    #[error("is reserved")]
    Reserved,
}

/// Name of a declared role: what PostgreSQL reads as a role's name without quotes, 1 to 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName(Box<str>);

impl RoleName {
    /// PostgreSQL's limit for identifiers, in bytes.
    pub const LEN_MAX: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses the name of a role to declare. It reserves more than [`FromStr`], which reads what earlier releases accepted.
    pub fn to_declare(text: &str) -> Result<Self, RoleNameError> {
        let name: Self = text.parse()?;
        if text == SUPERUSER || text.starts_with(PREFIX_OF_DATABASES) {
            return Err(RoleNameError::Reserved);
        }
        Ok(name)
    }
}

impl FromStr for RoleName {
    type Err = RoleNameError;

    fn from_str(text: &str) -> Result<Self, RoleNameError> {
        if !(1..=Self::LEN_MAX).contains(&text.len()) {
            return Err(RoleNameError::Length);
        }
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !text.bytes().all(fits) || text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(RoleNameError::Grammar);
        }
        let is_reserved = WORDS.contains(&text) || PREFIXES.iter().any(|prefix| text.starts_with(prefix));
        if is_reserved || is_opaque(text) {
            return Err(RoleNameError::Reserved);
        }
        Ok(Self(text.into()))
    }
}

/// `r_<13>`, `r_<13>_dep`, `r_<13>_ro`: the three roles of a database.
fn is_opaque(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("r_") else {
        return false;
    };
    let rest = rest.strip_suffix("_dep").or(rest.strip_suffix("_ro")).unwrap_or(rest);
    rest.len() == OPAQUE_LEN && rest.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RoleName {
    type Error = RoleNameError;

    fn try_from(text: String) -> Result<Self, RoleNameError> {
        text.parse()
    }
}

impl From<RoleName> for String {
    fn from(name: RoleName) -> String {
        name.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_postgresql_reads_without_quotes() {
        let longest = "a".repeat(63);
        for name in ["anon", "authenticated", "service_role", "_x", "web2", "r_app", &longest] {
            assert!(name.parse::<RoleName>().is_ok(), "{name}");
        }
    }

    #[test]
    fn a_declaration_reserves_all_names_of_the_installations_roles() {
        for name in ["r_app", "r_", "r_abcdefghijk27_x", "postgres", "pg_x", "public"] {
            assert_eq!(RoleName::to_declare(name), Err(RoleNameError::Reserved), "{name}");
        }
        for name in ["anon", "rr_x", "postgres_fdw", "r"] {
            assert_eq!(RoleName::to_declare(name), name.parse(), "{name}");
        }
    }

    #[test]
    fn refuses_each_breach_with_its_rule() {
        let refused = |text: &str| text.parse::<RoleName>().unwrap_err();
        for text in ["", &"a".repeat(64)] {
            assert_eq!(refused(text), RoleNameError::Length, "{text:?}");
        }
        for text in ["Anon", "1a", "a-b", "a b", "a\"b", "a\0", "ä", "a.b", "a$b"] {
            assert_eq!(refused(text), RoleNameError::Grammar, "{text:?}");
        }
        for text in [
            "public",
            "none",
            "current_user",
            "session_user",
            "pg_monitor",
            "tdb_writers",
            "tdb_gone_r_x",
            "cp_api_x",
            "r_abcdefghijk27",
            "r_abcdefghijk27_dep",
            "r_abcdefghijk27_ro",
        ] {
            assert_eq!(refused(text), RoleNameError::Reserved, "{text:?}");
        }
    }
}
