//! Compares the tokens of `tdb_wire_postgres` with those of PostgreSQL's scanner.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a test fails by panicking

use pg_query::protobuf::Token as Theirs;
use proptest::prelude::*;
use tdb_wire_postgres::tokens::{ScanSettings, Token, Tokens};

/// Texts in which tokens begin and end in unexpected places.
const PIECES: &[&str] = &[
    "'", "'", "''", "\"", "\"\"", "\\", "\\'", "$", "$$", "$a$", "$é$", "$1", "/*", "*/", "/", "*", "-", "--", "\n",
    "\r", " ", "\t", "\u{b}", "\u{c}", ";", ";", "(", ")", "E'", "e'", "B'", "x'", "N'", "U&'", "u&\"", "U&", "a", "E",
    "é", "1", "1.5", "_", "begin", "SELECT", ",", "::", "+", "=", "|", "@", ".", ":=",
];

/// The positions of the ends of statements and of all names and keywords.
fn theirs(text: &str) -> Option<Vec<(usize, Option<String>)>> {
    let scanned = pg_query::scan(text).ok()?;
    let mut found = Vec::new();
    for token in scanned.tokens {
        let (start, end) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        let written = text.get(start..end)?;
        match Theirs::try_from(token.token).ok()? {
            Theirs::Ascii59 => found.push((start, None)),
            Theirs::SqlComment | Theirs::CComment => {}
            // The prefix of a string.
            Theirs::Nchar if text.get(end..).is_some_and(|rest| rest.starts_with('\'')) => {}
            _ if written.starts_with(|c: char| c.is_alphabetic() || c == '_') && !written.contains(['\'', '"']) => {
                found.push((start, Some(written.to_owned())));
            }
            _ => {}
        }
    }
    Some(found)
}

fn ours(text: &str) -> Vec<(usize, Option<String>)> {
    let place = |part: &[u8]| part.as_ptr() as usize - text.as_ptr() as usize;
    let mut found = Vec::new();
    let mut tokens = Tokens::new(text.as_bytes(), ScanSettings::USUAL);
    while let Some(token) = tokens.next() {
        match token {
            Token::Semicolon => found.push((text.len() - tokens.rest().len() - 1, None)),
            Token::Word(word) if !word[0].is_ascii_digit() => {
                found.push((place(word), Some(String::from_utf8(word.to_vec()).unwrap())));
            }
            _ => {}
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn names_and_ends_of_statements_are_where_postgresql_finds_them(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 1..14),
    ) {
        let text = pieces.concat();
        if let Some(theirs) = theirs(&text) {
            prop_assert_eq!(ours(&text), theirs, "{:?}", text);
        }
    }
}
