//! Generates the inverse of a change: DDL that undoes it, from its parse tree and the catalogs before and after it. The
//! result is a candidate: before it runs in a workspace, the caller must replay it and compare the schema with the one
//! before the change. Statements without a certain inverse are refused.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AlterEnumStmt, AlterTableCmd, AlterTableStmt, AlterTableType, CommentStmt, CreateTableAsStmt, ObjectType, RangeVar,
    RenameStmt,
};

use crate::postgres::change::{Change, Mode, Sql, Statement};
use crate::postgres::error::EngineError;
use crate::postgres::fingerprint::Fingerprint;
use crate::postgres::ident::{last_name, literal, parent, parts, quote};
use crate::postgres::login::DatabaseLogin;
use crate::postgres::schema::{Column, Table};

/// A statement that has no certain inverse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Irreversible {
    /// Its text, with `owner` for the owner role.
    pub statement: String,
    /// Why it has none.
    pub reason: String,
}

/// A schema before or after a change of the change log.
#[derive(Clone, Debug)]
pub struct SchemaState {
    /// Its tables, from [`crate::postgres::schema::describe`].
    pub tables: Vec<Table>,
    /// Its fingerprint.
    pub facts: Fingerprint,
}

/// How long each statement may wait for locks of other sessions in a workspace.
const LOCK_TIMEOUT: &str = "5s";

/// Returns the statements that undo `change`, starting with its last one. All names in them are qualified.
pub fn of(change: &Change, before: &SchemaState, after: &SchemaState) -> Result<Change, Irreversible> {
    let mut inverse = Change::default();
    for statement in change.statements.iter().rev() {
        let context = Context {
            statement,
            before,
            after,
        };
        let undone = context.undo().map_err(|reason| Irreversible {
            statement: statement.sql.to_string(),
            reason,
        })?;
        inverse.statements.extend(undone.map(|sql| Statement {
            sql: Sql::text(sql),
            tags: Vec::new(),
            objects: Vec::new(),
            search_path: String::new(),
            role: None,
            settings: Default::default(),
            mode: Mode::Transactional,
        }));
    }
    Ok(inverse)
}

/// Runs an inverse in a workspace, as the role of `login`, in one transaction, and returns the transaction's id. Each
/// statement is a separate message, so that the journal can distinguish them. If the answer to COMMIT is lost, an error
/// is returned, and the journal shows whether the transaction committed.
pub async fn run(login: &DatabaseLogin, inverse: &Change) -> Result<u64, EngineError> {
    let session = login.open(&login.application_name).await?;
    session
        .run(&format!(
            "BEGIN; SET LOCAL search_path = ''; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"
        ))
        .await?;
    for statement in &inverse.statements {
        session.run(&statement.sql.render(&login.role)).await?;
    }
    let row = session
        .row("SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text", &[])
        .await?;
    let xid: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
    session.run("COMMIT").await?;
    xid.and_then(|xid| xid.parse().ok())
        .ok_or_else(|| EngineError::Unexpected("no transaction id".to_owned()))
}

struct Context<'a> {
    statement: &'a Statement,
    before: &'a SchemaState,
    after: &'a SchemaState,
}

/// `None` if undoing another statement of the change also undoes this one.
type Undone = Result<Option<String>, String>;

impl Context<'_> {
    fn undo(&self) -> Undone {
        let text = self.statement.sql.to_string();
        let parsed = pg_query::parse(&text, 0).map_err(|error| error.to_string())?;
        let nodes: Vec<NodeEnum> = parsed
            .protobuf
            .stmts
            .into_iter()
            .filter_map(|raw| raw.stmt?.node)
            .collect();
        let [node] = nodes.as_slice() else {
            return Err("it is more than one statement".to_owned());
        };
        match node {
            NodeEnum::AlterTableStmt(stmt) => self.alter_table(stmt),
            NodeEnum::RenameStmt(stmt) => self.rename(stmt).map(Some),
            NodeEnum::AlterEnumStmt(stmt) => self.rename_label(stmt).map(Some),
            NodeEnum::CommentStmt(stmt) => self.comment(stmt).map(Some),
            made => {
                let (kind, identity) = self.made(made)?;
                Ok(Some(format!("DROP {kind} {identity} RESTRICT")))
            }
        }
    }

    /// The object that a CREATE statement created: its type as in DROP, and its identity.
    fn made(&self, node: &NodeEnum) -> Result<(&'static str, String), String> {
        let relation = |kind, range: Option<&RangeVar>| Ok((kind, self.relation(range)?));
        let only = |kind| Ok((kind, self.only()?));
        match node {
            NodeEnum::CreateStmt(stmt) => relation("TABLE", stmt.relation.as_ref()),
            NodeEnum::CreateForeignTableStmt(stmt) => {
                let base = stmt.base_stmt.as_ref();
                relation("FOREIGN TABLE", base.and_then(|base| base.relation.as_ref()))
            }
            NodeEnum::ViewStmt(stmt) => relation("VIEW", stmt.view.as_ref()),
            NodeEnum::CreateTableAsStmt(stmt) => relation(made_by_query(stmt), target(stmt)),
            NodeEnum::SelectStmt(stmt) if stmt.into_clause.is_some() => {
                relation("TABLE", stmt.into_clause.as_ref().and_then(|into| into.rel.as_ref()))
            }
            NodeEnum::CreateSeqStmt(stmt) => relation("SEQUENCE", stmt.sequence.as_ref()),
            NodeEnum::IndexStmt(_) => only("INDEX"),
            NodeEnum::CreateSchemaStmt(stmt) if stmt.schema_elts.is_empty() => only("SCHEMA"),
            NodeEnum::CreateFunctionStmt(stmt) if stmt.is_procedure => only("PROCEDURE"),
            NodeEnum::CreateFunctionStmt(_) => only("FUNCTION"),
            NodeEnum::CreateEnumStmt(_) | NodeEnum::CompositeTypeStmt(_) | NodeEnum::CreateRangeStmt(_) => only("TYPE"),
            NodeEnum::CreateDomainStmt(_) => only("DOMAIN"),
            NodeEnum::CreateTrigStmt(_) => only("TRIGGER"),
            NodeEnum::CreatePolicyStmt(_) => only("POLICY"),
            NodeEnum::RuleStmt(_) => only("RULE"),
            NodeEnum::CreateStatsStmt(_) => only("STATISTICS"),
            NodeEnum::DefineStmt(stmt) if stmt.kind() == ObjectType::ObjectAggregate => only("AGGREGATE"),
            NodeEnum::DefineStmt(stmt) if stmt.kind() == ObjectType::ObjectCollation => only("COLLATION"),
            _ => Err("no inverse of such a statement is certain".to_owned()),
        }
    }

    fn alter_table(&self, stmt: &AlterTableStmt) -> Undone {
        if stmt.objtype() != ObjectType::ObjectTable {
            return Err("only changes of tables have an inverse that is certain".to_owned());
        }
        let table = self.relation(stmt.relation.as_ref())?;
        let mut commands = Vec::new();
        for command in stmt.cmds.iter().rev() {
            let Some(NodeEnum::AlterTableCmd(command)) = &command.node else {
                return Err("a part of it is not understood".to_owned());
            };
            commands.extend(self.alter(&table, command)?);
        }
        Ok((!commands.is_empty()).then(|| format!("ALTER TABLE {table} {}", commands.join(", "))))
    }

    fn alter(&self, table: &str, command: &AlterTableCmd) -> Undone {
        let column = quote(&command.name);
        let was = || column_of(&self.before.tables, table, &command.name);
        Ok(Some(match command.subtype() {
            AlterTableType::AtAddColumn => match command.def.as_ref().and_then(|def| def.node.as_ref()) {
                Some(NodeEnum::ColumnDef(def)) => format!("DROP COLUMN {} RESTRICT", quote(&def.colname)),
                _ => return Err("the column is not named".to_owned()),
            },
            AlterTableType::AtAddConstraint => {
                let name = self.added_constraint(table, command)?;
                format!("DROP CONSTRAINT {} RESTRICT", quote(&name))
            }
            AlterTableType::AtDropConstraint => match constraint_of(&self.before.tables, table, &command.name) {
                Some(definition) => format!("ADD CONSTRAINT {column} {definition}"),
                None => return Ok(None),
            },
            AlterTableType::AtColumnDefault => match was() {
                Some(Column { default: Some(was), .. }) => format!("ALTER COLUMN {column} SET DEFAULT {was}"),
                Some(Column { default: None, .. }) => format!("ALTER COLUMN {column} DROP DEFAULT"),
                None => return Ok(None),
            },
            AlterTableType::AtSetNotNull | AlterTableType::AtDropNotNull => match was() {
                Some(was) if was.nullable => format!("ALTER COLUMN {column} DROP NOT NULL"),
                Some(_) => format!("ALTER COLUMN {column} SET NOT NULL"),
                None => return Ok(None),
            },
            AlterTableType::AtEnableRowSecurity => "DISABLE ROW LEVEL SECURITY".to_owned(),
            AlterTableType::AtDisableRowSecurity => "ENABLE ROW LEVEL SECURITY".to_owned(),
            AlterTableType::AtForceRowSecurity => "NO FORCE ROW LEVEL SECURITY".to_owned(),
            AlterTableType::AtNoForceRowSecurity => "FORCE ROW LEVEL SECURITY".to_owned(),
            AlterTableType::AtDropColumn => return Err("the data of a dropped column is gone".to_owned()),
            AlterTableType::AtAlterColumnType => return Err("a type changed back may change data".to_owned()),
            _ => return Err("no inverse of such a change of a table is certain".to_owned()),
        }))
    }

    /// The name of the constraint that was added, from the text or, if the server chose it, from the catalogs.
    fn added_constraint(&self, table: &str, command: &AlterTableCmd) -> Result<String, String> {
        if let Some(NodeEnum::Constraint(constraint)) = command.def.as_ref().and_then(|def| def.node.as_ref())
            && !constraint.conname.is_empty()
        {
            return Ok(constraint.conname.clone());
        }
        let names = |tables: &[Table]| -> Vec<String> {
            let found = find(tables, table).into_iter().flat_map(|table| &table.constraints);
            found.map(|constraint| constraint.name.clone()).collect()
        };
        let known = names(&self.before.tables);
        let mut new = names(&self.after.tables);
        new.retain(|name| !known.contains(name));
        match new.as_slice() {
            [name] => Ok(name.clone()),
            _ => Err("which constraint it made is not certain".to_owned()),
        }
    }

    fn rename(&self, stmt: &RenameStmt) -> Result<String, String> {
        let (old, new) = (quote(&stmt.subname), quote(&stmt.newname));
        let was = |range: &Option<RangeVar>| range.as_ref().map(|range| quote(&range.relname)).unwrap_or_default();
        let identity = self.only()?;
        Ok(match stmt.rename_type() {
            ObjectType::ObjectTable => format!("ALTER TABLE {identity} RENAME TO {}", was(&stmt.relation)),
            ObjectType::ObjectIndex => format!("ALTER INDEX {identity} RENAME TO {}", was(&stmt.relation)),
            ObjectType::ObjectView => format!("ALTER VIEW {identity} RENAME TO {}", was(&stmt.relation)),
            ObjectType::ObjectMatview => {
                format!("ALTER MATERIALIZED VIEW {identity} RENAME TO {}", was(&stmt.relation))
            }
            ObjectType::ObjectSequence => format!("ALTER SEQUENCE {identity} RENAME TO {}", was(&stmt.relation)),
            ObjectType::ObjectSchema => format!("ALTER SCHEMA {identity} RENAME TO {old}"),
            ObjectType::ObjectColumn if stmt.relation_type() == ObjectType::ObjectTable => {
                let table = parent(&identity).ok_or("the table is not named in the journal")?;
                format!("ALTER TABLE {table} RENAME COLUMN {new} TO {old}")
            }
            ObjectType::ObjectTabconstraint => {
                let [_, table] = parts(&identity, &[" on "])[..] else {
                    return Err("the table is not named in the journal".to_owned());
                };
                format!("ALTER TABLE {table} RENAME CONSTRAINT {new} TO {old}")
            }
            _ => return Err("no inverse of such a renaming is certain".to_owned()),
        })
    }

    fn rename_label(&self, stmt: &AlterEnumStmt) -> Result<String, String> {
        if stmt.old_val.is_empty() {
            return Err("a label of an enum cannot be removed".to_owned());
        }
        let (old, new) = (literal(&stmt.old_val), literal(&stmt.new_val));
        Ok(format!("ALTER TYPE {} RENAME VALUE {new} TO {old}", self.only()?))
    }

    fn comment(&self, stmt: &CommentStmt) -> Result<String, String> {
        let identity = self.only()?;
        let kind = match stmt.objtype() {
            ObjectType::ObjectTable => "TABLE",
            ObjectType::ObjectColumn => "COLUMN",
            ObjectType::ObjectView => "VIEW",
            ObjectType::ObjectMatview => "MATERIALIZED VIEW",
            ObjectType::ObjectIndex => "INDEX",
            ObjectType::ObjectSequence => "SEQUENCE",
            ObjectType::ObjectSchema => "SCHEMA",
            ObjectType::ObjectFunction => "FUNCTION",
            ObjectType::ObjectType => "TYPE",
            ObjectType::ObjectTrigger => "TRIGGER",
            ObjectType::ObjectTabconstraint => "CONSTRAINT",
            _ => return Err("no inverse of such a comment is certain".to_owned()),
        };
        let end = format!(" {identity}");
        let of_it = |(object, _): &(&String, &String)| object.starts_with("comment on ") && object.ends_with(&end);
        let mut known = self.before.facts.facts.iter().filter(of_it);
        let was = match (known.next(), known.next()) {
            (None, _) => "NULL".to_owned(),
            (Some((_, was)), None) => literal(was),
            (Some(_), Some(_)) => return Err("which comment was there is not certain".to_owned()),
        };
        Ok(format!("COMMENT ON {kind} {identity} IS {was}"))
    }

    /// The identity of the statement's only object in the journal.
    fn only(&self) -> Result<String, String> {
        let mut objects = self.statement.objects.clone();
        objects.dedup();
        match objects.as_slice() {
            [identity] => Ok(identity.clone()),
            _ => Err("which object it made or changed is not certain".to_owned()),
        }
    }

    /// The identity of the relation `range`, among those of other objects that the statement created.
    fn relation(&self, range: Option<&RangeVar>) -> Result<String, String> {
        let name = range.map(|range| range.relname.as_str()).unwrap_or_default();
        let mut found: Vec<&String> = self.statement.objects.iter().collect();
        // Identities of constraints and triggers have the form `name on relation`.
        found.retain(|identity| last_name(identity) == name && parts(identity, &[" on "]).len() == 1);
        found.dedup();
        match found.as_slice() {
            [identity] => Ok((*identity).clone()),
            _ => Err("which relation it made or changed is not certain".to_owned()),
        }
    }
}

fn made_by_query(stmt: &CreateTableAsStmt) -> &'static str {
    match stmt.objtype() {
        ObjectType::ObjectMatview => "MATERIALIZED VIEW",
        _ => "TABLE",
    }
}

fn target(stmt: &CreateTableAsStmt) -> Option<&RangeVar> {
    stmt.into.as_ref().and_then(|into| into.rel.as_ref())
}

/// Finds a table by its identity; names in descriptions do not contain the schema `public`.
fn find<'a>(tables: &'a [Table], identity: &str) -> Option<&'a Table> {
    let name = identity.strip_prefix("public.").unwrap_or(identity);
    tables.iter().find(|table| table.name == name)
}

fn column_of<'a>(tables: &'a [Table], table: &str, name: &str) -> Option<&'a Column> {
    find(tables, table)?.columns.iter().find(|column| column.name == name)
}

fn constraint_of<'a>(tables: &'a [Table], table: &str, name: &str) -> Option<&'a str> {
    let mut constraints = find(tables, table)?.constraints.iter();
    constraints
        .find(|constraint| constraint.name == name)
        .map(|constraint| constraint.definition.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(tables: Vec<Table>, facts: &[(&str, &str)]) -> SchemaState {
        let facts = facts
            .iter()
            .map(|(object, is)| ((*object).to_owned(), (*is).to_owned()));
        SchemaState {
            tables,
            facts: Fingerprint::from_facts(facts.collect()),
        }
    }

    fn undone(sql: &str, objects: &[&str]) -> Result<Vec<String>, Irreversible> {
        let column = |name: &str, nullable, default: Option<&str>| Column {
            name: name.to_owned(),
            type_name: "integer".to_owned(),
            nullable,
            default: default.map(str::to_owned),
        };
        let table = |constraints: &[&str]| Table {
            name: "t".to_owned(),
            columns: vec![column("a", true, None), column("b", false, Some("7"))],
            indexes: Vec::new(),
            constraints: constraints
                .iter()
                .map(|name| crate::postgres::schema::Object {
                    name: (*name).to_owned(),
                    definition: "CHECK ((a > 0))".to_owned(),
                })
                .collect(),
        };
        let before = state(vec![table(&["old"])], &[("comment on table public.t", "it's")]);
        let after = state(vec![table(&["old", "t_a_check"])], &[]);
        let statement = Statement {
            sql: Sql::text(sql),
            tags: Vec::new(),
            objects: objects.iter().map(|object| (*object).to_owned()).collect(),
            search_path: String::new(),
            role: None,
            settings: Default::default(),
            mode: Mode::Transactional,
        };
        let change = Change {
            statements: vec![statement],
            ..Change::default()
        };
        of(&change, &before, &after).map(|inverse| inverse.texts())
    }

    #[test]
    fn each_form_has_its_inverse() {
        let table: [(&str, &[&str], &str); 20] = [
            (
                "CREATE TABLE t (id serial PRIMARY KEY)",
                &["public.t_id_seq", "public.t", "public.t_pkey", "public.t_id_seq"],
                "DROP TABLE public.t RESTRICT",
            ),
            (
                "CREATE INDEX ON t (a)",
                &["public.t_a_idx"],
                "DROP INDEX public.t_a_idx RESTRICT",
            ),
            (
                "CREATE VIEW v AS SELECT 1",
                &["public.v"],
                "DROP VIEW public.v RESTRICT",
            ),
            (
                "CREATE MATERIALIZED VIEW m AS SELECT 1",
                &["public.m"],
                "DROP MATERIALIZED VIEW public.m RESTRICT",
            ),
            ("SELECT 1 AS a INTO x", &["public.x"], "DROP TABLE public.x RESTRICT"),
            (
                "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
                &["public.f(integer)"],
                "DROP FUNCTION public.f(integer) RESTRICT",
            ),
            (
                "CREATE TYPE mood AS ENUM ('x')",
                &["public.mood"],
                "DROP TYPE public.mood RESTRICT",
            ),
            (
                "CREATE TRIGGER g BEFORE INSERT ON t EXECUTE FUNCTION f()",
                &["g on public.t"],
                "DROP TRIGGER g on public.t RESTRICT",
            ),
            ("CREATE SCHEMA app", &["app"], "DROP SCHEMA app RESTRICT"),
            (
                "ALTER TABLE t ADD COLUMN c int, ADD CHECK (a > 0)",
                &["public.t"],
                "ALTER TABLE public.t DROP CONSTRAINT \"t_a_check\" RESTRICT, DROP COLUMN \"c\" RESTRICT",
            ),
            (
                "ALTER TABLE t ALTER a SET NOT NULL",
                &["public.t"],
                "ALTER TABLE public.t ALTER COLUMN \"a\" DROP NOT NULL",
            ),
            (
                "ALTER TABLE t ALTER b SET NOT NULL",
                &["public.t"],
                "ALTER TABLE public.t ALTER COLUMN \"b\" SET NOT NULL",
            ),
            (
                "ALTER TABLE t ALTER b DROP DEFAULT",
                &["public.t"],
                "ALTER TABLE public.t ALTER COLUMN \"b\" SET DEFAULT 7",
            ),
            (
                "ALTER TABLE t ALTER a SET DEFAULT 3",
                &["public.t"],
                "ALTER TABLE public.t ALTER COLUMN \"a\" DROP DEFAULT",
            ),
            (
                "ALTER TABLE t DROP CONSTRAINT old",
                &["public.t"],
                "ALTER TABLE public.t ADD CONSTRAINT \"old\" CHECK ((a > 0))",
            ),
            (
                "ALTER TABLE s RENAME TO t",
                &["public.t"],
                "ALTER TABLE public.t RENAME TO \"s\"",
            ),
            (
                "ALTER TABLE t RENAME COLUMN a TO \"x.y\"",
                &["public.t.\"x.y\""],
                "ALTER TABLE public.t RENAME COLUMN \"x.y\" TO \"a\"",
            ),
            (
                "ALTER TABLE t RENAME CONSTRAINT old TO new",
                &["new on public.t"],
                "ALTER TABLE public.t RENAME CONSTRAINT \"new\" TO \"old\"",
            ),
            (
                "ALTER TYPE mood RENAME VALUE 'x' TO 'y'",
                &["public.mood"],
                "ALTER TYPE public.mood RENAME VALUE E'y' TO E'x'",
            ),
            (
                "COMMENT ON TABLE t IS 'new'",
                &["public.t"],
                "COMMENT ON TABLE public.t IS E'it''s'",
            ),
        ];
        for (sql, objects, inverse) in table {
            assert_eq!(undone(sql, objects), Ok(vec![inverse.to_owned()]), "{sql}");
        }
    }

    #[test]
    fn what_is_not_certain_is_refused_naming_the_statement() {
        for (sql, objects) in [
            ("DROP TABLE t", &["public.t"]),
            ("ALTER TABLE t DROP COLUMN a", &["public.t"]),
            ("ALTER TABLE t ALTER a TYPE text", &["public.t"]),
            ("ALTER TYPE mood ADD VALUE 'y'", &["public.mood"]),
            ("DO $$ BEGIN CREATE TABLE x (); END $$", &["public.x"]),
            ("GRANT SELECT ON t TO PUBLIC", &["public.t"]),
        ] {
            let refused = undone(sql, objects).unwrap_err();
            assert_eq!(refused.statement, sql);
            assert!(!refused.reason.is_empty());
        }
    }

    #[test]
    fn a_change_of_what_the_change_made_itself_needs_no_inverse() {
        assert_eq!(
            undone("ALTER TABLE t ALTER made SET NOT NULL", &["public.t"]),
            Ok(Vec::new())
        );
    }
}
