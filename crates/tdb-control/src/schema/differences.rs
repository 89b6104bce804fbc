//! Descriptions of the differences between two schemas.

use tdb_engines::postgres::fingerprint::Difference;

/// How many differences an error describes.
const DIFFERENCES_SHOWN: usize = 5;
/// The length of an excerpt from a definition, in characters.
const EXCERPT_LEN: usize = 100;

/// A description of the first few differences.
pub(crate) fn shown(differences: &[Difference]) -> String {
    let one = |d: &Difference| match (&d.expected, &d.found) {
        (Some(_), None) => format!("{} is missing in the workspace", d.object),
        (None, _) => format!("{} is only in the workspace", d.object),
        (Some(expected), Some(found)) => format!("{} is different{}", d.object, told_apart(expected, found)),
    };
    let first: Vec<String> = differences.iter().take(DIFFERENCES_SHOWN).map(one).collect();
    let more = differences.len().saturating_sub(DIFFERENCES_SHOWN);
    match more {
        0 => first.join("; "),
        more => format!("{}; and {more} more", first.join("; ")),
    }
}

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
