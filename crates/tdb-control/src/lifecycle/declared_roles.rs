//! Roles without login that a project declares, such as `anon`: list, declare, delete.
//! [`crate::lifecycle::memberships`] creates them on servers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tdb_engines::postgres::declared_roles as engine;
use tdb_engines::postgres::journal;
use tdb_names::{ProjectId, RoleName, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::declared_roles::{self, DeclaredRoleRow, OwnedDatabase};
use tdb_store::servers;
use tdb_store::workspaces::{self, WorkspaceRow, WorkspaceStatus};
use tokio::time::timeout;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};
use crate::identity::{Identity, KeyScope};
use crate::lifecycle::accounts::Accounts;
use crate::lifecycle::memberships::{Memberships, role_taken};
use crate::lifecycle::place::database_name;
use crate::lifecycle::servers::Servers;
use crate::model::DeclaredRole;
use crate::page::Page;
use crate::schema::drain::Drains;

/// How many changes or databases an error names.
const NAMED_MAX: usize = 5;
/// How long a declaration waits for a server to say whether it has a role of the name.
const CHECK_TIME_MAX: Duration = Duration::from_secs(3);

/// What a repeated request needs to continue: see [`crate::idempotency`].
#[derive(Serialize, Deserialize)]
struct Receipt {
    project: ProjectId,
}

/// Declared roles: list, declare, delete.
#[derive(Clone)]
pub struct DeclaredRoles {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) accounts: Accounts,
    pub(crate) memberships: Memberships,
    pub(crate) drains: Drains,
}

impl DeclaredRoles {
    /// The declared roles of a project of the key's account, by name. `project` is an id or a name.
    pub async fn list(&self, identity: &Identity, project: &str, page: &Page<RoleName>) -> Result<Vec<DeclaredRole>> {
        identity.require(KeyScope::Admin)?;
        let project = self.accounts.project_of(identity, project).await?;
        let tx = self.core.store.project(&project).await?;
        let rows = declared_roles::list(&tx, &project, page.after.as_ref(), page.limit.rows()).await?;
        tx.rollback().await?;
        Ok(rows.into_iter().map(declared).collect())
    }

    /// Declares a role and creates it on every server where the project has databases. The sweep creates it on servers
    /// that cannot be reached now; the warnings name them.
    pub async fn create(&self, identity: &Identity, project: &str, name: &str) -> Result<DeclaredRole> {
        identity.require(KeyScope::Admin)?;
        let project = match identity.receipt::<Receipt>()? {
            Some(receipt) => receipt.project,
            None => self.record_declaration(identity, project, &to_declare(name)?).await?,
        };
        let name = name
            .parse()
            .map_err(|_| ControlError::not_found(EntryKind::Role, name))?;
        let mut unreached = self.converge(&project, &name).await?;
        self.open_journals(&project).await?;
        let tx = self.core.store.project(&project).await?;
        let row = declared_roles::by_name(&tx, &project, &name).await?;
        tx.rollback().await?;
        let mut role = declared(row.ok_or_else(|| ControlError::not_found(EntryKind::Role, &name))?);
        role.warnings.append(&mut unreached);
        Ok(role)
    }

    /// Creates, or drops, the role on the servers of the project, on all at the same time. Returns a sentence for each that could not be reached.
    async fn converge(&self, project: &ProjectId, role: &RoleName) -> Result<Vec<String>> {
        let tx = self.core.store.project(project).await?;
        let servers = declared_roles::servers(&tx, project).await?;
        tx.rollback().await?;
        let work = servers.iter().map(|server| async move {
            self.servers.require_answered(server)?;
            self.servers.require_answer_now(server).await?;
            self.memberships.converge_on(server).await
        });
        let mut unreached = Vec::new();
        for (server, converged) in servers.iter().zip(join_all(work).await) {
            if let Err(error) = converged {
                tracing::warn!(%server, %role, error = %error.explained(), "declared roles could not be updated; it will be retried");
                unreached.push(format!("server \"{server}\" does not have the role yet: {error}"));
            }
        }
        Ok(unreached)
    }

    async fn record_declaration(&self, identity: &Identity, project: &str, name: &RoleName) -> Result<ProjectId> {
        let project = self.accounts.project_of(identity, project).await?;
        // All servers, since the project's next database may be on any of them.
        let tx = self.core.store.jobs().await?;
        let servers = servers::names(&tx).await?;
        tx.rollback().await?;
        let checks = servers.iter().map(|server| self.require_free(server, name));
        futures_util::future::try_join_all(checks).await?;
        // Over all projects: the receipt belongs to the key's project, the role may belong to another project of the
        // account.
        let tx = self.core.store.jobs().await?;
        if !declared_roles::insert(&tx, &project, name).await? {
            return Err(ControlError::Exists {
                what: EntryKind::Role,
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

    /// Fails if the server has a role of this name that this installation did not create. A server that does not answer
    /// does not count against the name: the sweep records on the role that it is taken there.
    async fn require_free(&self, server: &ServerName, name: &RoleName) -> Result<()> {
        if self.servers.is_silent(server) {
            return Ok(());
        }
        let check = async {
            let server = self.servers.admin(server).await?;
            let taken = engine::is_taken(&server, self.core.store.installation(), name.as_str()).await;
            taken.map_err(|e| upstream(&server.endpoint().name, e))
        };
        match timeout(CHECK_TIME_MAX, check).await {
            Ok(Ok(false)) => Ok(()),
            Ok(Ok(true)) => Err(role_taken(server, name.as_str())),
            Ok(Err(error)) => {
                tracing::warn!(%server, role = %name, error = %error.explained(), "could not check whether the server has the role");
                Ok(())
            }
            Err(_) => {
                tracing::warn!(%server, role = %name, "the server did not say in time whether it has the role");
                Ok(())
            }
        }
    }

    /// Deletes a declared role. 409 while a change names it, or while it owns objects or has privileges in a database
    /// of the project. Memberships are revoked at once. The role is dropped from a server when no project declares it
    /// and nothing refers to it.
    pub async fn delete(&self, identity: &Identity, project: &str, name: &str) -> Result<RoleName> {
        identity.require(KeyScope::Admin)?;
        let project = self.accounts.project_of(identity, project).await?;
        let role = name
            .parse()
            .map_err(|_| ControlError::not_found(EntryKind::Role, name))?;
        let tx = self.core.store.project(&project).await?;
        let known = declared_roles::by_name(&tx, &project, &role).await?;
        let places = declared_roles::places(&tx, &project).await?;
        let rows = workspaces::list(&tx, &project, None, i64::MAX).await?;
        tx.rollback().await?;
        if known.is_none() {
            return Err(ControlError::not_found(EntryKind::Role, name));
        }
        for row in &rows {
            self.drains.drain_if_possible(row).await;
        }
        self.require_unnamed(&project, &role).await?;
        self.require_unreferred(&role, &places).await?;
        let tx = self.core.store.project(&project).await?;
        declared_roles::delete(&tx, &project, &role).await?;
        tx.commit().await?;
        self.converge(&project, &role).await?;
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
            self.servers.require_answered(server)?;
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

    /// Workspaces that an earlier release created do not let a declared role write to the journal, so its DDL fails.
    async fn open_journals(&self, project: &ProjectId) -> Result<()> {
        let tx = self.core.store.project(project).await?;
        let rows = workspaces::list(&tx, project, None, i64::MAX).await?;
        tx.rollback().await?;
        let open =
            |row: &&WorkspaceRow| row.status == WorkspaceStatus::Ready && !self.servers.is_silent(&row.physical.server);
        for row in rows.iter().filter(open) {
            let server = self.servers.admin(&row.physical.server).await?;
            if let Err(error) = journal::open_to_declared_roles(&server, database_name(&row.physical)?).await {
                tracing::warn!(workspace = %row.id, %error, "the journal could not be opened to declared roles");
            }
        }
        Ok(())
    }
}

fn to_declare(name: &str) -> Result<RoleName> {
    RoleName::to_declare(name).map_err(|error| ControlError::Invalid {
        field: "name",
        rule: error.to_string(),
    })
}

fn declared(row: DeclaredRoleRow) -> DeclaredRole {
    DeclaredRole {
        name: row.name,
        created_at: row.created_at,
        warnings: row.faults,
    }
}

fn shown(place: &OwnedDatabase) -> String {
    match &place.tenant {
        Some(tenant) => format!("\"{}\" of tenant \"{tenant}\"", place.blueprint),
        None => format!("the workspace or a version of \"{}\"", place.blueprint),
    }
}

/// The first entries of a list, and the number of the others.
fn some(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    all.truncate(NAMED_MAX);
    if more > 0 {
        all.push(format!("{more} more"));
    }
    all.join(", ")
}
