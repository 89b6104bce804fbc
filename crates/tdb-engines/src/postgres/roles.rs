//! The three roles of a database. Their secrets reach the server as SCRAM verifiers only.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tdb_auth::{ITERATIONS_RANDOM_SECRET, ScramVerifier};

use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::server::{MIGRATORS_ROLE, READERS_ROLE, Server, WRITERS_ROLE};

/// Characters of base32 in a role's name: 65 bits, unique over every server.
const NAME_LEN: usize = 13;
/// How long dropping a role may wait for a transaction that grants to it.
const LOCK_TIME_MAX_MS: u32 = 100;

/// Names of a database's roles. Opaque: every session of a server can read them in `pg_roles`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoleNames {
    /// Owns every object; what clients' sessions run as.
    pub owner: String,
    /// Deploys; may also write `tdb.deployed_change`.
    pub deployer: String,
    pub readonly: String,
}

/// The roles' passwords, 256 random bits each.
#[derive(Clone, Debug)]
pub struct RoleSecrets {
    pub owner: SecretString,
    pub deployer: SecretString,
    pub readonly: SecretString,
}

impl RoleNames {
    /// `r_<13>`, `r_<13>_dep`, `r_<13>_ro`.
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
    pub fn generate() -> Result<Self, EngineError> {
        Ok(Self {
            owner: tdb_auth::upstream_secret()?,
            deployer: tdb_auth::upstream_secret()?,
            readonly: tdb_auth::upstream_secret()?,
        })
    }
}

/// Makes the roles, or gives existing ones these secrets and the memberships they ought to have. Idempotent.
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

/// Attributes, passwords, memberships and settings of the three roles; `verb` says of each whether it exists.
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

/// Removes the roles, those that are there. Their databases must be gone; what a published build left them is taken
/// away before ([`crate::postgres::databases::publish_template`]). Never waits for another tenant: any session may grant
/// to any role name, which makes DROP ROLE fail (2BP01) or, in an open transaction, wait. Such roles are disabled and
/// renamed, and [`drop_disabled`] removes them later.
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

/// Drops the roles that [`drop`] had to leave, after taking back what other databases gave them. What cannot be done now
/// (an open transaction, a database that takes no connections) is left for the next call. Gives the roles that are gone.
pub async fn drop_disabled(server: &Server) -> Result<Vec<String>, EngineError> {
    let session = server.maintenance().await?;
    let rows = session
        .rows(include_str!("../../sql/postgres/disabled_roles.sql"), &[])
        .await?;
    let mut dropped = Vec::new();
    for row in rows {
        let (role, databases): (String, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
        let name = quote(&role);
        // They own nothing, so that this only revokes, and takes them out of policies and default privileges.
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
