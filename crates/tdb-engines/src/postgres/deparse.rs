//! SQL text from parse trees. Errors are sentences that become the reason of a broken change.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, ParseResult, RawStmt};

/// The text of a single node, which is wrapped as a statement.
pub(crate) fn written(node: NodeEnum) -> Result<String, String> {
    let stmt = Node { node: Some(node) };
    deparse(RawStmt {
        stmt: Some(Box::new(stmt)),
        ..Default::default()
    })
}

pub(crate) fn deparse(raw: RawStmt) -> Result<String, String> {
    let tree = ParseResult {
        stmts: vec![raw],
        ..Default::default()
    };
    pg_query::deparse(&tree, Default::default())
        .map_err(|error| format!("it cannot be converted back to SQL text: {error}"))
}
