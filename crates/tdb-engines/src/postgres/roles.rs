//! The three roles of a database: owner, deployer and read-only role. Only SCRAM verifiers of their passwords are sent
//! to the server.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tdb_auth::{ITERATIONS_RANDOM_SECRET, ScramVerifier};

use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::server::{MIGRATORS_ROLE, READERS_ROLE, Server, WRITERS_ROLE};

/// The number of base32 characters in a role's name: 65 random bits, which makes it unique on every server.
const NAME_LEN: usize = 13;
/// How long DROP ROLE may wait for a transaction that grants something to the role.
const LOCK_TIME_MAX_MS: u32 = 100;

/// The names of a database's roles. They are random, since every role of the server can read them in `pg_roles`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoleNames {
    /// Owns the schema's objects. Sessions of read-write clients use it.
    pub owner: String,
    /// Deploys: can become the owner, and can write `tdb.deployed_change`.
    pub deployer: String,
    /// Sessions of read-only clients use it.
    pub readonly: String,
}

/// The passwords of a database's roles: 256 random bits each.
#[derive(Clone, Debug)]
pub struct RoleSecrets {
    /// The owner's password.
    pub owner: SecretString,
    /// The deployer's password.
    pub deployer: SecretString,
    /// The read-only role's password.
    pub readonly: SecretString,
}

impl RoleNames {
    /// New random names: `r_<13 characters>`, the same with `_dep` for the deployer and with `_ro` for the read-only role.
    pub fn generate() -> Result<Self, EngineError> {
        let owner = format!("r_{}", tdb_auth::base32(NAME_LEN)?);
        Ok(Self {
            deployer: format!("{owner}_dep"),
            readonly: format!("{owner}_ro"),
            owner,
        })
    }

    pub(crate) fn all(&self) -> [&str; 3] {
        [&self.owner, &self.deployer, &self.readonly]
    }
}

impl RoleSecrets {
    /// New random passwords.
    pub fn generate() -> Result<Self, EngineError> {
        Ok(Self {
            owner: tdb_auth::upstream_secret()?,
            deployer: tdb_auth::upstream_secret()?,
            readonly: tdb_auth::upstream_secret()?,
        })
    }
}

/// Creates the roles; sets passwords, attributes and memberships of those that exist. Idempotent.
pub async fn create(server: &Server, names: &RoleNames, secrets: &RoleSecrets) -> Result<(), EngineError> {
    let session = server.maintenance().await?;
    let known = session
        .rows(
            "SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)",
            &[&names.all().to_vec()],
        )
        .await?;
    let known: Vec<String> = known.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let verb = |name: &str| {
        if known.iter().any(|known| known == name) {
            "ALTER"
        } else {
            "CREATE"
        }
    };
    let sql = format!("BEGIN;\n{}COMMIT", statements(names, secrets, verb)?);
    if let Err(error) = session.run(&sql).await {
        // Another process created them between the query and the statement: query again.
        std::mem::drop(session);
        return if error.has("42710") || error.has("23505") {
            Box::pin(create(server, names, secrets)).await
        } else {
            Err(error)
        };
    }
    server.keep_maintenance(session);
    Ok(())
}

/// SQL that sets attributes, passwords, memberships and settings of the three roles. `verb` returns CREATE or ALTER for
/// a name.
pub(crate) fn statements(
    names: &RoleNames,
    secrets: &RoleSecrets,
    verb: impl Fn(&str) -> &'static str,
) -> Result<String, EngineError> {
    let attributes = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
                      CONNECTION LIMIT -1 VALID UNTIL 'infinity'";
    let members = [
        (&names.owner, &secrets.owner, "INHERIT"),
        (&names.deployer, &secrets.deployer, "NOINHERIT"),
        (&names.readonly, &secrets.readonly, "INHERIT"),
    ];
    let mut sql = String::new();
    for (name, secret, inherit) in members {
        let verifier = literal(&ScramVerifier::derive(secret, ITERATIONS_RANDOM_SECRET)?.to_string());
        let (verb, name) = (verb(name), quote(name));
        sql.push_str(&format!(
            "{verb} ROLE {name} {attributes} {inherit} PASSWORD {verifier};\n"
        ));
    }
    let [owner, deployer, readonly] = names.all().map(quote);
    let [migrators, readers, writers] = [MIGRATORS_ROLE, READERS_ROLE, WRITERS_ROLE].map(quote);
    sql.push_str(&format!(
        "GRANT {writers} TO {owner};\nGRANT {owner}, {migrators} TO {deployer};\nGRANT {readers} TO {readonly};\n\
         ALTER ROLE {readonly} SET default_transaction_read_only = on;\n"
    ));
    Ok(sql)
}

/// Drops those of the roles that exist. Their database must be dropped, or published as a template, which revokes their
/// privileges ([`crate::postgres::databases::publish_template`]). Waits at most 100 ms for other tenants: any session can
/// grant something to any role, which makes DROP ROLE fail (2BP01) or, in an open transaction, wait. If the roles cannot be
/// dropped, they are disabled and renamed, and [`drop_disabled`] drops them later.
pub async fn drop(server: &Server, names: &RoleNames) -> Result<(), EngineError> {
    let session = server.maintenance().await?;
    let [owner, deployer, readonly] = names.all().map(quote);
    // One message is one transaction: the timeout ends with it.
    let dropped = session
        .run(&format!(
            "SET LOCAL lock_timeout = {LOCK_TIME_MAX_MS}; DROP ROLE IF EXISTS {readonly}, {deployer}, {owner}"
        ))
        .await;
    match dropped {
        Err(EngineError::Sql { sqlstate, message, .. }) => {
            tracing::info!(role = %names.owner, %sqlstate, message, "roles cannot be dropped now; they are disabled");
            session.run(&disable(names)).await?;
        }
        other => other?,
    }
    server.keep_maintenance(session);
    Ok(())
}

fn disable(names: &RoleNames) -> String {
    let list = names.all().map(literal).join(", ");
    include_str!("../../sql/postgres/disable_roles.sql").replace(":names", &list)
}

/// Drops the roles that [`drop`] disabled, after revoking what they were granted in other databases. Roles that cannot
/// be dropped now (because of an open transaction, or a database that accepts no connections) remain for the next call.
/// Returns the names of the dropped roles.
pub async fn drop_disabled(server: &Server) -> Result<Vec<String>, EngineError> {
    let session = server.maintenance().await?;
    let rows = session
        .rows(include_str!("../../sql/postgres/disabled_roles.sql"), &[])
        .await?;
    let mut dropped = Vec::new();
    for row in rows {
        let (role, databases): (String, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
        let name = quote(&role);
        // The roles own nothing, so this only revokes privileges and removes them from policies and default privileges.
        let revoke = format!("SET LOCAL lock_timeout = '1s'; DROP OWNED BY {name}");
        for database in databases {
            if let Err(error) = revoke_in(server, &database, &revoke).await {
                tracing::info!(role, database, %error, "what a disabled role was granted is revoked later");
            }
        }
        let drop = format!("{revoke}; DROP ROLE IF EXISTS {name}");
        match session.run(&drop).await {
            Ok(()) => dropped.push(role),
            Err(error @ EngineError::Sql { .. }) => tracing::info!(role, %error, "a disabled role is dropped later"),
            Err(error) => return Err(error),
        }
    }
    server.keep_maintenance(session);
    Ok(dropped)
}

async fn revoke_in(server: &Server, database: &str, sql: &str) -> Result<(), EngineError> {
    server.dedicated(database).await?.run(sql).await
}
