//! Roles that a project declares, such as `anon`: listed, declared, deleted. How servers come to have them is in
//! [`crate::lifecycle::memberships`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tdb_engines::postgres::declared_roles as engine;
use tdb_engines::postgres::{EngineError, journal};
use tdb_names::{ProjectId, RoleName, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::declared_roles::{self, DeclaredRoleRow, OwnedDatabase};
use tdb_store::workspaces::{self, WorkspaceStatus};

use crate::core::Core;
use crate::error::{ControlError, Result, upstream};
use crate::identity::{Identity, KeyScope};
use crate::lifecycle::accounts::Accounts;
use crate::lifecycle::memberships::{Memberships, refused};
use crate::lifecycle::place::database_name;
use crate::lifecycle::servers::Servers;
use crate::model::{DeclaredRole, NewDeclaredRole};
use crate::page::Page;
use crate::schema::drain::Drains;

/// Changes and databases that a refusal names.
const NAMED_MAX: usize = 5;

/// What was created for a request that may be repeated: see [`crate::idempotency`].
#[derive(Serialize, Deserialize)]
struct Receipt {
    project: ProjectId,
}

/// Roles that projects declare.
#[derive(Clone)]
pub struct DeclaredRoles {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) accounts: Accounts,
    pub(crate) memberships: Memberships,
    pub(crate) drains: Drains,
}

impl DeclaredRoles {
    /// Declared roles of a project of the key's account, by name.
    pub async fn list(&self, identity: &Identity, project: &str, page: &Page<RoleName>) -> Result<Vec<DeclaredRole>> {
        identity.require(KeyScope::Admin)?;
        let project = self.accounts.project_of(identity, project).await?;
        let tx = self.core.store.project(&project).await?;
        let rows = declared_roles::list(&tx, &project, page.after.as_ref(), page.limit.rows()).await?;
        tx.rollback().await?;
        Ok(rows.into_iter().map(declared).collect())
    }

    /// Declares a role and creates it on every server where the project has databases. A server that cannot be reached now
    /// gets it later, and is named by the warnings.
    pub async fn create(&self, identity: &Identity, project: &str, name: &str) -> Result<NewDeclaredRole> {
        identity.require(KeyScope::Admin)?;
        let name = parsed(name)?;
        let project = match identity.receipt::<Receipt>()? {
            Some(receipt) => receipt.project,
            None => self.record_declaration(identity, project, &name).await?,
        };
        let tx = self.core.store.project(&project).await?;
        let row = declared_roles::by_name(&tx, &project, &name).await?;
        let servers = declared_roles::servers(&tx, &project).await?;
        tx.rollback().await?;
        let row = row.ok_or_else(|| ControlError::not_found("role", &name))?;
        let mut warnings = Vec::new();
        for server in &servers {
            if let Err(error) = self.memberships.converge_on(server).await {
                tracing::warn!(%server, role = %name, error = %error.explained(), "a declared role is created later");
                warnings.push(format!("server \"{server}\" does not have the role yet: {error}"));
            }
        }
        self.open_journals(&project).await?;
        let role = declared(row);
        Ok(NewDeclaredRole { role, warnings })
    }

    async fn record_declaration(&self, identity: &Identity, project: &str, name: &RoleName) -> Result<ProjectId> {
        let project = self.accounts.project_of(identity, project).await?;
        let tx = self.core.store.project(&project).await?;
        let servers = declared_roles::servers(&tx, &project).await?;
        tx.rollback().await?;
        for server in &servers {
            self.require_free(server, name).await?;
        }
        // Of all projects: the key's project, which has the receipt, may be another of the account.
        let tx = self.core.store.jobs().await?;
        if declared_roles::insert(&tx, &project, name).await?.is_none() {
            return Err(ControlError::Exists {
                what: "role",
                name: name.to_string(),
                hint: None,
            });
        }
        let receipt = Receipt {
            project: project.clone(),
        };
        identity.leave_receipt(&tx, &self.core.store, &receipt).await?;
        tx.commit().await?;
        Ok(project)
    }

    /// A server that cannot be reached says nothing against it.
    async fn require_free(&self, server: &ServerName, name: &RoleName) -> Result<()> {
        let taken = engine::is_taken(
            &self.servers.admin(server).await?,
            self.core.store.installation(),
            name.as_str(),
        )
        .await;
        match taken {
            Ok(false) => Ok(()),
            Ok(true) => {
                let role = name.to_string();
                Err(refused(server, EngineError::RoleTaken { role }))
            }
            Err(error) => {
                tracing::warn!(%server, role = %name, %error, "a server could not be searched for the role");
                Ok(())
            }
        }
    }

    /// 409 while a change names the role, or a database of the project has anything of it. Memberships go at once; the
    /// server's role goes when no project declares it and nothing refers to it.
    pub async fn delete(&self, identity: &Identity, project: &str, name: &str) -> Result<RoleName> {
        identity.require(KeyScope::Admin)?;
        let project = self.accounts.project_of(identity, project).await?;
        let role = name.parse().map_err(|_| ControlError::not_found("role", name))?;
        let tx = self.core.store.project(&project).await?;
        let known = declared_roles::by_name(&tx, &project, &role).await?;
        let places = declared_roles::places(&tx, &project).await?;
        let servers = declared_roles::servers(&tx, &project).await?;
        let rows = workspaces::list(&tx, &project, None, i64::MAX).await?;
        tx.rollback().await?;
        if known.is_none() {
            return Err(ControlError::not_found("role", name));
        }
        for row in &rows {
            self.drains.drain_if_possible(row).await;
        }
        self.require_unnamed(&project, &role).await?;
        self.require_unreferred(&role, &places).await?;
        let tx = self.core.store.project(&project).await?;
        declared_roles::delete(&tx, &project, &role).await?;
        tx.commit().await?;
        for server in &servers {
            if let Err(error) = self.memberships.converge_on(server).await {
                tracing::warn!(%server, %role, error = %error.explained(), "a role that is no longer declared goes later");
            }
        }
        Ok(role)
    }

    async fn require_unnamed(&self, project: &ProjectId, role: &RoleName) -> Result<()> {
        let tx = self.core.store.project(project).await?;
        let changes = declared_roles::changes_naming(&tx, project, role, i64::MAX).await?;
        tx.rollback().await?;
        if changes.is_empty() {
            return Ok(());
        }
        let named = changes.iter().map(|(blueprint, id)| format!("{id} of \"{blueprint}\""));
        let detail = format!("role \"{role}\" is named by changes: {}", some(named.collect()));
        let hint = "Changes that are in no version can be left out with DELETE /workspaces/{id}/diff/{ddl_id}; others go with \
                    their workspace (DELETE /workspaces/{id}).";
        Err(ControlError::refused(ProblemCode::RoleInUse, detail, hint))
    }

    async fn require_unreferred(&self, role: &RoleName, places: &[OwnedDatabase]) -> Result<()> {
        let mut found = Vec::new();
        for of_server in places.chunk_by(|a, b| a.server == b.server) {
            let Some(OwnedDatabase { server, .. }) = of_server.first() else {
                continue;
            };
            let oids: Vec<u32> = of_server.iter().map(|place| place.oid).collect();
            let referring = engine::referring(&self.servers.admin(server).await?, role.as_str(), &oids).await;
            let referring = referring.map_err(|e| upstream(server, e))?;
            let of_role = of_server.iter().filter(|place| referring.contains(&place.oid));
            found.extend(of_role.map(shown));
        }
        found.dedup();
        if found.is_empty() {
            return Ok(());
        }
        let detail = format!("role \"{role}\" owns objects or has privileges in {}", some(found));
        let hint = "As the owner of each of these databases, run REASSIGN OWNED BY the role TO CURRENT_USER, then DROP OWNED BY it.";
        Err(ControlError::refused(ProblemCode::RoleInUse, detail, hint))
    }

    /// Workspaces that an earlier program made capture nothing of a declared role's DDL, and refuse it.
    async fn open_journals(&self, project: &ProjectId) -> Result<()> {
        let tx = self.core.store.project(project).await?;
        let rows = workspaces::list(&tx, project, None, i64::MAX).await?;
        tx.rollback().await?;
        for row in rows.iter().filter(|row| row.status == WorkspaceStatus::Ready) {
            let server = self.servers.admin(&row.physical.server).await?;
            if let Err(error) = journal::open_to_declared_roles(&server, database_name(&row.physical)?).await {
                tracing::warn!(workspace = %row.id, %error, "the journal is not open to declared roles");
            }
        }
        Ok(())
    }
}

fn parsed(name: &str) -> Result<RoleName> {
    name.parse()
        .map_err(|error: tdb_names::RoleNameError| ControlError::Invalid {
            field: "name",
            rule: error.to_string(),
        })
}

fn declared(row: DeclaredRoleRow) -> DeclaredRole {
    DeclaredRole {
        name: row.name,
        created_at: row.created_at,
    }
}

fn shown(place: &OwnedDatabase) -> String {
    match &place.tenant {
        Some(tenant) => format!("\"{}\" of tenant \"{tenant}\"", place.blueprint),
        None => format!("the workspace or a version of \"{}\"", place.blueprint),
    }
}

/// The first few of a list, and how many more there are.
fn some(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    all.truncate(NAMED_MAX);
    if more > 0 {
        all.push(format!("{more} more"));
    }
    all.join(", ")
}
