//! What the body of a function sets before it runs a statement: settings, whose values inside the call the journal records
//! instead of the session's, and the role.

use pg_query::protobuf::{ScanToken, Token};

use super::context;
use super::session_role::{inside, refuse, words};
use crate::postgres::ident::unquoted;
use crate::postgres::journal::{Event, Function, SETTINGS};

/// How deep strings in strings are read.
const DEPTH_MAX: u32 = 4;

/// The settings that a body may have set when the call of the context line `line` ran the row's statement.
pub(super) fn set_before(function: &Function, line: &str, row: &Event) -> Vec<&'static str> {
    let Some(body) = &function.body else {
        return Vec::new();
    };
    let end = reached(body, line, row);
    settings(body)
        .into_iter()
        .filter(|(_, at)| *at < end)
        .map(|(name, _)| name)
        .collect()
}

/// Whether one of the settings is set in a body.
pub(super) fn sets(function: &Function, name: &str) -> bool {
    let body = function.body.as_deref().unwrap_or_default();
    settings(body).iter().any(|(set, _)| set.eq_ignore_ascii_case(name))
}

/// Whether the effect of a body may depend on the settings that the session had before the call.
pub(super) fn reads_settings(function: &Function) -> bool {
    let body = function.body.as_deref().unwrap_or_default().to_ascii_lowercase();
    ["current_setting", "current_schema"]
        .iter()
        .any(|name| body.contains(name))
}

/// Whether a body contains COMMIT or ROLLBACK as a statement.
pub(super) fn ends_transactions(body: &str) -> bool {
    pg_query::scan(body).is_ok_and(|scanned| {
        let mut before = Token::Nul;
        scanned.tokens.iter().any(|token| {
            // ON COMMIT is a clause of a temporary table.
            let ends = matches!(token.token(), Token::Commit | Token::Rollback) && before != Token::On;
            before = token.token();
            ends
        })
    })
}

/// The names, without schemas, of the procedures that a body calls.
pub(super) fn calls(body: &str) -> Vec<String> {
    let Ok(scanned) = pg_query::scan(body) else {
        return Vec::new();
    };
    let text = |token: &ScanToken| {
        let (start, end) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        body.get(start..end)
    };
    let mut names = Vec::new();
    let mut tokens = scanned.tokens.iter().peekable();
    while let Some(token) = tokens.next() {
        if token.token() != Token::Call {
            continue;
        }
        let mut name = tokens.next().and_then(text);
        while tokens.next_if(|token| text(token) == Some(".")).is_some() {
            name = tokens.next().and_then(text);
        }
        names.extend(match name {
            Some(name) if name.starts_with('"') => Some(unquoted(name)),
            // A function can have the name call too: then a parenthesis follows.
            Some(name) if !name.starts_with('(') => Some(name.to_ascii_lowercase()),
            Some(_) | None => None,
        });
    }
    names
}

/// An error with the reason if the body of a function whose call ran DDL returns to the role of the login.
pub(super) fn refuse_roles<'a>(functions: impl Iterator<Item = &'a Function>) -> Result<(), String> {
    for function in functions {
        if let Some(body) = &function.body {
            refuse(body).map_err(|reason| format!("function \"{}\" ran DDL, and {reason}", function.name))?;
        }
    }
    Ok(())
}

/// The offset in a body that the call has reached: that of the row's statement, if its text is part of the body, else the end of
/// the line. A function in SQL has set nothing before its first statement.
fn reached(body: &str, line: &str, row: &Event) -> usize {
    if let Some(at) = context::run_in(&row.caller, line).and_then(|text| body.find(text.trim())) {
        return at;
    }
    match line.rsplit_once(')') {
        Some((_, after)) => match number(after) {
            Some(n) => body.split_inclusive('\n').take(n).map(str::len).sum(),
            None => body.len(),
        },
        None if number(line) == Some(1) => 0,
        None => body.len(),
    }
}

/// The first number in a text.
fn number(text: &str) -> Option<usize> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    parts.find(|part| !part.is_empty())?.parse().ok()
}

/// The recorded settings that a body sets, and the offsets at which it does.
fn settings(body: &str) -> Vec<(&'static str, usize)> {
    let mut found = Vec::new();
    find(body, DEPTH_MAX, &mut found);
    found
}

fn find(text: &str, depth: u32, found: &mut Vec<(&'static str, usize)>) {
    let words = words(text);
    let word = |at: usize| words.get(at).map(|(word, _)| word.as_str());
    for (n, (first, at)) in words.iter().enumerate() {
        let name = match first.as_str() {
            "set" => {
                let n = n + 1 + usize::from(matches!(word(n + 1), Some("local" | "session")));
                match (word(n), word(n + 1)) {
                    (Some("time"), Some("zone")) => recorded("timezone"),
                    (Some(name), _) => recorded(name.trim_matches('"')),
                    (None, _) => None,
                }
            }
            // A name that is computed may be any.
            "set_config" => match word(n + 2).and_then(inside) {
                Some(name) => recorded(name),
                None => recorded(SEARCH_PATH),
            },
            _ => None,
        };
        found.extend(name.map(|name| (name, *at)));
        if let Some(text) = inside(first).filter(|_| depth > 0) {
            let mut within = Vec::new();
            find(text, depth - 1, &mut within);
            found.extend(within.into_iter().map(|(name, _)| (name, *at)));
        }
    }
}

fn recorded(name: &str) -> Option<&'static str> {
    let mut all = SETTINGS.into_iter().chain([SEARCH_PATH]);
    all.find(|setting| setting.eq_ignore_ascii_case(name))
}

const SEARCH_PATH: &str = "search_path";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_procedures_that_a_body_calls_are_found() {
        let body =
            "BEGIN CALL Ends(); PERFORM x.call(1); -- CALL no()\n CALL s.\"My proc\"(1); EXECUTE 'CALL hidden()'; END";
        assert_eq!(calls(body), ["ends", "My proc"]);
    }

    #[test]
    fn what_a_body_sets_is_found_with_its_place() {
        let table: [(&str, &[(&str, usize)]); 7] = [
            (
                "BEGIN PERFORM set_config('search_path', 'a', true); END",
                &[("search_path", 14)],
            ),
            (
                "BEGIN SET LOCAL search_path = a; SET datestyle TO x; END",
                &[("search_path", 6), ("DateStyle", 33)],
            ),
            ("BEGIN SET SESSION \"search_path\" = a; END", &[("search_path", 6)]),
            ("BEGIN EXECUTE 'SET search_path TO ' || x; END", &[("search_path", 14)]),
            (
                "BEGIN PERFORM set_config(name, 'a', true); SET TIME ZONE 1; END",
                &[("search_path", 14), ("TimeZone", 43)],
            ),
            ("BEGIN UPDATE t SET a = 1; -- SET search_path = a\n END", &[]),
            ("BEGIN PERFORM set_config('app.user', 'a', true); END", &[]),
        ];
        for (body, expected) in table {
            assert_eq!(settings(body), expected, "{body}");
        }
    }
}
