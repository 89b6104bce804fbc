//! Finds what a text may leave behind in its session and the server's views do not show afterwards: the names of custom
//! settings (`a.b`), the state of `random()`, loaded libraries. Everything else that outlives a transaction (settings, the
//! role, locks, temporary objects, channels, cursors, prepared statements) can be read from the server, and is not looked for
//! here. What functions of the schema do is not visible in a text either.

use crate::tokens::{ScanSettings, Token, Tokens};

/// Something that a text may leave behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// A custom setting with this name, in lower case.
    Custom(String),
    /// It cannot be told which settings were changed.
    UnknownSetting,
    /// The state of `random()`.
    Seed,
    /// A library was loaded into the server process.
    Library,
    /// The text uses the session's last sequence values (`currval`, `lastval`).
    Sequence,
    /// PREPARE, EXECUTE or DEALLOCATE: the text uses names of prepared statements.
    StatementName,
    /// It cannot be told which prepared statement is removed, or when.
    UnclearDeallocate,
    /// The text reads the list of prepared statements.
    StatementList,
    /// The text is longer than the part that is examined.
    LongText,
    /// DISCARD or DEALLOCATE ALL: the text removes what earlier ones have left.
    Discard,
}

impl Trace {
    /// Whether the client's prepared statements must have their names on the connection.
    pub(crate) fn uses_names(&self) -> bool {
        matches!(
            self,
            Trace::StatementName | Trace::UnclearDeallocate | Trace::StatementList
        )
    }

    /// Whether the server does not report what the text leaves.
    pub(crate) fn is_hidden(&self) -> bool {
        match self {
            Trace::UnknownSetting
            | Trace::Seed
            | Trace::Library
            | Trace::Sequence
            | Trace::UnclearDeallocate
            | Trace::LongText => true,
            Trace::Custom(_) | Trace::StatementName | Trace::StatementList | Trace::Discard => false,
        }
    }
}

/// Calls `found` with everything that a text may leave behind, for each of the settings.
pub fn examine(text: &[u8], all_settings: impl Iterator<Item = ScanSettings>, found: &mut impl FnMut(Trace)) {
    for settings in all_settings {
        examine_with(text, settings, found);
    }
}

fn examine_with(text: &[u8], settings: ScanSettings, found: &mut impl FnMut(Trace)) {
    let mut tokens = Tokens::new(text, settings).peekable();
    let mut first: Option<Vec<u8>> = None;
    while let Some(token) = tokens.next() {
        let is_first = first.is_none();
        match token {
            Token::Semicolon => {
                first = None;
                continue;
            }
            Token::Word(word) if is_first => {
                let word = word.to_ascii_lowercase();
                match word.as_slice() {
                    b"set" | b"reset" => of_set(&mut tokens, found),
                    b"load" => found(Trace::Library),
                    b"prepare" | b"execute" => found(Trace::StatementName),
                    b"deallocate" if is_next(&tokens, b"all") => found(Trace::Discard),
                    b"deallocate" if deallocated(text, settings).is_some() => found(Trace::StatementName),
                    b"deallocate" => found(Trace::UnclearDeallocate),
                    b"discard" => found(Trace::Discard),
                    _ => {}
                }
                first = Some(word);
            }
            Token::Word(word) | Token::Quoted(word) => of_name(word, &mut tokens, found),
            // A name with Unicode escapes could be that of any function.
            Token::Escaped(_) if tokens.peek() == Some(&Token::Other(b'(')) => found(Trace::UnknownSetting),
            Token::String(body) if first.as_deref() == Some(b"do") => of_body(body, settings, found),
            Token::String(_) | Token::Escaped(_) | Token::Other(_) => {}
        }
        first.get_or_insert_default();
    }
}

/// Whether the next token is this word.
fn is_next(tokens: &std::iter::Peekable<Tokens<'_>>, word: &[u8]) -> bool {
    matches!(tokens.clone().next(), Some(Token::Word(next)) if next.eq_ignore_ascii_case(word))
}

/// The prepared statement that a text removes if it is a single DEALLOCATE of one.
pub fn deallocated(text: &[u8], settings: ScanSettings) -> Option<Vec<u8>> {
    let mut tokens = Tokens::new(text, settings).filter(|token| *token != Token::Semicolon);
    let is_word = |token, word: &[u8]| matches!(token, Some(Token::Word(found)) if found.eq_ignore_ascii_case(word));
    if !is_word(tokens.next(), b"deallocate") {
        return None;
    }
    let mut name = tokens.next();
    if is_word(name, b"prepare") {
        name = tokens.next();
    }
    let name = match name? {
        Token::Word(name) if !name.eq_ignore_ascii_case(b"all") && name.is_ascii() => name.to_ascii_lowercase(),
        Token::Quoted(name) if !name.contains(&b'"') => name.to_vec(),
        _ => return None,
    };
    tokens.next().is_none().then_some(name)
}

/// SET and RESET of a custom setting, after the keyword. `SET LOCAL` leaves the name behind too.
fn of_set<'t>(tokens: &mut std::iter::Peekable<Tokens<'t>>, found: &mut impl FnMut(Trace)) {
    let mut ahead = tokens.clone();
    let mut name = ahead.next();
    if let Some(Token::Word(word)) = name
        && (word.eq_ignore_ascii_case(b"session") || word.eq_ignore_ascii_case(b"local"))
    {
        name = ahead.next();
    }
    match (name, ahead.next()) {
        (Some(Token::Word(prefix) | Token::Quoted(prefix)), Some(Token::Other(b'.'))) => match ahead.next() {
            Some(Token::Word(suffix) | Token::Quoted(suffix)) => {
                found(custom(&[prefix, b".", suffix].concat()));
            }
            _ => found(Trace::UnknownSetting),
        },
        (Some(Token::Escaped(_)), _) => found(Trace::UnknownSetting),
        (Some(Token::Word(name) | Token::Quoted(name)), _) if name.eq_ignore_ascii_case(b"seed") => found(Trace::Seed),
        (Some(Token::Quoted(name)), _) if name.contains(&b'.') => found(custom(name)),
        _ => {}
    }
}

/// A name that is not at the beginning of a statement.
fn of_name<'t>(word: &[u8], tokens: &mut std::iter::Peekable<Tokens<'t>>, found: &mut impl FnMut(Trace)) {
    if word.eq_ignore_ascii_case(b"pg_prepared_statements") {
        found(Trace::StatementList);
    }
    if tokens.peek() != Some(&Token::Other(b'(')) {
        return;
    }
    match word.to_ascii_lowercase().as_slice() {
        b"setseed" => found(Trace::Seed),
        b"currval" | b"lastval" => found(Trace::Sequence),
        b"set_config" => {
            let mut ahead = tokens.clone();
            ahead.next();
            match (ahead.next(), ahead.next()) {
                (Some(Token::String(name)), Some(Token::Other(b','))) if !name.contains(&b'\\') => {
                    if name.contains(&b'.') {
                        found(custom(name));
                    } else if name.eq_ignore_ascii_case(b"seed") {
                        found(Trace::Seed);
                    }
                }
                _ => found(Trace::UnknownSetting),
            }
        }
        _ => {}
    }
}

/// The body of a DO, which is executed at once. Its settings are those of the text.
fn of_body(body: &[u8], settings: ScanSettings, found: &mut impl FnMut(Trace)) {
    let mut tokens = Tokens::new(body, settings).peekable();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) if word.eq_ignore_ascii_case(b"set") => of_set(&mut tokens, found),
            // The text is computed.
            Token::Word(word) if word.eq_ignore_ascii_case(b"execute") => found(Trace::UnknownSetting),
            Token::Word(word) if word.eq_ignore_ascii_case(b"load") => found(Trace::Library),
            Token::Word(word) | Token::Quoted(word) => of_name(word, &mut tokens, found),
            Token::Escaped(_) => found(Trace::UnknownSetting),
            Token::String(_) | Token::Semicolon | Token::Other(_) => {}
        }
    }
}

fn custom(name: &[u8]) -> Trace {
    match std::str::from_utf8(name) {
        Ok(name) if name.is_ascii() => Trace::Custom(name.to_ascii_lowercase()),
        _ => Trace::UnknownSetting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{Encoding, Strings};

    fn traces(text: &str) -> Vec<Trace> {
        let mut found = Vec::new();
        examine(text.as_bytes(), std::iter::once(ScanSettings::USUAL), &mut |trace| {
            found.push(trace)
        });
        found
    }

    #[test]
    fn finds_what_the_servers_views_do_not_show() {
        let custom = |name: &str| vec![Trace::Custom(name.to_owned())];
        let cases = [
            ("SET app.user = 'a'", custom("app.user")),
            ("set local App.User to 'a'", custom("app.user")),
            ("SET SESSION \"app\".\"user\" = 'a'", custom("app.user")),
            ("/* x */ Set -- y\n app . user = 1", custom("app.user")),
            ("SELECT 1; RESET app.user", custom("app.user")),
            (
                "SELECT pg_catalog.set_config('app.user', $1, false)",
                custom("app.user"),
            ),
            ("SELECT set_config($1, $2, false)", vec![Trace::UnknownSetting]),
            ("SELECT set_config(E'a\\x2eb', 'x', false)", vec![Trace::UnknownSetting]),
            ("SELECT set_config('a' || 'b', 'x', false)", vec![Trace::UnknownSetting]),
            (
                "SELECT U&\"set\\005fconfig\"('a.b', 'x', false)",
                vec![Trace::UnknownSetting],
            ),
            ("SELECT \"setseed\"(0.5)", vec![Trace::Seed]),
            ("SET seed = 0.5", vec![Trace::Seed]),
            ("SELECT set_config('seed', '0.5', false)", vec![Trace::Seed]),
            ("LOAD 'auto_explain'", vec![Trace::Library]),
            ("SELECT currval('s')", vec![Trace::Sequence]),
            ("INSERT INTO a VALUES (1); SELECT LASTVAL()", vec![Trace::Sequence]),
            (
                "SELECT name FROM pg_catalog.pg_prepared_statements",
                vec![Trace::StatementList],
            ),
            ("discard all", vec![Trace::Discard]),
            ("PREPARE a AS SELECT 1", vec![Trace::StatementName]),
            ("deallocate Prepare ALL", vec![Trace::UnclearDeallocate]),
            ("DEALLOCATE /* */ All", vec![Trace::Discard]),
            ("Deallocate \"A\";", vec![Trace::StatementName]),
            ("DEALLOCATE a; SELECT 1", vec![Trace::UnclearDeallocate]),
            ("BEGIN; EXECUTE a", vec![Trace::StatementName]),
            ("DO $$ BEGIN SET app.user = 'a'; END $$", custom("app.user")),
            (
                "DO LANGUAGE plpgsql $$ BEGIN EXECUTE 'SET ' || x; END $$",
                vec![Trace::UnknownSetting],
            ),
            (
                "DO 'BEGIN PERFORM set_config(''app.user'', 1, false); END'",
                vec![Trace::UnknownSetting],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(traces(text), expected, "{text}");
        }
    }

    #[test]
    fn finds_nothing_in_other_texts() {
        for text in [
            "",
            "SELECT set_config('search_path', 'a', false)",
            "SET search_path TO a, b",
            "SET LOCAL work_mem = '1MB'",
            "SET TIME ZONE 'UTC'",
            "SELECT 'SET app.user = 1'",
            "SELECT a.b FROM a",
            "UPDATE a SET b = 1 WHERE seed(1) = 2",
            "SELECT \"currval\" FROM t",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET app.user = 1; END $$",
        ] {
            assert_eq!(traces(text), [], "{text}");
        }
    }

    #[test]
    fn every_meaning_of_a_backslash_is_examined() {
        let all = [Strings::Standard, Strings::Escaped].map(|strings| ScanSettings {
            strings,
            encoding: Encoding::High,
        });
        let mut found = Vec::new();
        examine(b"SELECT '\\'; SET app.user = 1; --'", all.into_iter(), &mut |trace| {
            found.push(trace)
        });
        assert_eq!(found, [Trace::Custom("app.user".to_owned())]);
    }
}
