//! Errors of the operating system in messages to users: what failed, without Rust's names and numbers for it.

use std::io;

const CODE: &str = " (os error ";
/// The description of kinds that have no stable name.
const NO_KIND: &str = "uncategorized error";

/// The text of an error message without "(os error 2)", which the standard library appends.
pub fn without_codes(text: &str) -> String {
    let mut parts = text.split(CODE);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        match rest.strip_prefix(')').filter(|_| rest.len() < part.len()) {
            Some(rest) => plain.push_str(rest),
            None => {
                plain.push_str(CODE);
                plain.push_str(part);
            }
        }
    }
    plain
}

/// What failed: for an error of the operating system its kind, such as `connection refused`, else its text.
pub fn described(error: &io::Error) -> String {
    let kind = error.kind().to_string();
    if error.raw_os_error().is_some() && kind != NO_KIND {
        kind
    } else {
        without_codes(&error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_is_shown_without_its_number() {
        let missing = io::Error::from_raw_os_error(2).to_string();
        assert_eq!(
            without_codes(&format!("cannot read a: {missing}; cannot read b: {missing}.")),
            "cannot read a: No such file or directory; cannot read b: No such file or directory."
        );
        for text in ["a (os error )", "a (os error x)", "a (os error 2", "a"] {
            assert_eq!(without_codes(text), text);
        }
    }

    #[test]
    fn an_error_without_a_kind_keeps_its_text() {
        assert_eq!(described(&io::Error::from_raw_os_error(111)), "connection refused");
        // EMULTIHOP has no kind.
        assert_eq!(described(&io::Error::from_raw_os_error(72)), "Multihop attempted");
        assert_eq!(described(&io::Error::other("no such host")), "no such host");
    }
}
