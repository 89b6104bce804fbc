//! Whether a database's roles are as they were set. A role may change its own password and settings, which would lock out
//! every credential of its database, and let the client in past the proxy. What differs is found by one query per server
//! and set again.

use std::collections::HashMap;
use std::fmt;

use tdb_auth::{ITERATIONS_RANDOM_SECRET, ScramVerifier};

use crate::postgres::error::EngineError;
use crate::postgres::ident::quote;
use crate::postgres::roles::{self, RoleNames, RoleSecrets};
use crate::postgres::server::{MIGRATORS_ROLE, READERS_ROLE, Server, WRITERS_ROLE};

/// Settings that keep an owner's clients from logging in, or from being who they are. Its other settings are its own; those
/// of PGC_BACKEND, which could delay a login, PostgreSQL refuses to set for a role (55P02).
const LOGIN_SETTINGS: [&str; 2] = ["local_preload_libraries", "role"];
const READ_ONLY_SETTING: &str = "default_transaction_read_only=on";

/// A database's roles as they were set.
#[derive(Clone, Debug)]
pub struct Expected {
    pub names: RoleNames,
    pub secrets: RoleSecrets,
    pub groups: Groups,
}

/// Whether the groups that the roles are members of are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    Checked,
    /// An older program made the roles; [`crate::postgres::readers::admit`] has yet to give them what they need instead.
    Ignored,
}

/// A role that is not as it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    pub role: String,
    pub differences: Vec<Difference>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    Password,
    Attributes,
    /// In all databases (`None`) or in one.
    Setting {
        database: Option<String>,
        name: String,
    },
    MissingSetting,
    ExcessGroup(String),
    MissingGroup,
}

#[derive(Clone, Copy)]
enum Kind {
    Owner,
    Deployer,
    ReadOnly,
}

struct State {
    verifier: Option<String>,
    plain: bool,
    inherits: bool,
    settings: Vec<String>,
    groups: Vec<String>,
}

/// What differs, per database in the order given; roles that do not exist are passed over. One query.
pub async fn inspect(server: &Server, expected: &[Expected]) -> Result<Vec<Vec<Differing>>, EngineError> {
    let names: Vec<&str> = expected.iter().flat_map(|one| one.names.all()).collect();
    let session = server.maintenance().await?;
    let rows = session
        .rows(include_str!("../../sql/postgres/role_states.sql"), &[&names])
        .await?;
    server.keep_maintenance(session);
    let mut states = HashMap::with_capacity(rows.len());
    for row in rows {
        let state = State {
            verifier: row.try_get("verifier")?,
            plain: row.try_get("plain")?,
            inherits: row.try_get("inherits")?,
            settings: row.try_get("settings")?,
            groups: row.try_get("groups")?,
        };
        states.insert(row.try_get::<_, String>("name")?, state);
    }
    Ok(expected.iter().map(|one| differing(one, &states)).collect())
}

/// Sets the roles of a database again. A role that is gone meanwhile is an error (42704); a client that holds one in an
/// open transaction is waited for a bounded time only (55P03).
pub async fn repair(server: &Server, expected: &Expected, found: &[Differing]) -> Result<(), EngineError> {
    let session = server.maintenance().await?;
    let mut sql = String::from("SET LOCAL lock_timeout = '2s';\n");
    sql.push_str(&roles::statements(&expected.names, &expected.secrets, |_| "ALTER")?);
    for differing in found {
        let role = quote(&differing.role);
        for difference in &differing.differences {
            sql.push_str(&undo(&role, difference));
        }
    }
    session.run(&sql).await?;
    server.keep_maintenance(session);
    Ok(())
}

/// Password, attributes, groups and the setting of the read-only role are set for all roles.
fn undo(role: &str, difference: &Difference) -> String {
    match difference {
        Difference::Setting { database: None, name } if name == "default_transaction_read_only" => String::new(),
        Difference::Setting { database: None, name } => format!("ALTER ROLE {role} RESET {};\n", quote(name)),
        Difference::Setting {
            database: Some(database),
            name,
        } => {
            let (database, name) = (quote(database), quote(name));
            format!("ALTER ROLE {role} IN DATABASE {database} RESET {name};\n")
        }
        Difference::ExcessGroup(group) => format!("REVOKE {} FROM {role};\n", quote(group)),
        Difference::Password | Difference::Attributes | Difference::MissingSetting | Difference::MissingGroup => {
            String::new()
        }
    }
}

fn differing(expected: &Expected, states: &HashMap<String, State>) -> Vec<Differing> {
    let (names, secrets) = (&expected.names, &expected.secrets);
    let roles = [
        (Kind::Owner, &names.owner, &secrets.owner),
        (Kind::Deployer, &names.deployer, &secrets.deployer),
        (Kind::ReadOnly, &names.readonly, &secrets.readonly),
    ];
    let mut found = Vec::new();
    for (kind, name, secret) in roles {
        let Some(state) = states.get(name) else { continue };
        let verifier = state
            .verifier
            .as_deref()
            .and_then(|text| text.parse::<ScramVerifier>().ok());
        let mut differences = Vec::new();
        if !verifier.is_some_and(|verifier| verifier.is_of(secret, ITERATIONS_RANDOM_SECRET)) {
            differences.push(Difference::Password);
        }
        if !state.plain || state.inherits == matches!(kind, Kind::Deployer) {
            differences.push(Difference::Attributes);
        }
        differences.extend(settings(kind, state, states.get(&names.owner)));
        if expected.groups == Groups::Checked {
            differences.extend(groups(kind, names, state));
        }
        if !differences.is_empty() {
            let role = name.clone();
            found.push(Differing { role, differences });
        }
    }
    found
}

/// What the schema carries is set for the owner and the read-only role alike, in their database.
fn settings(kind: Kind, state: &State, owner: Option<&State>) -> Vec<Difference> {
    let mut differences = Vec::new();
    for line in &state.settings {
        let (database, setting) = line.split_once('\n').unwrap_or(("", line));
        let name = setting.split_once('=').map_or(setting, |(name, _)| name);
        let allowed = match kind {
            Kind::Owner => !LOGIN_SETTINGS.contains(&name),
            Kind::Deployer => false,
            Kind::ReadOnly if database.is_empty() => setting == READ_ONLY_SETTING,
            Kind::ReadOnly => {
                // In a workspace the owner sets it for itself in all databases.
                let everywhere = format!("\n{setting}");
                let is_carried =
                    owner.is_some_and(|owner| owner.settings.contains(line) || owner.settings.contains(&everywhere));
                is_carried && !LOGIN_SETTINGS.contains(&name) && name != "default_transaction_read_only"
            }
        };
        if !allowed {
            let database = (!database.is_empty()).then(|| database.to_owned());
            differences.push(Difference::Setting {
                database,
                name: name.to_owned(),
            });
        }
    }
    let reads_only = state
        .settings
        .iter()
        .any(|setting| setting.strip_prefix('\n') == Some(READ_ONLY_SETTING));
    if matches!(kind, Kind::ReadOnly) && !reads_only && differences.is_empty() {
        differences.push(Difference::MissingSetting);
    }
    differences
}

/// Groups of ours must be there; of PostgreSQL's own none may be.
fn groups(kind: Kind, names: &RoleNames, state: &State) -> Vec<Difference> {
    let expected: &[&str] = match kind {
        Kind::Owner => &[WRITERS_ROLE],
        Kind::Deployer => &[names.owner.as_str(), MIGRATORS_ROLE],
        Kind::ReadOnly => &[READERS_ROLE],
    };
    let is_in = |group: &&str| state.groups.iter().any(|name| name == group);
    let missing = (!expected.iter().all(is_in)).then_some(Difference::MissingGroup);
    let excess = state.groups.iter().filter(|group| group.starts_with("pg_"));
    excess.cloned().map(Difference::ExcessGroup).chain(missing).collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Password => f.write_str("its password was changed"),
            Difference::Attributes => f.write_str("its attributes were changed"),
            Difference::Setting { name, .. } => write!(f, "its setting {name} was changed"),
            Difference::MissingSetting => f.write_str("its settings were reset"),
            Difference::ExcessGroup(group) => write!(f, "it is a member of {group}"),
            Difference::MissingGroup => f.write_str("it lacks a group"),
        }
    }
}
