//! A change: the statements of one committed DDL transaction, in a form that can be replayed in any database.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::postgres::ident::{last_name, parent};

/// One captured DDL transaction. The change log stores it as JSON; replay runs its statements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// In the order in which they ran.
    pub statements: Vec<Statement>,
    /// Statements of the same messages that do not belong to a schema and are not replayed.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// The reason why the change cannot be replayed; `None` if it can.
    #[serde(default)]
    pub broken: Option<String>,
    /// Roles other than the owner that the statements name or ran as. Names in generated SQL (EXECUTE in a function)
    /// are not found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Those of `roles` that the project had not declared. If there is one, the change is broken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undeclared: Vec<String>,
    /// The objects that it created, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub created: Vec<Created>,
    /// The identities of the objects that it altered or dropped and did not create, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub altered: Vec<String>,
    /// The relations and types that it renamed, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renamed: Vec<Renamed>,
}

/// A relation or type that a change renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// Its name before, without its schema.
    pub from: String,
    /// Its identity after.
    pub to: String,
}

impl Renamed {
    /// Renames what was created before, and the relation that it is on.
    pub fn apply(&self, created: &mut [Created]) {
        let is_it = |identity: &str| parent(identity) == parent(&self.to) && last_name(identity) == self.from;
        for one in created {
            match one.identity.rsplit_once(" on ") {
                Some((name, relation)) if is_it(relation) => one.identity = format!("{name} on {}", self.to),
                None if is_it(&one.identity) => one.identity = self.to.clone(),
                _ => {}
            }
        }
    }
}

/// An object that a change created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its kind as in DROP, such as `TEXT SEARCH CONFIGURATION`.
    pub kind: String,
    /// Its identity as in the journal, which DROP takes after the kind.
    pub identity: String,
}

/// The kind of object that a statement with this command tag creates, as in DROP.
pub fn made_by(tag: &str) -> Option<&str> {
    match tag {
        "SELECT INTO" => Some("TABLE"),
        other => other.strip_prefix("CREATE ").map(|kind| kind.trim_end_matches(" AS")),
    }
}

/// One statement of a change, with the session state that its meaning depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The text to replay. It can differ from the developer's text, for example by a generated index name.
    pub sql: Sql,
    /// The command tags of its journal rows, in their order. One statement can have several, for example a DO.
    pub tags: Vec<String>,
    /// The identities of the objects that it created, altered or dropped, as in the journal.
    pub objects: Vec<String>,
    /// The search_path it ran with. The owner's own schema is written as `"$user"`.
    pub search_path: String,
    /// The declared role that it ran as; `None` for the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Recorded settings that the client, the role or the database had set, by name.
    pub settings: BTreeMap<String, String>,
    /// How to replay it.
    pub mode: Mode,
}

/// How a statement is replayed: most share a transaction with the change's row in `tdb.deployed_change`; the others are the
/// only statement of their change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In one transaction with the other statements of the change.
    Transactional,
    /// CREATE INDEX CONCURRENTLY, outside a transaction block.
    CreateIndex {
        /// The identity of the index: schema and name, quoted where necessary. The owner's schema is written as `"$user"`.
        index: String,
    },
    /// DROP INDEX CONCURRENTLY, outside a transaction block.
    DropIndex {
        /// The identities of the indexes, in the form of `CreateIndex`.
        indexes: Vec<String>,
    },
    /// ALTER TABLE … DETACH PARTITION … CONCURRENTLY, outside a transaction block.
    DetachPartition {
        /// The identity of the partitioned table, in the form of `CreateIndex`.
        table: String,
        /// The name of the partition, without its schema and unquoted.
        partition: String,
    },
    /// CREATE EXTENSION of an extension that only a superuser can create: the administrator runs it.
    Extension {
        /// The name of the extension, unquoted.
        name: String,
        /// The schema of the extension, unquoted.
        schema: String,
        /// The version that the workspace has.
        version: String,
        /// Which role owns the extension.
        #[serde(default)]
        owner: ExtensionOwner,
    },
    /// A setting for new sessions (ALTER ROLE … SET): the administrator sets it for the roles of the database.
    Setting {
        /// The name of the setting.
        name: String,
        /// The value as PostgreSQL stores it; `None` resets the setting.
        value: Option<String>,
    },
}

/// Which role owns an extension that the administrator creates. The extension's objects always belong to the administrator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtensionOwner {
    /// The administrator. Stored changes without this field, written by older versions, mean this.
    #[default]
    Administrator,
    /// The owner role of the database, as for a trusted extension: it can comment on the extension and drop it.
    Owner,
}

/// SQL text with placeholders for the name of the database's owner role.
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

/// A statement of a captured message that is not replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its text in the message.
    pub sql: String,
    /// Why it is not replayed.
    pub kind: LeftOutKind,
}

/// Why a statement is not part of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutKind {
    /// It changes data (INSERT, UPDATE, DELETE, COPY, TRUNCATE and the like), which a deployment does not repeat.
    Data,
    /// It concerns roles, databases, tablespaces or the server, or privileges of TenantsDB's own group roles.
    NotSchema,
}

/// SHA-256 of the statements of a change. A database records it for each change that it has, so that a different change
/// with the same id is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum([u8; 32]);

impl Change {
    /// The checksum of the statements' texts, roles, search_paths and settings, and of `broken`. Modes, tags, objects and
    /// statements that are left out do not count.
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

    /// The texts of the statements, with `owner` as the name of the owner role.
    pub fn texts(&self) -> Vec<String> {
        self.statements
            .iter()
            .map(|statement| statement.sql.to_string())
            .collect()
    }

    /// The command tags of all statements, in order and with duplicates.
    pub fn tags(&self) -> Vec<String> {
        let tags = self
            .statements
            .iter()
            .flat_map(|statement| statement.tags.iter().cloned());
        tags.collect()
    }

    /// The identities of the objects of all statements, in order and without duplicates.
    pub fn objects(&self) -> Vec<String> {
        let mut seen = std::collections::HashSet::new();
        let all = self.statements.iter().flat_map(|statement| statement.objects.iter());
        all.filter(|object| seen.insert(object.as_str())).cloned().collect()
    }
}

impl Sql {
    /// Text without a placeholder.
    pub fn text(text: impl Into<String>) -> Self {
        Self(vec![Piece::Text(text.into())])
    }

    /// `text` with the byte ranges `owners` (ascending, disjoint) replaced by placeholders for the owner.
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

    /// The text for a database whose owner role is `owner`, which is inserted as a quoted identifier.
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
    /// Writes the text with `owner` for each placeholder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with("owner"))
    }
}

impl Checksum {
    /// The 32 bytes, as stored in `tdb.deployed_change`.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The inverse of [`Self::as_bytes`]; `None` if there are not exactly 32 bytes.
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
