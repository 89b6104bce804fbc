//! Quoting of names and text in SQL. All generated SQL uses these two functions.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_cannot_end_the_text() {
        assert_eq!(quote(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal(r"a'b\"), r"E'a''b\\'");
        assert_eq!(quote("a\0b"), r#""ab""#);
    }
}
