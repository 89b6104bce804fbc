//! Databases: clone, open, adopt, rename, publish, close, drop. Every function can be repeated after a crash. Databases are
//! identified by the name or oid in the metadata store.

use std::time::Duration;

use uuid::Uuid;

use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::roles::RoleNames;
use crate::postgres::server::{BASE, CLOSE_WRITERS, Server, TEMPLATE_ROLE};
use crate::postgres::session::{Session, wait_for_none};

/// For CREATE and DROP DATABASE, which copy and delete files. CREATE also waits up to 5 s for sessions of its template.
const CLONE_TIME_MAX: Duration = Duration::from_secs(300);

/// A database that still has the name under which it was created ([`construction_name`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constructed {
    /// Its name on the server.
    pub name: String,
    /// The id of the physical database in the metadata store, from the name.
    pub id: Uuid,
    /// PostgreSQL's oid.
    pub oid: u32,
}

/// The state of a database on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseState {
    /// PostgreSQL's oid, which survives renaming.
    pub oid: u32,
    /// Whether it is marked as a template (`datistemplate`).
    pub template: bool,
    /// Whether it accepts connections (`datallowconn`).
    pub open: bool,
    /// Whether a DROP DATABASE was interrupted. Such a database can only be dropped.
    pub invalid: bool,
}

/// What a database is cloned from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// The base database of the server, which has no schema of users.
    Base,
    /// The database with this name, which must not have sessions.
    Template(&'a str),
}

/// The name of a database during its construction: `tdb_c_<installation>_<32 hexadecimal digits>`. Templates and spares
/// keep it.
pub fn construction_name(installation: &str, id: Uuid) -> String {
    format!("tdb_c_{installation}_{}", id.simple())
}

/// The id in a name of this form; `None` for any other name.
pub fn constructed_id(installation: &str, name: &str) -> Option<Uuid> {
    let (_, id) = name.rsplit_once('_')?;
    let id = Uuid::try_parse(id).ok()?;
    // Uuid accepts other spellings too; `construction_name` writes only one of them.
    (construction_name(installation, id) == name).then_some(id)
}

/// Reads the state of a database; `None` if there is no database of this name.
pub async fn find(server: &Server, name: &str) -> Result<Option<DatabaseState>, EngineError> {
    let session = server.maintenance().await?;
    let found = lookup(&session, name).await?;
    server.keep_maintenance(session);
    Ok(found)
}

/// The current name of the database with this oid; `None` if there is none.
pub async fn name_of(server: &Server, oid: u32) -> Result<Option<String>, EngineError> {
    let session = server.maintenance().await?;
    let row = session
        .row("SELECT datname::text FROM pg_database WHERE oid = $1", &[&oid])
        .await?;
    server.keep_maintenance(session);
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// Creates the database `name`, closed to connections, and returns its oid. If it exists, nothing is done, except that an
/// invalid one is dropped and created again. Fails with [`EngineError::Busy`] if the origin has sessions.
pub async fn clone(server: &Server, name: &str, origin: Origin<'_>) -> Result<u32, EngineError> {
    let template = match origin {
        Origin::Base => BASE,
        Origin::Template(name) => name,
    };
    let session = server.maintenance().await?;
    if lookup(&session, name).await?.is_some_and(|found| found.invalid) {
        session
            .run_within(CLONE_TIME_MAX, &format!("DROP DATABASE {}", quote(name)))
            .await?;
    }
    let sql = format!(
        "CREATE DATABASE {} TEMPLATE {} STRATEGY WAL_LOG ALLOW_CONNECTIONS false",
        quote(name),
        quote(template)
    );
    match session.run_within(CLONE_TIME_MAX, &sql).await {
        Err(error) if error.has("42P04") => {}
        Err(error) if error.has("55006") => {
            return Err(EngineError::Busy {
                database: template.to_owned(),
            });
        }
        other => other?,
    }
    let found = lookup(&session, name).await?;
    server.keep_maintenance(session);
    found.map(|found| found.oid).ok_or_else(|| missing(name))
}

/// Opens a new clone to its three roles, and to no other role.
pub async fn open(server: &Server, name: &str, roles: &RoleNames) -> Result<(), EngineError> {
    let [owner, deployer, readonly] = roles.all().map(quote);
    let database = quote(name);
    admit(
        server,
        name,
        &format!(
            "GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {database} TO {owner};\n\
             GRANT CONNECT ON DATABASE {database} TO {deployer}, {readonly};"
        ),
    )
    .await
}

/// Opens a new clone to the administrator only, who then prepares it as the first template.
pub async fn open_to_administrator(server: &Server, name: &str) -> Result<(), EngineError> {
    admit(server, name, "").await
}

/// In one transaction, so that PUBLIC's default right to connect is never in effect.
async fn admit(server: &Server, name: &str, grants: &str) -> Result<(), EngineError> {
    let session = server.maintenance().await?;
    let database = quote(name);
    session
        .run(&format!(
            "BEGIN;\nREVOKE ALL ON DATABASE {database} FROM PUBLIC;\n{grants}\n\
             ALTER DATABASE {database} ALLOW_CONNECTIONS true;\nCOMMIT"
        ))
        .await?;
    server.keep_maintenance(session);
    Ok(())
}

/// Gives everything that the template role owns in `name` to `owner`, and sets the session settings of its schema for
/// its roles. Returns when the administrator's session has left the database. Also revokes writing functions from
/// PUBLIC, which a template of an older version does not. Idempotent.
pub async fn adopt(server: &Server, name: &str, owner: &str) -> Result<(), EngineError> {
    hand_over(
        server,
        name,
        TEMPLATE_ROLE,
        owner,
        crate::postgres::session_settings::APPLY,
    )
    .await
}

/// `then` is constant SQL that runs in the same transaction.
async fn hand_over(server: &Server, name: &str, from: &str, to: &str, then: &str) -> Result<(), EngineError> {
    let inside = server.dedicated(name).await?;
    let sql = format!(
        "BEGIN;\nSET LOCAL search_path = '';\n{}\n{}\nSELECT pg_temp.adopt({}, {});\n{CLOSE_WRITERS}{then}\nCOMMIT",
        include_str!("../../sql/postgres/extension_rights.sql"),
        include_str!("../../sql/postgres/adopt.sql"),
        literal(from),
        literal(to)
    );
    inside.run(&sql).await?;
    server.leave(inside, name).await
}

/// Renames a database. It must not have sessions ([`EngineError::Busy`]). If it is already renamed, nothing is done.
pub async fn rename(server: &Server, from: &str, to: &str) -> Result<(), EngineError> {
    if from == to {
        return Ok(());
    }
    server.forget(from);
    let session = server.maintenance().await?;
    let sql = format!("ALTER DATABASE {} RENAME TO {}", quote(from), quote(to));
    let renamed = session.run(&sql).await;
    let there = lookup(&session, to).await?.is_some();
    server.keep_maintenance(session);
    match renamed {
        Err(error) if error.has("3D000") && there => Ok(()),
        Err(error) if error.has("55006") => Err(EngineError::Busy {
            database: from.to_owned(),
        }),
        other => other,
    }
}

/// Turns a build into a template: terminates its sessions, revokes its roles' right to connect, gives its objects to the
/// template role, closes it to connections and drops the build's roles. Without roles (`None`) it is only closed. Take the
/// fingerprint before, since a template accepts no connections.
pub async fn publish_template(server: &Server, name: &str, build: Option<&RoleNames>) -> Result<(), EngineError> {
    server.forget(name);
    let session = server.maintenance().await?;
    let found = lookup(&session, name).await?.ok_or_else(|| missing(name))?;
    let database = quote(name);
    if let Some(roles) = build {
        if (found.open || !found.template) && role_exists(&session, &roles.owner).await? {
            shut_out(&session, name, roles).await?;
            crate::fault::point("template.publish.shut_out");
            hand_over(server, name, &roles.owner, TEMPLATE_ROLE, "").await?;
        }
        crate::fault::point("template.publish.adopted");
    }
    session
        .run(&format!(
            "ALTER DATABASE {database} IS_TEMPLATE true ALLOW_CONNECTIONS false"
        ))
        .await?;
    wait_empty(&session, name).await?;
    crate::fault::point("template.publish.closed");
    if let Some(roles) = build {
        revoke_all(&session, name, roles).await?;
        server.keep_maintenance(session);
        return crate::postgres::roles::drop(server, roles).await;
    }
    server.keep_maintenance(session);
    Ok(())
}

/// Refuses new connections and terminates existing sessions (for suspending and soft deletion). Privileges stay.
pub async fn close(server: &Server, name: &str) -> Result<(), EngineError> {
    server.forget(name);
    let session = server.maintenance().await?;
    session
        .run(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", quote(name)))
        .await?;
    terminate_all(&session, name).await?;
    wait_empty(&session, name).await?;
    server.keep_maintenance(session);
    Ok(())
}

/// Accepts connections again after [`close`].
pub async fn reopen(server: &Server, name: &str) -> Result<(), EngineError> {
    let session = server.maintenance().await?;
    session
        .run(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quote(name)))
        .await?;
    server.keep_maintenance(session);
    Ok(())
}

/// Drops a database in any state: in use, a template, invalid, or already gone.
pub async fn drop(server: &Server, name: &str) -> Result<(), EngineError> {
    server.forget(name);
    let session = server.maintenance().await?;
    if let Some(found) = lookup(&session, name).await? {
        let database = quote(name);
        if found.template && !found.invalid {
            session
                .run(&format!("ALTER DATABASE {database} IS_TEMPLATE false"))
                .await?;
        }
        let sql = format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)");
        match session.run_within(CLONE_TIME_MAX, &sql).await {
            Err(error) if error.has("55006") => {
                return Err(EngineError::Busy {
                    database: name.to_owned(),
                });
            }
            other => other?,
        }
    }
    server.keep_maintenance(session);
    Ok(())
}

/// Lists the databases of this installation whose names have the form of [`construction_name`]: databases under
/// construction, templates, spares, and databases whose construction was interrupted.
pub async fn constructed(server: &Server, installation: &str) -> Result<Vec<Constructed>, EngineError> {
    let session = server.maintenance().await?;
    let prefix = format!("tdb_c_{installation}_");
    let rows = session
        .rows(
            "SELECT datname::text, oid FROM pg_database WHERE starts_with(datname::text, $1) ORDER BY 1",
            &[&prefix],
        )
        .await?;
    server.keep_maintenance(session);
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let (name, oid): (String, u32) = (row.try_get(0)?, row.try_get(1)?);
        if let Some(id) = constructed_id(installation, &name) {
            found.push(Constructed { name, id, oid });
        }
    }
    Ok(found)
}

async fn lookup(session: &Session, name: &str) -> Result<Option<DatabaseState>, EngineError> {
    let row = session
        .row(include_str!("../../sql/postgres/database.sql"), &[&name])
        .await?;
    row.map(|row| {
        Ok(DatabaseState {
            oid: row.try_get("oid")?,
            template: row.try_get("template")?,
            open: row.try_get("open")?,
            invalid: row.try_get("invalid")?,
        })
    })
    .transpose()
}

async fn role_exists(session: &Session, name: &str) -> Result<bool, EngineError> {
    Ok(session
        .row("SELECT FROM pg_roles WHERE rolname = $1", &[&name])
        .await?
        .is_some())
}

/// Revokes the build roles' right to connect, then terminates their sessions, so that no client can change the template.
async fn shut_out(session: &Session, name: &str, roles: &RoleNames) -> Result<(), EngineError> {
    let [owner, deployer, readonly] = roles.all().map(quote);
    let database = quote(name);
    session
        .run(&format!(
            "REVOKE CONNECT ON DATABASE {database} FROM {owner}, {deployer}, {readonly}"
        ))
        .await?;
    terminate_all(session, name).await?;
    wait_empty(session, name).await
}

/// DROP OWNED has already revoked the owner's privileges; those of the other roles would make DROP ROLE fail.
async fn revoke_all(session: &Session, name: &str, roles: &RoleNames) -> Result<(), EngineError> {
    for role in roles.all() {
        if role_exists(session, role).await? {
            let sql = format!("REVOKE ALL ON DATABASE {} FROM {}", quote(name), quote(role));
            session.run(&sql).await?;
        }
    }
    Ok(())
}

async fn terminate_all(session: &Session, name: &str) -> Result<(), EngineError> {
    session
        .rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            &[&name],
        )
        .await
        .map(|_| ())
}

async fn wait_empty(outside: &Session, name: &str) -> Result<(), EngineError> {
    let any = "SELECT FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() LIMIT 1";
    wait_for_none(outside, any, &[&name], name).await
}

fn missing(name: &str) -> EngineError {
    EngineError::NoDatabase {
        database: name.to_owned(),
    }
}
