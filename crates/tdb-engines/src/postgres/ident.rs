//! The one function that puts a name into SQL.

/// `name` as a quoted identifier. A NUL cannot reach a server: the wire protocol ends text with it.
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

/// `text` as a literal that no setting can reinterpret.
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
