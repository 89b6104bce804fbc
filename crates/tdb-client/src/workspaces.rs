//! Workspaces, their schema and their pending changes.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::connections::Connection;
use crate::lists::{list, words};

words! {
    /// The database engines there are.
    Engine { PostgreSql = "PostgreSQL" }
}

words! {
    WorkspaceStatus { Provisioning = "provisioning", Ready = "ready", Deleting = "deleting" }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Workspace {
    /// The name, as paths want it.
    pub id: String,
    /// Differs when a workspace is created again under the same name.
    pub uuid: String,
    pub name: String,
    pub blueprint: String,
    pub database: Engine,
    pub status: WorkspaceStatus,
    /// The newest version of its blueprint.
    pub version: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// What was committed in the workspace before this is counted; null before the first look at its journal.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub drained_at: Option<OffsetDateTime>,
    /// Changes that a tenant lacks, as the diff lists them.
    pub undeployed_changes: u32,
    /// Left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
    pub connection: Connection,
    pub connection_string: String,
    /// Why it is not ready, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

list! { WorkspaceList, workspaces: Workspace }

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    /// Also the blueprint's name.
    #[schema(min_length = 1, max_length = 25, pattern = "^[a-z0-9]+([_-][a-z0-9]+)*$")]
    pub name: String,
    /// `PostgreSQL`, in any case.
    #[serde(default = "postgresql")]
    pub database: String,
}

fn postgresql() -> String {
    Engine::PostgreSql.as_str().to_owned()
}

words! {
    SchemaKind { Tables = "tables" }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Schema {
    #[serde(rename = "type")]
    pub kind: SchemaKind,
    pub data: Tables,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tables {
    pub table_count: usize,
    pub tables: Vec<Table>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub indexes: Vec<Part>,
    pub constraints: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
    pub nullable: bool,
    pub default: Option<String>,
}

/// An index or a constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Part {
    pub name: String,
    pub definition: String,
}

/// A workspace's schema, on its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceSchema {
    pub workspace: String,
    pub schema: Schema,
}

words! {
    ChangeState {
        Pending = "pending",
        Deployed = "deployed",
        Skipped = "skipped",
        Reverted = "reverted",
        Broken = "broken",
    }
}

/// One committed DDL transaction of a workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    pub ddl_id: u32,
    /// The first version that has it; null while no version does.
    pub version: Option<u32>,
    pub statements: Vec<String>,
    pub command_tags: Vec<String>,
    pub objects: Vec<String>,
    pub author: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Statements of the same transaction that are data, not schema: they reach no tenant.
    pub left_out: Vec<String>,
    pub state: ChangeState,
    /// Why it is broken, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What frees the blueprint of its broken changes, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
    /// The change that this one undoes, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverts: Option<u32>,
}

/// Changes that no version will hold: all of them, or none where one of them cannot be skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkipChanges {
    /// At least one.
    pub ddl_ids: Vec<u32>,
}

/// A change that was undone in the workspace, and the change that does it. Both are `reverted`, so that no tenant gets
/// either, where no version had the first; else the inverse is deployed like any other change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Revert {
    pub change: Change,
    pub inverse: Change,
}

list! { ChangeList, changes: Change }
