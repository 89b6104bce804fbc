//! Declared roles on servers, and the memberships of databases' owners in them. They are created when a role is
//! declared, when a database is created, before changes are replayed, and by the sweep.

use std::collections::BTreeMap;
use std::sync::Arc;

use tdb_engines::postgres::EngineError;
use tdb_engines::postgres::declared_roles::{self as engine, Membership};
use tdb_names::{ProjectId, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::declared_roles;
use tdb_store::physical::Physical;

use crate::core::Core;
use crate::error::{ControlError, Result, upstream};
use crate::lifecycle::servers::Servers;

/// Declared roles on servers.
#[derive(Clone)]
pub(crate) struct Memberships {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
}

impl Memberships {
    /// Makes a database's owner a member of the roles that its project declares. Creates roles that the server lacks.
    pub(crate) async fn admit(&self, project: &ProjectId, physical: &Physical) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let names = declared_roles::names(&tx, project).await?;
        tx.rollback().await?;
        let wanted: Vec<Membership> = names
            .into_iter()
            .map(|role| Membership {
                role,
                owner: physical.roles.owner.name.clone(),
            })
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let server = self.servers.admin(&physical.server).await?;
        let admitted = engine::admit(&server, self.core.store.installation(), &wanted).await;
        admitted.map_err(|e| refused(&physical.server, e))
    }

    /// Makes a server match what all projects declare: creates and restores roles, revokes memberships, drops roles
    /// that are no longer declared.
    pub(crate) async fn converge_on(&self, name: &ServerName) -> Result<()> {
        let server = self.servers.admin(name).await?;
        let installation = self.core.store.installation();
        let failed = |e| upstream(name, e);
        let found = engine::states(&server, installation).await.map_err(failed)?;
        let tx = self.core.store.jobs().await?;
        let rows = declared_roles::memberships(&tx, name).await?;
        tx.rollback().await?;
        let wanted: Vec<Membership> = rows.into_iter().map(membership).collect();
        let converged = engine::converge(&server, &found, &wanted).await.map_err(failed)?;
        for role in converged.reset {
            tracing::warn!(server = %name, role, "a client changed a declared role; it was restored");
        }
        for role in converged.dropped {
            tracing::info!(server = %name, role, "a role that is no longer declared is dropped");
        }
        let mut by_role: BTreeMap<String, Vec<Membership>> = BTreeMap::new();
        for one in wanted {
            by_role.entry(one.role.clone()).or_default().push(one);
        }
        // A role whose name is taken on this server does not stop the others.
        let mut outcome = Ok(());
        for wanted in by_role.values() {
            if let Err(error) = engine::admit(&server, installation, wanted).await {
                outcome = Err(refused(name, error));
            }
        }
        outcome
    }
}

fn membership(row: declared_roles::Membership) -> Membership {
    Membership {
        role: row.role,
        owner: row.owner,
    }
}

/// An existing role that this installation did not create is not touched.
pub(crate) fn refused(server: &ServerName, error: EngineError) -> ControlError {
    match error {
        EngineError::RoleTaken { role } => {
            let detail = format!("server \"{server}\" has a role \"{role}\" that this installation did not create");
            let hint = "Rename that role on the server, or declare another name.";
            ControlError::refused(ProblemCode::RoleTaken, detail, hint)
        }
        other => upstream(server, other),
    }
}
