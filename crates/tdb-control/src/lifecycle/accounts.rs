//! Projects and API keys, and the authentication of requests.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tdb_auth::ApiKey;
use tdb_contract::{Rights, Scope};
use tdb_names::{KeyId, ProjectId};
use tdb_problems::ProblemCode;
use tdb_store::projects::{ProjectDeletion, ProjectRow};
use tdb_store::{Tx, api_keys, credentials, projects};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::leases::{Lease, Subject};
use crate::lifecycle::credentials::{Credentials, describe};
use crate::lifecycle::references::{checked_reference, only};
use crate::model::{ApiKeyInfo, NewApiKey, NewCredential, NewProject, Project};
use crate::page::Page;

/// The name of the key that is created with a project.
const FIRST_KEY: &str = "first";

/// What a repeated request needs to continue: see [`crate::idempotency`].
#[derive(Serialize, Deserialize)]
pub(crate) struct ProjectReceipt {
    pub(crate) id: ProjectId,
    key: String,
    password: String,
}

impl ProjectReceipt {
    pub(crate) fn draw(key: Option<ApiKey>) -> Result<Self> {
        let key = key.map_or_else(ApiKey::generate, Ok).map_err(ControlError::internal)?;
        let password = tdb_auth::password().map_err(ControlError::internal)?;
        Ok(Self {
            id: projects::new_id()?,
            key: key.reveal().to_owned(),
            password: password.expose_secret().to_owned(),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct KeyReceipt {
    id: KeyId,
    key: String,
}

/// Projects, their API keys, and authentication.
#[derive(Clone)]
pub struct Accounts {
    pub(crate) core: Arc<Core>,
    pub(crate) credentials: Credentials,
}

impl Accounts {
    /// Creates the installation's first project with its first key (scope admin): `key`, or a random one. The project's
    /// account becomes the operator's. `None` if a project exists.
    pub async fn bootstrap(&self, project_name: &str, key: Option<ApiKey>) -> Result<Option<NewProject>> {
        // Processes that start at the same time on an empty store create one project together.
        let lease = self.core.leases.take(Subject::Bootstrap).await?;
        lease.during(self.bootstrap_alone(&lease, project_name, key)).await
    }

    async fn bootstrap_alone(
        &self,
        lease: &Lease,
        project_name: &str,
        key: Option<ApiKey>,
    ) -> Result<Option<NewProject>> {
        let tx = lease.begin().await?;
        let exists = projects::any(&tx).await?;
        tx.rollback().await?;
        if exists {
            return Ok(None);
        }
        let seeds = ProjectReceipt::draw(key)?;
        let name = checked_reference("name", project_name)?;
        let tx = self.core.store.project(&seeds.id).await?;
        let made = self.insert_project(&tx, Uuid::new_v4(), name, seeds).await?;
        projects::become_operator(&tx).await?;
        tx.commit().await?;
        Ok(Some(made))
    }

    /// The only way to get an [`Identity`]. `Unauthorized` if the key is malformed, unknown or deleted.
    pub async fn authenticate(&self, key: &str) -> Result<Identity> {
        let key = ApiKey::parse(key).ok_or(ControlError::Unauthorized)?;
        let holder = api_keys::authenticate(&self.core.store, &key).await?;
        let holder = holder.ok_or(ControlError::Unauthorized)?;
        let scopes = scopes(&holder.scopes)?;
        Ok(Identity::new(holder.project, holder.key, holder.name, scopes))
    }

    /// The projects of the key's account, oldest first. Needs the scope admin.
    pub async fn projects(
        &self,
        identity: &Identity,
        page: &Page<(OffsetDateTime, ProjectId)>,
    ) -> Result<Vec<Project>> {
        identity.require(KeyScope::Admin)?;
        let tx = self.core.store.jobs().await?;
        let (after, limit) = (page.after.as_ref(), page.limit.rows());
        let rows = projects::of_same_account(&tx, identity.project(), after, limit).await?;
        let projects = with_counts(&tx, rows).await?;
        tx.rollback().await?;
        Ok(projects)
    }

    /// Creates a project in the key's account, with its first key and its credential. Needs the scope admin.
    pub async fn create_project(&self, identity: &Identity, name: &str) -> Result<NewProject> {
        identity.require(KeyScope::Admin)?;
        let tx = self.core.store.project(identity.project()).await?;
        let own = projects::by_id(&tx, identity.project()).await?;
        tx.rollback().await?;
        let own = own.ok_or_else(|| ControlError::not_found(EntryKind::Project, identity.project()))?;
        checked_reference("name", name)?;
        if let Some(begun) = identity.receipt()? {
            return self.go_on_founding(own.account, name, begun).await;
        }
        let seeds = ProjectReceipt::draw(None)?;
        // The project's rows belong to another project than the key, so they cannot be in one transaction with the
        // receipt, which is written first.
        let tx = self.core.store.project(identity.project()).await?;
        identity.leave_receipt(&tx, &self.core.store, &seeds).await?;
        tx.commit().await?;
        self.found_project(own.account, name, seeds).await
    }

    async fn go_on_founding(&self, account: Uuid, name: &str, begun: ProjectReceipt) -> Result<NewProject> {
        let tx = self.core.store.project(&begun.id).await?;
        let row = projects::by_id(&tx, &begun.id).await?;
        let credential = credentials::first_of_scope(&tx, &begun.id, &Scope::Project).await?;
        tx.rollback().await?;
        let (Some(row), Some(credential)) = (row, credential) else {
            return self.found_project(account, name, begun).await;
        };
        let made = credentials::NewCredential {
            row: credential,
            password: begun.password.into(),
        };
        Ok(NewProject {
            project: project(row, 1),
            api_key: begun.key.into(),
            connection: self.credentials.connection_of(&made, None),
        })
    }

    pub(crate) async fn found_project(&self, account: Uuid, name: &str, seeds: ProjectReceipt) -> Result<NewProject> {
        let name = checked_reference("name", name)?;
        let tx = self.core.store.project(&seeds.id).await?;
        let made = self.insert_project(&tx, account, name, seeds).await?;
        tx.commit().await?;
        Ok(made)
    }

    pub(crate) async fn insert_project(
        &self,
        tx: &Tx,
        account: Uuid,
        name: &str,
        seeds: ProjectReceipt,
    ) -> Result<NewProject> {
        let ProjectReceipt { id, key, password } = seeds;
        let row = projects::insert(tx, &id, account, name).await?;
        let key = ApiKey::parse(&key).ok_or_else(|| ControlError::internal("a generated API key cannot be parsed"))?;
        api_keys::insert(tx, &id, FIRST_KEY, &key, &[KeyScope::Admin.as_str()]).await?;
        let made = credentials::create_with(tx, &id, &Scope::Project, Rights::ReadWrite, None, password.into()).await?;
        Ok(NewProject {
            project: project(row, 1),
            api_key: SecretString::from(key.reveal().to_owned()),
            connection: self.credentials.connection_of(&made, None),
        })
    }

    /// Deletes a project, by id or name. 409 while it has workspaces or tenants; deleted tenants that can be restored
    /// count.
    pub async fn delete_project(&self, identity: &Identity, reference: &str) -> Result<ProjectId> {
        identity.require(KeyScope::Admin)?;
        let id = &self.project_of(identity, reference).await?;
        let tx = self.core.store.project(id).await?;
        match projects::delete(&tx, id).await? {
            ProjectDeletion::Deleted => tx.commit().await?,
            ProjectDeletion::Unknown => return Err(ControlError::not_found(EntryKind::Project, id)),
            ProjectDeletion::NotEmpty => {
                let detail = format!("project \"{id}\" has workspaces or tenants");
                let hint = "First delete its tenants permanently (DELETE /tenants/{id}?hard=true) and its workspaces.";
                return Err(ControlError::refused(ProblemCode::ProjectNotEmpty, detail, hint));
            }
        }
        self.core.wait_for_proxies().await?;
        Ok(id.clone())
    }

    /// Gives the project's credential a new password, and creates one if there is none. Waits until the proxies have
    /// dropped the old password.
    pub async fn rotate_project_credential(
        &self,
        identity: &Identity,
        reference: &str,
    ) -> Result<(ProjectId, NewCredential)> {
        identity.require(KeyScope::Admin)?;
        let id = &self.project_of(identity, reference).await?;
        let tx = self.core.store.project(id).await?;
        let old = credentials::first_of_scope(&tx, id, &Scope::Project).await?;
        let rotated = match old {
            Some(old) => credentials::rotate(&tx, id, old.id).await?,
            None => Some(credentials::create(&tx, id, &Scope::Project, Rights::ReadWrite, None).await?),
        };
        tx.commit().await?;
        self.core.wait_for_proxies().await?;
        let made = rotated.ok_or_else(|| ControlError::not_found(EntryKind::Credential, id))?;
        let made = NewCredential {
            connection: self.credentials.connection_of(&made, None),
            databases: Vec::new(),
            info: describe(made.row),
        };
        Ok((id.clone(), made))
    }

    /// A project of the key's account, by id or name.
    pub(crate) async fn project_of(&self, identity: &Identity, reference: &str) -> Result<ProjectId> {
        let tx = self.core.store.jobs().await?;
        let rows = projects::of_same_account(&tx, identity.project(), None, i64::MAX).await?;
        tx.rollback().await?;
        let ids = rows.into_iter().map(|row| (row.name == reference, row.id));
        let ids = ids
            .filter(|(named, id)| *named || id.as_str() == reference)
            .map(|(_, id)| id);
        only(EntryKind::Project, reference, ids.collect(), |id| id.to_string())
    }

    /// The API keys of the project, oldest first. Needs the scope admin.
    pub async fn api_keys(&self, identity: &Identity, page: &Page<(OffsetDateTime, KeyId)>) -> Result<Vec<ApiKeyInfo>> {
        identity.require(KeyScope::Admin)?;
        let tx = self.core.store.project(identity.project()).await?;
        let rows = api_keys::list(&tx, identity.project(), page.after, page.limit.rows()).await?;
        tx.rollback().await?;
        rows.into_iter().map(key_info).collect()
    }

    /// Creates an API key with these scopes. Needs the scope admin.
    pub async fn create_api_key(&self, identity: &Identity, name: &str, wanted: &[KeyScope]) -> Result<NewApiKey> {
        identity.require(KeyScope::Admin)?;
        if wanted.is_empty() {
            let rule = "must name at least one of \"read\", \"write\", \"admin\"".to_owned();
            return Err(ControlError::Invalid { field: "scopes", rule });
        }
        let name = checked_reference("name", name)?;
        let tx = self.core.store.project(identity.project()).await?;
        if let Some(made) = identity.receipt::<KeyReceipt>()? {
            let row = api_keys::by_id(&tx, identity.project(), made.id).await?;
            tx.rollback().await?;
            let row = row.ok_or_else(|| ControlError::not_found(EntryKind::ApiKey, made.id))?;
            return Ok(NewApiKey {
                info: key_info(row)?,
                key: made.key.into(),
            });
        }
        let key = ApiKey::generate().map_err(ControlError::internal)?;
        let words: Vec<&str> = wanted.iter().map(|scope| scope.as_str()).collect();
        let row = api_keys::insert(&tx, identity.project(), name, &key, &words).await?;
        let receipt = KeyReceipt {
            id: row.id,
            key: key.reveal().to_owned(),
        };
        identity.leave_receipt(&tx, &self.core.store, &receipt).await?;
        tx.commit().await?;
        Ok(NewApiKey {
            info: key_info(row)?,
            key: receipt.key.into(),
        })
    }

    /// Deletes an API key, by id or name. Needs the scope admin. The project's last key with that scope is kept, unless a
    /// login created it: its user can log in again.
    pub async fn delete_api_key(&self, identity: &Identity, reference: &str) -> Result<()> {
        identity.require(KeyScope::Admin)?;
        let tx = self.core.store.project(identity.project()).await?;
        let rows = api_keys::by_reference(&tx, identity.project(), reference).await?;
        let key = only(EntryKind::ApiKey, reference, rows, |row| row.id.to_string())?;
        if api_keys::lock_admins(&tx, identity.project()).await? == [(key.id, false)] {
            let detail = format!(
                "API key \"{}\" is the project's last one with the scope admin",
                key.name
            );
            let hint = "First create another one with POST /apikeys, or log in with POST /login.";
            return Err(ControlError::refused(ProblemCode::WrongState, detail, hint));
        }
        api_keys::delete(&tx, identity.project(), key.id).await?;
        Ok(tx.commit().await?)
    }
}

pub(crate) async fn with_counts(tx: &Tx, rows: Vec<ProjectRow>) -> Result<Vec<Project>> {
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let counts = api_keys::counts(tx, &ids).await?;
    let keys = |id: &ProjectId| counts.get(id).copied().unwrap_or(0);
    Ok(rows
        .into_iter()
        .map(|row| {
            let keys = keys(&row.id);
            project(row, keys)
        })
        .collect())
}

fn scopes(words: &[String]) -> Result<Vec<KeyScope>> {
    words.iter().map(|word| word.parse()).collect()
}

fn project(row: ProjectRow, api_keys: u32) -> Project {
    Project {
        id: row.id,
        name: row.name,
        api_keys,
        created_at: row.created_at,
    }
}

fn key_info(row: api_keys::ApiKeyRow) -> Result<ApiKeyInfo> {
    Ok(ApiKeyInfo {
        id: row.id,
        name: row.name,
        prefix: row.prefix,
        scopes: scopes(&row.scopes)?,
        created_at: row.created_at,
        last_used_at: row.last_used_at,
    })
}
