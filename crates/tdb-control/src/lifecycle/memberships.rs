//! Declared roles on servers, and the memberships of databases' owners in them; the groups, as far as clients can change
//! them. They are created when a role is declared, when a database is created, before changes are replayed, and by the
//! sweep. What is declared is read and applied under a lease of the server, so that no membership is granted after the
//! role's deletion has revoked it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tdb_engines::postgres::declared_roles::{self as engine, Membership};
use tdb_engines::postgres::{EngineError, Server};
use tdb_names::{ProjectId, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::declared_roles::{self, RoleFault};
use tdb_store::physical::Physical;

use crate::core::Core;
use crate::error::{ControlError, Result, upstream};
use crate::leases::Subject;
use crate::lifecycle::servers::Servers;

/// Declared roles on servers.
#[derive(Clone)]
pub(crate) struct Memberships {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
}

impl Memberships {
    /// Makes a database's owner a member of the roles that its project declares. Creates roles that the server lacks.
    /// Returns the declared roles whose names other roles of the server have; they are recorded, and the database works
    /// without them.
    pub(crate) async fn admit(&self, project: &ProjectId, physical: &Physical) -> Result<Vec<String>> {
        if self.declared(project).await?.is_empty() {
            return Ok(Vec::new());
        }
        let lease = self
            .core
            .leases
            .take(Subject::Memberships(physical.server.clone()))
            .await?;
        lease.during(self.admit_alone(project, physical)).await
    }

    async fn admit_alone(&self, project: &ProjectId, physical: &Physical) -> Result<Vec<String>> {
        let owner = &physical.roles.owner.name;
        let wanted: Vec<Membership> = self
            .declared(project)
            .await?
            .into_iter()
            .map(|role| Membership {
                role,
                owner: owner.clone(),
            })
            .collect();
        let name = &physical.server;
        let server = self.servers.admin(name).await?;
        let taken = engine::admit(&server, self.core.store.installation(), &wanted).await;
        let taken = taken.map_err(|e| upstream(name, e))?;
        if !taken.is_empty() {
            let faults: Vec<RoleFault> = taken.iter().map(|role| taken_fault(name, role)).collect();
            let tx = self.core.store.jobs().await?;
            declared_roles::record_faults(&tx, Some(project), name, &faults).await?;
            tx.commit().await?;
        }
        Ok(taken)
    }

    /// Makes a server match what all projects declare: creates and restores roles, revokes memberships, drops roles
    /// that are no longer declared. A role for which that is not possible does not stop the others; it is recorded for
    /// the projects that declare it.
    pub(crate) async fn converge_on(&self, name: &ServerName) -> Result<()> {
        let lease = self.core.leases.take(Subject::Memberships(name.clone())).await?;
        lease.during(self.converge_alone(name)).await
    }

    async fn converge_alone(&self, name: &ServerName) -> Result<()> {
        let server = self.servers.admin(name).await?;
        let failed = |e| upstream(name, e);
        let found = engine::states(&server, self.core.store.installation())
            .await
            .map_err(failed)?;
        let tx = self.core.store.jobs().await?;
        let rows = declared_roles::memberships(&tx, name).await?;
        tx.rollback().await?;
        let wanted: Vec<Membership> = rows.into_iter().map(membership).collect();
        let converged = engine::converge(&server, &found, &wanted).await.map_err(failed)?;
        for role in converged.reset {
            tracing::warn!(server = %name, role, "a client changed a role that databases share; it was restored");
        }
        for role in converged.dropped {
            tracing::info!(server = %name, role, "a role that is no longer declared is dropped");
        }
        for (role, reason) in &converged.failed {
            tracing::warn!(server = %name, role, reason, "a role that databases share could not be restored; it will be retried");
        }
        // Of groups nothing is recorded: no project declares them.
        let mut faults: Vec<RoleFault> = converged
            .failed
            .into_iter()
            .map(|(role, reason)| RoleFault {
                fault: format!("server \"{name}\": the role could not be restored: {reason}"),
                role,
            })
            .collect();
        faults.extend(self.admit_all(&server, wanted).await?);
        let tx = self.core.store.jobs().await?;
        declared_roles::replace_faults(&tx, name, &faults).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn declared(&self, project: &ProjectId) -> Result<Vec<String>> {
        let tx = self.core.store.jobs().await?;
        let names = declared_roles::names(&tx, project).await?;
        tx.rollback().await?;
        Ok(names)
    }

    /// Grants the memberships, role by role; returns the roles for which that is not possible.
    async fn admit_all(&self, server: &Server, wanted: Vec<Membership>) -> Result<Vec<RoleFault>> {
        let name = &server.endpoint().name;
        let mut by_role: BTreeMap<String, Vec<Membership>> = BTreeMap::new();
        for one in wanted {
            by_role.entry(one.role.clone()).or_default().push(one);
        }
        let mut faults = Vec::new();
        for (role, wanted) in by_role {
            match engine::admit(server, self.core.store.installation(), &wanted).await {
                Ok(taken) => faults.extend(taken.iter().map(|role| taken_fault(name, role))),
                Err(error @ EngineError::Sql { .. }) => {
                    let fault = format!("server \"{name}\": memberships in the role could not be granted: {error}");
                    faults.push(RoleFault { role, fault });
                }
                Err(error) => return Err(upstream(name, error)),
            }
        }
        for fault in &faults {
            tracing::warn!(server = %name, role = fault.role, fault = fault.fault, "a declared role is not as declared");
        }
        Ok(faults)
    }
}

fn membership(row: declared_roles::Membership) -> Membership {
    Membership {
        role: row.role,
        owner: row.owner,
    }
}

fn taken_fault(server: &ServerName, role: &str) -> RoleFault {
    RoleFault {
        role: role.to_owned(),
        fault: taken_text(server, role),
    }
}

fn taken_text(server: &ServerName, role: &str) -> String {
    format!("server \"{server}\" has a role \"{role}\" that this installation did not create")
}

/// The error for a declared role whose name is taken. An existing role that this installation did not create is not
/// touched.
pub(crate) fn role_taken(server: &ServerName, role: &str) -> ControlError {
    let hint = "Rename that role on the server, or declare another name.";
    ControlError::refused(ProblemCode::RoleTaken, taken_text(server, role), hint)
}
