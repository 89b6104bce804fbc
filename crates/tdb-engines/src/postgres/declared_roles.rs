//! Roles that projects declare, such as `anon`: without login, rights over the server or settings, called on the server as
//! in the project. PostgreSQL looks up a role's name in the whole server, and text reaches that lookup in ways that no
//! rewriting follows (`set_config('role', …)`), so that all projects of an installation that declare a name share the role
//! on each server. That gives no project anything of another: a role's privileges and objects are those of one database,
//! which the other project's roles cannot connect to. It never holds a privilege on a database, nor a group.

use std::collections::{BTreeMap, BTreeSet};

use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::server::Server;

const ATTRIBUTES: &str = "NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
/// Work on declared roles of a server takes turns, and waits for locks of clients a bounded time only.
const TURN: &str = "SET LOCAL lock_timeout = '2s'; SELECT pg_advisory_xact_lock(1952735588, 4)";

/// An owner role that is to be a member of a declared role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    pub role: String,
    pub owner: String,
}

/// A declared role of this installation as it is on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredRole {
    pub name: String,
    /// Its attributes are those it was created with, and it has no password.
    plain: bool,
    /// Databases for which it has settings; empty text: all.
    settings: Vec<String>,
    /// Roles that it is a member of.
    groups: Vec<String>,
    members: Vec<String>,
}

/// What was done about declared roles that nothing declares any more or that a client changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converged {
    pub reset: Vec<String>,
    pub dropped: Vec<String>,
}

/// The comment by which a role is recognized as declared by this installation; PostgreSQL lets no tenant change it.
fn mark(installation: &str) -> String {
    format!("TenantsDB {installation}: declared role")
}

/// Gives each owner its membership; creates roles that are missing. Owners that do not exist are passed over: creating
/// one gives it its memberships. One query where there is nothing to do. [`EngineError::RoleTaken`] where a role of that
/// name is not one of this installation's declared roles; nothing is done then.
pub async fn admit(server: &Server, installation: &str, wanted: &[Membership]) -> Result<(), EngineError> {
    if wanted.is_empty() {
        return Ok(());
    }
    match try_admit(server, installation, wanted).await {
        // Another process created one between the query and the statement: query again.
        Err(error) if error.has("42710") || error.has("23505") => try_admit(server, installation, wanted).await,
        other => other,
    }
}

async fn try_admit(server: &Server, installation: &str, wanted: &[Membership]) -> Result<(), EngineError> {
    let (roles, owners): (Vec<&str>, Vec<&str>) =
        wanted.iter().map(|one| (one.role.as_str(), one.owner.as_str())).unzip();
    let mark = mark(installation);
    let session = server.maintenance().await?;
    let lacks = session
        .rows(
            include_str!("../../sql/postgres/declared_lacks.sql"),
            &[&roles, &owners, &mark],
        )
        .await?;
    let (mut missing, mut members) = (BTreeSet::new(), BTreeMap::<String, Vec<String>>::new());
    for row in &lacks {
        let role: String = row.try_get("role")?;
        if !row.try_get::<_, bool>("there")? {
            missing.insert(role.clone());
        } else if !row.try_get::<_, bool>("ours")? {
            server.keep_maintenance(session);
            return Err(EngineError::RoleTaken { role });
        }
        if row.try_get("owner_there")? {
            let owner: String = row.try_get("owner")?;
            members.entry(role).or_default().push(quote(&owner));
        }
    }
    if !lacks.is_empty() {
        let mut sql = format!("{TURN};\n");
        for role in &missing {
            let role = quote(role);
            sql.push_str(&format!("CREATE ROLE {role} {ATTRIBUTES};\n"));
            sql.push_str(&format!("COMMENT ON ROLE {role} IS {};\n", literal(&mark)));
        }
        for (role, owners) in &members {
            sql.push_str(&format!("GRANT {} TO {};\n", quote(role), owners.join(", ")));
        }
        session.run(&sql).await?;
    }
    server.keep_maintenance(session);
    Ok(())
}

/// The declared roles of this installation. To be read before the store is asked what it wants: a role that is unknown
/// there then is no one's.
pub async fn states(server: &Server, installation: &str) -> Result<Vec<DeclaredRole>, EngineError> {
    let session = server.maintenance().await?;
    let rows = session
        .rows(
            include_str!("../../sql/postgres/declared_states.sql"),
            &[&mark(installation)],
        )
        .await?;
    server.keep_maintenance(session);
    let one = |row: &tokio_postgres::Row| {
        Ok(DeclaredRole {
            name: row.try_get("name")?,
            plain: row.try_get("plain")?,
            settings: row.try_get("settings")?,
            groups: row.try_get("groups")?,
            members: row.try_get("members")?,
        })
    };
    rows.iter().map(one).collect()
}

/// Sets again what a client changed of the roles `found`, takes memberships that are not wanted, and drops roles that no
/// owner is to have and nothing refers to. One that cannot be dropped stays without members: nothing waits for it.
pub async fn converge(
    server: &Server,
    found: &[DeclaredRole],
    wanted: &[Membership],
) -> Result<Converged, EngineError> {
    let mut converged = Converged::default();
    let session = server.maintenance().await?;
    for role in found {
        let members: BTreeSet<&str> = wanted
            .iter()
            .filter(|one| one.role == role.name)
            .map(|one| one.owner.as_str())
            .collect();
        let undo = undo(role, &members);
        if !undo.is_empty() {
            session.run(&format!("{TURN};\n{undo}")).await?;
        }
        if role.is_changed() {
            converged.reset.push(role.name.clone());
        }
        if members.is_empty() {
            let name = literal(&role.name);
            let drop = include_str!("../../sql/postgres/declared_drop.sql").replace(":name", &name);
            match session.run(&format!("{TURN};\n{drop}")).await {
                Ok(()) => converged.dropped.push(role.name.clone()),
                Err(error @ EngineError::Sql { .. }) => {
                    tracing::info!(role = role.name, %error, "a role that is no longer declared is dropped later");
                }
                Err(error) => return Err(error),
            }
        }
    }
    server.keep_maintenance(session);
    Ok(converged)
}

/// Whether the server has a role of this name that is not one of this installation's declared roles.
pub async fn is_taken(server: &Server, installation: &str, role: &str) -> Result<bool, EngineError> {
    let session = server.maintenance().await?;
    let sql = "SELECT FROM pg_roles WHERE rolname = $1 AND coalesce(shobj_description(oid, 'pg_authid') <> $2, true)";
    let found = session.row(sql, &[&role, &mark(installation)]).await?;
    server.keep_maintenance(session);
    Ok(found.is_some())
}

/// Those of `databases` (oids) in which something belongs to the role, or is granted to it.
pub async fn referring(server: &Server, role: &str, databases: &[u32]) -> Result<Vec<u32>, EngineError> {
    let session = server.maintenance().await?;
    let rows = session
        .rows(
            include_str!("../../sql/postgres/declared_refer.sql"),
            &[&role, &databases],
        )
        .await?;
    server.keep_maintenance(session);
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

impl DeclaredRole {
    /// A member may set its role's password and settings.
    fn is_changed(&self) -> bool {
        !self.plain || !self.settings.is_empty() || !self.groups.is_empty()
    }
}

fn undo(role: &DeclaredRole, members: &BTreeSet<&str>) -> String {
    let name = quote(&role.name);
    let mut sql = String::new();
    if !role.plain {
        sql.push_str(&format!(
            "ALTER ROLE {name} {ATTRIBUTES} PASSWORD NULL CONNECTION LIMIT -1;\n"
        ));
    }
    for database in &role.settings {
        let place = if database.is_empty() {
            String::new()
        } else {
            format!(" IN DATABASE {}", quote(database))
        };
        sql.push_str(&format!("ALTER ROLE {name}{place} RESET ALL;\n"));
    }
    for group in &role.groups {
        sql.push_str(&format!("REVOKE {} FROM {name};\n", quote(group)));
    }
    for member in role.members.iter().filter(|member| !members.contains(member.as_str())) {
        sql.push_str(&format!("REVOKE {name} FROM {};\n", quote(member)));
    }
    sql
}
