//! References by name or id: which names are allowed, and which entry a reference means.

use tdb_names::ProjectId;
use tdb_problems::ProblemCode;
use uuid::Uuid;

use crate::entry::EntryKind;
use crate::error::{ControlError, Result};

const NAME_LEN_MAX: usize = 64;

/// The entry that a name or an id refers to. An id takes precedence; a name that several entries have is an error.
pub(crate) fn only<T>(what: EntryKind, reference: &str, mut found: Vec<T>, id: fn(&T) -> String) -> Result<T> {
    if let Some(at) = found.iter().position(|one| id(one) == reference) {
        return Ok(found.swap_remove(at));
    }
    let ids: Vec<String> = found.iter().map(id).collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => Err(ControlError::refused(
            ProblemCode::AmbiguousName,
            format!("{} {what}s are called \"{reference}\"", ids.len()),
            &format!("Use one of their ids: {}.", ids.join(", ")),
        )),
        (None, _) => Err(ControlError::not_found(what, reference)),
    }
}

fn checked_name<'a>(field: &'static str, name: &'a str) -> Result<&'a str> {
    match name.chars().count() {
        1..=NAME_LEN_MAX if !name.chars().any(char::is_control) => Ok(name),
        _ => Err(ControlError::Invalid {
            field,
            rule: "must be 1 to 64 printable characters long".to_owned(),
        }),
    }
}

/// Checks a name that is accepted in place of an id: it must not have the form of an id.
pub(crate) fn checked_reference<'a>(field: &'static str, name: &'a str) -> Result<&'a str> {
    let name = checked_name(field, name)?;
    if Uuid::parse_str(name).is_ok() || name.parse::<ProjectId>().is_ok() {
        let rule = "must not have the form of an id".to_owned();
        return Err(ControlError::Invalid { field, rule });
    }
    Ok(name)
}
