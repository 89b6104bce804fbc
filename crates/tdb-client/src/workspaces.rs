//! Workspaces, their schema and their pending changes.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::connections::Connection;
use crate::lists::{Paged, list, words};

words! {
    /// The engine of a database.
    Engine {
        /// PostgreSQL.
        PostgreSql = "PostgreSQL",
    }
}

words! {
    /// The state of a workspace.
    WorkspaceStatus {
        /// The workspace is being created.
        Provisioning = "provisioning",
        /// The workspace accepts clients.
        Ready = "ready",
        /// The workspace is being removed.
        Deleting = "deleting",
    }
}

/// A workspace: a development database in which DDL is captured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Workspace {
    /// The workspace's name, which paths take.
    pub id: String,
    /// Identifies the workspace. A workspace that is created again under the same name has another one.
    pub uuid: String,
    /// The workspace's name.
    pub name: String,
    /// The name of its blueprint.
    pub blueprint: String,
    /// The engine.
    pub database: Engine,
    /// The state of the workspace.
    pub status: WorkspaceStatus,
    /// The newest version of its blueprint.
    pub version: u32,
    /// When the workspace was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the workspace's journal was last copied to the change log. Transactions that committed before are counted. Null
    /// before the first time.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub drained_at: Option<OffsetDateTime>,
    /// How many changes at least one tenant lacks, or all changes if there is no tenant; the diff lists them.
    pub undeployed_changes: u32,
    /// The present schema. Lists omit it, and so do answers with `server_error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
    /// Why the database server could not be queried. The answer is then from stored data: changes after `drained_at` may be
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_error: Option<String>,
    /// How clients connect to it.
    pub connection: Connection,
    /// The same as a URL.
    pub connection_string: String,
    /// Why the workspace is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

list! {
    /// The workspaces of the project, in pages.
    WorkspaceList, workspaces: Workspace
}

/// The request to create a workspace and its blueprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    /// The name of the workspace and of its blueprint.
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub name: String,
    /// The engine: `PostgreSQL`, in any case.
    #[serde(default = "postgresql")]
    pub database: String,
}

fn postgresql() -> String {
    Engine::PostgreSql.as_str().to_owned()
}

words! {
    /// What a schema consists of.
    SchemaKind {
        /// Tables.
        Tables = "tables",
    }
}

/// A schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Schema {
    /// What the schema consists of.
    #[serde(rename = "type")]
    pub kind: SchemaKind,
    /// The tables.
    pub data: Tables,
}

/// The tables of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tables {
    /// How many tables there are.
    pub table_count: usize,
    /// The tables.
    pub tables: Vec<Table>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Table {
    /// The table's name, with its schema unless that is `public`.
    pub name: String,
    /// The columns, in order.
    pub columns: Vec<Column>,
    /// The indexes.
    pub indexes: Vec<Part>,
    /// The constraints.
    pub constraints: Vec<Part>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// The column's type as PostgreSQL writes it.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Whether the column accepts null.
    pub nullable: bool,
    /// The default expression; null if there is none.
    pub default: Option<String>,
}

/// An index or a constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Part {
    /// The name.
    pub name: String,
    /// The definition as PostgreSQL writes it.
    pub definition: String,
}

/// The schema of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceSchema {
    /// The workspace's name.
    pub workspace: String,
    /// The schema.
    pub schema: Schema,
}

words! {
    /// The state of a change.
    ChangeState {
        /// It can be deployed. The field `version` says whether a version contains it.
        Pending = "pending",
        /// Every tenant has it. A diff lists no such changes; the answer to a revert can contain one.
        Deployed = "deployed",
        /// It was excluded from all later versions.
        Skipped = "skipped",
        /// It was undone in the workspace before a version contained it, or it undoes such a change.
        Reverted = "reverted",
        /// It cannot be replayed; `reason` says why.
        Broken = "broken",
    }
}

/// A change: one committed transaction of a workspace that contains DDL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// The change's number, in the order of commits within the workspace.
    pub ddl_id: u32,
    /// The first version that contains the change; null if none does.
    pub version: Option<u32>,
    /// The DDL statements, as the client sent them.
    pub statements: Vec<String>,
    /// The command tags, such as `CREATE TABLE`.
    pub command_tags: Vec<String>,
    /// The objects that were created, changed or dropped.
    pub objects: Vec<String>,
    /// The credential that ran the statements, or the API key that caused them.
    pub author: String,
    /// When the transaction was captured.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Statements of the same transaction that change data, not the schema. They are not applied to tenants.
    pub left_out: Vec<String>,
    /// The state of the change.
    pub state: ChangeState,
    /// Why the change is broken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do to repair the blueprint, if the change is broken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
    /// The change that this one undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverts: Option<u32>,
}

/// The request to exclude changes from all later versions: all of them, or none if one of them cannot be skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkipChanges {
    /// The numbers of the changes; at least one.
    pub ddl_ids: Vec<u32>,
}

/// A change that was undone in the workspace, and the change that undoes it. If no version contained the first, both
/// are `reverted` and no tenant gets either; otherwise the inverse is deployed like any other change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Revert {
    /// The change that was undone.
    pub change: Change,
    /// The change that undoes it.
    pub inverse: Change,
}

list! {
    /// The changes of a workspace, in pages.
    ChangeList, changes: Change
}

/// The changes of a workspace that at least one tenant lacks, in pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The changes.
    #[serde(flatten)]
    pub list: ChangeList,
    /// When the workspace's journal was last copied to the change log. Transactions that committed before are included. Null
    /// before the first time.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub drained_at: Option<OffsetDateTime>,
    /// Why the database server could not be queried. The answer is then from stored data: changes after `drained_at` may be
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_error: Option<String>,
}

impl Paged for Diff {
    fn next_cursor(&self) -> Option<&str> {
        self.list.next_cursor()
    }
    fn append(&mut self, next: Self) {
        self.list.append(next.list);
        self.server_error = self.server_error.take().or(next.server_error);
    }
}
