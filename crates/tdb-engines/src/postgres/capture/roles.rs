//! Roles in DDL. The name of the workspace's owner becomes a placeholder; PUBLIC, CURRENT_USER and declared roles stay
//! as written; any other role makes the change broken. CREATE SCHEMA AUTHORIZATION can create a schema with the owner's
//! name, so the name is replaced wherever it is an identifier.

use std::ops::Range;

use pg_query::protobuf::RoleSpecType;
use serde_json::Value;

use super::split::Split;
use super::tree::walk;
use crate::postgres::change::{Change, Sql};
use crate::postgres::ident::{parts, unquoted};
use crate::postgres::journal::{Caller, Event};
use crate::postgres::server::{READERS_ROLE, WRITERS_ROLE};

/// The text with placeholders for the owner, or the reason why it cannot be replayed.
pub(super) fn symbolic(split: &Split<'_>, message: &str, owner: &str) -> Result<Sql, String> {
    if split.has_parameter() {
        return Err("it depends on a parameter whose value is not in its text".to_owned());
    }
    let mut owners = Vec::new();
    walk(&split.tree, &mut |_, value| match role(value) {
        Some(Role::Owner(at)) => owners.push(at),
        Some(Role::Named(_)) | None => {}
    });
    let ranges: Option<Vec<Range<usize>>> = owners
        .into_iter()
        .map(|at| {
            let from = at.checked_sub(split.start)?;
            let word = word_len(message.get(at..)?);
            Some(from..from + word)
        })
        .collect();
    let mut ranges = ranges.ok_or("a role's position does not fit the text")?;
    ranges.extend(identifiers(split.text, owner)?);
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup();
    Ok(Sql::with_owner_at(split.text, &ranges))
}

/// The roles that the statement names, other than `owner`.
pub(super) fn named(split: &Split<'_>, owner: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(&split.tree, &mut |_, value| match role(value) {
        Some(Role::Named(name)) if name != owner => found.push(name),
        Some(Role::Named(_) | Role::Owner(_)) | None => {}
    });
    found
}

/// The role that the client had set when it sent the statement of this row; `None` if that was `owner`, or is not
/// known. The rows of a function do not show it, since a function can run as its owner; a DO runs as the client.
pub(super) fn ran_as(row: &Event, owner: &str) -> Option<String> {
    let by_client = match &row.caller {
        Caller::Client | Caller::Unknown => true,
        Caller::Function(context) => context
            .lines()
            .filter(|line| line.starts_with(FUNCTION))
            .all(|line| line.starts_with(BLOCK)),
    };
    (by_client && row.role != owner).then(|| row.role.clone())
}

/// The beginnings of PostgreSQL's context lines that name a function, and a DO.
const FUNCTION: &str = "PL/pgSQL function ";
const BLOCK: &str = "PL/pgSQL function inline_code_block ";

/// Marks a change as broken if it names a role that its project has not declared.
pub(super) fn refuse_undeclared(change: &mut Change, declared: &[String]) {
    change.roles.sort_unstable();
    change.roles.dedup();
    let undeclared = change.roles.iter().filter(|role| !declared.contains(role));
    change.undeclared = undeclared.cloned().collect();
    if let Some(role) = change.undeclared.first() {
        let reason = format!("role \"{role}\" is not declared in this project");
        change.broken.get_or_insert(reason);
    }
}

/// Whether it is GRANT, REVOKE or ALTER DEFAULT PRIVILEGES for TenantsDB's group roles only. Dumps of databases with a
/// read-only credential contain such statements. They are not part of the schema: databases that need them already have
/// them.
pub(super) fn concerns_groups_of_ours(split: &Split<'_>) -> bool {
    let grant = ["GrantStmt", "AlterDefaultPrivilegesStmt"];
    let Some(tree) = grant.iter().find_map(|kind| split.tree.get(kind)) else {
        return false;
    };
    let grantees = tree.get("action").unwrap_or(tree).get("grantees");
    let grantees = grantees.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let of_ours = |grantee: &Value| {
        let name = grantee
            .pointer("/RoleSpec/rolename")
            .or_else(|| grantee.pointer("/node/RoleSpec/rolename"));
        let name = name.and_then(Value::as_str);
        name.is_some_and(|name| [READERS_ROLE, WRITERS_ROLE].contains(&name))
    };
    !grantees.is_empty() && grantees.iter().all(of_ours)
}

enum Role {
    /// SESSION_USER, which at replay would be the deployer.
    Owner(usize),
    Named(String),
}

fn role(value: &Value) -> Option<Role> {
    let kind = value.get("roletype")?.as_i64()?;
    let at = usize::try_from(value.get("location")?.as_i64()?).ok()?;
    let kind = RoleSpecType::try_from(i32::try_from(kind).ok()?).ok()?;
    match kind {
        RoleSpecType::RolespecCstring => Some(Role::Named(value.get("rolename")?.as_str()?.to_owned())),
        RoleSpecType::RolespecSessionUser => Some(Role::Owner(at)),
        RoleSpecType::RolespecPublic
        | RoleSpecType::RolespecCurrentUser
        | RoleSpecType::RolespecCurrentRole
        | RoleSpecType::Undefined => None,
    }
}

/// The byte ranges at which the text contains `name` as an identifier.
fn identifiers(text: &str, name: &str) -> Result<Vec<Range<usize>>, String> {
    if !text.contains(name) {
        return Ok(Vec::new());
    }
    let scanned = pg_query::scan(text).map_err(|error| error.to_string())?;
    let quoted = format!("\"{name}\"");
    let range = |token: &pg_query::protobuf::ScanToken| {
        let range = usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?;
        let found = text.get(range.clone())?;
        (found == name || found == quoted).then_some(range)
    };
    Ok(scanned.tokens.iter().filter_map(range).collect())
}

/// The search_path with `"$user"` for the owner's schema, so that it is valid in every database.
pub(super) fn symbolic_path(path: &str, owner: &str) -> String {
    if !path.contains(owner) {
        return path.to_owned();
    }
    let symbolic = |name: &str| match name.trim() {
        found if unquoted(found) == owner => USER.to_owned(),
        other => other.to_owned(),
    };
    let names = parts(path, &[","]).into_iter().map(symbolic);
    names.collect::<Vec<_>>().join(", ")
}

/// The identity with `"$user"` for the owner's schema, so that it is valid in every database.
pub(super) fn symbolic_identity(identity: &str, owner: &str) -> String {
    match identity.strip_prefix(owner).filter(|rest| rest.starts_with('.')) {
        Some(rest) => format!("{USER}{rest}"),
        None => identity.to_owned(),
    }
}

/// In a search_path: the schema with the name of the current role.
const USER: &str = "\"$user\"";

/// The length in bytes of the identifier or keyword at the beginning of `text`.
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
    fn a_path_keeps_its_schemas_whatever_their_names_contain() {
        for (path, symbolic) in [
            (r#"r_w, "a,b",public"#, r#""$user", "a,b", public"#),
            (r#""r_w", "x,  r_w,y""#, r#""$user", "x,  r_w,y""#),
            (r#""say ""r_w"",r_w""#, r#""say ""r_w"",r_w""#),
        ] {
            assert_eq!(symbolic_path(path, "r_w"), symbolic);
        }
    }

    #[test]
    fn a_word_ends_where_its_identifier_does() {
        assert_eq!(word_len("r_w;"), 3);
        assert_eq!(word_len(r#""a""b" x"#), 6);
        assert_eq!(word_len("session_user, public"), 12);
    }
}
