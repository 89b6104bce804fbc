//! Credentials: who may connect, to what, with which rights and until when.

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tdb_contract::{Rights, Scope};
use tdb_names::{BlueprintName, CredentialId, DatabaseName, ProjectId, TenantName, UserName};
use tdb_store::credentials::{CredentialRow, NewCredential as Made};
use tdb_store::{Tx, credentials, tenants, workspaces};
use time::OffsetDateTime;

use crate::control::{Control, Limit};
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::model::{Connection, CredentialInfo, CredentialScope, NewCredential, ProxyAddress};

/// What was created for a request that may be repeated: see [`crate::idempotency`].
#[derive(Serialize, Deserialize)]
struct Receipt {
    id: CredentialId,
    password: String,
}

impl Control {
    pub async fn credentials(&self, identity: &Identity, limit: Limit) -> Result<Vec<CredentialInfo>> {
        identity.require(KeyScope::Read)?;
        let tx = self.inner.store.project(identity.project()).await?;
        let rows = credentials::list(&tx, identity.project(), limit.rows()).await?;
        tx.rollback().await?;
        Ok(rows.into_iter().map(describe).collect())
    }

    pub async fn create_credential(
        &self,
        identity: &Identity,
        scope: CredentialScope,
        rights: Rights,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<NewCredential> {
        identity.require(KeyScope::Write)?;
        let project = identity.project();
        let receipt = identity.receipt::<Receipt>()?;
        if receipt.is_none() && expires_at.is_some_and(|at| at <= OffsetDateTime::now_utc()) {
            let rule = "must be in the future".to_owned();
            return Err(ControlError::Invalid {
                field: "expires_at",
                rule,
            });
        }
        let tx = self.inner.store.project(project).await?;
        let (scope, database) = match scope {
            CredentialScope::Project => (Scope::Project, None),
            CredentialScope::Workspace(blueprint) => {
                let found = workspaces::by_name(&tx, project, &blueprint).await?;
                found.ok_or_else(|| ControlError::not_found("workspace", &blueprint))?;
                (
                    Scope::Workspace(blueprint.clone()),
                    Some(DatabaseName::Workspace(blueprint)),
                )
            }
            CredentialScope::Tenant(tenant) => {
                let database = only_database(&tx, project, &tenant).await?;
                (Scope::Tenant(tenant), database)
            }
        };
        let made = match receipt {
            Some(Receipt { id, password }) => {
                let row = credentials::by_id(&tx, project, id).await?;
                let row = row.ok_or_else(|| ControlError::not_found("credential", id))?;
                Made {
                    row,
                    password: password.into(),
                }
            }
            None => {
                let made = credentials::create(&tx, project, &scope, rights, expires_at).await?;
                let receipt = Receipt {
                    id: made.row.id,
                    password: made.password.expose_secret().to_owned(),
                };
                self.leave_receipt(&tx, identity, &receipt).await?;
                made
            }
        };
        tx.commit().await?;
        // A proxy may remember that the user is unknown.
        self.wait_for_proxies().await?;
        Ok(NewCredential {
            connection: self.connection_of(&made, database),
            info: describe(made.row),
        })
    }

    /// Its sessions end too.
    pub async fn delete_credential(&self, identity: &Identity, id: CredentialId) -> Result<()> {
        identity.require(KeyScope::Write)?;
        let tx = self.inner.store.project(identity.project()).await?;
        if !credentials::revoke(&tx, identity.project(), id).await? {
            return Err(ControlError::not_found("credential", id));
        }
        tx.commit().await?;
        self.wait_for_proxies().await
    }

    pub(crate) fn connection_of(&self, made: &Made, database: Option<DatabaseName>) -> Connection {
        let mut connection = self.inner.settings.proxy.connection(made.row.user.clone(), database);
        connection.password = Some(made.password.clone());
        connection
    }

    /// The user to show in a connection without password: the scope's first credential, else the project's.
    pub(crate) async fn shown_user(&self, tx: &Tx, project: &ProjectId, blueprint: &BlueprintName) -> Result<UserName> {
        let scope = Scope::Workspace(blueprint.clone());
        if let Some(row) = credentials::first_of_scope(tx, project, &scope).await? {
            return Ok(row.user);
        }
        project_user(tx, project).await
    }
}

/// The project's own credential opens everything; where it was deleted too, a word that says what is missing.
pub(crate) async fn project_user(tx: &Tx, project: &ProjectId) -> Result<UserName> {
    match credentials::first_of_scope(tx, project, &Scope::Project).await? {
        Some(row) => Ok(row.user),
        None => "USER".parse().map_err(ControlError::internal),
    }
}

/// The database to name in a connection string of a tenant's credential: of one that has one.
async fn only_database(tx: &Tx, project: &ProjectId, tenant: &TenantName) -> Result<Option<DatabaseName>> {
    let found = tenants::by_name(tx, project, tenant).await?;
    found.ok_or_else(|| ControlError::not_found("tenant", tenant))?;
    let fleet = tenants::of_tenant(tx, project, tenant).await?;
    Ok(fleet.first().map(|row| DatabaseName::Tenant {
        blueprint: row.database.blueprint.clone(),
        tenant: tenant.clone(),
    }))
}

impl ProxyAddress {
    pub(crate) fn connection(&self, user: UserName, database: Option<DatabaseName>) -> Connection {
        Connection {
            host: self.host.clone(),
            port: self.port,
            database,
            user,
            password: None,
        }
    }
}

/// As it is shown, without its password.
pub(crate) fn describe(row: CredentialRow) -> CredentialInfo {
    CredentialInfo {
        id: row.id,
        user: row.user,
        scope: match row.scope {
            Scope::Project => CredentialScope::Project,
            Scope::Workspace(blueprint) => CredentialScope::Workspace(blueprint),
            Scope::Tenant(tenant) => CredentialScope::Tenant(tenant),
        },
        rights: row.rights,
        created_at: row.created_at,
        expires_at: row.expires_at,
    }
}
