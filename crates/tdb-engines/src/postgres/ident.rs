//! Names and text in SQL: quotes them, for all SQL that is generated, and reads names that PostgreSQL wrote.

/// `name` as a quoted identifier. NUL characters are removed, since the wire protocol ends a string at the first one.
pub(crate) fn quote(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('"');
    for character in name.chars().filter(|c| *c != '\0') {
        if character == '"' {
            quoted.push('"');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

/// `text` as an escape string (`E'…'`), which means the same whatever `standard_conforming_strings` is. NULs are removed.
pub(crate) fn literal(text: &str) -> String {
    let escaped: String = text
        .chars()
        .filter(|c| *c != '\0')
        .flat_map(|c| {
            let doubled = matches!(c, '\'' | '\\').then_some(c);
            doubled.into_iter().chain([c])
        })
        .collect();
    format!("E'{escaped}'")
}

/// The parts of `text` between separators that are outside quoted identifiers.
pub(crate) fn parts<'a>(text: &'a str, separators: &[&str]) -> Vec<&'a str> {
    let (mut parts, mut from, mut quoted) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        // Two quotes in a quoted identifier end it and begin it again.
        quoted ^= character == '"';
        if quoted || at < from {
            continue;
        }
        let rest = text.get(at..).unwrap_or_default();
        if let Some(separator) = separators.iter().find(|separator| rest.starts_with(**separator)) {
            parts.extend(text.get(from..at));
            from = at + separator.len();
        }
    }
    parts.extend(text.get(from..));
    parts
}

/// An identifier without its quotes.
pub(crate) fn unquoted(identifier: &str) -> String {
    let mut name = String::with_capacity(identifier.len());
    let mut quoted = false;
    let mut characters = identifier.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => name.extend(characters.next()),
            '"' => quoted = !quoted,
            other => name.push(other),
        }
    }
    name
}

/// The last name, unquoted, of an identity such as `public."My Table"`.
pub(crate) fn last_name(identity: &str) -> String {
    unquoted(parts(identity, &["."]).last().unwrap_or(&identity))
}

/// An identity without its last name.
pub(crate) fn parent(identity: &str) -> Option<&str> {
    let last = parts(identity, &["."]).last()?.len();
    identity.get(..identity.len().checked_sub(last + 1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_cannot_end_the_text() {
        assert_eq!(quote(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal(r"a'b\"), r"E'a''b\\'");
        assert_eq!(quote("a\0b"), r#""ab""#);
    }

    #[test]
    fn quoted_identifiers_are_never_split() {
        let cases: [(&str, &[&str]); 5] = [
            (r#"app, "a,b","#, &["app", r#" "a,b""#, ""]),
            (r#""a"",b",c"#, &[r#""a"",b""#, "c"]),
            (r#"",",x"#, &[r#"",""#, "x"]),
            ("", &[""]),
            ("é,ü", &["é", "ü"]),
        ];
        for (list, expected) in cases {
            assert_eq!(parts(list, &[","]), expected, "{list}");
        }
        assert_eq!(parts(r#"c on s."x on y""#, &[" on "]), ["c", r#"s."x on y""#]);
        assert_eq!(unquoted(r#""uuid-ossp""#), "uuid-ossp");
        assert_eq!(unquoted(r#""a""b"[]"#), r#"a"b[]"#);
    }

    #[test]
    fn an_identity_ends_with_a_name() {
        let cases = [
            ("public.t", "t", Some("public")),
            (r#"public."a.b""#, "a.b", Some("public")),
            (r#""x.""y".t"#, "t", Some(r#""x.""y""#)),
            (r#"s."a."".b""#, r#"a.".b"#, Some("s")),
            (r#""a.b""#, "a.b", None),
            ("", "", None),
        ];
        for (identity, name, within) in cases {
            assert_eq!(
                (last_name(identity).as_str(), parent(identity)),
                (name, within),
                "{identity}"
            );
        }
    }
}
