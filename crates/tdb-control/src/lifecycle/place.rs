//! The physical database behind a workspace, build or tenant: its server, its name, and the logins of its roles.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tdb_engines::postgres::roles::{RoleNames, RoleSecrets};
use tdb_engines::postgres::{DatabaseLogin, Server, databases};
use tdb_names::{DatabaseName, PHYSICAL_NAME_LEN_MAX, ProjectId, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::Tx;
use tdb_store::physical::{self, DatabaseKind, Physical, RoleSecret, Step};
use uuid::Uuid;

use crate::core::Core;
use crate::error::{ControlError, Result, upstream};
use crate::leases::Lease;
use crate::lifecycle::memberships::Memberships;
use crate::lifecycle::servers::Servers;

/// The length of the random part that makes a taken name unique, without its separator.
const SUFFIX_LEN: usize = 8;
/// The pause after the first failure of a creation or deletion. It doubles up to `PAUSE_MAX`.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

fn someone_elses(server: &ServerName, physical: &Physical, oid: u32, name: &str) -> ControlError {
    let expected = physical.database.as_deref().unwrap_or_default();
    let detail = format!(
        "the database with oid {oid} on server \"{server}\" is called \"{name}\", not \"{expected}\"; it is left alone"
    );
    let hint = "If it was renamed, rename it back. If the metadata store was restored from a backup, it is older than \
                this server.";
    ControlError::refused(ProblemCode::DatabaseRenamed, detail, hint)
}

/// Which of a database's roles to log in as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    Owner,
    Deployer,
    ReadOnly,
}

/// Names, roles and logins of physical databases, and the recording of steps of their creation.
#[derive(Clone)]
pub(crate) struct Placement {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) memberships: Memberships,
}

impl Placement {
    /// Generates the roles of a new database. It has no name before it exists.
    pub(crate) fn new_physical(&self, server: ServerName) -> Result<Physical> {
        let names = RoleNames::generate().map_err(|e| upstream(&server, e))?;
        let role = |name: String| -> Result<RoleSecret> {
            let secret = tdb_auth::upstream_secret().map_err(ControlError::internal)?;
            let sealed = self.core.store.seal_role(&name, &secret)?;
            Ok(RoleSecret { name, sealed })
        };
        Ok(Physical {
            id: Uuid::new_v4(),
            server,
            database: None,
            oid: None,
            roles: physical::RoleSecrets {
                owner: role(names.owner)?,
                deployer: role(names.deployer)?,
                readonly: role(names.readonly)?,
            },
        })
    }

    pub(crate) fn role_secrets(&self, physical: &Physical) -> Result<RoleSecrets, tdb_store::StoreError> {
        let open = |role: &RoleSecret| self.core.store.open_role(&role.name, &role.sealed);
        Ok(RoleSecrets {
            owner: open(&physical.roles.owner)?,
            deployer: open(&physical.roles.deployer)?,
            readonly: open(&physical.roles.readonly)?,
        })
    }

    /// Creates the roles of a database, or restores their rights and passwords.
    pub(crate) async fn make_roles(&self, server: &Server, project: &ProjectId, physical: &Physical) -> Result<()> {
        let secrets = self.role_secrets(physical)?;
        let made = tdb_engines::postgres::roles::create(server, &role_names(physical), &secrets).await;
        made.map_err(|e| upstream(&physical.server, e))?;
        // A declared role whose name is taken on this server does not stop the project's databases.
        self.memberships.admit(project, physical).await.map(drop)
    }

    /// The login of one of the database's own roles. Only such sessions run a user's text.
    pub(crate) async fn login(&self, physical: &Physical, role: As, application: &str) -> Result<DatabaseLogin> {
        let server = self.servers.admin(&physical.server).await?;
        let role = match role {
            As::Owner => &physical.roles.owner,
            As::Deployer => &physical.roles.deployer,
            As::ReadOnly => &physical.roles.readonly,
        };
        let secret: SecretString = self.core.store.open_role(&role.name, &role.sealed)?;
        Ok(DatabaseLogin {
            endpoint: server.endpoint().clone(),
            tls: self.servers.tls.clone(),
            database: database_name(physical)?.to_owned(),
            role: role.name.clone(),
            secret,
            application_name: application.to_owned(),
        })
    }

    /// The current name of the database on its server: found by its oid, which a rename does not change, or by its
    /// construction name. `None` if it does not exist. An oid under any other name is another database: after a store
    /// was restored from a backup, a recorded spare may have become a tenant.
    pub(crate) async fn present_name(&self, server: &Server, physical: &Physical) -> Result<Option<String>> {
        let failed = |e| upstream(&server.endpoint().name, e);
        let installation = self.core.store.installation();
        if let Some(oid) = physical.oid
            && let Some(name) = databases::name_of(server, oid).await.map_err(failed)?
        {
            let expected = physical.database.as_deref() == Some(name.as_str());
            if expected || databases::constructed_id(installation, &name).is_some() {
                return Ok(Some(name));
            }
            return Err(someone_elses(&server.endpoint().name, physical, oid, &name));
        }
        let making = databases::construction_name(installation, physical.id);
        let found = databases::find(server, &making).await.map_err(failed)?;
        Ok(found.map(|_| making))
    }

    /// Drops a database and its roles, in whatever state of their creation they are.
    pub(crate) async fn unmake(&self, physical: &Physical) -> Result<()> {
        let server = self.servers.admin(&physical.server).await?;
        let failed = |e| upstream(&physical.server, e);
        if let Some(name) = self.present_name(&server, physical).await? {
            databases::drop(&server, &name).await.map_err(failed)?;
        }
        tdb_engines::postgres::roles::drop(&server, &role_names(physical))
            .await
            .map_err(failed)
    }

    /// Records why a step failed, and when to try again.
    pub(crate) async fn record_failure(&self, kind: DatabaseKind, id: Uuid, attempts: u32, error: &ControlError) {
        tracing::warn!(?kind, %id, attempts, error = %error.explained(), "a step failed; it will be retried");
        let pause = pause_after(attempts);
        let record = async {
            let tx = self.core.store.jobs().await?;
            physical::record_failure(&tx, kind, id, &error.explained(), pause).await?;
            tx.commit().await
        };
        if let Err(error) = record.await {
            tracing::warn!(%id, %error, "the failure could not be recorded");
        }
    }

    /// Records a clone's oid and its final name, and returns the name.
    pub(crate) async fn record_clone(
        &self,
        lease: &Lease,
        (kind, row_id): (DatabaseKind, Uuid),
        physical: &Physical,
        logical: &DatabaseName,
        oid: u32,
    ) -> Result<String> {
        let opaque_names = self.servers.names_are_opaque(&physical.server).await?;
        let tx = lease.begin().await?;
        let server = ServerInfo {
            name: &physical.server,
            opaque_names,
        };
        let name = choose_name(&tx, &server, logical, physical.id).await?;
        physical::record_database(&tx, kind, row_id, Step::Cloned, &name, oid).await?;
        tx.commit().await?;
        Ok(name)
    }

    /// The final name that was recorded with the clone.
    pub(crate) async fn final_name(&self, id: Uuid) -> Result<String> {
        let tx = self.core.store.jobs().await?;
        let name = physical::recorded_name(&tx, id).await?;
        tx.rollback().await?;
        name.ok_or_else(|| ControlError::internal("the clone's name was not recorded"))
    }

    /// Renames the database. If another database has the name, records and uses a unique one.
    pub(crate) async fn rename(&self, lease: &Lease, server: &Server, from: &str, to: &str, id: Uuid) -> Result<()> {
        match databases::rename(server, from, to).await {
            Err(error) if error.sqlstate().as_str() == "42P04" => {
                let to = unique_name(to)?;
                let tx = lease.begin().await?;
                physical::record_name(&tx, id, &to).await?;
                tx.commit().await?;
                databases::rename(server, from, &to)
                    .await
                    .map_err(|e| upstream(&server.endpoint().name, e))
            }
            other => other.map_err(|e| upstream(&server.endpoint().name, e)),
        }
    }
}

/// The pause after this many failures.
pub(crate) fn pause_after(attempts: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(1 << attempts.min(6)).min(PAUSE_MAX)
}

pub(crate) fn role_names(physical: &Physical) -> RoleNames {
    RoleNames {
        owner: physical.roles.owner.name.clone(),
        deployer: physical.roles.deployer.name.clone(),
        readonly: physical.roles.readonly.name.clone(),
    }
}

pub(crate) fn database_name(physical: &Physical) -> Result<&str> {
    physical
        .database
        .as_deref()
        .ok_or_else(|| ControlError::internal("the database has no name yet"))
}

/// The name of a finished database: the logical name if no row claims it, else a unique one; a random one if the server
/// has opaque names.
pub(crate) async fn choose_name(tx: &Tx, server: &ServerInfo<'_>, logical: &DatabaseName, id: Uuid) -> Result<String> {
    if server.opaque_names {
        return Ok(format!("t_{}", tdb_auth::base32(13).map_err(ControlError::internal)?));
    }
    let logical = logical.to_string();
    if physical::name_is_claimed(tx, server.name, &logical, id).await? {
        unique_name(&logical)
    } else {
        Ok(logical)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerInfo<'a> {
    pub name: &'a ServerName,
    pub opaque_names: bool,
}

/// `logical`, shortened to make room for `_` and eight characters of base32.
pub(crate) fn unique_name(logical: &str) -> Result<String> {
    let suffix = tdb_auth::base32(SUFFIX_LEN).map_err(ControlError::internal)?;
    let room = PHYSICAL_NAME_LEN_MAX - SUFFIX_LEN - 1;
    // Names are ASCII by their grammar, so every byte is a character boundary.
    Ok(format!("{}_{suffix}", logical.get(..room).unwrap_or(logical)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_is_made_unique_within_the_limit() {
        let long = "b".repeat(63);
        let name = unique_name(&long).unwrap();
        assert_eq!(name.len(), 63);
        assert!(name.starts_with(&"b".repeat(54)));
        assert!(unique_name("app_dev").unwrap().starts_with("app_dev_"));
        assert_ne!(unique_name("x").unwrap(), unique_name("x").unwrap());
    }
}
