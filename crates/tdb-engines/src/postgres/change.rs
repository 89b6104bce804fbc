//! A change: the statements of one committed DDL transaction, in a form that replays on any database.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What the change log stores of a change (as jsonb) and what is replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub statements: Vec<Statement>,
    /// Statements of the same messages that are no part of a schema.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// Why the change cannot be replayed.
    #[serde(default)]
    pub broken: Option<String>,
    /// Roles that its statements name or ran as, other than the owner, as far as their text tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Those of them that the project had not declared: the reason why it is broken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undeclared: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    pub sql: Sql,
    /// PostgreSQL's command tags of what it did, first one first.
    pub tags: Vec<String>,
    /// Identities of the objects it made, changed or dropped.
    pub objects: Vec<String>,
    pub search_path: String,
    /// The declared role that it ran as; None: the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Settings that change what the text means, where they were not the server's own.
    pub settings: BTreeMap<String, String>,
    pub mode: Mode,
}

/// Whether a statement can share a transaction with its row in `tdb.deployed_change`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Transactional,
    /// CREATE INDEX CONCURRENTLY; the index's identity as `to_regclass` reads it.
    CreateIndex {
        index: String,
    },
    DropIndex {
        indexes: Vec<String>,
    },
    /// ALTER TABLE … DETACH PARTITION … CONCURRENTLY; the table's identity, and the partition's name without its schema.
    DetachPartition {
        table: String,
        partition: String,
    },
    /// Any other that refuses a transaction block.
    Alone,
    /// CREATE EXTENSION of one that only the administrator may make.
    Extension {
        name: String,
        schema: String,
        version: String,
        #[serde(default)]
        owner: ExtensionOwner,
    },
    /// A setting that sessions begin with, taken back where there is no value; the administrator's.
    Setting {
        name: String,
        value: Option<String>,
    },
}

/// Whom an extension belongs to that the administrator made. Its objects are always the administrator's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtensionOwner {
    /// In changes of older programs, which do not say it.
    #[default]
    Administrator,
    /// As with a trusted one: the owner may comment on it and drop it.
    Owner,
}

/// Text with the owner's name left open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sql(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Piece {
    Text(String),
    Role(SymbolicRole),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SymbolicRole {
    Owner,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub sql: String,
    pub kind: LeftOutKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutKind {
    /// INSERT, UPDATE, DELETE, COPY, TRUNCATE…: worth a warning, a deployment will not repeat it.
    Data,
    /// Roles, databases, settings, queries.
    NotSchema,
}

/// SHA-256 over what a change does.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum([u8; 32]);

impl Change {
    /// Over statements with their settings; not over tags, objects and what was left out.
    pub fn checksum(&self) -> Checksum {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let mut feed = |text: &str| {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        };
        for statement in &self.statements {
            feed("statement");
            for piece in &statement.sql.0 {
                match piece {
                    Piece::Text(text) => feed(text),
                    Piece::Role(SymbolicRole::Owner) => feed("\0owner"),
                }
            }
            if let Some(role) = &statement.role {
                feed("role");
                feed(role);
            }
            feed("search_path");
            feed(&statement.search_path);
            for (name, value) in &statement.settings {
                feed(name);
                feed(value);
            }
        }
        if let Some(reason) = &self.broken {
            feed("broken");
            feed(reason);
        }
        let mut sum = [0; 32];
        sum.copy_from_slice(context.finish().as_ref());
        Checksum(sum)
    }

    /// The statements as shown to people.
    pub fn texts(&self) -> Vec<String> {
        self.statements
            .iter()
            .map(|statement| statement.sql.to_string())
            .collect()
    }

    pub fn tags(&self) -> Vec<String> {
        let tags = self
            .statements
            .iter()
            .flat_map(|statement| statement.tags.iter().cloned());
        tags.collect()
    }

    pub fn objects(&self) -> Vec<String> {
        let mut seen = std::collections::HashSet::new();
        let all = self.statements.iter().flat_map(|statement| statement.objects.iter());
        all.filter(|object| seen.insert(object.as_str())).cloned().collect()
    }
}

impl Sql {
    pub fn text(text: impl Into<String>) -> Self {
        Self(vec![Piece::Text(text.into())])
    }

    /// `text` with the byte ranges `owners` (ascending, disjoint) replaced by the symbolic owner.
    pub(crate) fn with_owner_at(text: &str, owners: &[std::ops::Range<usize>]) -> Self {
        let mut pieces = Vec::with_capacity(owners.len() * 2 + 1);
        let mut from = 0;
        for owner in owners {
            if let Some(before) = text.get(from..owner.start) {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Role(SymbolicRole::Owner));
            from = owner.end;
        }
        pieces.push(Piece::Text(text.get(from..).unwrap_or_default().to_owned()));
        Self(pieces)
    }

    /// The text for a database whose owner role is `owner`.
    pub fn render(&self, owner: &str) -> String {
        self.with(&crate::postgres::ident::quote(owner))
    }

    fn with(&self, owner: &str) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Role(SymbolicRole::Owner) => owner,
        });
        pieces.collect()
    }
}

impl fmt::Display for Sql {
    /// With `owner` in the owner's place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with("owner"))
    }
}

impl Checksum {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As stored; `None` unless it is 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
