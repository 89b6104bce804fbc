//! Table `route_events`: what proxies must forget and which sessions they must end. A change of routes or credentials
//! and its event are one transaction, so that neither is without the other.

use std::time::Duration;

use tdb_contract::Epoch;
use tdb_names::{BlueprintName, CredentialId, DatabaseId, ProjectId, TenantName, UserName, WorkspaceId};
use tokio::time::{Instant, sleep};

use crate::Store;
use crate::error::Result;
use crate::row::column;
use crate::tx::{Parameter, Tx};

/// Proxies answer in milliseconds; the pauses double up to the second.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_LAST: Duration = Duration::from_millis(100);

/// What waiting for the proxies gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// Every proxy acted, or its lease ran out.
    ByAll,
    /// Some proxy is slower than the caller would wait; it will still act.
    NotInTime,
}

/// Routes of a blueprint's workspace are to be asked again.
pub async fn workspace_changed(tx: &Tx, project: &ProjectId, blueprint: &BlueprintName) -> Result<()> {
    insert(tx, project, "workspace", "blueprint", &[&blueprint.as_str()]).await
}

/// Routes of a tenant are to be asked again.
pub async fn tenant_changed(tx: &Tx, project: &ProjectId, tenant: &TenantName) -> Result<()> {
    insert(tx, project, "tenant", "tenant", &[&tenant.as_str()]).await
}

/// Sessions on this database are to end.
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

/// Sessions in this workspace are to end.
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

/// A credential is to be asked again.
pub async fn credential_changed(tx: &Tx, project: &ProjectId, user: &UserName) -> Result<()> {
    insert(tx, project, "credential", "user_name", &[&user.as_str()]).await
}

/// Sessions of a credential are to end.
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

/// The newest epoch that was committed.
pub async fn newest(tx: &Tx) -> Result<Epoch> {
    Ok(Epoch(column(
        &tx.query_one("SELECT newest_epoch() AS epoch", &[]).await?,
        "epoch",
    )?))
}

/// Waits until every proxy has acted on all that was committed before this call, at most `time`.
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

/// Forgets events older than any proxy may have missed, and proxies that are long gone; in a transaction of
/// [`Store::jobs`].
pub async fn forget_old(tx: &Tx, days: i32) -> Result<u64> {
    let proxies = "DELETE FROM proxies WHERE lease_until < now() - make_interval(days => $1)";
    tx.execute(proxies, &[&days]).await?;
    // The newest one stays: it is what the next reader counts from.
    let events =
        "DELETE FROM route_events WHERE created_at < now() - make_interval(days => $1) AND epoch < newest_epoch()";
    tx.execute(events, &[&days]).await
}
