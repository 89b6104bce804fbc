//! Makes the text of a message independent of settings that change where its strings end. PostgreSQL splits a whole message
//! with the settings from before it, but a statement is replayed with those that the message had set by then.

use std::borrow::Cow;

use tdb_wire_postgres::tokens::{Encoding, ScanSettings, Strings, Token, Tokens};

use crate::postgres::journal::Event;

const STRINGS: &str = "standard_conforming_strings";
const QUOTE: &str = "backslash_quote";

/// The text of the message of `rows`, with `E'…'` for strings whose meaning depends on `standard_conforming_strings`. The
/// text is unchanged if all rows have the default settings, as usual, or no string contains a backslash.
pub(super) fn independent<'t>(text: &'t str, rows: &[&Event]) -> Cow<'t, str> {
    let is_off = |row: &&Event, name: &str| row.settings.get(name).map(String::as_str) == Some("off");
    let settings_differ = rows.iter().any(|row| is_off(row, STRINGS) || is_off(row, QUOTE));
    if !text.contains('\\') || !settings_differ && !text.to_ascii_lowercase().contains(STRINGS) {
        return Cow::Borrowed(text);
    }
    // The journal does not record what the setting was when the message began.
    let was_off = match rows.first() {
        Some(first) if is_off(first, STRINGS) => !switches_off(text),
        _ => pg_query::parse(text, 0).is_err(),
    };
    let scan = ScanSettings {
        strings: if was_off { Strings::Escaped } else { Strings::Standard },
        encoding: Encoding::High,
    };
    let mut independent = String::with_capacity(text.len() + 16);
    let mut copied = 0;
    let mut tokens = Tokens::new(text.as_bytes(), scan);
    while let Some(token) = tokens.next() {
        let range = tokens.range();
        let (Token::String(_), Some(literal)) = (token, text.get(range.clone())) else {
            continue;
        };
        if let Some(instead) = escaped(literal, scan.strings) {
            independent.push_str(text.get(copied..range.start).unwrap_or_default());
            independent.push_str(&instead);
            copied = range.end;
        }
    }
    independent.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(independent)
}

/// Whether the text turns `standard_conforming_strings` off, so that it was on before.
fn switches_off(text: &str) -> bool {
    let words: Vec<String> = Tokens::new(text.as_bytes(), ScanSettings::USUAL)
        .filter_map(|token| match token {
            Token::Word(word) | Token::Quoted(word) | Token::String(word) => {
                Some(String::from_utf8_lossy(word).to_lowercase())
            }
            Token::Escaped(_) | Token::Semicolon | Token::Other(_) => None,
        })
        .filter(|word| word != "to")
        .collect();
    let off = |value: &String| ["off", "false", "no", "0"].contains(&value.as_str());
    words
        .iter()
        .zip(words.iter().skip(1))
        .any(|(name, value)| name == STRINGS && off(value))
}

/// The string as `E'…'`; `None` if it means the same with all settings.
fn escaped(literal: &str, strings: Strings) -> Option<String> {
    if !literal.contains('\\') {
        return None;
    }
    if literal.starts_with(['e', 'E']) {
        return Some(without_escaped_quotes(literal));
    }
    if !literal.starts_with('\'') {
        return None;
    }
    Some(match strings {
        Strings::Standard => format!("E{}", literal.replace('\\', "\\\\")),
        Strings::Escaped => format!("E{}", without_escaped_quotes(literal)),
    })
}

/// With `''` for `\'`, which `backslash_quote` can refuse.
fn without_escaped_quotes(literal: &str) -> String {
    let mut written = String::with_capacity(literal.len());
    let mut characters = literal.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            written.push(character);
            continue;
        }
        match characters.next() {
            Some('\'') => written.push_str("''"),
            Some(other) => written.extend([character, other]),
            None => written.push(character),
        }
    }
    written
}
