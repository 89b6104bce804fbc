//! Descriptions of the differences between two schemas.

use tdb_engines::postgres::fingerprint::Difference;

/// How many differences an error describes.
const DIFFERENCES_SHOWN: usize = 5;
/// The length of an excerpt from a definition, in characters.
const EXCERPT_LEN: usize = 100;

/// A description of the first few differences.
pub(crate) fn shown(differences: &[Difference]) -> String {
    let one = |d: &Difference| {
        let (object, is) = (&d.object, verb(&d.object));
        match (&d.expected, &d.found) {
            (Some(_), None) => format!("{object} {is} missing in the workspace"),
            (None, _) => format!("{object} {is} only in the workspace"),
            (Some(expected), Some(found)) => format!("{object} {is} different{}", told_apart(expected, found)),
        }
    };
    let first: Vec<String> = differences.iter().take(DIFFERENCES_SHOWN).map(one).collect();
    let more = differences.len().saturating_sub(DIFFERENCES_SHOWN);
    match more {
        0 => first.join("; "),
        more => format!("{}; and {more} more", first.join("; ")),
    }
}

/// The verb for the name of a fact, such as `column public.t.a` or `columns of public.t`.
fn verb(object: &str) -> &'static str {
    let plural = PLURALS.iter().any(|plural| object.starts_with(plural));
    if plural { "are" } else { "is" }
}

/// The beginnings of the names of facts in the plural.
const PLURALS: [&str; 4] = [
    "columns of ",
    "default privileges of ",
    "parameters of ",
    "privileges on ",
];

/// Which parts of an object's definition differ.
fn told_apart(expected: &str, found: &str) -> String {
    let only_in = |one: &str, other: &str| {
        let parts = one
            .split(", ")
            .filter(|part| !other.split(", ").any(|same| same == *part));
        let text = parts.collect::<Vec<_>>().join(", ");
        text.chars().take(EXCERPT_LEN).collect::<String>()
    };
    let (workspace, replay) = (only_in(found, expected), only_in(expected, found));
    match (workspace.as_str(), replay.as_str()) {
        ("", "") => String::new(),
        (workspace, "") => format!(" (the workspace has \"{workspace}\")"),
        ("", replay) => format!(" (the workspace lacks \"{replay}\")"),
        (workspace, replay) => format!(" (the workspace has \"{workspace}\" instead of \"{replay}\")"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_about_several_things_has_a_verb_in_the_plural() {
        let difference = |object: &str, expected: Option<&str>, found: Option<&str>| Difference {
            object: object.to_owned(),
            expected: expected.map(str::to_owned),
            found: found.map(str::to_owned),
        };
        let differences = [
            difference("columns of public.x", None, Some("a, b")),
            difference("privileges on table public.x", Some("PUBLIC=SELECT"), None),
            difference("parameters of sequence public.s", Some("start 1"), Some("start 2")),
            difference("table public.x", None, Some("kind r")),
            difference("comment on column public.x.columns of", None, Some("x")),
        ];
        assert_eq!(
            shown(&differences),
            "columns of public.x are only in the workspace; privileges on table public.x are missing in the workspace; \
             parameters of sequence public.s are different (the workspace has \"start 2\" instead of \"start 1\"); \
             table public.x is only in the workspace; comment on column public.x.columns of is only in the workspace"
        );
    }
}
