//! Extensions that only a superuser may make. Its session runs our own constant statement and the extension's script, which
//! finds nothing that another role made on its search_path (`extension_make.sql`): no code of a user runs in it.

pub mod written;

use std::time::Duration;

use tokio_postgres::Row;

use crate::postgres::apply::failure::StepError;
use crate::postgres::apply::plan::{BringUp, NumberedChange};
use crate::postgres::change::{Checksum, ExtensionOwner};
use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::server::Server;
use crate::postgres::session::Session;
use crate::postgres::tenant_side;

/// Where an extension goes that is asked for without a schema, as PostgreSQL's own default search_path has it.
const SCHEMA_DEFAULT: &str = "public";
/// A schema of the administrator, made when an extension is to go there and it is missing.
const SCHEMA_OURS: &str = "extensions";
/// Past the server's own statement_timeout, the answer is late rather than the script slow.
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

/// An extension as its replay makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    pub name: String,
    pub version: String,
    pub schema: String,
    pub owner: ExtensionOwner,
}

/// An extension as somebody wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    /// The server's default where it is not said.
    pub version: Option<String>,
    /// Not said: its fixed one, else `public`.
    pub schema: Option<String>,
}

/// Who may make an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeBy {
    /// Trusted, or harmless: the owner of a database.
    Owner,
    Superuser,
}

/// An extension that a database does not have and its server does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub name: String,
    pub made_by: MadeBy,
    /// The one schema that it can be in.
    pub fixed_schema: Option<String>,
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
    #[error("schema \"{schema}\" is not for extensions")]
    Schema { schema: String },
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

/// All that the server has, but the language that every database has.
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

/// The extension, where the database lacks it; `None`: it is installed, or the server has none of this name.
pub async fn lacks(server: &Server, database: &str, wanted: &Wanted) -> Result<Option<Missing>, EngineError> {
    let inside = server.session(database).await?;
    let row = inside.row(AVAILABLE, &[&wanted.name, &wanted.version]).await?;
    server.keep(database, inside);
    let Some(row) = row else { return Ok(None) };
    let installed: Option<String> = row.try_get("installed")?;
    let missing = missing(wanted.name.clone(), &row)?;
    Ok(installed.is_none().then_some(missing))
}

/// What has to be created before it, in order.
pub async fn requirements(server: &Server, database: &str, name: &str) -> Result<Vec<Missing>, EngineError> {
    let inside = server.session(database).await?;
    let rows = inside.rows(REQUIRED, &[&name]).await?;
    server.keep(database, inside);
    rows.iter().map(|row| missing(row.try_get("name")?, row)).collect()
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

/// Makes an extension in a workspace and journals it in the same transaction, whose number it gives. It belongs to
/// `owner`, its objects to the administrator. `speaker` is the server process that asked for it, where one did.
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

/// Within a transaction: the extension, its owner and what its users may write to. There already: nothing is done.
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

/// Schemas of the server's own and of ours; an extension may have one of them fixed.
fn is_reserved(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema" || schema == "tdb"
}

/// The replay: the extension and its row in `tdb.deployed_change`, in one transaction of the administrator.
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
    let checksum: Checksum = numbered.change.checksum();
    session
        .execute(
            "INSERT INTO tdb.deployed_change (change_id, checksum, state) VALUES ($1, $2, 'done')",
            &[&numbered.id, &checksum.as_bytes().as_slice()],
        )
        .await?;
    Ok(session.run("COMMIT").await?)
}
