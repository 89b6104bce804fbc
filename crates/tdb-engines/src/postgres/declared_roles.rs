//! Roles that projects declare, such as `anon`: they cannot log in, have no server-wide attributes and no settings, and
//! have the same name on the server as in the project. PostgreSQL looks up role names in the whole server, and SQL can
//! reach that lookup in ways that rewriting cannot cover (`set_config('role', …)`). So all projects of an installation
//! that declare a name share one role on each server. This does not give one project access to another: privileges and
//! objects of a role are in a database, and the other project's roles cannot connect to it. A declared role never gets
//! a privilege on a database and is not a member of any role.
//!
//! TenantsDB's groups, such as `tdb_writers`, are shared too. Their members can SET ROLE to them and then change their settings and
//! password, so they are compared and restored together with the declared roles.

use std::collections::{BTreeMap, BTreeSet};

use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::server::{MIGRATORS_ROLE, READERS_ROLE, Server, TEMPLATE_ROLE, WRITERS_ROLE};

const ATTRIBUTES: &str = "NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
/// TenantsDB's groups on every server.
const GROUPS: [&str; 4] = [TEMPLATE_ROLE, MIGRATORS_ROLE, READERS_ROLE, WRITERS_ROLE];
/// Begins each transaction that changes declared roles: one at a time per server, and at most 2 s waiting for clients'
/// locks.
const TURN: &str = "SET LOCAL lock_timeout = '2s'; SELECT pg_advisory_xact_lock(1952735588, 4)";

/// A membership that a declared role should have: the owner role of a database, so that its clients can SET ROLE.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    /// The declared role.
    pub role: String,
    /// The owner role of a database of a project that declares it.
    pub owner: String,
}

/// The current state of a role that databases of a server share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedRole {
    /// The name; of a declared role, the same on the server and in the project.
    pub name: String,
    kind: Kind,
    /// Whether its attributes are those it was created with, and it has no password.
    plain: bool,
    /// The databases for which it has settings (ALTER ROLE … IN DATABASE); an empty string means settings for all
    /// databases.
    settings: Vec<String>,
    /// Roles that it is a member of.
    groups: Vec<String>,
    members: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Declared,
    /// One of [`GROUPS`].
    Group,
}

/// What [`converge`] did, by the names of the roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converged {
    /// Roles whose password, attributes, settings or memberships in other roles a client had changed.
    pub reset: Vec<String>,
    /// Roles that no project declares any more.
    pub dropped: Vec<String>,
    /// Roles that differ from what they should be and could not be restored now, each with the server's message.
    pub failed: Vec<(String, String)>,
}

/// The comment that marks a role as declared by this installation. Tenants' roles do not have the right to change it.
fn mark(installation: &str) -> String {
    format!("TenantsDB {installation}: declared role")
}

/// Creates missing roles and grants missing memberships. Owners that do not exist are skipped; they get their memberships
/// when they are created. Runs one query if nothing is missing. Returns the names that other roles of the server have, which
/// are no declared roles of this installation: nothing is granted for these.
pub async fn admit(server: &Server, installation: &str, wanted: &[Membership]) -> Result<Vec<String>, EngineError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    match try_admit(server, installation, wanted).await {
        // Another process created one between the query and the statement: query again.
        Err(error) if error.has("42710") || error.has("23505") => try_admit(server, installation, wanted).await,
        other => other,
    }
}

async fn try_admit(server: &Server, installation: &str, wanted: &[Membership]) -> Result<Vec<String>, EngineError> {
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
    let mut taken = BTreeSet::new();
    for row in &lacks {
        let role: String = row.try_get("role")?;
        if !row.try_get::<_, bool>("there")? {
            missing.insert(role.clone());
        } else if !row.try_get::<_, bool>("ours")? {
            taken.insert(role);
            continue;
        }
        if row.try_get("owner_there")? {
            let owner: String = row.try_get("owner")?;
            members.entry(role).or_default().push(quote(&owner));
        }
    }
    if !missing.is_empty() || !members.is_empty() {
        let mut sql = format!("{TURN};\n");
        for role in &missing {
            let role = quote(role);
            sql.push_str(&format!("CREATE ROLE {role} {ATTRIBUTES} NOINHERIT;\n"));
            sql.push_str(&format!("COMMENT ON ROLE {role} IS {};\n", literal(&mark)));
        }
        for (role, owners) in &members {
            sql.push_str(&format!("GRANT {} TO {};\n", quote(role), owners.join(", ")));
        }
        session.run(&sql).await?;
    }
    server.keep_maintenance(session);
    Ok(taken.into_iter().collect())
}

/// Reads the declared roles of this installation, and the groups, with one query. Call it before reading the declarations
/// from the store: then a role that the store does not have is no longer declared, and is not one that was just created.
pub async fn states(server: &Server, installation: &str) -> Result<Vec<SharedRole>, EngineError> {
    let session = server.maintenance().await?;
    let rows = session
        .rows(
            include_str!("../../sql/postgres/declared_states.sql"),
            &[&mark(installation), &GROUPS.as_slice()],
        )
        .await?;
    server.keep_maintenance(session);
    let one = |row: &tokio_postgres::Row| {
        Ok(SharedRole {
            name: row.try_get("name")?,
            kind: if row.try_get("is_group")? {
                Kind::Group
            } else {
                Kind::Declared
            },
            plain: row.try_get("plain")?,
            settings: row.try_get("settings")?,
            groups: row.try_get("groups")?,
            members: row.try_get("members")?,
        })
    };
    rows.iter().map(one).collect()
}

/// Resets what clients changed in the roles `found`, revokes memberships that are not in `wanted`, and drops the declared roles
/// of which `wanted` has no membership. A role that still has objects or privileges cannot be dropped; it stays without
/// members.
pub async fn converge(server: &Server, found: &[SharedRole], wanted: &[Membership]) -> Result<Converged, EngineError> {
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
            match session.run(&format!("{TURN};\n{undo}")).await {
                Ok(()) => {}
                // A client's open transaction may lock this role; the others do not wait for it.
                Err(error @ EngineError::Sql { .. }) => {
                    converged.failed.push((role.name.clone(), error.to_string()));
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        if role.is_changed() {
            converged.reset.push(role.name.clone());
        }
        if role.kind == Kind::Declared && members.is_empty() {
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

/// Whether the server has a role of this name that is not a declared role of this installation.
pub async fn is_taken(server: &Server, installation: &str, role: &str) -> Result<bool, EngineError> {
    let session = server.maintenance().await?;
    let sql = "SELECT FROM pg_roles WHERE rolname = $1 AND coalesce(shobj_description(oid, 'pg_authid') <> $2, true)";
    let found = session.row(sql, &[&role, &mark(installation)]).await?;
    server.keep_maintenance(session);
    Ok(found.is_some())
}

/// Returns those of `databases` (oids) in which the role owns an object, or has a privilege or a policy.
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

impl SharedRole {
    /// Whether a client changed it: after SET ROLE, a member can set the role's password and settings.
    fn is_changed(&self) -> bool {
        !self.plain || !self.settings.is_empty() || !self.groups.is_empty()
    }
}

fn undo(role: &SharedRole, members: &BTreeSet<&str>) -> String {
    let name = quote(&role.name);
    let mut sql = String::new();
    if !role.plain {
        let inherit = match role.kind {
            Kind::Declared => "NOINHERIT",
            Kind::Group => "INHERIT",
        };
        sql.push_str(&format!(
            "ALTER ROLE {name} {ATTRIBUTES} {inherit} PASSWORD NULL CONNECTION LIMIT -1;\n"
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
