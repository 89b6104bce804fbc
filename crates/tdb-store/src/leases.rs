//! Table `leases`: which process works on what, until when. Taking, renewing and releasing are single statements, so that
//! no transaction stays open while the holder talks to a database server. A holder's writes confirm its token in their own
//! transaction: one that was paused past its time and woke up writes nothing.

use std::time::Duration;

use uuid::Uuid;

use crate::Store;
use crate::error::{Result, StoreError};
use crate::row::column;
use crate::tx::Tx;

/// Takes a lease that is free or whose time is over; gives its token. None while another holder has it.
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

/// Holds on to a lease. False: another holder has it, or it was ended.
pub async fn renew(store: &Store, name: &str, token: Uuid, time: Duration) -> Result<bool> {
    let sql = "UPDATE leases SET lease_until = now() + $3 * interval '1 second' WHERE name = $1 AND token = $2 RETURNING name";
    let rows = store.ask_as_jobs(sql, &[&name, &token, &time.as_secs_f64()]).await?;
    Ok(!rows.is_empty())
}

/// Lets the next one have it.
pub async fn release(store: &Store, name: &str, token: Uuid) -> Result<()> {
    let sql = "DELETE FROM leases WHERE name = $1 AND token = $2";
    store.ask_as_jobs(sql, &[&name, &token]).await.map(drop)
}

/// Makes the transaction depend on the lease: [`StoreError::LeaseLost`] where another holder has taken it, and none takes
/// it before the transaction ends. In a transaction of [`Store::jobs`].
pub async fn confirm(tx: &Tx, name: &str, token: Uuid) -> Result<()> {
    let sql = "SELECT FROM leases WHERE name = $1 AND token = $2 FOR KEY SHARE";
    match tx.query_opt(sql, &[&name, &token]).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::LeaseLost { name: name.to_owned() }),
    }
}

/// Ends what an earlier process of this `home` held, which is dead; leases of other processes stay. Whoever calls this
/// holds something outside of the store that only one process can hold.
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
