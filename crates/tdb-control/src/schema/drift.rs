//! Drift: live schemas of tenants against those of their versions, and of workspaces against what their changes give. Looks are taken in the background, one task per server, and stored
//! with their time; what is asked for is answered from the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tdb_engines::postgres::fingerprint::{self, Difference as Found, Fingerprint};
use tdb_names::{BlueprintName, DatabaseId, ServerName, WorkspaceId};
use tdb_store::drift::{self, Due};
use tdb_store::tenants::FleetRow;
use tdb_store::workspaces::WorkspaceStatus;
use tdb_store::{tenants, versions, workspaces};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep};

use crate::core::{Core, limited};
use crate::error::{ControlError, Result, upstream};
use crate::identity::{Identity, KeyScope};
use crate::leases::{Lease, Subject};
use crate::lifecycle::place::database_name;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::{Difference, DriftReport, TenantDrift, Unchecked, WorkspaceDrift};
use crate::schema::drain::Drains;
use crate::schema::proof::Proofs;

/// Between two looks for what somebody asked for in another process.
const ASKED_EVERY: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How old a look may get before another is taken.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// Databases of a server taken up at once.
const DUE_MAX: i64 = 500;
const TIME_MAX: Duration = Duration::from_secs(30);

/// A version's schema on servers of one PostgreSQL major, read once for all databases of a round.
type Expected = Mutex<HashMap<(WorkspaceId, u32, u32), Arc<Fingerprint>>>;

/// Whose schema is looked at.
enum Checked {
    Tenant(DatabaseId),
    Workspace(WorkspaceId),
}

/// Differences between live schemas and versions.
#[derive(Clone)]
pub struct Drifts {
    core: Arc<Core>,
    servers: Servers,
    drains: Drains,
    workspaces: Workspaces,
    proofs: Proofs,
    /// A look at tenants' schemas was requested.
    asked: Arc<Notify>,
}

impl Drifts {
    pub(crate) fn new(
        core: &Arc<Core>,
        servers: &Servers,
        drains: &Drains,
        workspaces: &Workspaces,
        proofs: &Proofs,
    ) -> Self {
        Self {
            core: core.clone(),
            servers: servers.clone(),
            drains: drains.clone(),
            workspaces: workspaces.clone(),
            proofs: proofs.clone(),
            asked: Arc::default(),
        }
    }

    /// What is stored: tenants whose schema differs from their version's, and workspaces that have what no change accounts
    /// for, object by object; of one blueprint, or of all.
    pub async fn report(&self, identity: &Identity, blueprint: Option<&BlueprintName>) -> Result<DriftReport> {
        identity.require(KeyScope::Read)?;
        self.require_blueprint(identity, blueprint).await?;
        let tx = self.core.store.project(identity.project()).await?;
        let (rows, progress) = drift::report(&tx, identity.project(), blueprint).await?;
        let (workspaces, waiting) = drift::workspaces(&tx, identity.project(), blueprint).await?;
        tx.rollback().await?;
        let workspace = |row: drift::WorkspaceCheckRow| WorkspaceDrift {
            blueprint: row.blueprint,
            differences: row.differences.into_iter().map(shown).collect(),
        };
        let mut report = DriftReport {
            tenants: Vec::new(),
            workspaces: workspaces.into_iter().map(workspace).collect(),
            unchecked: Vec::new(),
            databases: progress.databases.saturating_add(waiting),
            pending: progress.pending.saturating_add(waiting),
            checked_at: progress.oldest,
        };
        for row in rows {
            match row.found {
                Ok(differences) => report.tenants.push(TenantDrift {
                    tenant: row.tenant,
                    blueprint: row.blueprint,
                    version: row.version,
                    checked_at: row.checked_at,
                    differences: differences.into_iter().map(shown).collect(),
                }),
                Err(reason) => report.unchecked.push(Unchecked {
                    tenant: row.tenant,
                    blueprint: row.blueprint,
                    checked_at: row.checked_at,
                    reason,
                }),
            }
        }
        Ok(report)
    }

    /// Has the tenants and the workspaces looked at anew; gives how many tenants. The looks are taken in the background.
    pub async fn refresh(&self, identity: &Identity, blueprint: Option<&BlueprintName>) -> Result<u32> {
        identity.require(KeyScope::Read)?;
        self.require_blueprint(identity, blueprint).await?;
        let tx = self.core.store.project(identity.project()).await?;
        let asked = drift::ask(&tx, identity.project(), blueprint).await?;
        tx.commit().await?;
        self.asked.notify_one();
        Ok(asked)
    }

    async fn require_blueprint(&self, identity: &Identity, blueprint: Option<&BlueprintName>) -> Result<()> {
        let Some(name) = blueprint else { return Ok(()) };
        let row = self.workspaces.row(identity, name).await;
        row.map(drop).map_err(|e| e.naming("blueprint"))
    }

    /// Takes the looks that somebody asked for, and in between those that are due by their age.
    pub(crate) async fn run(&self) {
        let mut swept: Option<Instant> = None;
        loop {
            limited("drift", TIME_MAX, self.look_at_due(Due::Asked)).await;
            if swept.is_none_or(|at| at.elapsed() > SWEEP_EVERY) {
                limited("drift", TIME_MAX, self.look_at_due(Due::Since(AGE_MAX))).await;
                swept = Some(Instant::now());
            }
            tokio::select! {
                () = self.asked.notified() => {}
                () = sleep(ASKED_EVERY) => {}
            }
        }
    }

    async fn look_at_due(&self, due: Due) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let workspaces = drift::due_workspaces(&tx, due, DUE_MAX).await?;
        let databases = drift::due(&tx, due, DUE_MAX).await?;
        tx.rollback().await?;
        // What somebody waits for takes what a deployment may take; the rest goes on beside everything else.
        let width = match due {
            Due::Asked => self.core.settings.deployments_per_server.get(),
            Due::Since(_) => 1,
        };
        let mut of_server: HashMap<ServerName, Vec<Checked>> = HashMap::new();
        for (server, id) in workspaces {
            of_server.entry(server).or_default().push(Checked::Workspace(id));
        }
        for (server, id) in databases {
            of_server.entry(server).or_default().push(Checked::Tenant(id));
        }
        for (server, checked) in of_server {
            let subject = match due {
                Due::Asked => Subject::Drift(server.clone()),
                Due::Since(_) => Subject::DriftSweep(server.clone()),
            };
            self.core
                .alone_in_background(self, subject, "drift of a server", move |drifts, lease| async move {
                    drifts.look_at_server(&lease, &server, checked, width).await
                });
        }
        Ok(())
    }

    async fn look_at_server(
        &self,
        lease: &Lease,
        server: &ServerName,
        checked: Vec<Checked>,
        width: usize,
    ) -> Result<()> {
        let expected = &Expected::default();
        let look = |subject| async move {
            match subject {
                Checked::Tenant(id) => self.look_at(lease, server, id, expected).await,
                Checked::Workspace(id) => self.look_at_workspace(lease, server, id).await,
            }
        };
        let mut looks = stream::iter(checked.into_iter().map(look)).buffer_unordered(width);
        while let Some(looked) = looks.next().await {
            looked?;
        }
        // More may be due than were taken up, or asked for meanwhile.
        self.asked.notify_one();
        Ok(())
    }

    /// A workspace that cannot be looked at keeps what was found before; an error is the store's.
    async fn look_at_workspace(&self, lease: &Lease, server: &ServerName, id: WorkspaceId) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = workspaces::by_id(&tx, id).await?;
        tx.rollback().await?;
        let Some(row) = row.filter(|row| row.status == WorkspaceStatus::Ready) else {
            return Ok(());
        };
        let begun = Instant::now();
        let mut found = None;
        if !self.servers.is_silent(server) {
            self.drains.drain_if_possible(&row).await;
            match Box::pin(self.proofs.uncaptured(&row)).await {
                Ok(differences) => found = Some(differences.into_iter().map(stored).collect::<Vec<_>>()),
                Err(error) => {
                    tracing::warn!(workspace = %id, error = %error.explained(), "a workspace could not be compared");
                }
            }
        }
        let tx = lease.begin().await?;
        drift::record_workspace(&tx, id, found.as_deref(), begun.elapsed()).await?;
        Ok(tx.commit().await?)
    }

    /// What is wrong with the tenant's database is stored; an error is the store's.
    async fn look_at(&self, lease: &Lease, server: &ServerName, id: DatabaseId, expected: &Expected) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        let row = tenants::database(&tx, id).await?;
        tx.rollback().await?;
        let Some((row, version)) = row.and_then(|row| row.database.version.map(|version| (row, version))) else {
            return Ok(());
        };
        let begun = Instant::now();
        let found = if self.servers.is_silent(server) {
            Err(format!("server \"{server}\" does not answer"))
        } else {
            self.differences(&row, version, expected)
                .await
                .map_err(|error| error.to_string())
        };
        let tx = lease.begin().await?;
        drift::record(&tx, id, version, &found, begun.elapsed()).await?;
        Ok(tx.commit().await?)
    }

    async fn differences(&self, row: &FleetRow, version: u32, expected: &Expected) -> Result<Vec<drift::Difference>> {
        let physical = &row.database.physical;
        let server = self.servers.admin(&physical.server).await?;
        let pg_major = self.servers.pg_major(&server).await?;
        let expected = self
            .facts_of_version(expected, row.database.workspace, version, pg_major)
            .await?;
        let found = fingerprint::take(&server, database_name(physical)?, &physical.roles.owner.name).await;
        let found = found.map_err(|e| upstream(&physical.server, e))?;
        if found.hash == expected.hash {
            return Ok(Vec::new());
        }
        Ok(expected.diff(&found).into_iter().map(stored).collect())
    }

    async fn facts_of_version(
        &self,
        known: &Expected,
        workspace: WorkspaceId,
        version: u32,
        pg_major: u32,
    ) -> Result<Arc<Fingerprint>> {
        let key = (workspace, version, pg_major);
        if let Some(facts) = known.lock().await.get(&key) {
            return Ok(facts.clone());
        }
        let tx = self.core.store.jobs().await?;
        let row = versions::facts(&tx, workspace, version, pg_major).await?;
        tx.rollback().await?;
        let row = row.ok_or_else(|| ControlError::not_found("fact list of version", version))?;
        let facts = Arc::new(Fingerprint {
            hash: row.hash,
            facts: row.facts,
        });
        known.lock().await.insert(key, facts.clone());
        Ok(facts)
    }
}

fn stored(found: Found) -> drift::Difference {
    drift::Difference {
        object: found.object,
        expected: found.expected,
        found: found.found,
    }
}

fn shown(stored: drift::Difference) -> Difference {
    Difference {
        object: stored.object,
        expected: stored.expected,
        found: stored.found,
    }
}
