//! Detects statements that leave the owner's role. In the workspace the session's login is the owner, at replay it is the
//! deployer, whose session begins with the owner's role: RESET ROLE returns to the owner in both, but SET ROLE none and SET
//! SESSION AUTHORIZATION return to the login.

use pg_query::protobuf::ScanToken;

/// How deep strings in strings are read.
const DEPTH_MAX: u32 = 4;

/// An error with the reason if the text of a statement, or a text in it such as the body of a DO, returns to the role of the
/// login.
pub(super) fn refuse(text: &str) -> Result<(), String> {
    match found(text, DEPTH_MAX) {
        Some(what) => Err(format!(
            "its {what} gives another role where it is replayed: write RESET ROLE instead"
        )),
        None => Ok(()),
    }
}

fn found(text: &str, depth: u32) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase();
    let mentions = lower.contains("none") && lower.contains("role") || lower.contains("authorization");
    if !mentions || depth == 0 {
        return None;
    }
    let words = words(text);
    let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
    let none = |value: &str| ["none", "'none'", "\"none\""].contains(&value);
    let role = |name: &str| ["role", "'role'", "\"role\""].contains(&name);
    let sets_none = |window: &[&str]| match window {
        [name, "to" | "=" | ",", value] => role(name) && none(value),
        _ => false,
    };
    if words.windows(2).any(|pair| pair == ["session", "authorization"]) {
        return Some("SESSION AUTHORIZATION");
    }
    if words.windows(3).any(sets_none)
        || words
            .windows(2)
            .any(|pair| pair.first() == Some(&"role") && pair.get(1).copied().is_some_and(none))
    {
        return Some("SET ROLE none");
    }
    words.iter().find_map(|word| found(inside(word)?, depth - 1))
}

/// The tokens of a text in lower case, with their offsets; none if it has no tokens of PostgreSQL.
pub(super) fn words(text: &str) -> Vec<(String, usize)> {
    let scanned = pg_query::scan(text).map(|scanned| scanned.tokens).unwrap_or_default();
    let word = |token: &ScanToken| {
        let (from, to) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        Some((text.get(from..to)?.to_ascii_lowercase(), from))
    };
    scanned.iter().filter_map(word).collect()
}

/// The content of a string, with its escapes, which do not matter for words.
pub(super) fn inside(word: &str) -> Option<&str> {
    if let Some(quoted) = word.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return Some(quoted);
    }
    let tag = word.strip_prefix('$')?.split_once('$')?.0;
    let delimiter = tag.len() + 2;
    word.get(delimiter..word.len().checked_sub(delimiter)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_login_is_another_role_at_replay() {
        for text in [
            "DO $$ begin set local role none; create table b (); end $$",
            "DO $x$ begin SET ROLE 'none'; end $x$",
            "DO $$ begin set role = none; end $$",
            "DO $$ begin perform set_config('role', 'none', true); end $$",
            "DO $$ begin execute 'set local role to none'; end $$",
            "DO $$ begin execute $y$ set role none $y$; end $$",
            "DO 'begin set session authorization default; end'",
            "SELECT set_config('role', 'none', true), make_tables()",
        ] {
            assert!(refuse(text).is_err(), "{text}");
        }
        for text in [
            "DO $$ begin reset role; create table b (); end $$",
            "DO $$ begin set role anon; create table none (role text); end $$",
            "DO $$ begin execute 'set role none",
            "SELECT make_tables('none', 'role')",
        ] {
            assert_eq!(refuse(text), Ok(()), "{text}");
        }
    }
}
