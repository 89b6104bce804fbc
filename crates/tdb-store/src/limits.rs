//! What the clients of tenants may use: columns of table `tenants`. NULL stands for what the proxy's configuration says.

use std::num::NonZeroU32;
use std::time::Duration;

use tdb_contract::{PoolMode, TenantLimits};
use tdb_names::{ProjectId, TenantName};
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::row::{column, number};
use crate::tx::Tx;

/// The limits of a tenant; `None` if it does not exist.
pub async fn of(tx: &Tx, project: &ProjectId, tenant: &TenantName) -> Result<Option<TenantLimits>, StoreError> {
    let sql = "SELECT pool_mode, clients_max, server_connections_max, queue_timeout FROM tenants
                WHERE project_id = $1 AND name = $2";
    let row = tx.query_opt(sql, &[&project.as_str(), &tenant.as_str()]).await?;
    row.as_ref().map(from_row).transpose()
}

/// Replaces all limits of a tenant. False if it does not exist.
pub async fn replace(
    tx: &Tx,
    project: &ProjectId,
    tenant: &TenantName,
    limits: &TenantLimits,
) -> Result<bool, StoreError> {
    let sql = "UPDATE tenants SET pool_mode = $3, clients_max = $4, server_connections_max = $5, queue_timeout = $6
                WHERE project_id = $1 AND name = $2";
    let stored = |limit: Option<NonZeroU32>| limit.map(|limit| number(limit.get())).transpose();
    let seconds = limits.queue_timeout.map(|time| i32::try_from(time.as_secs()));
    let seconds = seconds.transpose().map_err(|_| StoreError::corrupt("queue_timeout"))?;
    let replaced = tx
        .execute(
            sql,
            &[
                &project.as_str(),
                &tenant.as_str(),
                &limits.pool_mode.map(pool_mode_word),
                &stored(limits.clients_max)?,
                &stored(limits.server_connections_max)?,
                &seconds,
            ],
        )
        .await?;
    Ok(replaced == 1)
}

pub(crate) fn from_row(row: &Row) -> Result<TenantLimits, StoreError> {
    let seconds: Option<i32> = column(row, "queue_timeout")?;
    let seconds = seconds.map(u64::try_from).transpose();
    Ok(TenantLimits {
        pool_mode: column::<Option<&str>>(row, "pool_mode")?.map(pool_mode).transpose()?,
        clients_max: limit(row, "clients_max")?,
        server_connections_max: limit(row, "server_connections_max")?,
        queue_timeout: seconds
            .map_err(|_| StoreError::corrupt("queue_timeout"))?
            .map(Duration::from_secs),
    })
}

fn limit(row: &Row, name: &str) -> Result<Option<NonZeroU32>, StoreError> {
    let stored: Option<i32> = column(row, name)?;
    let limit = stored.map(|stored| u32::try_from(stored).ok().and_then(NonZeroU32::new));
    limit
        .map(|limit| limit.ok_or_else(|| StoreError::corrupt(name)))
        .transpose()
}

fn pool_mode_word(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Auto => "auto",
    }
}

fn pool_mode(word: &str) -> Result<PoolMode, StoreError> {
    match word {
        "session" => Ok(PoolMode::Session),
        "auto" => Ok(PoolMode::Auto),
        _ => Err(StoreError::corrupt("pool_mode")),
    }
}
