//! Detects changes that can have a different effect at replay, because of what they call or read. The result is only a
//! possible reason, for a replay that is already known to differ from the workspace.

use pg_query::NodeEnum;
use pg_query::protobuf::{AlterTableType, Node};
use serde_json::Value;

use super::tree::{strings, walk};
use super::units::components;
use crate::postgres::change::{Change, Statement};

/// Why the replay of a change can differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unrepeatable {
    /// It calls a function, or contains a word, whose value is different each time. Contains its text, such as `now()`.
    Value(String),
    /// What it does can depend on data, which a replay does not have.
    Data,
}

/// Functions and words whose value differs between calls or sessions.
const VALUES: [&str; 30] = [
    "clock_timestamp",
    "current_date",
    "current_time",
    "current_timestamp",
    "gen_random_bytes",
    "gen_random_uuid",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "localtime",
    "localtimestamp",
    "nextval",
    "now",
    "pg_backend_pid",
    "pg_current_wal_lsn",
    "pg_current_xact_id",
    "pg_postmaster_start_time",
    "random",
    "random_normal",
    "statement_timestamp",
    "timeofday",
    "transaction_timestamp",
    "txid_current",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
    "version",
];
/// Time constants that PostgreSQL replaces by a value when it reads them.
const TIMES: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// The first reason in the statements of a change; `None` if no statement has one.
pub fn unrepeatable(change: &Change) -> Option<Unrepeatable> {
    change
        .statements
        .iter()
        .find_map(|statement| of_text(&statement.sql.to_string()))
}

/// The first constant in a change that is a time constant if its type is that of a time, such as the default `'now'` of a column.
pub fn perhaps_a_time(change: &Change) -> Option<String> {
    let texts = change.statements.iter().map(|statement| statement.sql.to_string());
    let nodes = texts.filter_map(|text| pg_query::parse(&text, 0).ok());
    let mut nodes = nodes
        .flat_map(|parsed| parsed.protobuf.stmts)
        .filter_map(|raw| raw.stmt?.node);
    nodes.find_map(|node| time_in(&serde_json::to_value(node).ok()?, "AConst"))
}

/// Whether the object of a fact contains an identity of the journal as whole names: `column public.t.a` contains
/// `public.t`, but `view app_public.orders` does not contain `public.orders`.
pub fn concerns(identity: &str, fact: &str) -> bool {
    let part: Vec<String> = components(identity).collect();
    let whole: Vec<String> = components(fact).collect();
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part.as_slice())
}

/// Whether a change may have changed the object of a fact: it changed an object that the fact contains. A column is not changed by
/// an ALTER TABLE that names other columns only.
pub fn may_have_changed(change: &Change, fact: &str) -> bool {
    let is_about = |statement: &&Statement| statement.objects.iter().any(|object| concerns(object, fact));
    let names_it = |statement: &Statement| match fact.strip_prefix("column ").and_then(|of| components(of).last()) {
        Some(column) => columns(&statement.sql.to_string()).is_none_or(|named| named.contains(&column)),
        None => true,
    };
    change.statements.iter().filter(is_about).any(names_it)
}

/// The columns that an ALTER TABLE changes, if it changes nothing else; `None` for any other statement.
fn columns(text: &str) -> Option<Vec<String>> {
    let parsed = pg_query::parse(text, 0).ok()?;
    let [raw] = <[_; 1]>::try_from(parsed.protobuf.stmts).ok()?;
    let NodeEnum::AlterTableStmt(stmt) = raw.stmt?.node? else {
        return None;
    };
    let column = |command: Node| match command.node? {
        NodeEnum::AlterTableCmd(command) => match (command.subtype(), command.def.and_then(|def| def.node)) {
            (AlterTableType::AtAddColumn, Some(NodeEnum::ColumnDef(def))) => Some(def.colname),
            (
                AlterTableType::AtColumnDefault
                | AlterTableType::AtSetNotNull
                | AlterTableType::AtDropNotNull
                | AlterTableType::AtAlterColumnType
                | AlterTableType::AtDropColumn,
                _,
            ) => Some(command.name),
            _ => None,
        },
        _ => None,
    };
    stmt.cmds.into_iter().map(column).collect()
}

fn of_text(text: &str) -> Option<Unrepeatable> {
    let parsed = pg_query::parse(text, 0).ok()?;
    let nodes = parsed.protobuf.stmts.into_iter().filter_map(|raw| raw.stmt?.node);
    nodes.into_iter().find_map(|node| of_node(&node))
}

fn of_node(node: &NodeEnum) -> Option<Unrepeatable> {
    let tree = serde_json::to_value(node).ok()?;
    match node {
        NodeEnum::DoStmt(_) => {
            let named = strings(&tree).iter().find_map(|body| value_in_body(body));
            Some(named.map_or(Unrepeatable::Data, Unrepeatable::Value))
        }
        NodeEnum::CallStmt(_) => Some(value_in(&tree).map_or(Unrepeatable::Data, Unrepeatable::Value)),
        NodeEnum::SelectStmt(stmt) if stmt.into_clause.is_none() => {
            Some(value_in(&tree).map_or(Unrepeatable::Data, Unrepeatable::Value))
        }
        _ => time_in(&tree, "TypeCast")
            .or_else(|| bound_in(&tree).and_then(value_in))
            .map(Unrepeatable::Value),
    }
}

/// The first word in the body of a DO that is one of `VALUES`. The body is only split into tokens, not parsed.
fn value_in_body(body: &str) -> Option<String> {
    let scanned = pg_query::scan(body).ok()?;
    let words = scanned.tokens.iter().filter_map(|token| {
        let (from, to) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        body.get(from..to)
    });
    let found = words
        .map(str::to_lowercase)
        .find(|word| VALUES.contains(&word.as_str()));
    found.map(|word| written(&word))
}

fn value_in(tree: &Value) -> Option<String> {
    let mut found = None;
    walk(tree, &mut |key, value| {
        let name = match key {
            "FuncCall" => value.get("funcname").map(strings).and_then(|mut names| names.pop()),
            // CURRENT_DATE and similar keywords: the tree has only a number for them.
            "SqlvalueFunction" | "SQLValueFunction" => Some("current_timestamp".to_owned()),
            _ => None,
        };
        if let Some(name) = name.filter(|name| VALUES.contains(&name.as_str())) {
            found.get_or_insert_with(|| written(&name));
        }
    });
    found
}

/// The first time constant in a node of this kind.
fn time_in(tree: &Value, kind: &str) -> Option<String> {
    let mut found = None;
    walk(tree, &mut |key, value| {
        let constants = if key == kind { strings(value) } else { Vec::new() };
        let is_time = |text: &String| TIMES.contains(&text.trim().to_lowercase().as_str());
        if let Some(time) = constants.into_iter().find(is_time) {
            found.get_or_insert_with(|| format!("'{time}'"));
        }
    });
    found
}

/// The bounds of a partition, which are computed when it is created.
fn bound_in(tree: &Value) -> Option<&Value> {
    match tree {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| match key.as_str() {
            "partbound" | "bound" if !value.is_null() => Some(value),
            _ => bound_in(value),
        }),
        Value::Array(values) => values.iter().find_map(bound_in),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// How the function or word is usually written.
fn written(name: &str) -> String {
    if name.starts_with("current_") || name.starts_with("local") {
        name.to_uppercase()
    } else {
        format!("{name}()")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::change::{Mode, Sql};

    fn statement(sql: &str) -> Statement {
        Statement {
            sql: Sql::text(sql),
            tags: Vec::new(),
            objects: Vec::new(),
            search_path: String::new(),
            role: None,
            settings: Default::default(),
            mode: Mode::Transactional,
        }
    }

    fn suspected(sql: &str) -> Option<Unrepeatable> {
        unrepeatable(&Change {
            statements: vec![statement(sql)],
            ..Change::default()
        })
    }

    #[test]
    fn what_may_give_something_else_is_named() {
        let value = |text: &str| Some(Unrepeatable::Value(text.to_owned()));
        for (sql, expected) in [
            (
                "DO $$ BEGIN EXECUTE 'CREATE TABLE t_' || (random() * 9)::int || ' ()'; END $$",
                value("random()"),
            ),
            (
                "DO $$ BEGIN EXECUTE format('CREATE TABLE p_%s ()', Current_Date); END $$",
                value("CURRENT_DATE"),
            ),
            (
                "DO $$ DECLARE r record; BEGIN FOR r IN SELECT 1 LOOP NULL; END LOOP; END $$",
                Some(Unrepeatable::Data),
            ),
            ("SELECT make_tables()", Some(Unrepeatable::Data)),
            ("SELECT make_table(now())", value("now()")),
            ("CALL make_tables()", Some(Unrepeatable::Data)),
            (
                "ALTER TABLE t ADD COLUMN at timestamptz DEFAULT 'now'::timestamptz",
                value("'now'"),
            ),
            (
                "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (now()) TO ('2030-01-01')",
                value("now()"),
            ),
            (
                "ALTER TABLE p ATTACH PARTITION q FOR VALUES IN (random())",
                value("random()"),
            ),
            // Kept as an expression, computed later.
            (
                "CREATE TABLE t (at timestamptz DEFAULT now(), id uuid DEFAULT gen_random_uuid())",
                None,
            ),
            ("ALTER TABLE t ADD CHECK (at < now())", None),
            (
                "CREATE FUNCTION f() RETURNS float LANGUAGE sql AS 'SELECT random()'",
                None,
            ),
            ("CREATE TABLE t (word text DEFAULT 'now')", None),
        ] {
            assert_eq!(suspected(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_constant_may_be_a_time() {
        for (sql, expected) in [
            ("CREATE TABLE t (at timestamptz DEFAULT 'Now')", Some("'Now'")),
            ("ALTER TABLE t ALTER d SET DEFAULT 'today'", Some("'today'")),
            (
                "CREATE VIEW v AS SELECT 1 FROM t WHERE d < 'tomorrow'",
                Some("'tomorrow'"),
            ),
            ("CREATE TABLE now (now int DEFAULT 1)", None),
            ("CREATE TYPE e AS ENUM ('now')", None),
        ] {
            let change = Change {
                statements: vec![statement(sql)],
                ..Change::default()
            };
            assert_eq!(perhaps_a_time(&change).as_deref(), expected, "{sql}");
        }
    }

    #[test]
    fn an_alter_table_changes_the_columns_that_it_names() {
        for (sql, fact, expected) in [
            (
                "ALTER TABLE t ADD COLUMN a int, ALTER b SET NOT NULL",
                "column public.t.a",
                true,
            ),
            (
                "ALTER TABLE t ADD COLUMN a int, ALTER b SET NOT NULL",
                "column public.t.b",
                true,
            ),
            (
                "ALTER TABLE t ADD COLUMN a int, ALTER b SET NOT NULL",
                "column public.t.c",
                false,
            ),
            (
                "ALTER TABLE t ADD COLUMN a int, ALTER b SET NOT NULL",
                "table public.t",
                true,
            ),
            ("ALTER TABLE t ADD PRIMARY KEY (c)", "column public.t.c", true),
            (
                "DO $$ BEGIN ALTER TABLE t ADD COLUMN a int; END $$",
                "column public.t.c",
                true,
            ),
            (
                "ALTER TABLE t ADD COLUMN \"My.c\" int",
                "column public.t.\"My.c\"",
                true,
            ),
            ("ALTER TABLE t ADD COLUMN c int", "column public.other.c", false),
        ] {
            let statement = Statement {
                objects: vec!["public.t".to_owned()],
                ..statement(sql)
            };
            let change = Change {
                statements: vec![statement],
                ..Change::default()
            };
            assert_eq!(may_have_changed(&change, fact), expected, "{sql}: {fact}");
        }
    }

    #[test]
    fn an_identity_is_compared_whole() {
        assert!(concerns("public.t", "column public.t.a"));
        assert!(concerns("public.f(integer)", "function public.f(integer)"));
        assert!(concerns("g on public.t", "trigger g on public.t"));
        assert!(concerns(r#"public."My t""#, r#"table public."My t""#));
        assert!(!concerns("public.orders", "view app_public.orders"));
        assert!(!concerns("public.v", "view public.view_2"));
        assert!(!concerns("", "table public.t"));
    }
}
