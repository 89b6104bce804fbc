//! What a transaction did to objects, from its journal rows: what it created, by kind, so that a repair can drop it, and
//! what else it changed.

use pg_query::NodeEnum;
use pg_query::protobuf::ObjectType;

use super::context::run_by_function;
use super::repeat::concerns;
use crate::postgres::change::{Created, Renamed, made_by};
use crate::postgres::ident::last_name;
use crate::postgres::journal::{Event, EventKind, Object};

/// The kinds of objects whose identity is what DROP takes after IF EXISTS, as in the tag of their CREATE statement.
const KINDS: [&str; 27] = [
    "AGGREGATE",
    "CAST",
    "COLLATION",
    "CONVERSION",
    "DOMAIN",
    "EXTENSION",
    "FOREIGN TABLE",
    "FUNCTION",
    "INDEX",
    "MATERIALIZED VIEW",
    "OPERATOR",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "POLICY",
    "PROCEDURE",
    "PUBLICATION",
    "RULE",
    "SCHEMA",
    "SEQUENCE",
    "SERVER",
    "STATISTICS",
    "TABLE",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TRIGGER",
    "TYPE",
    "VIEW",
];

/// The objects that the rows' statements created, in order and without the parts of others, such as the index of a primary
/// key.
pub(super) fn created(rows: &[&Event]) -> Vec<Created> {
    let mut created: Vec<Created> = Vec::new();
    for row in rows.iter().filter(|row| row.kind != EventKind::Drop) {
        let Some(kind) = kind_of(&row.tag) else {
            renamed_by(row).iter().for_each(|renamed| renamed.apply(&mut created));
            continue;
        };
        let own = row.objects.iter().filter(|object| is_of(object, kind));
        for identity in own.filter_map(|object| object.identity.clone()) {
            let one = Created {
                kind: kind.to_owned(),
                identity,
            };
            if !created.contains(&one) {
                created.push(one);
            }
        }
    }
    created
}

/// The relations and types that the rows' statements renamed, in order.
pub(super) fn renamed(rows: &[&Event]) -> Vec<Renamed> {
    let altering = rows
        .iter()
        .filter(|row| row.kind != EventKind::Drop && kind_of(&row.tag).is_none());
    altering.flat_map(|row| renamed_by(row)).collect()
}

/// Whether the row's statement, which can be one that a function ran, renamed something to the row's object.
fn renamed_by(row: &Event) -> Vec<Renamed> {
    let renames = renames(run_by_function(&row.caller).unwrap_or(&row.message.query));
    let identities = row.objects.iter().filter_map(|object| object.identity.as_deref());
    let renamed = identities.filter_map(|now| {
        let (old, _) = renames.iter().find(|(_, new)| *new == last_name(now))?;
        Some(Renamed {
            from: old.clone(),
            to: now.to_owned(),
        })
    });
    renamed.collect()
}

/// The old and the new names of the relations and types that a text renames.
fn renames(text: &str) -> Vec<(String, String)> {
    use ObjectType::{ObjectForeignTable, ObjectIndex, ObjectMatview, ObjectSequence, ObjectTable, ObjectView};
    let Ok(parsed) = pg_query::parse(text, 0) else {
        return Vec::new();
    };
    let nodes = parsed.protobuf.stmts.into_iter().filter_map(|raw| raw.stmt?.node);
    let renamed = nodes.filter_map(|node| match node {
        NodeEnum::RenameStmt(stmt) => match stmt.rename_type() {
            ObjectForeignTable | ObjectIndex | ObjectMatview | ObjectSequence | ObjectTable | ObjectView => {
                Some((stmt.relation?.relname, stmt.newname))
            }
            ObjectType::ObjectDomain | ObjectType::ObjectType => match stmt.object?.node? {
                NodeEnum::List(names) => match names.items.into_iter().next_back()?.node? {
                    NodeEnum::String(name) => Some((name.sval, stmt.newname)),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    renamed.collect()
}

/// The objects that the rows' statements altered or dropped and did not create, in order.
pub(super) fn altered(rows: &[&Event], created: &[Created]) -> Vec<String> {
    let mut altered: Vec<String> = Vec::new();
    let others = rows
        .iter()
        .filter(|row| row.kind == EventKind::Drop || kind_of(&row.tag).is_none());
    let objects = others.flat_map(|row| &row.objects);
    for identity in objects.filter_map(|object| object.identity.as_ref()) {
        let is_part = created.iter().any(|created| concerns(&created.identity, identity));
        if !is_part && !altered.contains(identity) {
            altered.push(identity.clone());
        }
    }
    altered
}

/// The kind of object that a statement with this tag creates.
fn kind_of(tag: &str) -> Option<&str> {
    made_by(tag).filter(|kind| KINDS.contains(kind))
}

/// Whether PostgreSQL's name for the object's type is that of the kind.
fn is_of(object: &Object, kind: &str) -> bool {
    let found = object.kind.as_deref().unwrap_or_default();
    match kind {
        "DOMAIN" => found == "type",
        "STATISTICS" => found == "statistics object",
        "TYPE" => found == "type" || found == "composite type",
        // A row of the administrator names the extension only.
        "EXTENSION" => found == "extension" || found.is_empty(),
        other => found.eq_ignore_ascii_case(other),
    }
}
