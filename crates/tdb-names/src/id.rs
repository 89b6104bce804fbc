//! Identifiers of rows in the metadata store. Ids of different kinds of row are different types. Only the metadata store
//! creates new ids; all other code passes them on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// The text is not an identifier of the expected kind. The message quotes the text and describes the expected form.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{text}\" is not {what}")]
pub struct IdError {
    text: String,
    what: &'static str,
}

impl IdError {
    pub(crate) fn new(text: &str, what: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            what,
        }
    }
}

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that the metadata store returned.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
            /// The UUID, as SQL parameters need it.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::parse_str(text).map(Self).map_err(|_| IdError::new(text, "a UUID"))
            }
        }
    )+};
}

uuid_ids! {
    /// A workspace. A workspace that is deleted and created again under the same name gets a new id.
    WorkspaceId,
    /// A physical tenant database: one (tenant, blueprint) pair.
    DatabaseId,
    /// A database credential: a user name with its password verifier.
    CredentialId,
    /// A key of the admin API.
    KeyId,
}

macro_rules! text_ids {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $valid:expr);+ $(;)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The identifier as text, unchanged since it was parsed.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(IdError::new(text, $what)) }
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }
    )+};
}

text_ids! {
    /// A project: `prj_` and ten characters of base32.
    ProjectId, "a project id (prj_ and ten of a-z, 2-7)", |text| prefixed_base32(text, "prj_");
    /// A deployment: `dep_` and ten characters of base32.
    JobId, "a deployment id (dep_ and ten of a-z, 2-7)", |text| prefixed_base32(text, "dep_");
    /// The startup parameter `user` of a client: 1 to 63 printable ASCII characters, no spaces.
    UserName, "a user name", |text| (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    /// The name under which the operator registered a database server.
    ServerName, "a server name (lower-case letters, digits, - and _; at most 40)",
        |text| (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
}

fn prefixed_base32(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| {
        rest.len() == 10
            && rest
                .bytes()
                .all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_another_form_are_refused() {
        assert!("prj_abcdefgh27".parse::<ProjectId>().is_ok());
        for text in [
            "prj_",
            "prj_abcdefgh2",
            "prj_abcdefgh18",
            "dep_abcdefgh27",
            "PRJ_abcdefgh27",
        ] {
            assert!(text.parse::<ProjectId>().is_err(), "{text}");
        }
        assert!("a b".parse::<UserName>().is_err());
        assert!("a".repeat(64).parse::<UserName>().is_err());
        assert!("".parse::<UserName>().is_err());
    }
}
