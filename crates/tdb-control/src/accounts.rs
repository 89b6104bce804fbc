//! Projects, API keys and credentials: who may ask, and who may connect.

use secrecy::SecretString;
use tdb_auth::ApiKey;
use tdb_contract::{Rights, Scope};
use tdb_names::{BlueprintName, CredentialId, DatabaseName, KeyId, ProjectId, TenantName, UserName};
use tdb_store::credentials::{CredentialRow, NewCredential as Made};
use tdb_store::projects::{ProjectDeletion, ProjectRow};
use tdb_store::{Tx, api_keys, credentials, projects, tenants, workspaces};
use uuid::Uuid;

use crate::control::{Control, Limit};
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::model::{
    ApiKeyInfo, Connection, CredentialInfo, CredentialScope, NewApiKey, NewCredential, NewProject, Project,
    ProxyAddress,
};

const NAME_LEN_MAX: usize = 64;
/// The name of the key that comes with a project.
const FIRST_KEY: &str = "first";

impl Control {
    /// The installation's first project with its first key (scope admin), `key` where one is given. None where a
    /// project exists already.
    pub async fn bootstrap(&self, project_name: &str, key: Option<ApiKey>) -> Result<Option<NewProject>> {
        let tx = self.inner.store.jobs().await?;
        let exists = projects::any(&tx).await?;
        tx.rollback().await?;
        if exists {
            return Ok(None);
        }
        self.found_project(Uuid::new_v4(), project_name, key).await.map(Some)
    }

    /// The one door to an [`Identity`].
    pub async fn authenticate(&self, key: &str) -> Result<Identity> {
        let key = ApiKey::parse(key).ok_or(ControlError::Unauthorized)?;
        let holder = api_keys::authenticate(&self.inner.store, &key).await?;
        let holder = holder.ok_or(ControlError::Unauthorized)?;
        let scopes = scopes(&holder.scopes)?;
        Ok(Identity::new(holder.project, holder.key, scopes))
    }

    /// Those of the account that the key's project belongs to.
    pub async fn projects(&self, identity: &Identity, limit: Limit) -> Result<Vec<Project>> {
        identity.require(KeyScope::Admin)?;
        let tx = self.inner.store.jobs().await?;
        let rows = projects::of_same_account(&tx, identity.project(), limit.rows()).await?;
        tx.rollback().await?;
        Ok(rows.into_iter().map(project).collect())
    }

    pub async fn create_project(&self, identity: &Identity, name: &str) -> Result<NewProject> {
        identity.require(KeyScope::Admin)?;
        let tx = self.inner.store.project(identity.project()).await?;
        let own = projects::by_id(&tx, identity.project()).await?;
        tx.rollback().await?;
        let own = own.ok_or_else(|| ControlError::not_found("project", identity.project()))?;
        self.found_project(own.account, name, None).await
    }

    async fn found_project(&self, account: Uuid, name: &str, key: Option<ApiKey>) -> Result<NewProject> {
        let name = checked_name(name)?;
        let id = projects::new_id()?;
        let key = match key {
            Some(key) => key,
            None => ApiKey::generate().map_err(ControlError::internal)?,
        };
        let tx = self.inner.store.project(&id).await?;
        let row = projects::insert(&tx, &id, account, name).await?;
        api_keys::insert(&tx, &id, FIRST_KEY, &key, &[KeyScope::Admin.as_str()]).await?;
        let made = credentials::create(&tx, &id, &Scope::Project, Rights::ReadWrite, None).await?;
        tx.commit().await?;
        Ok(NewProject {
            project: project(row),
            api_key: SecretString::from(key.reveal().to_owned()),
            connection: self.connection_of(&made, None),
        })
    }

    /// 409 while it has workspaces or tenants, deleted tenants too.
    pub async fn delete_project(&self, identity: &Identity, id: &ProjectId) -> Result<()> {
        identity.require(KeyScope::Admin)?;
        self.require_same_account(identity, id).await?;
        let tx = self.inner.store.project(id).await?;
        match projects::delete(&tx, id).await? {
            ProjectDeletion::Deleted => tx.commit().await?,
            ProjectDeletion::Unknown => return Err(ControlError::not_found("project", id)),
            ProjectDeletion::NotEmpty => {
                let detail = format!("project \"{id}\" has workspaces or tenants");
                let hint = "Delete its tenants with ?hard=true and its workspaces first.";
                return Err(ControlError::conflict("project_not_empty", detail, hint));
            }
        }
        self.wait_for_proxies().await
    }

    /// A new password for the project's credential; the old one has stopped working when this answers.
    pub async fn rotate_project_credential(&self, identity: &Identity, id: &ProjectId) -> Result<NewCredential> {
        identity.require(KeyScope::Admin)?;
        self.require_same_account(identity, id).await?;
        let tx = self.inner.store.project(id).await?;
        let old = credentials::first_of_scope(&tx, id, &Scope::Project).await?;
        let rotated = match old {
            Some(old) => credentials::rotate(&tx, id, old.id).await?,
            None => Some(credentials::create(&tx, id, &Scope::Project, Rights::ReadWrite, None).await?),
        };
        tx.commit().await?;
        self.wait_for_proxies().await?;
        let made = rotated.ok_or_else(|| ControlError::not_found("credential", id))?;
        Ok(NewCredential {
            connection: self.connection_of(&made, None),
            info: credential(made.row),
        })
    }

    async fn require_same_account(&self, identity: &Identity, id: &ProjectId) -> Result<()> {
        let tx = self.inner.store.jobs().await?;
        let rows = projects::of_same_account(&tx, identity.project(), i64::MAX).await?;
        tx.rollback().await?;
        match rows.iter().any(|row| row.id == *id) {
            true => Ok(()),
            false => Err(ControlError::not_found("project", id)),
        }
    }

    pub async fn api_keys(&self, identity: &Identity, limit: Limit) -> Result<Vec<ApiKeyInfo>> {
        identity.require(KeyScope::Admin)?;
        let tx = self.inner.store.project(identity.project()).await?;
        let rows = api_keys::list(&tx, identity.project(), limit.rows()).await?;
        tx.rollback().await?;
        rows.into_iter().map(key_info).collect()
    }

    pub async fn create_api_key(&self, identity: &Identity, name: &str, wanted: &[KeyScope]) -> Result<NewApiKey> {
        identity.require(KeyScope::Admin)?;
        if wanted.is_empty() {
            let rule = "must name at least one of \"read\", \"write\", \"admin\"".to_owned();
            return Err(ControlError::Invalid { field: "scopes", rule });
        }
        let name = checked_name(name)?;
        let key = ApiKey::generate().map_err(ControlError::internal)?;
        let words: Vec<&str> = wanted.iter().map(|scope| scope.as_str()).collect();
        let tx = self.inner.store.project(identity.project()).await?;
        let row = api_keys::insert(&tx, identity.project(), name, &key, &words).await?;
        tx.commit().await?;
        Ok(NewApiKey {
            info: key_info(row)?,
            key: SecretString::from(key.reveal().to_owned()),
        })
    }

    pub async fn delete_api_key(&self, identity: &Identity, key: KeyId) -> Result<()> {
        identity.require(KeyScope::Admin)?;
        let tx = self.inner.store.project(identity.project()).await?;
        if !api_keys::delete(&tx, identity.project(), key).await? {
            return Err(ControlError::not_found("API key", key));
        }
        Ok(tx.commit().await?)
    }

    pub async fn credentials(&self, identity: &Identity, limit: Limit) -> Result<Vec<CredentialInfo>> {
        identity.require(KeyScope::Read)?;
        let tx = self.inner.store.project(identity.project()).await?;
        let rows = credentials::list(&tx, identity.project(), limit.rows()).await?;
        tx.rollback().await?;
        Ok(rows.into_iter().map(credential).collect())
    }

    pub async fn create_credential(
        &self,
        identity: &Identity,
        scope: CredentialScope,
        rights: Rights,
    ) -> Result<NewCredential> {
        identity.require(KeyScope::Write)?;
        let project = identity.project();
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
        let made = credentials::create(&tx, project, &scope, rights, None).await?;
        tx.commit().await?;
        // A proxy may remember that the user is unknown.
        self.wait_for_proxies().await?;
        Ok(NewCredential {
            connection: self.connection_of(&made, database),
            info: credential(made.row),
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

fn checked_name(name: &str) -> Result<&str> {
    match name.chars().count() {
        1..=NAME_LEN_MAX if !name.chars().any(char::is_control) => Ok(name),
        _ => Err(ControlError::Invalid {
            field: "name",
            rule: "must be 1 to 64 printable characters long".to_owned(),
        }),
    }
}

fn scopes(words: &[String]) -> Result<Vec<KeyScope>> {
    words.iter().map(|word| word.parse()).collect()
}

fn project(row: ProjectRow) -> Project {
    Project {
        id: row.id,
        name: row.name,
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

fn credential(row: CredentialRow) -> CredentialInfo {
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
