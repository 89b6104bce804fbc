//! The three roles of a database. Their secrets reach the server as SCRAM verifiers only.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tdb_auth::{ITERATIONS_RANDOM_SECRET, ScramVerifier};

use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::server::{MIGRATORS_ROLE, Server};

/// Characters of base32 in a role's name: 65 bits, unique over every server.
const NAME_LEN: usize = 13;

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
    let [owner, deployer, readonly] = names.all().map(quote);
    let attributes = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
    let mut sql = String::from("BEGIN;\n");
    let members = [
        (&names.owner, &secrets.owner, "INHERIT"),
        (&names.deployer, &secrets.deployer, "NOINHERIT"),
        (&names.readonly, &secrets.readonly, "INHERIT"),
    ];
    for (name, secret, inherit) in members {
        let known = session.row("SELECT FROM pg_roles WHERE rolname = $1", &[name]).await?;
        let verb = known.map_or("CREATE", |_| "ALTER");
        let verifier = literal(&ScramVerifier::derive(secret, ITERATIONS_RANDOM_SECRET)?.to_string());
        let name = quote(name);
        sql.push_str(&format!(
            "{verb} ROLE {name} {attributes} {inherit} PASSWORD {verifier};\n"
        ));
    }
    sql.push_str(&format!(
        "GRANT {owner}, {migrators} TO {deployer};\n\
         GRANT pg_read_all_data TO {readonly};\n\
         ALTER ROLE {readonly} SET default_transaction_read_only = on;\n\
         COMMIT",
        migrators = quote(MIGRATORS_ROLE),
    ));
    if let Err(error) = session.run(&sql).await {
        // Somebody made them between our look and our deed: look again.
        std::mem::drop(session);
        return match error.has("42710") || error.has("23505") {
            true => Box::pin(create(server, names, secrets)).await,
            false => Err(error),
        };
    }
    server.keep_maintenance(session);
    Ok(())
}

/// Removes the roles, those that are there. Their databases must be gone; what a published build left them is taken
/// away before ([`crate::postgres::databases::publish_template`]).
pub async fn drop(server: &Server, names: &RoleNames) -> Result<(), EngineError> {
    let session = server.maintenance().await?;
    let [owner, deployer, readonly] = names.all().map(quote);
    session
        .run(&format!("DROP ROLE IF EXISTS {readonly}, {deployer}, {owner}"))
        .await?;
    server.keep_maintenance(session);
    Ok(())
}
