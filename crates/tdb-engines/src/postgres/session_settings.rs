//! Session settings (`ALTER ROLE … SET`) as part of a schema. Event triggers do not fire for them. In a workspace they
//! are read from the catalog and compared with the change log. At replay the administrator records them in
//! `tdb.setting`, in one transaction with the change's row, and sets them for the roles of the database. They are set
//! for these roles and not for the database, so that sessions of deployers and of the administrator never have settings
//! that a user chose.

use std::collections::BTreeMap;

use pg_query::NodeEnum;
use pg_query::protobuf::{AlterRoleSetStmt, RoleSpec, RoleSpecType};

use crate::postgres::apply::failure::StepError;
use crate::postgres::apply::plan::{BringUp, NumberedChange};
use crate::postgres::apply::record;
use crate::postgres::change::{Change, Mode, Sql, Statement};
use crate::postgres::deparse::written;
use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, parts, quote, unquoted};
use crate::postgres::server::Server;

/// Sets the settings in `tdb.setting` of the current database for its roles. Idempotent.
pub(crate) const APPLY: &str = include_str!("../../sql/postgres/session_settings_apply.sql");

/// The value of a setting for new sessions of a workspace's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSetting {
    /// The value as PostgreSQL stores it.
    pub value: String,
    /// Whether it is part of the schema, so that it is captured and deployed. Other settings apply in the workspace only.
    pub carried: bool,
}

/// Reads the settings, by name, that are set for the owner role or for the workspace's database.
pub async fn read(
    server: &Server,
    database: &str,
    owner: &str,
) -> Result<BTreeMap<String, SessionSetting>, EngineError> {
    let session = server.session(database).await?;
    let rows = session
        .rows(include_str!("../../sql/postgres/session_settings.sql"), &[&owner])
        .await?;
    server.keep(database, session);
    let one = |row: &tokio_postgres::Row| {
        let (name, value, carried) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok((name, SessionSetting { value, carried }))
    };
    rows.iter().map(one).collect()
}

/// Sets the settings that are part of the schema for the other roles that clients of a workspace use: those of read-only
/// credentials. Removes their other settings in this database. Idempotent.
pub async fn share(
    server: &Server,
    database: &str,
    owner: &str,
    settings: &BTreeMap<String, SessionSetting>,
) -> Result<(), EngineError> {
    let session = server.session(database).await?;
    let rows = session
        .rows(include_str!("../../sql/postgres/session_settings_roles.sql"), &[&owner])
        .await?;
    let mut sql = String::from("SET LOCAL lock_timeout = '2s';\n");
    for row in rows {
        let role: String = row.try_get(0)?;
        let role = format!("ALTER ROLE {} IN DATABASE {}", quote(&role), quote(database));
        sql.push_str(&format!("{role} RESET ALL;\n"));
        for (name, set) in settings
            .iter()
            .filter(|(name, set)| set.carried && !READS_ONLY.contains(&name.as_str()))
        {
            sql.push_str(&format!(
                "{role} SET {} TO {};\n",
                quote(name),
                clause(name, &set.value)
            ));
        }
    }
    session.run(&sql).await?;
    server.keep(database, session);
    Ok(())
}

/// Never set for read-only credentials, which must stay read-only.
const READS_ONLY: [&str; 2] = ["default_transaction_read_only", "transaction_read_only"];

/// The change that sets a session setting to `value`, or resets it (`None`).
pub fn change(name: &str, value: Option<&str>) -> Change {
    let (role, setting) = ("ALTER ROLE CURRENT_USER", quote(name));
    let sql = match value {
        Some(value) => format!("{role} SET {setting} TO {}", clause(name, value)),
        None => format!("{role} RESET {setting}"),
    };
    Change {
        statements: vec![Statement {
            sql: Sql::text(sql),
            tags: vec!["ALTER ROLE".to_owned()],
            objects: vec![format!("setting {name}")],
            search_path: "pg_catalog".to_owned(),
            role: None,
            settings: BTreeMap::new(),
            mode: Mode::Setting {
                name: name.to_owned(),
                value: value.map(str::to_owned),
            },
        }],
        ..Change::default()
    }
}

/// Converts `ALTER DATABASE … SET` (or RESET) for one of the databases `names` to `ALTER ROLE CURRENT_USER …`, since
/// PostgreSQL allows the former only to the database's owner, which is the administrator. `None` if `sql` is not
/// exactly one such statement.
pub fn for_role(sql: &str, names: &[&str]) -> Option<String> {
    let parsed = pg_query::parse(sql, 0).ok()?;
    let [raw] = <[_; 1]>::try_from(parsed.protobuf.stmts).ok()?;
    let NodeEnum::AlterDatabaseSetStmt(stmt) = raw.stmt?.node? else {
        return None;
    };
    if !names.contains(&stmt.dbname.as_str()) {
        return None;
    }
    let role = RoleSpec {
        roletype: RoleSpecType::RolespecCurrentUser.into(),
        ..RoleSpec::default()
    };
    written(NodeEnum::AlterRoleSetStmt(AlterRoleSetStmt {
        role: Some(role),
        database: String::new(),
        setstmt: stmt.setstmt,
    }))
    .ok()
}

/// Applies a change of a setting: sets it, records it and inserts the change's row, in one transaction of the
/// administrator.
pub(crate) async fn replay(
    plan: &BringUp<'_>,
    database: &str,
    numbered: &NumberedChange,
    name: &str,
    value: Option<&str>,
) -> Result<(), StepError> {
    let session = plan.administrator.dedicated(database).await?;
    let (lock, time) = (plan.limits.lock_timeout, plan.limits.statement_timeout);
    let begin = format!(
        "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
        lock.as_millis(),
        time.as_millis()
    );
    session.run(&begin).await?;
    let record = format!("set {name}");
    match value {
        Some(value) => {
            let sql =
                "INSERT INTO tdb.setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = $2";
            session.execute(sql, &[&record, &clause(name, value)]).await?;
        }
        None => {
            let sql = "DELETE FROM tdb.setting WHERE name = $1";
            session.execute(sql, &[&record]).await?;
        }
    }
    let text = numbered.change.texts().join("; ");
    session.run(APPLY).await.map_err(StepError::while_running(text))?;
    session.run(&record::of(record::INSERT_DONE, numbered)).await?;
    Ok(session.run("COMMIT").await?)
}

/// The text after TO: one literal for each name of `search_path`, one literal for any other value.
fn clause(name: &str, value: &str) -> String {
    if name != "search_path" {
        return plain(value);
    }
    let names = parts(value, &[","])
        .into_iter()
        .map(|name| plain(&unquoted(name.trim())));
    names.collect::<Vec<_>>().join(", ")
}

/// A plain literal (`'…'`), or an escape string if the text contains a backslash.
fn plain(text: &str) -> String {
    if text.contains('\\') {
        literal(text)
    } else {
        literal(text).trim_start_matches('E').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_many_literals_and_anything_else_is_one() {
        for (name, value, written) in [
            (
                "search_path",
                r#"app, "$user", "My, ""own""", public"#,
                r#"'app', '$user', 'My, "own"', 'public'"#,
            ),
            ("search_path", r#""""#, "''"),
            ("search_path", "", "''"),
            ("search_path", "a,b", "'a', 'b'"),
            ("DateStyle", "ISO, DMY", "'ISO, DMY'"),
            ("app.note", r"it's a \ and more", r"E'it''s a \\ and more'"),
        ] {
            assert_eq!(clause(name, value), written, "{name} = {value}");
        }
    }

    #[test]
    fn a_setting_of_the_database_is_one_of_the_role() {
        let names = ["app_dev", "t_abc"];
        let table = [
            (
                "ALTER DATABASE app_dev SET search_path = app, public",
                Some("ALTER ROLE CURRENT_USER SET search_path TO app, public"),
            ),
            (
                "alter database \"t_abc\" reset all;",
                Some("ALTER ROLE CURRENT_USER RESET ALL"),
            ),
            ("ALTER DATABASE other SET search_path = app", None),
            ("ALTER DATABASE app_dev RENAME TO x", None),
            ("ALTER DATABASE app_dev SET jit = off; DROP TABLE t", None),
            ("SELECT 1", None),
        ];
        for (sql, expected) in table {
            assert_eq!(for_role(sql, &names).as_deref(), expected, "{sql}");
        }
    }

    #[test]
    fn the_change_shows_what_it_sets() {
        assert_eq!(
            change("jit", Some("off")).texts(),
            [r#"ALTER ROLE CURRENT_USER SET "jit" TO 'off'"#]
        );
        assert_eq!(change("jit", None).texts(), [r#"ALTER ROLE CURRENT_USER RESET "jit""#]);
    }
}
