//! EXECUTE of a statement that the same message prepared, with the prepared statement in its place: where a change is
//! replayed, nothing is prepared. The text of a statement that another message prepared is not recorded.

use std::collections::HashMap;
use std::ops::Range;

use pg_query::protobuf::{ScanToken, Token};
use serde_json::Value;

use super::split::Split;

/// A PREPARE of the message.
#[derive(Clone, Copy)]
struct Prepared<'t> {
    /// The text from the types of the parameters on.
    text: &'t str,
}

/// For each statement: its text with the prepared statement in the place of EXECUTE; `None` if it has no EXECUTE, or the message did
/// not prepare the statement.
pub(super) fn inlined(statements: &[Split<'_>]) -> Vec<Option<String>> {
    let mut known: HashMap<String, Prepared<'_>> = HashMap::new();
    let mut all = Vec::with_capacity(statements.len());
    for statement in statements {
        let name = |node: &str| Some(statement.tree.get(node)?.get("name")?.as_str()?.to_owned());
        if let Some(name) = name("PrepareStmt") {
            known.insert(name, Prepared { text: statement.text });
        } else if let Some(name) = name("DeallocateStmt") {
            known.remove(&name);
            if name.is_empty() {
                known.clear();
            }
        }
        let executed = executed(&statement.tree).and_then(|name| known.get(name));
        all.push(executed.and_then(|prepared| in_place(statement.text, prepared)));
    }
    all
}

/// The name of the prepared statement that a statement executes.
pub(super) fn executed(tree: &Value) -> Option<&str> {
    let query = || tree.pointer("/CreateTableAsStmt/query/node/ExecuteStmt");
    tree.get("ExecuteStmt").or_else(query)?.get("name")?.as_str()
}

fn in_place(text: &str, prepared: &Prepared<'_>) -> Option<String> {
    let tokens = Tokens::of(text)?;
    let execute = (0..tokens.len()).find(|at| {
        let after_as = at.checked_sub(1).is_none_or(|before| tokens.is(before, Token::As));
        after_as && tokens.is(*at, Token::Execute)
    })?;
    let arguments = tokens.list(execute + 2);
    let end = match &arguments {
        Some((_, close)) => *close,
        None => execute + 1,
    };
    let arguments = arguments.map(|(list, _)| list).unwrap_or_default();
    let query = prepared.with(&arguments)?;
    let before = text.get(..tokens.range(execute)?.start)?;
    let after = text.get(tokens.range(end)?.end..)?;
    Some(format!("{before}{query}{after}"))
}

impl Prepared<'_> {
    /// The statement with `arguments` in the place of its parameters, each with the parameter's type.
    fn with(&self, arguments: &[&str]) -> Option<String> {
        let tokens = Tokens::of(self.text)?;
        let types = tokens.list(2);
        let begin = types.as_ref().map_or(2, |(_, close)| close + 1) + 1;
        let types = types.map(|(list, _)| list).unwrap_or_default();
        let mut copied = tokens.range(begin)?.start;
        let mut query = String::new();
        for at in begin..tokens.len() {
            if !tokens.is(at, Token::Param) {
                continue;
            }
            let range = tokens.range(at)?;
            let number: usize = self.text.get(range.clone())?.strip_prefix('$')?.parse().ok()?;
            let argument = arguments.get(number.checked_sub(1)?)?;
            query.push_str(self.text.get(copied..range.start)?);
            match types.get(number - 1) {
                Some(kind) => query.push_str(&format!("CAST({argument} AS {kind})")),
                None => query.push_str(&format!("({argument})")),
            }
            copied = range.end;
        }
        query.push_str(self.text.get(copied..)?);
        Some(query)
    }
}

struct Tokens<'t> {
    text: &'t str,
    tokens: Vec<ScanToken>,
}

impl<'t> Tokens<'t> {
    fn of(text: &'t str) -> Option<Self> {
        let comment = |token: &ScanToken| matches!(token.token(), Token::SqlComment | Token::CComment);
        let mut tokens = pg_query::scan(text).ok()?.tokens;
        tokens.retain(|token| !comment(token));
        Some(Self { text, tokens })
    }

    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn is(&self, at: usize, kind: Token) -> bool {
        self.tokens.get(at).is_some_and(|token| token.token() == kind)
    }

    fn range(&self, at: usize) -> Option<Range<usize>> {
        let token = self.tokens.get(at)?;
        Some(usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?)
    }

    /// The elements of the list in parentheses that begins at a token, and its last token.
    fn list(&self, at: usize) -> Option<(Vec<&'t str>, usize)> {
        let text = |at: usize| self.text.get(self.range(at)?);
        if text(at) != Some("(") {
            return None;
        }
        let (mut depth, mut elements) = (0_usize, Vec::new());
        let mut from = self.range(at)?.end;
        for at in at..self.len() {
            let range = self.range(at)?;
            match text(at)? {
                "(" | "[" => depth += 1,
                ")" | "]" => depth -= 1,
                "," if depth == 1 => {
                    elements.push(self.text.get(from..range.start)?.trim());
                    from = range.end;
                }
                _ => {}
            }
            if depth == 0 {
                elements.push(self.text.get(from..range.start)?.trim());
                return Some((elements, at));
            }
        }
        None
    }
}
