//! `CREATE EXTENSION` in SQL that developers and dumps contain. Without I/O: finds the statements, and adds IF NOT EXISTS
//! to those whose extension the administrator has already created.

use std::ops::Range;

use pg_query::NodeEnum;
use pg_query::protobuf::{CreateExtensionStmt, Token};

use super::Wanted;

/// One `CREATE EXTENSION` statement of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The name, and the version and schema if the statement has them.
    pub wanted: Wanted,
    /// Whether it has CASCADE, which also creates the extensions that it requires.
    pub cascade: bool,
    /// The byte position after the word EXTENSION, where `IF NOT EXISTS` can be inserted; `None` if the statement has it.
    condition_at: Option<usize>,
}

/// Returns the `CREATE EXTENSION` statements of a text; an empty list if the text cannot be parsed.
pub fn extensions(sql: &str) -> Vec<Written> {
    let Ok(parsed) = pg_query::parse(sql, 0) else {
        return Vec::new();
    };
    let mut statements = Vec::new();
    for raw in parsed.protobuf.stmts {
        let Some(NodeEnum::CreateExtensionStmt(stmt)) = raw.stmt.and_then(|stmt| stmt.node) else {
            continue;
        };
        let from = usize::try_from(raw.stmt_location).unwrap_or(0);
        let len = usize::try_from(raw.stmt_len).unwrap_or(0);
        let to = if len == 0 { sql.len() } else { from + len };
        statements.push((stmt, from..to));
    }
    if statements.is_empty() {
        return Vec::new();
    }
    let words = words(sql);
    statements
        .into_iter()
        .map(|(stmt, range)| written(&stmt, &range, &words))
        .collect()
}

/// Whether `sql` can be parsed and is exactly one statement.
pub fn is_one_statement(sql: &str) -> bool {
    pg_query::parse(sql, 0).is_ok_and(|parsed| parsed.protobuf.stmts.len() == 1)
}

/// Adds `IF NOT EXISTS` to the statements of `sql` that create one of the extensions `made`. `written` is the result of
/// [`extensions`] for the same text.
pub fn with_conditions(sql: &str, written: &[Written], made: &[String]) -> String {
    let mut text = String::with_capacity(sql.len() + written.len() * CONDITION.len());
    let mut from = 0;
    for at in written
        .iter()
        .filter(|written| made.contains(&written.wanted.name))
        .filter_map(|written| written.condition_at)
    {
        text.push_str(sql.get(from..at).unwrap_or_default());
        text.push_str(CONDITION);
        from = at;
    }
    text.push_str(sql.get(from..).unwrap_or_default());
    text
}

const CONDITION: &str = " IF NOT EXISTS";

fn written(stmt: &CreateExtensionStmt, range: &Range<usize>, words: &[usize]) -> Written {
    let mut written = Written {
        wanted: Wanted {
            name: stmt.extname.clone(),
            version: None,
            schema: None,
        },
        cascade: false,
        condition_at: None,
    };
    for option in &stmt.options {
        let Some(NodeEnum::DefElem(option)) = &option.node else {
            continue;
        };
        let text = option.arg.as_ref().and_then(|arg| match &arg.node {
            Some(NodeEnum::String(text)) => Some(text.sval.clone()),
            _ => None,
        });
        match option.defname.as_str() {
            "schema" => written.wanted.schema = text,
            "new_version" => written.wanted.version = text,
            "cascade" => written.cascade = true,
            _ => {}
        }
    }
    if !stmt.if_not_exists {
        written.condition_at = words.iter().copied().find(|end| range.contains(end));
    }
    written
}

/// The byte positions at which the keywords EXTENSION end.
fn words(sql: &str) -> Vec<usize> {
    let Ok(scanned) = pg_query::scan(sql) else {
        return Vec::new();
    };
    let extension = |token: &pg_query::protobuf::ScanToken| token.token == Token::Extension as i32;
    let tokens = scanned.tokens.iter().filter(|token| extension(token));
    tokens.filter_map(|token| usize::try_from(token.end).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_with_its_options_and_gets_its_conditions() {
        let sql = "-- extension\nCREATE  EXTENSION vector; create extension if not exists \"uuid-ossp\" with schema public;\n\
                   SELECT 'CREATE EXTENSION x'; CREATE/* é */EXTENSION postgis SCHEMA gis VERSION '3.3.2' CASCADE";
        let found = extensions(sql);
        let wanted = |name: &str, schema: Option<&str>, version: Option<&str>| Wanted {
            name: name.to_owned(),
            version: version.map(str::to_owned),
            schema: schema.map(str::to_owned),
        };
        let said: Vec<Wanted> = found.iter().map(|written| written.wanted.clone()).collect();
        assert_eq!(
            said,
            [
                wanted("vector", None, None),
                wanted("uuid-ossp", Some("public"), None),
                wanted("postgis", Some("gis"), Some("3.3.2"))
            ]
        );
        assert_eq!(
            found.iter().map(|w| w.cascade).collect::<Vec<_>>(),
            [false, false, true]
        );
        let made = ["vector", "uuid-ossp", "postgis"].map(str::to_owned);
        assert_eq!(
            with_conditions(sql, &found, &made),
            "-- extension\nCREATE  EXTENSION IF NOT EXISTS vector; create extension if not exists \"uuid-ossp\" with schema public;\n\
             SELECT 'CREATE EXTENSION x'; CREATE/* é */EXTENSION IF NOT EXISTS postgis SCHEMA gis VERSION '3.3.2' CASCADE"
        );
        assert_eq!(with_conditions(sql, &found, &[]), sql);
    }

    #[test]
    fn what_is_no_such_statement_is_left_alone() {
        for sql in [
            "SELECT 'CREATE EXTENSION vector'",
            "CREATE EXTENSION",
            "DROP EXTENSION vector",
            "",
        ] {
            assert_eq!(extensions(sql), [], "{sql}");
        }
    }
}
