//! Table `leases`: which process works on what, and until when. Taking, renewing and releasing are single statements,
//! so that no transaction stays open while the holder talks to a database server. A holder confirms its token in the
//! transaction of each write: a process that was paused past the end of its lease writes nothing.

use std::time::Duration;

use uuid::Uuid;

use crate::Store;
use crate::error::{Result, StoreError};
use crate::row::column;
use crate::tx::Tx;

/// Takes a lease that is free or expired and returns its token. `None` if another holder has it.
pub async fn take(store: &Store, name: &str, time: Duration) -> Result<Option<Uuid>> {
    let sql = "INSERT INTO leases AS l (name, token, holder, lease_until)
               VALUES ($1, $2, $3, now() + $4 * interval '1 second')
               ON CONFLICT (name) DO UPDATE SET token = EXCLUDED.token, holder = EXCLUDED.holder, lease_until = EXCLUDED.lease_until
                   WHERE l.lease_until <= now()
               RETURNING token";
    let (token, holder, time) = (Uuid::new_v4(), store.instance(), time.as_secs_f64());
    let rows = store.ask_as_jobs(sql, &[&name, &token, &holder, &time]).await?;
    rows.first().map(|row| column(row, "token")).transpose()
}

/// Extends a lease. False if another holder has it, or if it was ended.
pub async fn renew(store: &Store, name: &str, token: Uuid, time: Duration) -> Result<bool> {
    let sql = "UPDATE leases SET lease_until = now() + $3 * interval '1 second' WHERE name = $1 AND token = $2 RETURNING name";
    let rows = store.ask_as_jobs(sql, &[&name, &token, &time.as_secs_f64()]).await?;
    Ok(!rows.is_empty())
}

/// Gives up a lease, so that others can take it.
pub async fn release(store: &Store, name: &str, token: Uuid) -> Result<()> {
    let sql = "DELETE FROM leases WHERE name = $1 AND token = $2";
    store.ask_as_jobs(sql, &[&name, &token]).await.map(drop)
}

/// Makes the transaction conditional on the lease, which no other holder can take before the transaction ends.
/// [`StoreError::LeaseLost`] if another holder has taken it. In a transaction of [`Store::jobs`].
pub async fn confirm(tx: &Tx, name: &str, token: Uuid) -> Result<()> {
    let sql = "SELECT FROM leases WHERE name = $1 AND token = $2 FOR KEY SHARE";
    match tx.query_opt(sql, &[&name, &token]).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::LeaseLost { name: name.to_owned() }),
    }
}

/// Ends the leases of an earlier process of this `home`; those of other processes stay. The caller must hold a lock
/// outside of the store that only one process can hold, which proves that the earlier process is dead.
pub async fn take_over(tx: &Tx, store: &Store, home: &str) -> Result<()> {
    let instance = store.instance();
    let before = "SELECT instance FROM processes WHERE home = $1 FOR UPDATE";
    let before = tx.query_opt(before, &[&home]).await?;
    let before: Option<Uuid> = before.map(|row| column(&row, "instance")).transpose()?;
    if let Some(dead) = before.filter(|before| *before != instance) {
        tx.execute("DELETE FROM leases WHERE holder = $1", &[&dead]).await?;
        let targets = "UPDATE deployment_targets SET lease_until = now() - interval '1 second'
                       WHERE lease_holder = $1 AND status = 'running'";
        tx.execute(targets, &[&dead]).await?;
        tx.execute("DELETE FROM proxies WHERE instance = $1", &[&dead]).await?;
    }
    let sql = "INSERT INTO processes (home, instance) VALUES ($1, $2)
               ON CONFLICT (home) DO UPDATE SET instance = EXCLUDED.instance";
    tx.execute(sql, &[&home, &instance]).await?;
    Ok(())
}
