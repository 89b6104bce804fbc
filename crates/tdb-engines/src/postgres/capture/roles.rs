//! Roles in DDL: the workspace's own owner becomes the symbolic one, PUBLIC and CURRENT_USER stay, any other role is no
//! part of a schema.

use std::ops::Range;

use pg_query::protobuf::RoleSpecType;
use serde_json::Value;

use super::split::{Split, walk};
use crate::postgres::change::Sql;

/// The statement with its owner left open, or why it cannot be replayed.
pub(super) fn symbolic(split: &Split<'_>, message: &str, owner: &str) -> Result<Sql, String> {
    if split.has_parameter() {
        return Err("it depends on a parameter whose value is not in its text".to_owned());
    }
    let mut owners = Vec::new();
    let mut refused = None;
    walk(&split.tree, &mut |_, value| match role(value) {
        Some(Role::Owner(at)) => owners.push(at),
        Some(Role::Named(name, at)) if name == owner => owners.push(at),
        Some(Role::Named(name, _)) => {
            refused.get_or_insert_with(|| format!("role \"{name}\" is not part of a schema"));
        }
        None => {}
    });
    if let Some(reason) = refused {
        return Err(reason);
    }
    if !owners.is_empty() && named_after_role(&split.tree) {
        return Err("the schema would be named after a role".to_owned());
    }
    owners.sort_unstable();
    owners.dedup();
    let ranges: Option<Vec<Range<usize>>> = owners
        .into_iter()
        .map(|at| {
            let from = at.checked_sub(split.start)?;
            let word = word_len(message.get(at..)?);
            Some(from..from + word)
        })
        .collect();
    let ranges = ranges.ok_or("a role's position does not fit the text")?;
    Ok(Sql::with_owner_at(split.text, &ranges))
}

enum Role {
    /// SESSION_USER: at replay that would be the deployer.
    Owner(usize),
    Named(String, usize),
}

fn role(value: &Value) -> Option<Role> {
    let kind = value.get("roletype")?.as_i64()?;
    let at = usize::try_from(value.get("location")?.as_i64()?).ok()?;
    let kind = RoleSpecType::try_from(i32::try_from(kind).ok()?).ok()?;
    match kind {
        RoleSpecType::RolespecCstring => Some(Role::Named(value.get("rolename")?.as_str()?.to_owned(), at)),
        RoleSpecType::RolespecSessionUser => Some(Role::Owner(at)),
        RoleSpecType::RolespecPublic
        | RoleSpecType::RolespecCurrentUser
        | RoleSpecType::RolespecCurrentRole
        | RoleSpecType::Undefined => None,
    }
}

/// `CREATE SCHEMA AUTHORIZATION someone` takes the role's name for the schema.
fn named_after_role(tree: &Value) -> bool {
    let schema = tree.get("CreateSchemaStmt");
    schema
        .and_then(|schema| schema.get("schemaname"))
        .and_then(Value::as_str)
        == Some("")
}

/// Length of the identifier or keyword at the begin of `text`.
fn word_len(text: &str) -> usize {
    match text.strip_prefix('"') {
        Some(rest) => {
            let mut from = 0;
            loop {
                let Some(end) = rest.get(from..).and_then(|left| left.find('"')) else {
                    return text.len();
                };
                let after = from + end + 1;
                if rest.get(after..).is_some_and(|left| left.starts_with('"')) {
                    from = after + 1;
                } else {
                    return after + 1;
                }
            }
        }
        None => text
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
            .unwrap_or(text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_ends_where_its_identifier_does() {
        assert_eq!(word_len("r_w;"), 3);
        assert_eq!(word_len(r#""a""b" x"#), 6);
        assert_eq!(word_len("session_user, public"), 12);
    }
}
