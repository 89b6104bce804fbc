//! What to do about broken changes: which request leaves them out of head, and how to drop what they left in the workspace.

use std::collections::{BTreeSet, HashMap};

use tdb_engines::postgres::change::{Change, Created};
use tdb_names::{BlueprintName, RoleName};
use tdb_store::changes::ChangeRow;

/// The kinds of objects that a statement with OR REPLACE can find.
const REPLACEABLE: [&str; 6] = ["AGGREGATE", "FUNCTION", "PROCEDURE", "RULE", "TRIGGER", "VIEW"];

/// How to undo what broken changes altered, and run it again, without another broken change: tenants lack it.
const GUARDED: &str = "Tenants lack it, so write the conditions that make it work there too: ALTER TABLE IF EXISTS ... DROP COLUMN IF \
                       EXISTS to undo, ALTER TABLE IF EXISTS ... ADD COLUMN IF NOT EXISTS to run again, and so on.";

/// What broken changes did in the workspace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// Statements that drop what they created. They have no effect where the objects do not exist.
    pub drops: Vec<String>,
    /// The identities of objects that they altered or dropped and did not create.
    pub altered: Vec<String>,
}

impl Leftover {
    /// What the broken changes `broken`, by number, did. `earlier` has the numbers of pending changes that changed an
    /// object, by its identity: an object that an earlier change created was replaced, and must not be dropped.
    pub(crate) fn of<'a>(broken: impl Iterator<Item = &'a ChangeRow>, earlier: &HashMap<String, Vec<u32>>) -> Leftover {
        let (mut left, mut made) = (Leftover::default(), Vec::new());
        for row in broken {
            let Some(change) = body(row) else { continue };
            let is_replaced = |identity: &str| {
                let mut others = earlier.get(identity).into_iter().flatten();
                others.any(|other| *other < row.id)
            };
            let (replaced, created): (Vec<_>, Vec<_>) = change
                .created
                .into_iter()
                .partition(|created| REPLACEABLE.contains(&created.kind.as_str()) && is_replaced(&created.identity));
            change.renamed.iter().for_each(|renamed| renamed.apply(&mut made));
            made.extend(created);
            let replaced = replaced.into_iter().map(|created| created.identity);
            for identity in replaced.chain(change.altered) {
                if !left.altered.contains(&identity) {
                    left.altered.push(identity);
                }
            }
        }
        left.altered
            .retain(|altered| made.iter().all(|made| made.identity != *altered));
        // In the order of their creation, and with what depends on them: a part is then gone before its own statement.
        let drops = made
            .iter()
            .map(|Created { kind, identity }| format!("DROP {kind} IF EXISTS {identity} CASCADE"));
        left.drops = drops.collect();
        left
    }
}

/// The identities of the objects that a broken change created, or replaced.
pub(crate) fn created(row: &ChangeRow) -> Vec<String> {
    let change = body(row).unwrap_or_default();
    change.created.into_iter().map(|created| created.identity).collect()
}

fn body(row: &ChangeRow) -> Option<Change> {
    serde_json::from_value(row.body.clone()).ok()
}

/// `change 3` or `changes 3, 4 and 7`.
pub(crate) fn numbered(ids: &[u32]) -> String {
    match ids {
        [] => "no change".to_owned(),
        [id] => format!("change {id}"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(u32::to_string).collect();
            format!("changes {} and {last}", first.join(", "))
        }
    }
}

/// The request that skips these changes.
pub(crate) fn skip_request(blueprint: &BlueprintName, ids: &[u32]) -> String {
    let numbers: Vec<String> = ids.iter().map(u32::to_string).collect();
    format!(
        "DELETE /workspaces/{blueprint}/diff {{\"ddl_ids\": [{}]}}",
        numbers.join(", ")
    )
}

/// What to do about broken changes, some of which name roles that are not declared. `left` is what they did in the workspace;
/// `None` if the caller does not know it.
pub(crate) fn repair(
    blueprint: &BlueprintName,
    broken: &[u32],
    undeclared: &[String],
    left: Option<&Leftover>,
) -> String {
    let roles: BTreeSet<&str> = undeclared.iter().map(String::as_str).collect();
    let (declarable, others): (Vec<&str>, Vec<&str>) =
        roles.into_iter().partition(|role| RoleName::to_declare(role).is_ok());
    let mut text = match (declare(&declarable), left) {
        (None, left) => skip_and_keep(blueprint, broken, left),
        (Some(declare), Some(left)) if !left.drops.is_empty() => {
            format!("{declare}. {}", skip_and_keep(blueprint, broken, Some(left)))
        }
        (Some(declare), _) => format!(
            "{declare} and run the statements again; {} leaves out what cannot be replayed.",
            skip_request(blueprint, broken)
        ),
    };
    for role in others {
        text.push_str(&format!(
            " Role \"{role}\" cannot be declared: leave it out of the statements."
        ));
    }
    text
}

/// The requests that declare roles, without a full stop; `None` without roles.
fn declare(roles: &[&str]) -> Option<String> {
    let request = |role: &&str| format!("POST /projects/{{id}}/roles {{\"name\": \"{role}\"}}");
    let requests: Vec<String> = roles.iter().map(request).collect();
    match requests.as_slice() {
        [] => None,
        [one] => Some(format!("Declare the role with {one}")),
        all => Some(format!("Declare the roles with {}", all.join(", "))),
    }
}

fn skip_and_keep(blueprint: &BlueprintName, broken: &[u32], left: Option<&Leftover>) -> String {
    let them = if broken.len() == 1 { "it" } else { "they" };
    let keep = match left {
        None => format!("How to keep what {them} did is in GET /workspaces/{blueprint}/diff."),
        Some(left) if left.drops.is_empty() => format!(
            "To keep what {them} did, undo it in {blueprint}_dev if it cannot be run twice, and run it again, with names and values \
             written out. {GUARDED}"
        ),
        Some(left) => {
            let mut keep = format!(
                "To keep what {them} made, then run in {blueprint}_dev: {}; followed by the statements that create it, and anything that \
                 was dropped with it, with names and values written out.",
                left.drops.join("; ")
            );
            if !left.altered.is_empty() {
                let altered = left.altered.join(", ");
                keep.push_str(&format!(
                    " Also undo what {them} changed in {altered} if it cannot be run twice, and run it again. {GUARDED}"
                ));
            }
            keep
        }
    };
    format!(
        "{} leaves out what cannot be replayed. {keep}",
        skip_request(blueprint, broken)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repair_says_what_to_do() {
        let blueprint = "app".parse().unwrap();
        assert_eq!(
            skip_request(&blueprint, &[3, 4]),
            "DELETE /workspaces/app/diff {\"ddl_ids\": [3, 4]}"
        );
        assert_eq!(
            repair(&blueprint, &[3], &["anon".to_owned()], None),
            "Declare the role with POST /projects/{id}/roles {\"name\": \"anon\"} and run the statements again; \
             DELETE /workspaces/app/diff {\"ddl_ids\": [3]} leaves out what cannot be replayed."
        );
        let mut left = Leftover {
            drops: vec!["DROP TYPE IF EXISTS public.mood CASCADE".to_owned()],
            altered: Vec::new(),
        };
        let made = "DELETE /workspaces/app/diff {\"ddl_ids\": [3]} leaves out what cannot be replayed. To keep what it made, then run \
                    in app_dev: DROP TYPE IF EXISTS public.mood CASCADE; followed by the statements that create it, and anything that was \
                    dropped with it, with names and values written out.";
        assert_eq!(repair(&blueprint, &[3], &[], Some(&left)), made);
        left.altered = vec!["public.t".to_owned()];
        let also = " Also undo what it changed in public.t if it cannot be run twice, and run it again. Tenants lack it, so \
                    write the conditions that make it work there too: ALTER TABLE IF EXISTS ... DROP COLUMN IF EXISTS to undo, ALTER TABLE \
                    IF EXISTS ... ADD COLUMN IF NOT EXISTS to run again, and so on.";
        assert_eq!(repair(&blueprint, &[3], &[], Some(&left)), [made, also].concat());
        left.altered.clear();
        let roles = ["web", "anon", "pg_monitor"].map(str::to_owned);
        let declare = "Declare the roles with POST /projects/{id}/roles {\"name\": \"anon\"}, \
                       POST /projects/{id}/roles {\"name\": \"web\"}. ";
        let leave = " Role \"pg_monitor\" cannot be declared: leave it out of the statements.";
        assert_eq!(
            repair(&blueprint, &[3], &roles, Some(&left)),
            [declare, made, leave].concat()
        );
        assert_eq!(
            repair(&blueprint, &[3, 4], &[], Some(&Leftover::default())),
            "DELETE /workspaces/app/diff {\"ddl_ids\": [3, 4]} leaves out what cannot be replayed. To keep what they did, undo it in app_dev \
             if it cannot be run twice, and run it again, with names and values written out. Tenants lack it, so write the conditions \
             that make it work there too: ALTER TABLE IF EXISTS ... DROP COLUMN IF EXISTS to undo, ALTER TABLE IF EXISTS ... ADD COLUMN IF \
             NOT EXISTS to run again, and so on."
        );
    }
}
