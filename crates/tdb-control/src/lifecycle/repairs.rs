//! Restores roles that a client changed. The sweep finds them, or a refused login. The difference is stored before the
//! repair, so that the API shows it while it exists.

use std::fmt::Write;
use std::sync::Arc;

use tdb_contract::{Repair, RouteKind};
use tdb_engines::postgres::Server;
use tdb_engines::postgres::role_states::{self, Differing, Expected, Groups};
use tdb_names::ServerName;
use tdb_store::database_roles::{self, DatabaseRoles, Readers};
use tdb_store::physical::Physical;

use crate::core::Core;
use crate::error::{ControlError, Result, upstream};
use crate::leases::Subject;
use crate::lifecycle::place::Placement;
use crate::lifecycle::place::role_names;
use crate::lifecycle::servers::Servers;

/// Restores roles that a client changed.
#[derive(Clone)]
pub(crate) struct Repairs {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) placement: Placement,
}

impl Repairs {
    /// Compares the roles of all databases on a server with what was recorded, with one query.
    pub(crate) async fn repair_roles_on(&self, name: &ServerName) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let rows = database_roles::on_server(&tx, name).await?;
        tx.rollback().await?;
        self.repair_roles(name, rows).await?;
        Ok(())
    }

    /// Checks and restores the roles of a database whose login the server refused.
    pub(crate) async fn repair_refused(&self, database: RouteKind) -> Result<Repair> {
        let id = match database {
            RouteKind::Workspace(id) => id.as_uuid(),
            RouteKind::Tenant(id) => id.as_uuid(),
        };
        self.repair_roles_of(id).await
    }

    /// Restores the roles of a database if code in a change altered the deployer's: it would otherwise fail the next
    /// deployment, or keep a password. Runs one query if the role is as recorded. What fails is left to the sweep.
    pub(crate) async fn repair_deployer(&self, id: uuid::Uuid, physical: &Physical) -> Repair {
        let repaired = self.try_repair_deployer(id, physical).await;
        repaired.unwrap_or_else(|error| {
            tracing::warn!(database = %id, error = %error.explained(), "could not check the deployer's role");
            Repair::NotNeeded
        })
    }

    async fn try_repair_deployer(&self, id: uuid::Uuid, physical: &Physical) -> Result<Repair> {
        let expected = Expected {
            names: role_names(physical),
            secrets: self.placement.role_secrets(physical)?,
            groups: Groups::Ignored,
        };
        let server = self.servers.admin(&physical.server).await?;
        let found = role_states::inspect(&server, std::slice::from_ref(&expected)).await;
        let found = found.map_err(|e| upstream(&physical.server, e))?;
        let is_deployer = |differing: &Differing| differing.role == expected.names.deployer;
        if found.iter().flatten().any(is_deployer) {
            return self.repair_roles_of(id).await;
        }
        Ok(Repair::NotNeeded)
    }

    pub(crate) async fn repair_roles_of(&self, id: uuid::Uuid) -> Result<Repair> {
        let tx = self.core.store.jobs().await?;
        let row = database_roles::by_id(&tx, id).await?;
        tx.rollback().await?;
        match row {
            Some(row) if row.there => {
                let server = row.physical.server.clone();
                self.repair_roles(&server, vec![row]).await
            }
            _ => Ok(Repair::NotNeeded),
        }
    }

    /// A database whose roles cannot be restored now is left to the next sweep and does not stop the others.
    async fn repair_roles(&self, name: &ServerName, rows: Vec<DatabaseRoles>) -> Result<Repair> {
        let server = self.servers.admin(name).await?;
        let (mut checked, mut expected) = (Vec::new(), Vec::new());
        for row in &rows {
            match self.expected(row) {
                Ok(state) => {
                    checked.push(row);
                    expected.push(state);
                }
                Err(error) => not_checked(row, &error),
            }
        }
        let found = role_states::inspect(&server, &expected).await;
        let found = found.map_err(|e| upstream(name, e))?;
        let mut outcome = Repair::NotNeeded;
        for ((row, expected), differing) in checked.into_iter().zip(&expected).zip(found) {
            match self.repair_found(&server, row, expected, &differing).await {
                Ok(Repair::Done) => outcome = Repair::Done,
                Ok(Repair::NotNeeded) => {}
                Err(error) => not_checked(row, &error),
            }
        }
        Ok(outcome)
    }

    async fn repair_found(
        &self,
        server: &Server,
        row: &DatabaseRoles,
        expected: &Expected,
        differing: &[Differing],
    ) -> Result<Repair> {
        if differing.is_empty() {
            if row.fault.is_some() {
                self.record_repair(row).await?;
            }
            return Ok(Repair::NotNeeded);
        }
        let lease = self.core.leases.take(Subject::Roles(row.id)).await?;
        if lease.during(self.repair_alone(server, row, expected)).await? {
            Ok(Repair::Done)
        } else {
            Ok(Repair::NotNeeded)
        }
    }

    /// Checks again under the lease and restores. `false` if the roles are still not as recorded.
    async fn repair_alone(&self, server: &Server, row: &DatabaseRoles, expected: &Expected) -> Result<bool> {
        let name = &server.endpoint().name;
        let found = role_states::inspect(server, std::slice::from_ref(expected)).await;
        let found = found.map_err(|e| upstream(name, e))?;
        let differing: Vec<Differing> = found.into_iter().flatten().collect();
        if !differing.is_empty() {
            let fault = described(&differing);
            tracing::warn!(database = %row.id, server = %name, fault, "a client changed a role; it will be restored");
            let tx = self.core.store.jobs().await?;
            database_roles::record_fault(&tx, row, &fault).await?;
            tx.commit().await?;
            if let Err(error) = role_states::repair(server, expected, &differing).await {
                tracing::warn!(database = %row.id, %error, "the role could not be restored; it will be retried");
                return Ok(false);
            }
        }
        self.record_repair(row).await?;
        Ok(true)
    }

    async fn record_repair(&self, row: &DatabaseRoles) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        database_roles::record_repair(&tx, row.id).await?;
        tx.commit().await?;
        Ok(())
    }

    fn expected(&self, row: &DatabaseRoles) -> Result<Expected> {
        Ok(Expected {
            names: role_names(&row.physical),
            secrets: self.placement.role_secrets(&row.physical)?,
            groups: match row.readers {
                Readers::Old => Groups::Ignored,
                Readers::None | Readers::Admitted => Groups::Checked,
            },
        })
    }
}

fn not_checked(row: &DatabaseRoles, error: &ControlError) {
    tracing::warn!(database = %row.id, error = %error.explained(), "could not check and restore the roles of a database; it will be retried");
}

fn described(differing: &[Differing]) -> String {
    let mut text = String::from("a client changed a role of the database, which will be restored: ");
    let all = differing
        .iter()
        .flat_map(|one| one.differences.iter().map(move |difference| (&one.role, difference)));
    for (at, (role, difference)) in all.enumerate() {
        let separator = if at == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{role}: {difference}");
    }
    text
}
