//! The database engines that the installation serves.

use std::fmt;
use std::str::FromStr;

use crate::id::IdError;

/// A database engine. Its text is the spelling in the API and in the metadata store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// PostgreSQL.
    PostgreSql,
}

impl Engine {
    /// Every engine, in order of declaration.
    pub const ALL: [Engine; 1] = [Engine::PostgreSql];

    /// The engine's name, such as `PostgreSQL`.
    pub fn as_str(self) -> &'static str {
        match self {
            Engine::PostgreSql => "PostgreSQL",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Engine {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let engine = Engine::ALL.into_iter().find(|engine| engine.as_str() == text);
        engine.ok_or_else(|| IdError::new(text, "an engine"))
    }
}
