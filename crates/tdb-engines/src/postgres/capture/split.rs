//! Splits a message into statements and classifies each by its parse tree.

use pg_query::NodeEnum;
use pg_query::protobuf::{AlterTableType, GrantTargetType, ObjectType, RawStmt, TransactionStmtKind};
use serde_json::Value;

use super::bodies;
use super::expected::{Expected, expected};
use super::kind::{Control, Kind};
use super::tree::{strings, walk};
use crate::postgres::deparse::deparse;
use crate::postgres::ident::last_name;
use crate::postgres::journal::Event;

/// One statement of a message.
pub(super) struct Split<'a> {
    /// Without surrounding white space and the semicolon.
    pub text: &'a str,
    /// The byte position of `text` in the message. Positions in the tree count from the beginning of the message.
    pub start: usize,
    pub kind: Kind,
    /// The row that it writes to the journal; `None` if it writes none itself.
    pub expected: Option<Expected>,
    /// The names of the functions that it calls, without those qualified with `pg_catalog`.
    pub functions: Vec<String>,
    /// The parse tree as JSON, for searches in which node types do not matter.
    pub tree: Value,
    raw: RawStmt,
}

/// Returns the statements of a message, or the reason why it cannot be split.
pub(super) fn split(text: &str) -> Result<Vec<Split<'_>>, String> {
    let parsed = pg_query::parse(text, 0).map_err(|error| format!("the parser does not understand it: {error}"))?;
    let statements: Result<Vec<_>, String> = parsed.protobuf.stmts.into_iter().map(|raw| one(text, raw)).collect();
    statements.and_then(|statements| {
        if statements.is_empty() {
            Err("its text is not known".to_owned())
        } else {
            Ok(statements)
        }
    })
}

/// Whether all statements of a text change only rows or positions of sequences.
pub(super) fn is_data(text: &str) -> bool {
    split(text).is_ok_and(|statements| statements.iter().all(|statement| statement.kind == Kind::Data))
}

/// Whether a statement of a text is CREATE EXTENSION or ALTER EXTENSION.
pub(super) fn concerns_extension(text: &str) -> bool {
    split(text).is_ok_and(|statements| statements.iter().any(Split::runs_script))
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
        expected: expected(node, kind, &tree),
        functions: functions(&tree),
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
        NodeEnum::AlterSeqStmt(stmt) if restarts(&stmt.options) => Kind::Data,
        NodeEnum::AlterTableStmt(stmt) if restarts_only(stmt) => Kind::Data,
        NodeEnum::ExecuteStmt(_) | NodeEnum::FetchStmt(_) | NodeEnum::ExplainStmt(_) => Kind::Prepared,
        NodeEnum::CreateTableAsStmt(stmt) if executes(stmt) => Kind::Prepared,
        NodeEnum::CreateRoleStmt(_)
        | NodeEnum::AlterRoleStmt(_)
        | NodeEnum::DropRoleStmt(_)
        | NodeEnum::GrantRoleStmt(_)
        | NodeEnum::CreatedbStmt(_)
        | NodeEnum::AlterDatabaseStmt(_)
        | NodeEnum::AlterDatabaseRefreshCollStmt(_)
        | NodeEnum::DropdbStmt(_)
        | NodeEnum::CreateTableSpaceStmt(_)
        | NodeEnum::DropTableSpaceStmt(_)
        | NodeEnum::AlterTableSpaceOptionsStmt(_)
        | NodeEnum::AlterSystemStmt(_) => Kind::NotSchema,
        NodeEnum::CommentStmt(stmt) if outside(stmt.objtype()) => Kind::NotSchema,
        NodeEnum::SecLabelStmt(stmt) if outside(stmt.objtype()) => Kind::NotSchema,
        NodeEnum::GrantStmt(stmt) if outside(stmt.objtype()) => Kind::NotSchema,
        NodeEnum::GrantStmt(stmt) if names_schemas(stmt) && stmt.objects.iter().all(is_journal) => Kind::Journal,
        NodeEnum::AlterOwnerStmt(stmt) if outside(stmt.object_type()) => Kind::NotSchema,
        NodeEnum::RenameStmt(stmt) if outside(stmt.rename_type()) => Kind::NotSchema,
        // The drain captures what these two set.
        NodeEnum::AlterRoleSetStmt(_)
        | NodeEnum::AlterDatabaseSetStmt(_)
        | NodeEnum::VariableSetStmt(_)
        | NodeEnum::VariableShowStmt(_)
        | NodeEnum::ListenStmt(_)
        | NodeEnum::UnlistenStmt(_)
        | NodeEnum::NotifyStmt(_)
        | NodeEnum::VacuumStmt(_)
        | NodeEnum::ClusterStmt(_)
        | NodeEnum::ReindexStmt(_)
        | NodeEnum::RefreshMatViewStmt(_)
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
        TransactionStmtKind::TransStmtCommit => Control::Commit,
        TransactionStmtKind::TransStmtPrepare => Control::Prepare,
        TransactionStmtKind::TransStmtRelease => Control::Release,
        TransactionStmtKind::TransStmtRollback => Control::Rollback,
        TransactionStmtKind::TransStmtSavepoint => Control::Savepoint,
        TransactionStmtKind::TransStmtRollbackTo => Control::RollbackTo,
        TransactionStmtKind::Undefined
        | TransactionStmtKind::TransStmtBegin
        | TransactionStmtKind::TransStmtStart
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

/// Whether the options only restart a sequence, whose position is data.
fn restarts(options: &[pg_query::protobuf::Node]) -> bool {
    let restart = |option: &pg_query::protobuf::Node| matches!(&option.node, Some(NodeEnum::DefElem(element)) if element.defname == "restart");
    !options.is_empty() && options.iter().all(restart)
}

fn restarts_only(stmt: &pg_query::protobuf::AlterTableStmt) -> bool {
    let restarts = |command: &pg_query::protobuf::Node| match &command.node {
        Some(NodeEnum::AlterTableCmd(command)) if command.subtype() == AlterTableType::AtSetIdentity => {
            match command.def.as_ref().and_then(|def| def.node.as_ref()) {
                Some(NodeEnum::List(list)) => restarts(&list.items),
                _ => false,
            }
        }
        _ => false,
    };
    !stmt.cmds.is_empty() && stmt.cmds.iter().all(restarts)
}

fn names_schemas(stmt: &pg_query::protobuf::GrantStmt) -> bool {
    stmt.targtype() == GrantTargetType::AclTargetAllInSchema || stmt.objtype() == ObjectType::ObjectSchema
}

fn is_journal(object: &pg_query::protobuf::Node) -> bool {
    matches!(&object.node, Some(NodeEnum::String(name)) if name.sval == "tdb")
}

/// Whether objects of this type are outside databases.
fn outside(kind: ObjectType) -> bool {
    matches!(
        kind,
        ObjectType::ObjectDatabase
            | ObjectType::ObjectRole
            | ObjectType::ObjectTablespace
            | ObjectType::ObjectParameterAcl
    )
}

/// Whether it is DETACH PARTITION with CONCURRENTLY, or with FINALIZE, which completes an interrupted CONCURRENTLY.
fn detaches_concurrently(stmt: &pg_query::protobuf::AlterTableStmt) -> bool {
    stmt.cmds.iter().any(|command| match &command.node {
        Some(NodeEnum::AlterTableCmd(command)) => match command.def.as_ref().and_then(|def| def.node.as_ref()) {
            Some(NodeEnum::PartitionCmd(partition)) => {
                partition.concurrent || command.subtype() == AlterTableType::AtDetachPartitionFinalize
            }
            _ => false,
        },
        _ => false,
    })
}

fn functions(tree: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(tree, &mut |key, value| {
        if key == "funcname" {
            let mut name = strings(value);
            if name.first().map(String::as_str) != Some("pg_catalog") {
                found.extend(name.pop());
            }
        }
    });
    found
}

impl Split<'_> {
    /// Whether it is CREATE EXTENSION or ALTER EXTENSION, which run a script of the extension.
    pub(super) fn runs_script(&self) -> bool {
        matches!(self.kind, Kind::Extension { .. }) || self.tree.get("AlterExtensionStmt").is_some()
    }

    /// Whether it is a DO whose body contains COMMIT or ROLLBACK.
    pub(super) fn commits(&self) -> bool {
        self.tree
            .get("DoStmt")
            .map(strings)
            .unwrap_or_default()
            .iter()
            .any(|text| bodies::ends_transactions(text))
    }

    /// Whether it is a CALL or DO, which can run procedures that commit.
    pub(super) fn calls(&self) -> bool {
        ["CallStmt", "DoStmt"].iter().any(|node| self.tree.get(node).is_some())
    }

    /// Whether it uses a parameter, whose value is not in the journal.
    pub(super) fn has_parameter(&self) -> bool {
        let takes = self.kind == Kind::Carrier
            || ["SelectStmt", "CreateTableAsStmt"]
                .iter()
                .any(|node| self.tree.get(node).is_some());
        let mut found = false;
        // In the body of a function, `$1` is the function's parameter.
        walk(&self.tree, &mut |key, _| found |= key == "ParamRef");
        found && takes
    }

    /// CREATE INDEX CONCURRENTLY with the name that the server chose, so that a retry finds the same index. `None` if
    /// the text has a name.
    pub(super) fn with_index_name(&self, row: &Event) -> Result<Option<String>, String> {
        let mut raw = self.raw.clone();
        let Some(NodeEnum::IndexStmt(stmt)) = raw.stmt.as_mut().and_then(|stmt| stmt.node.as_mut()) else {
            return Ok(None);
        };
        if !stmt.idxname.is_empty() {
            return Ok(None);
        }
        let identity = row.objects.iter().find_map(|object| object.identity.as_deref());
        let identity = identity.ok_or("the index is not named in the journal")?;
        stmt.idxname = last_name(identity);
        deparse(raw).map(Some)
    }

    /// The text of DETACH PARTITION … CONCURRENTLY, also for the FINALIZE of an interrupted one, and the partition's name.
    pub(super) fn detach(&self) -> Result<(String, String), String> {
        let mut raw = self.raw.clone();
        let mut name = None;
        if let Some(NodeEnum::AlterTableStmt(stmt)) = raw.stmt.as_mut().and_then(|stmt| stmt.node.as_mut()) {
            for command in &mut stmt.cmds {
                let Some(NodeEnum::AlterTableCmd(command)) = &mut command.node else {
                    continue;
                };
                command.set_subtype(AlterTableType::AtDetachPartition);
                let def = command.def.as_mut().and_then(|def| def.node.as_mut());
                if let Some(NodeEnum::PartitionCmd(partition)) = def {
                    partition.concurrent = true;
                    name = partition.name.as_ref().map(|name| name.relname.clone());
                }
            }
        }
        let name = name.ok_or("the partition is not named in its text")?;
        Ok((deparse(raw)?, name))
    }

    /// GRANT or REVOKE on several schemas, without the journal's schema, which tenants do not have in this form. `None`
    /// if the statement does not name it.
    pub(super) fn without_journal(&self) -> Result<Option<String>, String> {
        let mut raw = self.raw.clone();
        match raw.stmt.as_mut().and_then(|stmt| stmt.node.as_mut()) {
            Some(NodeEnum::GrantStmt(stmt)) if names_schemas(stmt) && stmt.objects.iter().any(is_journal) => {
                stmt.objects.retain(|object| !is_journal(object));
                deparse(raw).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// DROP INDEX with IF EXISTS added: the invalid index of a failed CREATE INDEX CONCURRENTLY exists in the workspace
    /// only. `None` for other statements and if it has IF EXISTS.
    pub(super) fn if_exists(&self) -> Result<Option<String>, String> {
        let mut raw = self.raw.clone();
        let Some(NodeEnum::DropStmt(stmt)) = raw.stmt.as_mut().and_then(|stmt| stmt.node.as_mut()) else {
            return Ok(None);
        };
        if stmt.missing_ok || stmt.remove_type() != ObjectType::ObjectIndex {
            return Ok(None);
        }
        stmt.missing_ok = true;
        deparse(raw).map(Some)
    }
}
