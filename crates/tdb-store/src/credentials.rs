//! Table `credentials`: what clients log in with. Passwords are generated, shown once and kept as verifiers. Every
//! change tells the proxies in the same transaction.

use secrecy::SecretString;
use tdb_auth::{ITERATIONS_PASSWORD, ScramVerifier, base32, password};
use tdb_contract::{Rights, Scope};
use tdb_names::{BlueprintName, CredentialId, ProjectId, TenantName, UserName};
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::{Result, StoreError};
use crate::events;
use crate::row::{column, parsed};
use crate::tx::{Parameter, Tx};

/// User names are random in 30 or 50 bits and unique over the installation.
const NAME_TRIES_MAX: usize = 5;

#[derive(Clone, Debug)]
pub struct CredentialRow {
    pub id: CredentialId,
    pub project: ProjectId,
    pub user: UserName,
    /// The user's own unless another was given.
    pub name: String,
    pub scope: Scope,
    pub rights: Rights,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
}

/// A credential just made or rotated; the one place where its password is.
#[derive(Debug)]
pub struct NewCredential {
    pub row: CredentialRow,
    pub password: SecretString,
}

const COLUMNS: &str = "id, project_id, user_name, coalesce(name, user_name) AS name, scope, blueprint, tenant, rights, created_at, expires_at";

impl CredentialRow {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: CredentialId::from_uuid(column(row, "id")?),
            project: parsed(row, "project_id")?,
            user: parsed(row, "user_name")?,
            name: column(row, "name")?,
            scope: scope(row)?,
            rights: rights(row)?,
            created_at: column(row, "created_at")?,
            expires_at: column(row, "expires_at")?,
        })
    }
}

/// From the columns `scope, blueprint, tenant`.
pub(crate) fn scope(row: &Row) -> Result<Scope> {
    match column(row, "scope")? {
        "project" => Ok(Scope::Project),
        "workspace" => Ok(Scope::Workspace(parsed(row, "blueprint")?)),
        "tenant" => Ok(Scope::Tenant(parsed(row, "tenant")?)),
        _ => Err(StoreError::corrupt("scope")),
    }
}

pub(crate) fn rights(row: &Row) -> Result<Rights> {
    match column(row, "rights")? {
        "rw" => Ok(Rights::ReadWrite),
        "ro" => Ok(Rights::ReadOnly),
        _ => Err(StoreError::corrupt("rights")),
    }
}

pub(crate) fn rights_word(rights: Rights) -> &'static str {
    match rights {
        Rights::ReadWrite => "rw",
        Rights::ReadOnly => "ro",
    }
}

/// A credential with a generated user name and password. A conflict where the scope's workspace or tenant is unknown.
pub async fn create(
    tx: &Tx,
    project: &ProjectId,
    scope: &Scope,
    rights: Rights,
    expires_at: Option<OffsetDateTime>,
) -> Result<NewCredential> {
    create_with(tx, project, scope, rights, expires_at, password()?).await
}

/// As [`create`], with a password that was generated before.
pub async fn create_with(
    tx: &Tx,
    project: &ProjectId,
    scope: &Scope,
    rights: Rights,
    expires_at: Option<OffsetDateTime>,
    password: SecretString,
) -> Result<NewCredential> {
    let (word, blueprint, tenant, stem, suffix_len) = match scope {
        Scope::Project => ("project", None, None, "tdb", 10),
        Scope::Workspace(blueprint) => ("workspace", Some(blueprint.as_str()), None, blueprint.as_str(), 6),
        Scope::Tenant(tenant) => ("tenant", None, Some(tenant.as_str()), tenant.as_str(), 6),
    };
    // As many iterations as the verifier that unknown users are shown has.
    let verifier = ScramVerifier::derive(&password, ITERATIONS_PASSWORD)?.to_string();
    let sql = format!(
        "INSERT INTO credentials (id, project_id, user_name, verifier, scope, blueprint, tenant, rights, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (user_name) DO NOTHING RETURNING {COLUMNS}"
    );
    for _ in 0..NAME_TRIES_MAX {
        let user = format!("{stem}_{}", base32(suffix_len)?);
        let rights = rights_word(rights);
        let parameters: [Parameter<'_>; 9] = [
            &Uuid::new_v4(),
            &project.as_str(),
            &user,
            &verifier,
            &word,
            &blueprint,
            &tenant,
            &rights,
            &expires_at,
        ];
        if let Some(row) = tx.query_opt(&sql, &parameters).await? {
            let row = CredentialRow::from_row(&row)?;
            // Proxies remember unknown users too.
            events::credential_changed(tx, project, &row.user).await?;
            return Ok(NewCredential { row, password });
        }
    }
    Err(StoreError::Conflict {
        constraint: "credentials_user_name_key".to_owned(),
    })
}

/// Oldest first, at most `limit`.
pub async fn list(
    tx: &Tx,
    project: &ProjectId,
    after: Option<(OffsetDateTime, CredentialId)>,
    limit: i64,
) -> Result<Vec<CredentialRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM credentials WHERE project_id = $1 AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3))
          ORDER BY created_at, id LIMIT $4"
    );
    let (at, id) = (after.map(|(at, _)| at), after.map(|(_, id)| id.as_uuid()));
    let rows = tx.query(&sql, &[&project.as_str(), &at, &id, &limit]).await?;
    rows.iter().map(CredentialRow::from_row).collect()
}

pub async fn by_id(tx: &Tx, project: &ProjectId, id: CredentialId) -> Result<Option<CredentialRow>> {
    let sql = format!("SELECT {COLUMNS} FROM credentials WHERE project_id = $1 AND id = $2");
    let row = tx.query_opt(&sql, &[&project.as_str(), &id.as_uuid()]).await?;
    row.as_ref().map(CredentialRow::from_row).transpose()
}

/// By id, name or user name: more than one where several have the name.
pub async fn by_reference(tx: &Tx, project: &ProjectId, text: &str) -> Result<Vec<CredentialRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM credentials WHERE project_id = $1 AND (id::text = $2 OR name = $2 OR user_name = $2)
         ORDER BY created_at, id"
    );
    let rows = tx.query(&sql, &[&project.as_str(), &text]).await?;
    rows.iter().map(CredentialRow::from_row).collect()
}

/// Gives a credential a name in place of its user's.
pub async fn set_name(tx: &Tx, project: &ProjectId, id: CredentialId, name: &str) -> Result<()> {
    let sql = "UPDATE credentials SET name = $3 WHERE project_id = $1 AND id = $2";
    tx.execute(sql, &[&project.as_str(), &id.as_uuid(), &name]).await?;
    Ok(())
}

/// The first credential of exactly this scope: the one made with the project, the workspace or the tenant.
pub async fn first_of_scope(tx: &Tx, project: &ProjectId, scope: &Scope) -> Result<Option<CredentialRow>> {
    let (word, name) = match scope {
        Scope::Project => ("project", None),
        Scope::Workspace(blueprint) => ("workspace", Some(blueprint.as_str())),
        Scope::Tenant(tenant) => ("tenant", Some(tenant.as_str())),
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM credentials WHERE project_id = $1 AND scope = $2
         AND coalesce(blueprint, tenant) IS NOT DISTINCT FROM $3 ORDER BY created_at, id LIMIT 1"
    );
    let row = tx.query_opt(&sql, &[&project.as_str(), &word, &name]).await?;
    row.as_ref().map(CredentialRow::from_row).transpose()
}

/// The same user with a new password; sessions go on, logins with the old one do not. None where it is unknown.
pub async fn rotate(tx: &Tx, project: &ProjectId, id: CredentialId) -> Result<Option<NewCredential>> {
    let password = password()?;
    let verifier = ScramVerifier::derive(&password, ITERATIONS_PASSWORD)?.to_string();
    let sql = format!("UPDATE credentials SET verifier = $3 WHERE project_id = $1 AND id = $2 RETURNING {COLUMNS}");
    let Some(row) = tx
        .query_opt(&sql, &[&project.as_str(), &id.as_uuid(), &verifier])
        .await?
    else {
        return Ok(None);
    };
    let row = CredentialRow::from_row(&row)?;
    events::credential_changed(tx, project, &row.user).await?;
    Ok(Some(NewCredential { row, password }))
}

/// Ends its sessions too. False where it is unknown.
pub async fn revoke(tx: &Tx, project: &ProjectId, id: CredentialId) -> Result<bool> {
    Ok(revoke_where(tx, project, "id = $2", &[&id.as_uuid()]).await? == 1)
}

pub async fn revoke_of_tenant(tx: &Tx, project: &ProjectId, tenant: &TenantName) -> Result<u64> {
    revoke_where(tx, project, "tenant = $2", &[&tenant.as_str()]).await
}

pub async fn revoke_of_workspace(tx: &Tx, project: &ProjectId, blueprint: &BlueprintName) -> Result<u64> {
    revoke_where(tx, project, "blueprint = $2", &[&blueprint.as_str()]).await
}

pub async fn revoke_all(tx: &Tx, project: &ProjectId) -> Result<u64> {
    revoke_where(tx, project, "true", &[]).await
}

async fn revoke_where(tx: &Tx, project: &ProjectId, condition: &str, further: &[Parameter<'_>]) -> Result<u64> {
    let sql = format!("DELETE FROM credentials WHERE project_id = $1 AND {condition} RETURNING {COLUMNS}");
    let project_id = project.as_str();
    let parameters: Vec<Parameter<'_>> = std::iter::once(&project_id as Parameter<'_>)
        .chain(further.iter().copied())
        .collect();
    let rows = tx.query(&sql, &parameters).await?;
    let mut revoked = 0;
    for row in &rows {
        let row = CredentialRow::from_row(row)?;
        events::credential_revoked(tx, project, &row.user, row.id).await?;
        revoked += 1;
    }
    Ok(revoked)
}
