//! Drift: comparison of tenants' schemas with their versions, and of workspaces with their changes. Comparisons run in
//! the background, one task per server, and are stored with their time. Reports are read from the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tdb_engines::postgres::change::Checksum;
use tdb_engines::postgres::deployed_record::{self, ExpectedRecord, WrongRow};
use tdb_engines::postgres::fingerprint::{self, Fingerprint};
use tdb_names::{BlueprintName, DatabaseId, ServerName, TenantName, WorkspaceId};
use tdb_problems::ProblemCode;
use tdb_store::drift::{self, Due};
use tdb_store::tenants::{DatabaseStatus, FleetRow, TenantStatus};
use tdb_store::workspaces::WorkspaceStatus;
use tdb_store::{changes, tenants, versions, workspaces};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep};

use crate::core::{Core, limited};
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, upstream};
use crate::identity::{Identity, KeyScope};
use crate::leases::{Lease, Subject};
use crate::lifecycle::place::database_name;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::{Difference, DriftReport, TenantDrift, Unchecked, WorkspaceDrift};
use crate::schema::drain::Drains;
use crate::schema::proof::Proofs;

/// The pause between two checks for comparisons that were requested in another process.
const ASKED_EVERY: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The age from which a comparison is repeated.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// The number of databases that one round takes per server.
const DUE_MAX: i64 = 500;
/// The number of wrong rows of `tdb.deployed_change` that a comparison shows; a client can have written any number.
const WRONG_ROWS_MAX: usize = 100;
const TIME_MAX: Duration = Duration::from_secs(30);

/// The schemas of versions on one PostgreSQL major version, read once for all databases of a round.
type Expected = Mutex<HashMap<(WorkspaceId, u32, u32), Arc<Fingerprint>>>;

/// What is compared.
enum Checked {
    Tenant(DatabaseId),
    Workspace(WorkspaceId),
}

/// Differences between databases and the schemas that they should have.
#[derive(Clone)]
pub struct Drifts {
    core: Arc<Core>,
    servers: Servers,
    drains: Drains,
    workspaces: Workspaces,
    proofs: Proofs,
    /// Notified when a comparison was requested.
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

    /// The stored differences of one blueprint or of all: tenants whose schema differs from their version, and
    /// workspaces with objects that no change accounts for.
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

    /// Requests a new comparison of the tenants and workspaces, which runs in the background. Returns the number of
    /// tenants.
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
        row.map(drop).map_err(|e| e.naming(EntryKind::Blueprint))
    }

    /// Runs the requested comparisons and, less often, those that are due by their age.
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
        // Requested comparisons may use as many connections as a deployment; the others use one.
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
        // More comparisons may be due than one round takes, or may have been requested meanwhile.
        self.asked.notify_one();
        Ok(())
    }

    /// Compares a workspace. If that is not possible, the stored result stays. Only an error of the store is returned.
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

    /// Compares a tenant's database. If that is not possible, the reason is stored. Only an error of the store is
    /// returned.
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
        let (database, owner) = (database_name(physical)?, &physical.roles.owner.name);
        let found = deployed_record::rows_and_fingerprint(&server, database, owner).await;
        let (rows, found) = found.map_err(|e| upstream(&physical.server, e))?;
        let mut differences = Vec::new();
        if found.hash != expected.hash {
            differences.extend(expected.diff(&found).into_iter().map(stored));
        }
        // Read after the rows: the log then has all changes that they are about.
        let record = self.expected_record(row.database.workspace, version).await?;
        let wrong = record.wrong_of(&rows).into_iter().take(WRONG_ROWS_MAX);
        differences.extend(wrong.map(record_difference));
        Ok(differences)
    }

    /// Corrects what a tenant's database records about applied changes: rows that the change log does not have are
    /// deleted, those of the database's version are restored. Returns what was wrong.
    pub async fn repair(
        &self,
        identity: &Identity,
        blueprint: &BlueprintName,
        tenant: &TenantName,
    ) -> Result<Vec<Difference>> {
        identity.require(KeyScope::Write)?;
        let tx = self.core.store.project(identity.project()).await?;
        let fleet = tenants::of_tenant(&tx, identity.project(), tenant).await?;
        tx.rollback().await?;
        let row = fleet.into_iter().find(|row| row.database.blueprint == *blueprint);
        let row = row.ok_or_else(|| ControlError::NoDatabase {
            tenant: tenant.clone(),
            blueprint: blueprint.clone(),
        })?;
        let is_there = row.database.status == DatabaseStatus::Ready
            && matches!(row.tenant_status, TenantStatus::Ready | TenantStatus::Suspended);
        let version = row.database.version.filter(|_| is_there && !row.migrating);
        let version = version.ok_or_else(|| {
            let detail = format!("a deployment is running on tenant \"{tenant}\", or it is not ready");
            ControlError::refused(ProblemCode::WrongState, detail, "Try again when it has ended.")
        })?;
        let record = self.expected_record(row.database.workspace, version).await?;
        let physical = &row.database.physical;
        let server = self.servers.admin(&physical.server).await?;
        let database = database_name(physical)?;
        let corrected = async {
            let corrected = deployed_record::correct(&server, database, &record).await;
            corrected.map_err(|e| upstream(&physical.server, e))
        };
        let corrected = self.servers.patiently(&physical.server, corrected).await?;
        for wrong in &corrected {
            tracing::warn!(database = %row.database.id, change = wrong.id, "a row of tdb.deployed_change was corrected");
        }
        let corrected = corrected.into_iter().take(WRONG_ROWS_MAX);
        Ok(corrected.map(record_difference).map(shown).collect())
    }

    /// What the databases of a version record about applied changes.
    async fn expected_record(&self, workspace: WorkspaceId, version: u32) -> Result<ExpectedRecord> {
        let tx = self.core.store.jobs().await?;
        let log = changes::heads(&tx, workspace).await?;
        let row = versions::by_number(&tx, workspace, version).await?;
        tx.rollback().await?;
        let row = row.ok_or_else(|| ControlError::not_found(EntryKind::Version, version))?;
        let log = log.into_iter().map(|change| {
            let checksum = Checksum::from_bytes(&change.checksum);
            let checksum = checksum.ok_or_else(|| ControlError::internal("a checksum does not have 32 bytes"))?;
            Ok((i64::from(change.id), checksum))
        });
        Ok(ExpectedRecord {
            log: log.collect::<Result<_>>()?,
            deployed: row.change_ids.into_iter().map(i64::from).collect(),
        })
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
        let row = row.ok_or_else(|| ControlError::not_found(EntryKind::FactList, version))?;
        let facts = Arc::new(Fingerprint {
            hash: row.hash,
            facts: row.facts,
        });
        known.lock().await.insert(key, facts.clone());
        Ok(facts)
    }
}

fn record_difference(row: WrongRow) -> drift::Difference {
    drift::Difference {
        object: format!("row {} of tdb.deployed_change", row.id),
        expected: row.expected,
        found: row.found,
    }
}

fn stored(found: fingerprint::Difference) -> drift::Difference {
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
