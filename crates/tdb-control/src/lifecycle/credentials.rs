//! Credentials: database users and passwords, what they open, with which rights and until when.

use std::sync::Arc;

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tdb_contract::{Rights, Scope};
use tdb_names::{CredentialId, DatabaseName, ProjectId, UserName};
use tdb_store::credentials::{CredentialRow, NewCredential as Made};
use tdb_store::tenants::TenantStatus;
use tdb_store::{Tx, credentials, tenants, workspaces};
use time::OffsetDateTime;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::lifecycle::readers::ReadAccess;
use crate::lifecycle::references::{checked_reference, only};
use crate::model::{Connection, CredentialInfo, CredentialRequest, CredentialScope, NewCredential};
use crate::page::Page;

/// What a repeated request needs to continue: see [`crate::idempotency`].
#[derive(Serialize, Deserialize)]
struct Receipt {
    id: CredentialId,
    password: String,
}

/// Credentials: list, create, delete.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) core: Arc<Core>,
    pub(crate) read_access: ReadAccess,
}

impl Credentials {
    /// The credentials of the project, oldest first.
    pub async fn list(
        &self,
        identity: &Identity,
        page: &Page<(OffsetDateTime, CredentialId)>,
    ) -> Result<Vec<CredentialInfo>> {
        identity.require(KeyScope::Read)?;
        let tx = self.core.store.project(identity.project()).await?;
        let rows = credentials::list(&tx, identity.project(), page.after, page.limit.rows()).await?;
        tx.rollback().await?;
        Ok(rows.into_iter().map(describe).collect())
    }

    /// Creates a credential. When this returns, it works, except that a read-only credential may still wait for its
    /// rights on servers that do not respond. A credential of the whole project needs the scope admin, others the scope
    /// write.
    pub async fn create(&self, identity: &Identity, request: CredentialRequest) -> Result<NewCredential> {
        // A credential of the whole project needs the scope admin, as its rotation does.
        identity.require(match request.scope {
            CredentialScope::Project => KeyScope::Admin,
            CredentialScope::Workspace(_) | CredentialScope::Tenant(_) => KeyScope::Write,
        })?;
        let project = identity.project();
        let receipt = identity.receipt::<Receipt>()?;
        let CredentialRequest {
            scope,
            rights,
            name,
            expires_at,
        } = request;
        if receipt.is_none() && expires_at.is_some_and(|at| at <= OffsetDateTime::now_utc()) {
            let rule = "must be in the future".to_owned();
            return Err(ControlError::Invalid {
                field: "expires_at",
                rule,
            });
        }
        let name = name
            .as_deref()
            .map(|name| checked_reference("name", name))
            .transpose()?;
        let tx = self.core.store.project(project).await?;
        let (scope, databases) = opened(&tx, project, scope).await?;
        let made = match receipt {
            Some(Receipt { id, password }) => {
                let row = credentials::by_id(&tx, project, id).await?;
                let row = row.ok_or_else(|| ControlError::not_found(EntryKind::Credential, id))?;
                Made {
                    row,
                    password: password.into(),
                }
            }
            None => {
                let mut made = credentials::create(&tx, project, &scope, rights, expires_at).await?;
                if let Some(name) = name {
                    credentials::set_name(&tx, project, made.row.id, name).await?;
                    name.clone_into(&mut made.row.name);
                }
                let receipt = Receipt {
                    id: made.row.id,
                    password: made.password.expose_secret().to_owned(),
                };
                identity.leave_receipt(&tx, &self.core.store, &receipt).await?;
                made
            }
        };
        tx.commit().await?;
        if rights == Rights::ReadOnly {
            let project = project.clone();
            self.core
                .run_for(self, made.row.id.as_uuid(), move |credentials| async move {
                    credentials.read_access.admit_project(&project).await
                })
                .await?;
        }
        // A proxy may have cached that the user is unknown.
        self.core.wait_for_proxies().await?;
        let connections = databases
            .into_iter()
            .map(|database| self.connection_of(&made, Some(database)));
        let databases: Vec<Connection> = connections.collect();
        let first = databases.first().cloned();
        Ok(NewCredential {
            connection: first.unwrap_or_else(|| self.connection_of(&made, None)),
            databases,
            info: describe(made.row),
        })
    }

    /// Deletes a credential, by id, name or user. Its sessions are closed.
    pub async fn delete(&self, identity: &Identity, reference: &str) -> Result<()> {
        identity.require(KeyScope::Write)?;
        let tx = self.core.store.project(identity.project()).await?;
        let rows = credentials::by_reference(&tx, identity.project(), reference).await?;
        let row = only(EntryKind::Credential, reference, rows, |row| row.id.to_string())?;
        credentials::revoke(&tx, identity.project(), row.id).await?;
        tx.commit().await?;
        self.core.wait_for_proxies().await
    }

    pub(crate) fn connection_of(&self, made: &Made, database: Option<DatabaseName>) -> Connection {
        let mut connection = self.core.settings.proxy.connection(made.row.user.clone(), database);
        connection.password = Some(made.password.clone());
        connection
    }
}

/// The user of the project's own credential, which opens every database. If that was deleted, the placeholder `USER`.
pub(crate) async fn project_user(tx: &Tx, project: &ProjectId) -> Result<UserName> {
    match credentials::first_of_scope(tx, project, &Scope::Project).await? {
        Some(row) => Ok(row.user),
        None => "USER".parse().map_err(ControlError::internal),
    }
}

/// The databases that a credential of this scope opens, by name. Empty for the whole project.
async fn opened(tx: &Tx, project: &ProjectId, scope: CredentialScope) -> Result<(Scope, Vec<DatabaseName>)> {
    Ok(match scope {
        CredentialScope::Project => (Scope::Project, Vec::new()),
        CredentialScope::Workspace(blueprint) => {
            let row = workspaces::by_name(tx, project, &blueprint).await?;
            row.ok_or_else(|| ControlError::not_found(EntryKind::Workspace, &blueprint))?;
            let database = DatabaseName::Workspace(blueprint.clone());
            (Scope::Workspace(blueprint), vec![database])
        }
        CredentialScope::Tenant(tenant) => {
            // Locked, so that a deletion cannot start before the credential exists, which would then be left.
            let row = tenants::lock(tx, project, &tenant).await?;
            let row = row.ok_or_else(|| ControlError::not_found(EntryKind::Tenant, &tenant))?;
            if row.status == TenantStatus::Deleting {
                return Err(ControlError::being_deleted(&tenant, "gets no new credentials"));
            }
            let fleet = tenants::of_tenant(tx, project, &tenant).await?;
            let database = |row: tenants::FleetRow| DatabaseName::Tenant {
                blueprint: row.database.blueprint,
                tenant: tenant.clone(),
            };
            let databases = fleet.into_iter().map(database).collect();
            (Scope::Tenant(tenant), databases)
        }
    })
}

/// A credential for the API, without its password.
pub(crate) fn describe(row: CredentialRow) -> CredentialInfo {
    CredentialInfo {
        id: row.id,
        user: row.user,
        name: row.name,
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
