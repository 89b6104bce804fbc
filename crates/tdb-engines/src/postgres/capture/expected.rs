//! The journal row that a statement writes when it takes effect: the beginning of its command tag, the possible names
//! of its objects, and whether it always writes a row.

use pg_query::NodeEnum;
use pg_query::protobuf::ObjectType;
use serde_json::Value;

use super::kind::Kind;
use super::tree::{strings, walk};

/// The row that a statement writes.
pub(super) struct Expected {
    /// The beginning of its command tag.
    pub tag: &'static str,
    pub names: Names,
    pub certainty: Certainty,
}

/// The possible names of its objects.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Names {
    Unknown,
    OneOf(Vec<String>),
    /// The server generates the name; it begins like this. For an index this is the table's name, which may be shortened.
    Beginning(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certainty {
    /// It writes a row whenever it runs, unless its objects are temporary.
    Always,
    /// It writes a row only if it has an effect.
    Perhaps,
}

/// `None` if the statement writes no row itself; functions that it calls may still write rows.
pub(super) fn expected(node: &NodeEnum, kind: Kind, tree: &Value) -> Option<Expected> {
    let leaves = match kind {
        Kind::Ddl
        | Kind::Journal
        | Kind::CreateIndexConcurrently
        | Kind::DropIndexConcurrently
        | Kind::DetachConcurrently
        | Kind::Extension { .. } => true,
        Kind::Data => matches!(node, NodeEnum::AlterSeqStmt(_) | NodeEnum::AlterTableStmt(_)),
        Kind::Prepared => matches!(node, NodeEnum::CreateTableAsStmt(_)),
        Kind::Carrier | Kind::Control(_) | Kind::NotSchema | Kind::Silent => false,
    };
    leaves.then(|| Expected {
        tag: tag(node),
        names: match (node, names(node, tree)) {
            (NodeEnum::IndexStmt(stmt), _) if stmt.idxname.is_empty() => index_begin(stmt),
            (_, names) if names.is_empty() => Names::Unknown,
            (_, names) => Names::OneOf(names),
        },
        certainty: certainty(node, tree),
    })
}

fn certainty(node: &NodeEnum, tree: &Value) -> Certainty {
    if matches!(
        node,
        NodeEnum::DropOwnedStmt(_)
            | NodeEnum::ReassignOwnedStmt(_)
            | NodeEnum::ImportForeignSchemaStmt(_)
            | NodeEnum::AlterExtensionStmt(_)
            | NodeEnum::AlterTableMoveAllStmt(_)
            | NodeEnum::AlterDomainStmt(_)
    ) {
        return Certainty::Perhaps;
    }
    let statement = tree.as_object().and_then(|node| node.values().next());
    // Only IF EXISTS of the statement itself: with IF EXISTS of a column or constraint there is still a row for the table.
    let conditional = ["missing_ok", "if_not_exists"]
        .iter()
        .any(|field| statement.and_then(|statement| statement.get(field)) == Some(&Value::Bool(true)));
    let mut temporary = false;
    walk(tree, &mut |key, value| {
        temporary |= key == "relpersistence" && value == "t" || key == "schemaname" && value == "pg_temp";
    });
    if conditional || temporary {
        Certainty::Perhaps
    } else {
        Certainty::Always
    }
}

/// The beginning of the command tag. The first word is exact, if there is one.
fn tag(node: &NodeEnum) -> &'static str {
    match node {
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
        NodeEnum::DropUserMappingStmt(_) | NodeEnum::DropSubscriptionStmt(_) => "DROP",
        NodeEnum::AlterTableStmt(_)
        | NodeEnum::AlterTableMoveAllStmt(_)
        | NodeEnum::AlterExtensionStmt(_)
        | NodeEnum::AlterExtensionContentsStmt(_)
        | NodeEnum::AlterDefaultPrivilegesStmt(_)
        | NodeEnum::AlterCollationStmt(_)
        | NodeEnum::AlterFdwStmt(_)
        | NodeEnum::AlterForeignServerStmt(_)
        | NodeEnum::AlterUserMappingStmt(_)
        | NodeEnum::AlterEventTrigStmt(_)
        | NodeEnum::AlterFunctionStmt(_)
        | NodeEnum::AlterOpFamilyStmt(_)
        | NodeEnum::AlterOperatorStmt(_)
        | NodeEnum::AlterTypeStmt(_)
        | NodeEnum::AlterStatsStmt(_)
        | NodeEnum::AlterTsdictionaryStmt(_)
        | NodeEnum::AlterTsconfigurationStmt(_)
        | NodeEnum::AlterPublicationStmt(_)
        | NodeEnum::AlterSubscriptionStmt(_)
        | NodeEnum::AlterObjectDependsStmt(_)
        | NodeEnum::AlterObjectSchemaStmt(_)
        | NodeEnum::AlterOwnerStmt(_)
        | NodeEnum::RenameStmt(_) => "ALTER",
        NodeEnum::DefineStmt(_)
        | NodeEnum::CreateFdwStmt(_)
        | NodeEnum::CreateForeignServerStmt(_)
        | NodeEnum::CreateForeignTableStmt(_)
        | NodeEnum::CreateUserMappingStmt(_)
        | NodeEnum::CreateAmStmt(_)
        | NodeEnum::CreateEventTrigStmt(_)
        | NodeEnum::CreatePlangStmt(_)
        | NodeEnum::CreateOpClassStmt(_)
        | NodeEnum::CreateOpFamilyStmt(_)
        | NodeEnum::CreateStatsStmt(_)
        | NodeEnum::CreateConversionStmt(_)
        | NodeEnum::CreateCastStmt(_)
        | NodeEnum::CreateTransformStmt(_)
        | NodeEnum::CreatePublicationStmt(_)
        | NodeEnum::CreateSubscriptionStmt(_) => "CREATE",
        // Of a newer version of PostgreSQL: every tag begins like this.
        _ => "",
    }
}

/// The server keeps at least this many bytes of a table's name in the generated name of an index.
const TABLE_LEN_KEPT: usize = 20;

fn index_begin(stmt: &pg_query::protobuf::IndexStmt) -> Names {
    let table = stmt
        .relation
        .as_ref()
        .map(|table| table.relname.as_str())
        .unwrap_or_default();
    Names::Beginning(if table.len() > TABLE_LEN_KEPT {
        table
            .char_indices()
            .take_while(|(at, _)| *at < TABLE_LEN_KEPT)
            .map(|(_, c)| c)
            .collect()
    } else {
        format!("{table}_")
    })
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
        NodeEnum::RenameStmt(stmt) if stmt.subname.is_empty() => vec![stmt.newname.clone()],
        NodeEnum::RenameStmt(stmt) => [relation(&stmt.relation), vec![stmt.newname.clone()]].concat(),
        NodeEnum::CompositeTypeStmt(stmt) => relation(&stmt.typevar),
        NodeEnum::DefineStmt(stmt) => stmt.defnames.last().and_then(object_name).into_iter().collect(),
        NodeEnum::AlterFunctionStmt(stmt) => stmt
            .func
            .iter()
            .filter_map(|function| function.objname.last().and_then(object_name))
            .collect(),
        NodeEnum::CreateFunctionStmt(_) => last_string(tree, "funcname"),
        NodeEnum::CreateEnumStmt(_) | NodeEnum::AlterEnumStmt(_) | NodeEnum::CreateRangeStmt(_) => {
            last_string(tree, "type_name")
        }
        NodeEnum::CreateDomainStmt(_) => last_string(tree, "domainname"),
        NodeEnum::DropStmt(stmt) => stmt.objects.iter().filter_map(object_name).collect(),
        NodeEnum::CommentStmt(stmt) => stmt.object.as_deref().and_then(object_name).into_iter().collect(),
        NodeEnum::AlterOwnerStmt(stmt) => match &stmt.relation {
            Some(_) => relation(&stmt.relation),
            None => stmt.object.as_deref().and_then(object_name).into_iter().collect(),
        },
        NodeEnum::AlterObjectSchemaStmt(stmt) if stmt.relation.is_some() => relation(&stmt.relation),
        NodeEnum::CreateStatsStmt(stmt) => stmt.defnames.last().and_then(object_name).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// The last part of the qualified name in the tree's field `field`.
fn last_string(tree: &Value, field: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(tree, &mut |key, value| {
        if key == field && found.is_empty() {
            found = strings(value).pop().into_iter().collect();
        }
    });
    found
}

/// The last part of the name of an object; the parts before it are schemas and tables.
fn object_name(object: &pg_query::protobuf::Node) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::super::split::split;

    #[test]
    fn the_tag_begins_with_what_the_statement_does() {
        let beginnings = [
            ("ALTER TABLE t ADD a int", "ALTER"),
            ("ALTER TABLE t RENAME TO u", "ALTER"),
            ("ALTER TABLE ALL IN TABLESPACE a SET TABLESPACE b", "ALTER"),
            ("ALTER VIEW v SET SCHEMA s", "ALTER"),
            ("ALTER TYPE t OWNER TO CURRENT_USER", "ALTER"),
            ("ALTER TYPE t ADD ATTRIBUTE a int", "ALTER"),
            ("ALTER FUNCTION f DEPENDS ON EXTENSION e", "ALTER"),
            ("ALTER FUNCTION f() STABLE", "ALTER"),
            ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC", "ALTER"),
            ("ALTER EXTENSION e UPDATE", "ALTER"),
            ("ALTER EXTENSION e ADD TABLE t", "ALTER"),
            ("ALTER OPERATOR +(a, b) SET (RESTRICT = NONE)", "ALTER"),
            ("ALTER OPERATOR FAMILY f USING btree DROP FUNCTION 1 (a)", "ALTER"),
            ("ALTER TEXT SEARCH DICTIONARY d (a = b)", "ALTER"),
            ("ALTER TEXT SEARCH CONFIGURATION c DROP MAPPING FOR word", "ALTER"),
            ("ALTER COLLATION c REFRESH VERSION", "ALTER"),
            ("ALTER STATISTICS s SET STATISTICS 1", "ALTER"),
            ("ALTER PUBLICATION p ADD TABLE t", "ALTER"),
            ("ALTER SERVER s VERSION 'a'", "ALTER"),
            ("ALTER USER MAPPING FOR PUBLIC SERVER s OPTIONS (a 'b')", "ALTER"),
            ("DROP USER MAPPING FOR PUBLIC SERVER s", "DROP"),
            ("DROP SUBSCRIPTION s", "DROP"),
            ("CREATE AGGREGATE g (int) (SFUNC = f, STYPE = int)", "CREATE"),
            ("CREATE STATISTICS s ON a, b FROM t", "CREATE"),
            ("CREATE CAST (a AS b) WITHOUT FUNCTION", "CREATE"),
            ("CREATE CONVERSION c FOR 'UTF8' TO 'LATIN1' FROM f", "CREATE"),
            ("CREATE OPERATOR FAMILY f USING btree", "CREATE"),
            (
                "CREATE OPERATOR CLASS c FOR TYPE t USING btree AS OPERATOR 1 <",
                "CREATE",
            ),
            ("CREATE FOREIGN TABLE f () SERVER s", "CREATE"),
            ("CREATE SERVER s FOREIGN DATA WRAPPER w", "CREATE"),
            ("CREATE USER MAPPING FOR PUBLIC SERVER s", "CREATE"),
            ("CREATE PUBLICATION p", "CREATE"),
            (
                "CREATE TRANSFORM FOR t LANGUAGE l (FROM SQL WITH FUNCTION f(internal))",
                "CREATE",
            ),
        ];
        for (text, beginning) in beginnings {
            let statements = split(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let expected = statements.first().and_then(|one| one.expected.as_ref());
            assert_eq!(expected.map(|row| row.tag), Some(beginning), "{text}");
        }
    }
}
