//! Extensions that only a superuser may make. Its session runs our own constant statement and the extension's script, whose
//! search_path has no schema in which anybody else may create: no code of a user runs in it.

use std::time::Duration;

use pg_query::NodeEnum;

use crate::postgres::apply::failure::StepError;
use crate::postgres::apply::plan::{BringUp, NumberedChange};
use crate::postgres::change::Checksum;
use crate::postgres::error::{EngineError, SqlState};
use crate::postgres::ident::{literal, quote};
use crate::postgres::server::Server;
use crate::postgres::session::Session;

/// Where such extensions go: the administrator's own schema, which everybody may use and nobody else may create in.
pub const SCHEMA: &str = "extensions";
/// Past the server's own statement_timeout, the answer is late rather than the script slow.
const ANSWER_MARGIN: Duration = Duration::from_secs(10);
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(60);

/// An extension as its replay makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    pub name: String,
    pub version: String,
    pub schema: String,
}

/// What a server has to offer to a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    pub name: String,
    pub default_version: String,
    pub installed_version: Option<String>,
    pub schema: Option<String>,
}

/// Why an extension was not made.
#[derive(Debug, thiserror::Error)]
pub enum ExtensionError {
    #[error("the server does not have it in this version")]
    Unknown,
    #[error("version {version} of it is there already")]
    Exists { version: String },
    #[error("others may create in the schema \"{schema}\", which its script would read")]
    Unsafe { schema: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The one statement that makes an extension, in a workspace as at replay.
pub(crate) fn statement(name: &str, schema: &str, version: &str) -> String {
    let (name, schema, version) = (quote(name), quote(schema), literal(version));
    // VERSION takes a name or a plain literal, not an E'' one.
    let version = version.trim_start_matches('E');
    format!("CREATE EXTENSION IF NOT EXISTS {name} SCHEMA {schema} VERSION {version}")
}

/// The extension that a user's text creates, where that is all it does.
pub fn created_by(sql: &str) -> Option<String> {
    let parsed = pg_query::parse(sql, 0).ok()?;
    let [only] = <[_; 1]>::try_from(parsed.protobuf.stmts).ok()?;
    match only.stmt?.node? {
        NodeEnum::CreateExtensionStmt(created) => Some(created.extname),
        _ => None,
    }
}

/// All that the server has, but the language that every database has.
pub async fn available(server: &Server, database: &str) -> Result<Vec<Available>, EngineError> {
    let inside = server.dedicated(database).await?;
    let rows = inside
        .rows(include_str!("../../sql/postgres/extensions.sql"), &[])
        .await?;
    let one = |row: &tokio_postgres::Row| {
        Ok(Available {
            name: row.try_get(0)?,
            default_version: row.try_get(1)?,
            installed_version: row.try_get(2)?,
            schema: row.try_get(3)?,
        })
    };
    rows.iter().map(one).collect()
}

/// Makes an extension in a workspace and journals it in the same transaction, whose number it gives.
pub async fn create(
    server: &Server,
    workspace: &str,
    name: &str,
    version: Option<&str>,
) -> Result<u64, ExtensionError> {
    let session = server.dedicated(workspace).await?;
    let found = session
        .row(
            include_str!("../../sql/postgres/extension_available.sql"),
            &[&name, &version],
        )
        .await?;
    let found = found.ok_or(ExtensionError::Unknown)?;
    if let Some(version) = found.try_get("installed").map_err(EngineError::from)? {
        return Err(ExtensionError::Exists { version });
    }
    let fixed: Option<String> = found.try_get("fixed_schema").map_err(EngineError::from)?;
    let extension = Extension {
        name: name.to_owned(),
        version: found.try_get("version").map_err(EngineError::from)?,
        schema: fixed.unwrap_or_else(|| SCHEMA.to_owned()),
    };
    session
        .run("BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '60s'")
        .await?;
    make(&session, &extension, SCRIPT_TIME_MAX).await?;
    let sql = statement(&extension.name, &extension.schema, &extension.version);
    let row = session
        .row(
            include_str!("../../sql/postgres/extension_journal.sql"),
            &[
                &quote(&extension.name),
                &quote(&extension.schema),
                &extension.version,
                &sql,
            ],
        )
        .await?;
    let xid: Option<String> = row.map(|row| row.try_get(0)).transpose().map_err(EngineError::from)?;
    session.run("COMMIT").await?;
    let xid = xid.and_then(|xid| xid.parse().ok());
    Ok(xid.ok_or_else(|| EngineError::Unexpected("no transaction id".to_owned()))?)
}

/// Within a transaction: the schema, if it is ours to make, a look whether it is safe, and the extension.
async fn make(session: &Session, extension: &Extension, limit: Duration) -> Result<(), ExtensionError> {
    if extension.schema == SCHEMA {
        let schema = quote(SCHEMA);
        session
            .run(&format!(
                "CREATE SCHEMA IF NOT EXISTS {schema}; GRANT USAGE ON SCHEMA {schema} TO PUBLIC"
            ))
            .await?;
    }
    let sql =
        "SELECT coalesce(requires::text[], '{}') FROM pg_available_extension_versions WHERE name = $1 AND version = $2";
    let row = session.row(sql, &[&extension.name, &extension.version]).await?;
    let row = row.ok_or(ExtensionError::Unknown)?;
    let requires: Vec<String> = row.try_get(0).map_err(EngineError::from)?;
    let others = session
        .row(
            include_str!("../../sql/postgres/extension_unsafe.sql"),
            &[&extension.schema, &requires],
        )
        .await?;
    if let Some(row) = others {
        let schema = row.try_get(0).map_err(EngineError::from)?;
        return Err(ExtensionError::Unsafe { schema });
    }
    let sql = statement(&extension.name, &extension.schema, &extension.version);
    Ok(session.run_within(limit, &sql).await?)
}

/// The replay: the extension and its row in `tdb.deployed_change`, in one transaction of the administrator.
pub(crate) async fn replay(
    plan: &BringUp<'_>,
    database: &str,
    numbered: &NumberedChange,
    extension: &Extension,
) -> Result<(), StepError> {
    let session = plan.administrator.dedicated(database).await?;
    let (lock, time) = (plan.limits.lock_timeout, plan.limits.statement_timeout);
    session
        .run(&format!(
            "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
            lock.as_millis(),
            time.as_millis()
        ))
        .await?;
    let said = || statement(&extension.name, &extension.schema, &extension.version);
    make(&session, extension, time + ANSWER_MARGIN)
        .await
        .map_err(|error| match error {
            ExtensionError::Engine(error) => StepError::while_running(said())(error),
            other => StepError::while_running(said())(EngineError::Sql {
                sqlstate: SqlState::new("42501"),
                message: format!("extension \"{}\" cannot be made: {other}", extension.name),
                detail: None,
                hint: None,
            }),
        })?;
    let checksum: Checksum = numbered.change.checksum();
    session
        .execute(
            "INSERT INTO tdb.deployed_change (change_id, checksum, state) VALUES ($1, $2, 'done')",
            &[&numbered.id, &checksum.as_bytes().as_slice()],
        )
        .await?;
    Ok(session.run("COMMIT").await?)
}
