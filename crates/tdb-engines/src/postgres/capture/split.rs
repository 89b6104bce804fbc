//! A message taken apart into statements, each classified by its parse tree.

use pg_query::NodeEnum;
use pg_query::protobuf::{ObjectType, RawStmt, TransactionStmtKind};
use serde_json::Value;

use crate::postgres::journal::Event;

/// One statement of a message.
pub(super) struct Split<'a> {
    /// Without surrounding blanks and the semicolon.
    pub text: &'a str,
    /// Where `text` begins in the message; positions in the tree count from the message's begin.
    pub start: usize,
    pub kind: Kind,
    /// What its command tag begins with.
    pub tag: String,
    /// Names its objects may have; empty: unknown.
    pub names: Vec<String>,
    /// Whether it calls a function that is not plainly the server's own.
    pub calls: bool,
    /// The parse tree, walked where node types do not matter.
    pub tree: Value,
    raw: RawStmt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ddl,
    CreateIndexConcurrently,
    DropIndexConcurrently,
    DetachConcurrently,
    Extension {
        cascade: bool,
    },
    /// DO, CALL, SELECT: may hide DDL and replays whole.
    Carrier,
    /// May hide DDL in a trigger, changes rows.
    Data,
    /// EXECUTE, FETCH, EXPLAIN: what they run is elsewhere.
    Prepared,
    Control(Control),
    /// Roles, databases, tablespaces, the server's settings.
    NotSchema,
    /// SET, SHOW, LISTEN, VACUUM…: of no consequence.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    RollbackTo,
}

/// The statements of a message, or why it cannot be taken apart.
pub(super) fn split(text: &str) -> Result<Vec<Split<'_>>, String> {
    let parsed = pg_query::parse(text, 0).map_err(|error| format!("the parser does not understand it: {error}"))?;
    let statements: Result<Vec<_>, String> = parsed.protobuf.stmts.into_iter().map(|raw| one(text, raw)).collect();
    statements.and_then(|statements| match statements.is_empty() {
        true => Err("its text is not known".to_owned()),
        false => Ok(statements),
    })
}

fn one(text: &str, raw: RawStmt) -> Result<Split<'_>, String> {
    let inconsistent = || "the parser's positions do not fit the text".to_owned();
    let from = usize::try_from(raw.stmt_location).map_err(|_| inconsistent())?;
    let len = usize::try_from(raw.stmt_len).map_err(|_| inconsistent())?;
    let to = if len == 0 { text.len() } else { from + len };
    let slice = text.get(from..to).ok_or_else(inconsistent)?;
    let body = slice.trim_start();
    let start = to - body.len();
    let body = body.trim_end_matches(|c: char| c.is_whitespace() || c == ';');
    let node = raw
        .stmt
        .as_ref()
        .and_then(|stmt| stmt.node.as_ref())
        .ok_or_else(inconsistent)?;
    let tree = serde_json::to_value(node).map_err(|error| error.to_string())?;
    let kind = kind(node);
    Ok(Split {
        text: body,
        start,
        kind,
        tag: tag(node, kind),
        names: names(node, &tree),
        calls: calls(&tree),
        tree,
        raw,
    })
}

fn kind(node: &NodeEnum) -> Kind {
    match node {
        NodeEnum::TransactionStmt(stmt) => control(stmt.kind()),
        NodeEnum::DoStmt(_) | NodeEnum::CallStmt(_) => Kind::Carrier,
        NodeEnum::SelectStmt(stmt) if stmt.into_clause.is_none() && !into_within(stmt) => Kind::Carrier,
        NodeEnum::InsertStmt(_)
        | NodeEnum::UpdateStmt(_)
        | NodeEnum::DeleteStmt(_)
        | NodeEnum::MergeStmt(_)
        | NodeEnum::CopyStmt(_)
        | NodeEnum::TruncateStmt(_) => Kind::Data,
        NodeEnum::ExecuteStmt(_) | NodeEnum::FetchStmt(_) | NodeEnum::ExplainStmt(_) => Kind::Prepared,
        NodeEnum::CreateTableAsStmt(stmt) if executes(stmt) => Kind::Prepared,
        NodeEnum::CreateRoleStmt(_)
        | NodeEnum::AlterRoleStmt(_)
        | NodeEnum::AlterRoleSetStmt(_)
        | NodeEnum::DropRoleStmt(_)
        | NodeEnum::GrantRoleStmt(_)
        | NodeEnum::CreatedbStmt(_)
        | NodeEnum::AlterDatabaseStmt(_)
        | NodeEnum::AlterDatabaseSetStmt(_)
        | NodeEnum::AlterDatabaseRefreshCollStmt(_)
        | NodeEnum::DropdbStmt(_)
        | NodeEnum::CreateTableSpaceStmt(_)
        | NodeEnum::DropTableSpaceStmt(_)
        | NodeEnum::AlterTableSpaceOptionsStmt(_)
        | NodeEnum::AlterSystemStmt(_) => Kind::NotSchema,
        NodeEnum::VariableSetStmt(_)
        | NodeEnum::VariableShowStmt(_)
        | NodeEnum::ListenStmt(_)
        | NodeEnum::UnlistenStmt(_)
        | NodeEnum::NotifyStmt(_)
        | NodeEnum::VacuumStmt(_)
        | NodeEnum::ClusterStmt(_)
        | NodeEnum::ReindexStmt(_)
        | NodeEnum::CheckPointStmt(_)
        | NodeEnum::DiscardStmt(_)
        | NodeEnum::LockStmt(_)
        | NodeEnum::LoadStmt(_)
        | NodeEnum::ConstraintsSetStmt(_)
        | NodeEnum::PrepareStmt(_)
        | NodeEnum::DeallocateStmt(_)
        | NodeEnum::DeclareCursorStmt(_)
        | NodeEnum::ClosePortalStmt(_) => Kind::Silent,
        NodeEnum::CreateExtensionStmt(stmt) => Kind::Extension {
            cascade: stmt
                .options
                .iter()
                .any(|option| matches!(&option.node, Some(NodeEnum::DefElem(element)) if element.defname == "cascade")),
        },
        NodeEnum::IndexStmt(stmt) if stmt.concurrent => Kind::CreateIndexConcurrently,
        NodeEnum::DropStmt(stmt) if stmt.concurrent => Kind::DropIndexConcurrently,
        NodeEnum::AlterTableStmt(stmt) if detaches_concurrently(stmt) => Kind::DetachConcurrently,
        _ => Kind::Ddl,
    }
}

fn control(kind: TransactionStmtKind) -> Kind {
    Kind::Control(match kind {
        TransactionStmtKind::TransStmtCommit | TransactionStmtKind::TransStmtPrepare => Control::Commit,
        TransactionStmtKind::TransStmtRollback => Control::Rollback,
        TransactionStmtKind::TransStmtSavepoint => Control::Savepoint,
        TransactionStmtKind::TransStmtRollbackTo => Control::RollbackTo,
        TransactionStmtKind::Undefined
        | TransactionStmtKind::TransStmtBegin
        | TransactionStmtKind::TransStmtStart
        | TransactionStmtKind::TransStmtRelease
        | TransactionStmtKind::TransStmtCommitPrepared
        | TransactionStmtKind::TransStmtRollbackPrepared => Control::Begin,
    })
}

/// `SELECT … INTO` keeps its clause in the leftmost arm of a set operation.
fn into_within(stmt: &pg_query::protobuf::SelectStmt) -> bool {
    stmt.into_clause.is_some() || stmt.larg.as_deref().is_some_and(into_within)
}

fn executes(stmt: &pg_query::protobuf::CreateTableAsStmt) -> bool {
    let query = stmt.query.as_ref().and_then(|query| query.node.as_ref());
    matches!(query, Some(NodeEnum::ExecuteStmt(_)))
}

fn detaches_concurrently(stmt: &pg_query::protobuf::AlterTableStmt) -> bool {
    stmt.cmds.iter().any(|command| match &command.node {
        Some(NodeEnum::AlterTableCmd(command)) => match command.def.as_ref().and_then(|def| def.node.as_ref()) {
            Some(NodeEnum::PartitionCmd(partition)) => partition.concurrent,
            _ => false,
        },
        _ => false,
    })
}

/// What the command tag begins with. The first word is always the statement's own.
fn tag(node: &NodeEnum, kind: Kind) -> String {
    let tag = match node {
        NodeEnum::CreateStmt(_) => "CREATE TABLE",
        NodeEnum::IndexStmt(_) => "CREATE INDEX",
        NodeEnum::ViewStmt(_) => "CREATE VIEW",
        NodeEnum::SelectStmt(_) => "SELECT INTO",
        NodeEnum::CreateTableAsStmt(stmt) if stmt.is_select_into => "SELECT INTO",
        NodeEnum::CreateTableAsStmt(stmt) if stmt.objtype() == ObjectType::ObjectMatview => "CREATE MATERIALIZED VIEW",
        NodeEnum::CreateTableAsStmt(_) => "CREATE TABLE AS",
        NodeEnum::CreateSchemaStmt(_) => "CREATE SCHEMA",
        NodeEnum::CreateSeqStmt(_) => "CREATE SEQUENCE",
        NodeEnum::AlterSeqStmt(_) => "ALTER SEQUENCE",
        NodeEnum::CreateFunctionStmt(stmt) if stmt.is_procedure => "CREATE PROCEDURE",
        NodeEnum::CreateFunctionStmt(_) => "CREATE FUNCTION",
        NodeEnum::CreateEnumStmt(_) | NodeEnum::CompositeTypeStmt(_) | NodeEnum::CreateRangeStmt(_) => "CREATE TYPE",
        NodeEnum::AlterEnumStmt(_) => "ALTER TYPE",
        NodeEnum::CreateDomainStmt(_) => "CREATE DOMAIN",
        NodeEnum::AlterDomainStmt(_) => "ALTER DOMAIN",
        NodeEnum::CreateTrigStmt(_) => "CREATE TRIGGER",
        NodeEnum::RuleStmt(_) => "CREATE RULE",
        NodeEnum::CreatePolicyStmt(_) => "CREATE POLICY",
        NodeEnum::AlterPolicyStmt(_) => "ALTER POLICY",
        NodeEnum::CommentStmt(_) => "COMMENT",
        NodeEnum::SecLabelStmt(_) => "SECURITY LABEL",
        NodeEnum::GrantStmt(stmt) if stmt.is_grant => "GRANT",
        NodeEnum::GrantStmt(_) => "REVOKE",
        NodeEnum::RefreshMatViewStmt(_) => "REFRESH MATERIALIZED VIEW",
        NodeEnum::ImportForeignSchemaStmt(_) => "IMPORT FOREIGN SCHEMA",
        NodeEnum::ReassignOwnedStmt(_) => "REASSIGN OWNED",
        NodeEnum::DropStmt(_) | NodeEnum::DropOwnedStmt(_) => "DROP",
        NodeEnum::CreateExtensionStmt(_) => "CREATE EXTENSION",
        other => match format!("{other:?}") {
            name if name.starts_with("Alter") || name.starts_with("Rename") => "ALTER",
            name if name.starts_with("Drop") => "DROP",
            _ => "CREATE",
        },
    };
    match kind {
        Kind::Ddl
        | Kind::CreateIndexConcurrently
        | Kind::DropIndexConcurrently
        | Kind::DetachConcurrently
        | Kind::Extension { .. } => tag.to_owned(),
        _ => String::new(),
    }
}

fn names(node: &NodeEnum, tree: &Value) -> Vec<String> {
    let relation = |range: &Option<pg_query::protobuf::RangeVar>| {
        range.iter().map(|range| range.relname.clone()).collect::<Vec<_>>()
    };
    match node {
        NodeEnum::CreateStmt(stmt) => relation(&stmt.relation),
        NodeEnum::ViewStmt(stmt) => relation(&stmt.view),
        NodeEnum::AlterTableStmt(stmt) => relation(&stmt.relation),
        NodeEnum::CreateSeqStmt(stmt) => relation(&stmt.sequence),
        NodeEnum::AlterSeqStmt(stmt) => relation(&stmt.sequence),
        NodeEnum::IndexStmt(stmt) if !stmt.idxname.is_empty() => vec![stmt.idxname.clone()],
        NodeEnum::CreateTrigStmt(stmt) => vec![stmt.trigname.clone()],
        NodeEnum::CreatePolicyStmt(stmt) => vec![stmt.policy_name.clone()],
        NodeEnum::RuleStmt(stmt) => vec![stmt.rulename.clone()],
        NodeEnum::CreateSchemaStmt(stmt) if !stmt.schemaname.is_empty() => vec![stmt.schemaname.clone()],
        NodeEnum::CreateExtensionStmt(stmt) => vec![stmt.extname.clone()],
        NodeEnum::CreateTableAsStmt(stmt) => stmt.into.as_ref().map(|into| relation(&into.rel)).unwrap_or_default(),
        NodeEnum::RenameStmt(stmt) => vec![stmt.newname.clone()],
        NodeEnum::CreateFunctionStmt(_) => last_string(tree, "funcname"),
        NodeEnum::CreateEnumStmt(_) | NodeEnum::AlterEnumStmt(_) | NodeEnum::CreateRangeStmt(_) => {
            last_string(tree, "type_name")
        }
        NodeEnum::CreateDomainStmt(_) => last_string(tree, "domainname"),
        NodeEnum::DropStmt(stmt) => stmt.objects.iter().filter_map(dropped_name).collect(),
        _ => Vec::new(),
    }
}

/// The last name of a qualified one that stands in the tree under `field`.
fn last_string(tree: &Value, field: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(tree, &mut |key, value| {
        if key == field && found.is_empty() {
            found = strings(value).pop().into_iter().collect();
        }
    });
    found
}

/// The last name of what a DROP names; the ones before are schemas and tables.
fn dropped_name(object: &pg_query::protobuf::Node) -> Option<String> {
    let last = match object.node.as_ref()? {
        NodeEnum::List(list) => list.items.last(),
        NodeEnum::TypeName(name) => name.names.last(),
        NodeEnum::ObjectWithArgs(function) => function.objname.last(),
        _ => Some(object),
    };
    match last?.node.as_ref()? {
        NodeEnum::String(name) => Some(name.sval.clone()),
        _ => None,
    }
}

fn strings(tree: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(tree, &mut |key, value| {
        if let ("sval", Some(text)) = (key, value.as_str()) {
            found.push(text.to_owned());
        }
    });
    found
}

fn calls(tree: &Value) -> bool {
    let mut found = false;
    walk(tree, &mut |key, value| {
        if key == "FuncCall" {
            let name = value.get("funcname").map(strings).unwrap_or_default();
            found |= name.first().map(String::as_str) != Some("pg_catalog");
        }
        found |= key == "DoStmt" || key == "CallStmt";
    });
    // The tree of a DO begins below its own name.
    found
}

/// Every field of the tree.
pub(super) fn walk(tree: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    match tree {
        Value::Object(fields) => {
            for (key, value) in fields {
                visit(key, value);
                walk(value, visit);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| walk(value, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Split<'_> {
    /// Whether it reads a parameter whose value the journal does not have.
    pub fn has_parameter(&self) -> bool {
        let takes = self.kind == Kind::Carrier
            || ["SelectStmt", "CreateTableAsStmt"]
                .iter()
                .any(|node| self.tree.get(node).is_some());
        let mut found = false;
        // In a function's body `$1` is its own parameter.
        walk(&self.tree, &mut |key, _| found |= key == "ParamRef");
        found && takes
    }

    /// CREATE INDEX CONCURRENTLY under the name the server chose: a retry must find the same index. `None`: named.
    pub fn with_index_name(&self, row: &Event) -> Result<Option<String>, String> {
        let mut raw = self.raw.clone();
        let Some(NodeEnum::IndexStmt(stmt)) = raw.stmt.as_mut().and_then(|stmt| stmt.node.as_mut()) else {
            return Ok(None);
        };
        if !stmt.idxname.is_empty() {
            return Ok(None);
        }
        let identity = row.objects.iter().find_map(|object| object.identity.as_deref());
        let identity = identity.ok_or("the index is not named in the journal")?;
        stmt.idxname = last_component(identity);
        deparse(raw).map(Some)
    }

    pub fn without_concurrently(&self) -> Result<String, String> {
        let mut raw = self.raw.clone();
        if let Some(NodeEnum::AlterTableStmt(stmt)) = raw.stmt.as_mut().and_then(|stmt| stmt.node.as_mut()) {
            for command in &mut stmt.cmds {
                let Some(NodeEnum::AlterTableCmd(command)) = &mut command.node else {
                    continue;
                };
                let def = command.def.as_mut().and_then(|def| def.node.as_mut());
                if let Some(NodeEnum::PartitionCmd(partition)) = def {
                    partition.concurrent = false;
                }
            }
        }
        deparse(raw)
    }
}

/// The last name of an identity such as `public."My Table"`.
pub(super) fn last_component(identity: &str) -> String {
    let start = match identity.ends_with('"') {
        true => identity.rfind(".\"").map_or(0, |at| at + 1),
        false => identity.rfind('.').map_or(0, |at| at + 1),
    };
    super::units::unquoted(identity.get(start..).unwrap_or(identity))
}

fn deparse(raw: RawStmt) -> Result<String, String> {
    let tree = pg_query::protobuf::ParseResult {
        stmts: vec![raw],
        ..Default::default()
    };
    pg_query::deparse(&tree, Default::default()).map_err(|error| format!("it cannot be written anew: {error}"))
}
