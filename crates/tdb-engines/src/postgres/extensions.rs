//! Extensions that only a superuser can create. The administrator's session runs a constant statement and the
//! extension's script. `extension_make.sql` ensures that the script finds no objects of other roles on its search_path,
//! so no code of users runs in the session.

pub mod written;

use std::time::Duration;

use tokio_postgres::Row;

use crate::postgres::apply::failure::StepError;
use crate::postgres::apply::plan::{BringUp, NumberedChange};
use crate::postgres::apply::record;
use crate::postgres::change::ExtensionOwner;
use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::server::Server;
use crate::postgres::session::Session;
use crate::postgres::tenant_side;

/// The schema of extensions that are requested without one, as with PostgreSQL's default search_path.
const SCHEMA_DEFAULT: &str = "public";
/// A schema of the administrator. It is created when an extension is requested in it and it does not exist.
const SCHEMA_OURS: &str = "extensions";
/// Added to statement_timeout for the deadline of the answer: the server ends a slow script itself.
const ANSWER_MARGIN: Duration = Duration::from_secs(10);
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(60);

const AVAILABLE: &str = concat!(
    include_str!("../../sql/postgres/extension_graph.sql"),
    include_str!("../../sql/postgres/extension_available.sql")
);
const REQUIRED: &str = concat!(
    include_str!("../../sql/postgres/extension_graph.sql"),
    include_str!("../../sql/postgres/extension_requires.sql")
);

/// An extension as replay creates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The name, unquoted.
    pub name: String,
    /// The exact version.
    pub version: String,
    /// The schema, unquoted.
    pub schema: String,
    /// Which role owns it afterwards.
    pub owner: ExtensionOwner,
}

/// A request for an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The name, unquoted.
    pub name: String,
    /// `None` for the server's default version.
    pub version: Option<String>,
    /// `None` for the schema that the extension prescribes, otherwise `public`.
    pub schema: Option<String>,
}

/// Which role can create an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeBy {
    /// The owner role of a database: the extension is trusted, or needs no superuser.
    Owner,
    /// A superuser only.
    Superuser,
}

/// An extension that a database lacks and that its server provides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The name, unquoted.
    pub name: String,
    /// Which role can create it.
    pub made_by: MadeBy,
    /// The schema that the extension prescribes; `None` if any is possible.
    pub fixed_schema: Option<String>,
}

/// An extension that a server provides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// The name, unquoted.
    pub name: String,
    /// The version that CREATE EXTENSION installs by default.
    pub default_version: String,
    /// The version in the database; `None` if it is not installed.
    pub installed_version: Option<String>,
    /// The schema in the database, quoted where necessary; `None` if it is not installed.
    pub schema: Option<String>,
}

/// Why an extension was not created.
#[derive(Debug, thiserror::Error)]
pub enum ExtensionError {
    /// The server does not provide this name, or not in this version.
    #[error("the server does not provide this extension in this version")]
    Unknown,
    /// The database already has the extension.
    #[error("the extension is already installed in version {version}")]
    Exists {
        /// The installed version.
        version: String,
    },
    /// The schema is reserved (`pg_*`, `information_schema`, `tdb`), and the extension does not prescribe it.
    #[error("schema \"{schema}\" is not for extensions")]
    Schema {
        /// The requested schema.
        schema: String,
    },
    /// The server failed or refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The statement that creates an extension, both in workspaces and at replay.
pub(crate) fn statement(name: &str, schema: &str, version: &str) -> String {
    let (name, schema, version) = (quote(name), quote(schema), literal(version));
    // VERSION takes a name or a plain literal, not an E'' one.
    let version = version.trim_start_matches('E');
    format!("CREATE EXTENSION IF NOT EXISTS {name} SCHEMA {schema} VERSION {version}")
}

/// Lists the extensions that the server provides, by name, without `plpgsql`, which every database has.
pub async fn available(server: &Server, database: &str) -> Result<Vec<Available>, EngineError> {
    let inside = server.dedicated(database).await?;
    let rows = inside
        .rows(include_str!("../../sql/postgres/extensions.sql"), &[])
        .await?;
    let one = |row: &Row| {
        Ok(Available {
            name: row.try_get(0)?,
            default_version: row.try_get(1)?,
            installed_version: row.try_get(2)?,
            schema: row.try_get(3)?,
        })
    };
    rows.iter().map(one).collect()
}

/// Describes the requested extension if the database lacks it; `None` if it is installed, or if the server does not
/// provide it in this version.
pub async fn lacks(server: &Server, database: &str, wanted: &Wanted) -> Result<Option<Missing>, EngineError> {
    let inside = server.session(database).await?;
    let row = inside.row(AVAILABLE, &[&wanted.name, &wanted.version]).await?;
    server.keep(database, inside);
    let Some(row) = row else { return Ok(None) };
    let installed: Option<String> = row.try_get("installed")?;
    let missing = missing(wanted.name.clone(), &row)?;
    Ok(installed.is_none().then_some(missing))
}

/// The missing extensions that extension `name` requires, directly or indirectly, in the order in which to create them.
pub async fn requirements(server: &Server, database: &str, name: &str) -> Result<Vec<Missing>, EngineError> {
    let inside = server.session(database).await?;
    let rows = inside.rows(REQUIRED, &[&name]).await?;
    server.keep(database, inside);
    rows.iter().map(|row| missing(row.try_get("name")?, row)).collect()
}

/// The first of `schemas` that does not exist, or is not committed yet.
pub async fn absent_schema(server: &Server, database: &str, schemas: &[&str]) -> Result<Option<String>, EngineError> {
    if schemas.is_empty() {
        return Ok(None);
    }
    let inside = server.session(database).await?;
    let sql =
        "SELECT s FROM unnest($1::text[]) s WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = s) LIMIT 1";
    let row = inside.row(sql, &[&schemas]).await?;
    server.keep(database, inside);
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

fn missing(name: String, row: &Row) -> Result<Missing, EngineError> {
    let made_by = if row.try_get("restricted")? {
        MadeBy::Superuser
    } else {
        MadeBy::Owner
    };
    Ok(Missing {
        name,
        made_by,
        fixed_schema: row.try_get("fixed_schema")?,
    })
}

/// Creates an extension in a workspace and writes it to the journal in the same transaction, whose id it returns.
/// `owner` owns the extension, the administrator its objects. `speaker` is the server process of the client that
/// requested it, if any.
pub async fn create(
    server: &Server,
    workspace: &str,
    owner: &str,
    wanted: &Wanted,
    speaker: Option<i32>,
) -> Result<u64, ExtensionError> {
    let session = server.for_a_script(workspace).await?;
    let row = session.row(AVAILABLE, &[&wanted.name, &wanted.version]).await?;
    let row = row.ok_or(ExtensionError::Unknown)?;
    if let Some(version) = row.try_get("installed").map_err(EngineError::from)? {
        return Err(ExtensionError::Exists { version });
    }
    let fixed: Option<String> = row.try_get("fixed_schema").map_err(EngineError::from)?;
    if let Some(schema) = wanted.schema.as_ref().filter(|schema| fixed.as_ref() != Some(*schema))
        && is_reserved(schema)
    {
        return Err(ExtensionError::Schema { schema: schema.clone() });
    }
    let schema = wanted.schema.clone().or(fixed);
    let extension = Extension {
        name: wanted.name.clone(),
        version: row.try_get("version").map_err(EngineError::from)?,
        schema: schema.unwrap_or_else(|| SCHEMA_DEFAULT.to_owned()),
        owner: ExtensionOwner::Owner,
    };
    session
        .run("BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '60s'")
        .await?;
    make(&session, &extension, owner, SCRIPT_TIME_MAX).await?;
    let xid = write_journal(&session, &extension, speaker).await?;
    session.run("COMMIT").await?;
    Ok(xid)
}

async fn write_journal(session: &Session, extension: &Extension, speaker: Option<i32>) -> Result<u64, EngineError> {
    let sql = statement(&extension.name, &extension.schema, &extension.version);
    let row = session
        .row(
            include_str!("../../sql/postgres/extension_journal.sql"),
            &[
                &quote(&extension.name),
                &quote(&extension.schema),
                &extension.version,
                &sql,
                &speaker,
            ],
        )
        .await?;
    let xid: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
    let xid = xid.and_then(|xid| xid.parse().ok());
    xid.ok_or_else(|| EngineError::Unexpected("no transaction id".to_owned()))
}

/// Creates the extension, sets its owner and grants the owner what PostGIS' users may write. Runs in the caller's
/// transaction. If the extension exists, nothing is done.
async fn make(session: &Session, extension: &Extension, owner: &str, limit: Duration) -> Result<(), EngineError> {
    let known = "SELECT FROM pg_extension WHERE extname = $1";
    if session.row(known, &[&extension.name]).await?.is_some() {
        return Ok(());
    }
    let [name, schema, version] = [&extension.name, &extension.schema, &extension.version].map(|text| literal(text));
    if extension.schema == SCHEMA_OURS {
        let ours = quote(SCHEMA_OURS);
        session
            .run(&format!(
                "CREATE SCHEMA IF NOT EXISTS {ours}; GRANT USAGE ON SCHEMA {ours} TO PUBLIC"
            ))
            .await?;
    }
    session
        .run(concat!(
            include_str!("../../sql/postgres/extension_make.sql"),
            include_str!("../../sql/postgres/extension_own.sql"),
            include_str!("../../sql/postgres/extension_rights.sql"),
        ))
        .await?;
    let to = match extension.owner {
        ExtensionOwner::Administrator => "NULL".to_owned(),
        ExtensionOwner::Owner => literal(owner),
    };
    session
        .run_within(
            limit,
            &format!("SELECT pg_temp.make_extension({name}, {schema}, {version}, {to})"),
        )
        .await?;
    if extension.owner == ExtensionOwner::Owner {
        session
            .run(&format!(
                "SELECT pg_temp.own_extension({name}, {to}); SELECT pg_temp.grant_extensions({to})"
            ))
            .await?;
    }
    Ok(())
}

/// Whether a schema is PostgreSQL's or TenantsDB's. Such a schema is used only if the extension prescribes it.
fn is_reserved(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema" || schema == "tdb"
}

/// Applies a change that creates an extension: the extension and the row in `tdb.deployed_change`, in one transaction
/// of the administrator.
pub(crate) async fn replay(
    plan: &BringUp<'_>,
    database: &str,
    numbered: &NumberedChange,
    extension: &Extension,
) -> Result<(), StepError> {
    let session = plan.administrator.for_a_script(database).await?;
    let (lock, time) = (plan.limits.lock_timeout, plan.limits.statement_timeout);
    session
        .run(&format!(
            "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
            lock.as_millis(),
            time.as_millis()
        ))
        .await?;
    let said = || statement(&extension.name, &extension.schema, &extension.version);
    make(&session, extension, plan.owner, time + ANSWER_MARGIN)
        .await
        .map_err(|error| StepError::while_running(said())(error))?;
    tenant_side::keep_extensions(&session).await?;
    session.run(&record::of(record::INSERT_DONE, numbered)).await?;
    Ok(session.run("COMMIT").await?)
}
