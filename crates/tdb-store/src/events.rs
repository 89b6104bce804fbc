//! Table `route_events`: which cached routes and credentials are stale, and which sessions must end. A change and its
//! event are written in one transaction, so that neither exists without the other.

use std::time::Duration;

use tdb_contract::Epoch;
use tdb_names::{BlueprintName, CredentialId, DatabaseId, ProjectId, TenantName, UserName, WorkspaceId};
use tokio::time::{Instant, sleep};

use crate::Store;
use crate::error::Result;
use crate::row::column;
use crate::tx::{Parameter, Tx};

/// Proxies reply within milliseconds; the interval doubles up to one second.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_LAST: Duration = Duration::from_millis(100);

/// The result of waiting for the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// Every proxy has applied the events, or its lease has expired.
    ByAll,
    /// Some proxy has not confirmed in time; it will still apply the events.
    NotInTime,
}

/// Cached routes to a blueprint's workspace are stale.
pub async fn workspace_changed(tx: &Tx, project: &ProjectId, blueprint: &BlueprintName) -> Result<()> {
    insert(tx, project, "workspace", "blueprint", &[&blueprint.as_str()]).await
}

/// Cached routes to a tenant's databases are stale.
pub async fn tenant_changed(tx: &Tx, project: &ProjectId, tenant: &TenantName) -> Result<()> {
    insert(tx, project, "tenant", "tenant", &[&tenant.as_str()]).await
}

/// Sessions on this database must end.
pub async fn database_closed(tx: &Tx, project: &ProjectId, tenant: &TenantName, database: DatabaseId) -> Result<()> {
    insert(
        tx,
        project,
        "database_closed",
        "tenant, database_id",
        &[&tenant.as_str(), &database.as_uuid()],
    )
    .await
}

/// Sessions on this workspace must end.
pub async fn workspace_closed(
    tx: &Tx,
    project: &ProjectId,
    blueprint: &BlueprintName,
    workspace: WorkspaceId,
) -> Result<()> {
    insert(
        tx,
        project,
        "workspace_closed",
        "blueprint, workspace_id",
        &[&blueprint.as_str(), &workspace.as_uuid()],
    )
    .await
}

/// A cached credential is stale.
pub async fn credential_changed(tx: &Tx, project: &ProjectId, user: &UserName) -> Result<()> {
    insert(tx, project, "credential", "user_name", &[&user.as_str()]).await
}

/// Sessions of a credential must end.
pub async fn credential_revoked(tx: &Tx, project: &ProjectId, user: &UserName, id: CredentialId) -> Result<()> {
    insert(
        tx,
        project,
        "credential_revoked",
        "user_name, credential_id",
        &[&user.as_str(), &id.as_uuid()],
    )
    .await
}

async fn insert(tx: &Tx, project: &ProjectId, kind: &str, columns: &str, values: &[Parameter<'_>]) -> Result<()> {
    let places: String = (3..).take(values.len()).map(|n| format!(", ${n}")).collect();
    let sql = format!("INSERT INTO route_events (project_id, kind, {columns}) VALUES ($1, $2{places})");
    let project = project.as_str();
    let mut parameters: Vec<Parameter<'_>> = vec![&project, &kind];
    parameters.extend_from_slice(values);
    tx.execute(&sql, &parameters).await?;
    Ok(())
}

/// The newest committed epoch.
pub async fn newest(tx: &Tx) -> Result<Epoch> {
    Ok(Epoch(column(
        &tx.query_one("SELECT newest_epoch() AS epoch", &[]).await?,
        "epoch",
    )?))
}

/// Waits until every proxy has applied everything committed before this call, for at most `time`.
pub async fn wait_acknowledged(store: &Store, time: Duration) -> Result<Acknowledged> {
    let deadline = Instant::now() + time;
    let tx = store.jobs().await?;
    let epoch = newest(&tx).await?;
    tx.rollback().await?;
    let mut pause = POLL_FIRST;
    loop {
        if all_have(store, epoch).await? {
            return Ok(Acknowledged::ByAll);
        }
        if Instant::now() + pause > deadline {
            return Ok(Acknowledged::NotInTime);
        }
        sleep(pause).await;
        pause = (pause * 2).min(POLL_LAST);
    }
}

async fn all_have(store: &Store, epoch: Epoch) -> Result<bool> {
    let tx = store.jobs().await?;
    let sql = "SELECT 1 FROM proxies WHERE acked_epoch < $1 AND lease_until > clock_timestamp() LIMIT 1";
    let behind = tx.query_opt(sql, &[&epoch.0]).await?;
    tx.rollback().await?;
    Ok(behind.is_none())
}

/// Deletes events that no proxy can still need, and proxies whose lease expired `days` ago. In a transaction of
/// [`Store::jobs`].
pub async fn forget_old(tx: &Tx, days: i32) -> Result<u64> {
    let proxies = "DELETE FROM proxies WHERE lease_until < now() - make_interval(days => $1)";
    tx.execute(proxies, &[&days]).await?;
    // The newest event is kept: the next reader starts from its epoch.
    let events =
        "DELETE FROM route_events WHERE created_at < now() - make_interval(days => $1) AND epoch < newest_epoch()";
    tx.execute(events, &[&days]).await
}
