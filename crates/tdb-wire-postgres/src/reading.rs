//! Determines whether an SQL text could make a read-only session write: a session of the proxy, or of the API. PostgreSQL refuses writes in a `READ ONLY`
//! transaction, and each transaction of such a session begins `READ ONLY`, because `default_transaction_read_only` is on. So
//! only two things matter: statements that make a transaction `READ WRITE`, and the end of a transaction before another one
//! begins, if the server does not report its settings in between.
//!
//! After the first snapshot of a transaction, PostgreSQL refuses to make it `READ WRITE`. Everything that runs user code
//! takes a snapshot first, except DO and CALL, which can end a transaction and begin another. The remaining cases are
//! statements at the top level of a text, and can be recognized by their first words.
//!
//! PostgreSQL 15 has one more way: `set_config('transaction_read_only', NULL, …)` in any query resets the transaction to
//! `READ WRITE` without a check, as does RESET in a function. For this version, the name that is passed to `set_config` must
//! be visible in the text, and functions that run SQL text cannot be called, also not as `x.f`. A function of the schema that
//! runs SQL text from its arguments is not detected.

use crate::tokens::{ScanSettings, Token, Tokens};

/// The settings that decide whether a transaction can write.
const DEFAULT: &[u8] = b"default_transaction_read_only";
const OF_TRANSACTION: &[u8] = b"transaction_read_only";
/// The prefixes of functions that run SQL text from their arguments, of PostgreSQL and its extensions.
const RUN_TEXT: [&[u8]; 7] = [
    b"query_to_xml",
    b"ts_stat",
    b"ts_rewrite",
    b"crosstab",
    b"connectby",
    b"xpath_table",
    b"dblink",
];
const ON: [&[u8]; 4] = [b"on", b"true", b"yes", b"1"];

/// The number of tokens of a statement that are kept. Statements about settings have fewer; for others, the first three
/// suffice.
const TOKENS_MAX: usize = 256;

/// The effect of a text, in increasing order of severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It contains no statement.
    #[default]
    Nothing,
    /// It stays within the transaction, or begins one.
    Reads,
    /// Its last statement may end the transaction, so that the next one begins with the settings at that time.
    Ends,
    /// It must not be executed.
    Refused(Writing),
}

/// Why a message must not be executed in a read-only session. No reason depends on the server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writing {
    /// It requests a read-write transaction.
    ReadWrite,
    /// DO.
    Do,
    /// CALL.
    Call,
    /// PREPARE TRANSACTION leaves locks and files behind.
    PrepareTransaction,
    /// VACUUM, ANALYZE, CLUSTER, REINDEX: PostgreSQL allows them in a `READ ONLY` transaction.
    Maintenance,
    /// It calls a function that could reset the transaction ([`Release::Resets`]).
    Reset,
    /// It follows the end of a transaction without a ReadyForQuery in between.
    AfterEnd,
    /// It is longer than the length that is examined.
    TooLong,
    /// It could not be determined what it executes.
    Unclear,
}

impl Writing {
    /// What cannot be done. The caller appends which client cannot do it, such as "with a read-only credential".
    pub fn message(self) -> &'static str {
        match self {
            Writing::ReadWrite => "cannot begin a read-write transaction",
            Writing::Do => "cannot execute DO",
            Writing::Call => "cannot execute CALL",
            Writing::PrepareTransaction => "cannot execute PREPARE TRANSACTION",
            Writing::Maintenance => "cannot execute VACUUM, ANALYZE, CLUSTER or REINDEX",
            Writing::Reset => "cannot call this function",
            Writing::AfterEnd => {
                "cannot execute a statement after the end of a transaction in the same message or pipeline"
            }
            Writing::TooLong => "cannot execute a message of this length",
            Writing::Unclear => "cannot execute a message whose statement could not be determined",
        }
    }

    /// Why, if the message does not show it.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            Writing::Do | Writing::Call => Some("It could end the transaction and begin a read-write transaction."),
            Writing::Reset => Some("On PostgreSQL 15 it could make the transaction READ WRITE."),
            Writing::TooLong => Some("The maximum length of a message with SQL text is 4 MB."),
            Writing::ReadWrite
            | Writing::PrepareTransaction
            | Writing::Maintenance
            | Writing::AfterEnd
            | Writing::Unclear => None,
        }
    }
}

/// Whether a query can change its own transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It can reset it to `READ WRITE`: PostgreSQL 15 and older.
    Resets,
    /// It cannot: PostgreSQL 16 and newer.
    Keeps,
}

impl Release {
    /// The release for a value of `server_version` or `server_version_num`.
    pub fn of(version: &[u8]) -> Self {
        match version {
            [b'1', b'6'..=b'9', ..] | [b'2'..=b'9', b'0'..=b'9', ..] => Release::Keeps,
            _ => Release::Resets,
        }
    }
}

/// The effect of the statements of `text`: the most severe one for any of the settings.
pub fn examine(text: &[u8], release: Release, all_settings: impl Iterator<Item = ScanSettings>) -> Effect {
    all_settings
        .map(|settings| of_text(text, release, settings))
        .max()
        .unwrap_or(Effect::Refused(Writing::Unclear))
}

fn of_text(text: &[u8], release: Release, settings: ScanSettings) -> Effect {
    let mut tokens = Tokens::new(text, settings);
    let (mut worst, mut statement) = (Effect::Nothing, Vec::new());
    if release == Release::Resets && may_reset(tokens.clone()) {
        worst = Effect::Refused(Writing::Reset);
    }
    loop {
        let token = tokens.next();
        if let Some(token) = token.filter(|token| *token != Token::Semicolon) {
            let is_leading = statement.is_empty() && token == Token::Other(b'(');
            if !is_leading && statement.len() < TOKENS_MAX {
                statement.push(token);
            }
            continue;
        }
        worst = worst.then(of_statement(&statement));
        statement.clear();
        if token.is_none() {
            return worst;
        }
    }
}

impl Effect {
    /// The effect of both, if there is no ReadyForQuery in between.
    pub fn then(self, next: Effect) -> Effect {
        match (self, next) {
            (_, Effect::Nothing) => self,
            (Effect::Refused(_), _) => self,
            (Effect::Nothing | Effect::Reads, _) | (_, Effect::Refused(_)) => next,
            (Effect::Ends, Effect::Reads | Effect::Ends) => Effect::Refused(Writing::AfterEnd),
        }
    }
}

/// The effect of a statement, without its leading parentheses.
fn of_statement(tokens: &[Token<'_>]) -> Effect {
    let Some((first, rest)) = tokens.split_first() else {
        return Effect::Nothing;
    };
    let Token::Word(first) = first else {
        return Effect::Ends;
    };
    let first = first.to_ascii_lowercase();
    match first.as_slice() {
        b"begin" | b"start" | b"set" | b"reset" if tokens.len() == TOKENS_MAX => Effect::Refused(Writing::Unclear),
        b"begin" | b"start" if asks_for_writing(rest) => Effect::Refused(Writing::ReadWrite),
        b"begin" | b"start" => Effect::Reads,
        b"set" => of_set(rest),
        b"reset" => of_reset(rest),
        b"do" => Effect::Refused(Writing::Do),
        b"call" => Effect::Refused(Writing::Call),
        b"prepare" if is(rest.first(), b"transaction") => Effect::Refused(Writing::PrepareTransaction),
        b"vacuum" | b"analyze" | b"analyse" | b"cluster" | b"reindex" => Effect::Refused(Writing::Maintenance),
        b"rollback" if is(rest.first(), b"to") || is(rest.get(1), b"to") => Effect::Reads,
        b"discard" if !is(rest.first(), b"all") => Effect::Reads,
        // EXECUTE of a COMMIT (which can be prepared only by the extended protocol) ends the transaction at the end of the
        // message.
        b"select" | b"with" | b"values" | b"table" | b"show" | b"explain" | b"prepare" | b"execute" | b"deallocate"
        | b"declare" | b"fetch" | b"move" | b"close" | b"copy" | b"listen" | b"unlisten" | b"notify" | b"savepoint"
        | b"release" | b"lock" | b"insert" | b"update" | b"delete" | b"merge" | b"truncate" => Effect::Reads,
        _ => Effect::Ends,
    }
}

/// Whether the transaction modes of BEGIN, START TRANSACTION or SET include READ WRITE.
fn asks_for_writing(tokens: &[Token<'_>]) -> bool {
    let pairs = tokens.iter().zip(tokens.iter().skip(1));
    pairs
        .into_iter()
        .any(|(a, b)| is(Some(a), b"read") && is(Some(b), b"write"))
}

/// The effect of SET. Names with Unicode escapes are not decoded.
fn of_set(tokens: &[Token<'_>]) -> Effect {
    let turns_on = |value: &[Token<'_>]| match value {
        [to, Token::Word(value) | Token::String(value)] => {
            (*to == Token::Other(b'=') || is(Some(to), b"to")) && ON.iter().any(|on| value.eq_ignore_ascii_case(on))
        }
        _ => false,
    };
    let named = tokens
        .iter()
        .position(|token| names(token, DEFAULT) || names(token, OF_TRANSACTION));
    let is_refused = named.is_some_and(|named| !turns_on(tokens.get(named + 1..).unwrap_or_default()));
    if is_refused || asks_for_writing(tokens) {
        return Effect::Refused(Writing::ReadWrite);
    }
    Effect::Reads
}

/// The effect of RESET. It restores the default to the value at the start of the session; before PostgreSQL 16, it sets the
/// transaction's own setting to off.
fn of_reset(tokens: &[Token<'_>]) -> Effect {
    if tokens.iter().any(|token| names(token, OF_TRANSACTION)) {
        return Effect::Refused(Writing::ReadWrite);
    }
    Effect::Reads
}

/// Whether a text calls a function that runs SQL text, or `set_config` with neither the plain name of another setting nor a
/// plain string as the value. A function with one argument can be called as `x.f`, where `x` is any expression or relation.
fn may_reset(tokens: Tokens<'_>) -> bool {
    let mut tokens = tokens.peekable();
    let mut is_attribute = false;
    while let Some(token) = tokens.next() {
        let follows_dot = std::mem::replace(&mut is_attribute, token == Token::Other(b'.'));
        let (Token::Word(name) | Token::Quoted(name) | Token::Escaped(name)) = token else {
            continue;
        };
        let is_called = tokens.peek() == Some(&Token::Other(b'('));
        if !is_called && !follows_dot {
            continue;
        }
        let name = name.to_ascii_lowercase();
        if matches!(token, Token::Escaped(_)) || RUN_TEXT.iter().any(|prefix| name.starts_with(prefix)) {
            return true;
        }
        if !is_called {
            continue;
        }
        if name == b"set_config" {
            tokens.next();
            let setting = tokens.next();
            if tokens.next() != Some(Token::Other(b',')) {
                return true;
            }
            let is_safe = match setting {
                Some(Token::String(setting)) => is_harmless(setting),
                // The name is read from a column. Only NULL resets the setting, and a plain string is not NULL: pg_dump
                // sends this.
                Some(Token::Word(_)) => {
                    matches!(tokens.next(), Some(Token::String(_))) && tokens.peek() == Some(&Token::Other(b','))
                }
                _ => false,
            };
            if !is_safe {
                return true;
            }
        }
    }
    false
}

/// Whether a string names another setting, without escapes that could hide the name.
fn is_harmless(setting: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.".contains(byte);
    setting.iter().all(is_plain) && !setting.eq_ignore_ascii_case(OF_TRANSACTION)
}

/// Whether a token is, or could be, the name of this setting.
fn names(token: &Token<'_>, setting: &[u8]) -> bool {
    match token {
        Token::Word(name) | Token::Quoted(name) => name.eq_ignore_ascii_case(setting),
        Token::Escaped(_) => true,
        Token::String(_) | Token::Semicolon | Token::Other(_) => false,
    }
}

fn is(token: Option<&Token<'_>>, word: &[u8]) -> bool {
    matches!(token, Some(Token::Word(found)) if found.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn effect(text: &str) -> Effect {
        examine(text.as_bytes(), Release::Keeps, std::iter::once(ScanSettings::USUAL))
    }

    #[test]
    fn texts_have_the_effect_of_their_worst_statement() {
        let after_end = Effect::Refused(Writing::AfterEnd);
        let read_write = Effect::Refused(Writing::ReadWrite);
        for (text, expected) in [
            ("", Effect::Nothing),
            (" ; -- x\n;", Effect::Nothing),
            ("((SELECT 1))", Effect::Reads),
            ("BEGIN; SELECT 1; COMMIT", Effect::Ends),
            ("rollback work to a; rollback to savepoint a", Effect::Reads),
            ("ROLLBACK", Effect::Ends),
            ("COMMIT; SELECT 1", after_end),
            ("COMMIT;; -- nothing", Effect::Ends),
            ("DISCARD ALL", Effect::Ends),
            ("DISCARD PLANS; SELECT 1", Effect::Reads),
            ("CREATE TABLE a (); CREATE TABLE b ()", after_end),
            ("\"select\" 1", Effect::Ends),
            ("BEGIN READ ONLY", Effect::Reads),
            ("BEGIN /* READ */ READ WRITE", read_write),
            ("SET application_name = write", Effect::Reads),
            ("SET default_transaction_read_only TO 'on'", Effect::Reads),
            ("SET default_transaction_read_only TO on, off", read_write),
            ("SET default_transaction_read_only FROM CURRENT", read_write),
            ("RESET default_transaction_read_only; RESET ALL", Effect::Reads),
            ("RESET \"Transaction_Read_Only\"", read_write),
            ("RESET U&\"x\"", read_write),
            ("PREPARE transaction 'x'", Effect::Refused(Writing::PrepareTransaction)),
            ("PREPARE p AS SELECT 1", Effect::Reads),
        ] {
            assert_eq!(effect(text), expected, "{text}");
        }
        let long = format!(
            "SET search_path = {}; SET transaction_read_only = off",
            "a,".repeat(200)
        );
        assert_eq!(effect(&long), Effect::Refused(Writing::Unclear));
    }

    #[test]
    fn a_text_that_a_setting_changes_is_judged_by_the_worst_reading() {
        let text = b"SELECT 'a\\'; BEGIN READ WRITE; --'";
        let of = |settings| examine(text, Release::Keeps, settings);
        let read_write = Effect::Refused(Writing::ReadWrite);
        assert_eq!(of([ScanSettings::USUAL].into_iter()), read_write);
        let escaped = ScanSettings {
            strings: crate::tokens::Strings::Escaped,
            ..ScanSettings::USUAL
        };
        assert_eq!(of([escaped].into_iter()), Effect::Reads);
        assert_eq!(examine(text, Release::Keeps, ScanSettings::all()), read_write);
    }

    #[test]
    fn only_old_releases_let_a_query_reset_its_transaction() {
        for (version, expected) in [
            ("15.18 (Debian 15.18-0)", Release::Resets),
            ("150018", Release::Resets),
            ("16beta1", Release::Keeps),
            ("18.4", Release::Keeps),
            ("180004", Release::Keeps),
            ("20devel", Release::Keeps),
            ("9.6.1", Release::Resets),
            ("", Release::Resets),
        ] {
            assert_eq!(Release::of(version.as_bytes()), expected, "{version}");
        }
        let text = b"SELECT set_config($1, NULL, false)";
        let of = |release| examine(text, release, std::iter::once(ScanSettings::USUAL));
        assert_eq!(of(Release::Resets), Effect::Refused(Writing::Reset));
        assert_eq!(of(Release::Keeps), Effect::Reads);
        for (text, expected) in [
            (
                "SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings",
                Effect::Reads,
            ),
            (
                "SELECT set_config(name, 'a' || NULL, false)",
                Effect::Refused(Writing::Reset),
            ),
            ("SELECT set_config(name, NULL, false)", Effect::Refused(Writing::Reset)),
            ("SELECT set_config(a || b, 'x', false)", Effect::Refused(Writing::Reset)),
            ("SELECT (a::text).crosstab2", Effect::Refused(Writing::Reset)),
            ("SELECT $1 . \"crosstab\"", Effect::Refused(Writing::Reset)),
            ("SELECT a.U&\"b\" FROM a", Effect::Refused(Writing::Reset)),
            ("SELECT ts_stat, a.set_config, a.b FROM a", Effect::Reads),
            (
                "SELECT set_config('search_path', set_config(n, NULL, true), true)",
                Effect::Refused(Writing::Reset),
            ),
        ] {
            let found = examine(text.as_bytes(), Release::Resets, std::iter::once(ScanSettings::USUAL));
            assert_eq!(found, expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_comment_or_a_string_in_front_hides_no_statement(
            noise in prop::sample::select(vec!["/* ' */", "-- '\n", "/*/**/;*/", "SELECT ';';", "SELECT $a$;'$a$;", "SELECT E'\\'';", "SELECT \"'\";", "SELECT 'a''b';"]),
            bytes in "[ a-z0-9_\n\t;()]{0,40}",
        ) {
            let text = format!("{noise} {bytes} ; BEGIN {noise} READ WRITE");
            let text = text.replace("BEGIN SELECT", "BEGIN; SELECT");
            prop_assume!(!noise.starts_with("SELECT"));
            prop_assert!(matches!(effect(&text), Effect::Refused(_)), "{}", text);
        }
    }
}
