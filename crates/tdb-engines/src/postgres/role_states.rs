//! Finds and repairs changes that clients made to a database's roles. A role can change its own password and settings: that
//! would lock out every credential of its database, and would let the client connect to the server without the proxy.

use std::collections::HashMap;
use std::fmt;

use secrecy::SecretString;
use tdb_auth::{ITERATIONS_RANDOM_SECRET, ScramVerifier};

use crate::postgres::activity;
use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::roles::{self, RoleNames, RoleSecrets};
use crate::postgres::server::{MIGRATORS_ROLE, READERS_ROLE, Server, WRITERS_ROLE};

/// Settings that prevent logins of an owner role or change its identity. Other settings of an owner are allowed. PostgreSQL
/// refuses to set those of context `backend` for a role (55P02), which could delay a login.
const LOGIN_SETTINGS: [&str; 2] = ["local_preload_libraries", "role"];
const READ_ONLY_SETTING: &str = "default_transaction_read_only=on";

/// The roles of a database as they should be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Their names.
    pub names: RoleNames,
    /// Their passwords, which are compared with the verifiers on the server.
    pub secrets: RoleSecrets,
    /// Whether to compare memberships.
    pub groups: Groups,
}

/// Whether to compare the groups that the roles are members of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Compare them.
    Checked,
    /// Do not: an older version created the roles, and [`crate::postgres::readers::admit`] has not yet granted the
    /// memberships of this version.
    Ignored,
}

/// A role that differs from what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// The name of the role.
    pub role: String,
    /// What differs; not empty.
    pub differences: Vec<RoleDifference>,
}

/// One difference of a role. Its `Display` is a sentence for operators without the role's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleDifference {
    /// The verifier is not one of the expected password.
    Password,
    /// LOGIN, INHERIT, CONNECTION LIMIT, VALID UNTIL or an attribute for rights over the server differs.
    Attributes,
    /// It has a setting that this kind of role must not have.
    Setting {
        /// The database for which it is set; `None` for all databases.
        database: Option<String>,
        /// The name of the setting.
        name: String,
    },
    /// The read-only role lacks `default_transaction_read_only = on`.
    MissingSetting,
    /// It is a member of this predefined role of PostgreSQL.
    ExcessGroup(String),
    /// It is not a member of a group that it needs.
    MissingGroup,
}

#[derive(Clone, Copy)]
enum Kind {
    Owner,
    Deployer,
    ReadOnly,
}

struct RoleState {
    verifier: Option<String>,
    plain: bool,
    inherits: bool,
    settings: Vec<String>,
    groups: Vec<String>,
}

/// Returns the roles that differ, for each database in the order of `expected`. Roles that do not exist are skipped.
/// Runs one query.
pub async fn inspect(server: &Server, expected: &[Expected]) -> Result<Vec<Vec<Differing>>, EngineError> {
    let names: Vec<&str> = expected.iter().flat_map(|one| one.names.all()).collect();
    let session = server.maintenance().await?;
    let rows = session
        .rows(include_str!("../../sql/postgres/role_states.sql"), &[&names])
        .await?;
    server.keep_maintenance(session);
    let mut states = HashMap::with_capacity(rows.len());
    for row in rows {
        let state = RoleState {
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

/// Sets the roles of a database to what they should be. Ends all sessions of roles whose password was changed, since some may have
/// logged in with that password. Fails with SQLSTATE 42704 if a role has been dropped in the meantime, and with 55P03 if an
/// open transaction of another role locks one for more than 2 s.
pub async fn repair(server: &Server, expected: &Expected, found: &[Differing]) -> Result<(), EngineError> {
    let mut sql = String::from("SET LOCAL lock_timeout = '2s';\n");
    for differing in found {
        let role = quote(&differing.role);
        for difference in &differing.differences {
            sql.push_str(&undo(&role, difference));
        }
    }
    sql.push_str(&roles::statements(&expected.names, &expected.secrets, |_| "ALTER")?);
    let opened = found
        .iter()
        .filter(|one| one.differences.contains(&RoleDifference::Password));
    let opened: Vec<&str> = opened.map(|one| one.role.as_str()).collect();
    close_roles(server, &sql, &opened, None).await
}

/// Sets the password of a role again and ends its sessions, except that of the process `kept`.
pub(crate) async fn restore_password(
    server: &Server,
    role: &str,
    secret: &SecretString,
    kept: i32,
) -> Result<(), EngineError> {
    let verifier = ScramVerifier::derive(secret, ITERATIONS_RANDOM_SECRET)?.to_string();
    let sql = format!(
        "SET LOCAL lock_timeout = '2s'; ALTER ROLE {} PASSWORD {}",
        quote(role),
        literal(&verifier)
    );
    close_roles(server, &sql, &[role], Some(kept)).await
}

/// Runs `sql`, which sets the passwords of the roles `opened`, and then ends their sessions. If one of these sessions holds a role
/// in an open transaction, they are ended before.
async fn close_roles(server: &Server, sql: &str, opened: &[&str], kept: Option<i32>) -> Result<(), EngineError> {
    let run = async || {
        let session = server.maintenance().await?;
        session.run(sql).await?;
        server.keep_maintenance(session);
        Ok::<(), EngineError>(())
    };
    match run().await {
        Err(error) if error.has("55P03") && !opened.is_empty() => {
            activity::end_sessions(server, opened, kept).await?;
            run().await?;
        }
        other => other?,
    }
    if !opened.is_empty() {
        activity::end_sessions(server, opened, kept).await?;
    }
    Ok(())
}

/// SQL that removes what one difference adds. It is empty for the differences that the statements for all three roles in
/// [`repair`] cover: passwords, attributes, missing groups, and the setting of the read-only role.
fn undo(role: &str, difference: &RoleDifference) -> String {
    match difference {
        RoleDifference::Setting { database: None, name } => format!("ALTER ROLE {role} RESET {};\n", quote(name)),
        RoleDifference::Setting {
            database: Some(database),
            name,
        } => {
            let (database, name) = (quote(database), quote(name));
            format!("ALTER ROLE {role} IN DATABASE {database} RESET {name};\n")
        }
        RoleDifference::ExcessGroup(group) => format!("REVOKE {} FROM {role};\n", quote(group)),
        RoleDifference::Password
        | RoleDifference::Attributes
        | RoleDifference::MissingSetting
        | RoleDifference::MissingGroup => String::new(),
    }
}

fn differing(expected: &Expected, states: &HashMap<String, RoleState>) -> Vec<Differing> {
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
            differences.push(RoleDifference::Password);
        }
        if !state.plain || state.inherits == matches!(kind, Kind::Deployer) {
            differences.push(RoleDifference::Attributes);
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

/// Differences in settings. Session settings of the schema are set both for the owner and for the read-only role, in their
/// database.
fn settings(kind: Kind, state: &RoleState, owner: Option<&RoleState>) -> Vec<RoleDifference> {
    let mut differences = Vec::new();
    for line in &state.settings {
        let (database, setting) = line.split_once('\n').unwrap_or(("", line));
        let name = setting.split_once('=').map_or(setting, |(name, _)| name);
        let allowed = match kind {
            Kind::Owner => !LOGIN_SETTINGS.contains(&name),
            Kind::Deployer => false,
            Kind::ReadOnly if database.is_empty() => setting == READ_ONLY_SETTING,
            Kind::ReadOnly => {
                // In a workspace, the owner may have set it for all databases.
                let everywhere = format!("\n{setting}");
                let is_carried =
                    owner.is_some_and(|owner| owner.settings.contains(line) || owner.settings.contains(&everywhere));
                is_carried && !LOGIN_SETTINGS.contains(&name) && name != "default_transaction_read_only"
            }
        };
        if !allowed {
            let database = (!database.is_empty()).then(|| database.to_owned());
            differences.push(RoleDifference::Setting {
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
        differences.push(RoleDifference::MissingSetting);
    }
    differences
}

/// Differences in memberships: TenantsDB's groups are required, and PostgreSQL's predefined roles are not allowed.
fn groups(kind: Kind, names: &RoleNames, state: &RoleState) -> Vec<RoleDifference> {
    let expected: &[&str] = match kind {
        Kind::Owner => &[WRITERS_ROLE],
        Kind::Deployer => &[names.owner.as_str(), MIGRATORS_ROLE],
        Kind::ReadOnly => &[READERS_ROLE],
    };
    let is_in = |group: &&str| state.groups.iter().any(|name| name == group);
    let missing = (!expected.iter().all(is_in)).then_some(RoleDifference::MissingGroup);
    let excess = state.groups.iter().filter(|group| group.starts_with("pg_"));
    excess
        .cloned()
        .map(RoleDifference::ExcessGroup)
        .chain(missing)
        .collect()
}

impl fmt::Display for RoleDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoleDifference::Password => f.write_str("its password was changed"),
            RoleDifference::Attributes => f.write_str("its attributes were changed"),
            RoleDifference::Setting { name, .. } => write!(f, "its setting {name} was changed"),
            RoleDifference::MissingSetting => f.write_str("its settings were reset"),
            RoleDifference::ExcessGroup(group) => write!(f, "it is a member of {group}"),
            RoleDifference::MissingGroup => f.write_str("it is not a member of a required group"),
        }
    }
}
