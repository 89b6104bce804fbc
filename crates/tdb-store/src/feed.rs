//! The stream of route events to one proxy: LISTEN first, then the rows of the table in the order of their epochs. A
//! notification only triggers a read; so does the heartbeat, which also renews the proxy's lease and detects a dead
//! connection. On any error the feed ends, and the proxy subscribes again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tdb_contract::{Epoch, RouteChange, RouteChangeFeed};
use tdb_names::{CredentialId, DatabaseId, WorkspaceId};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::{Result, StoreError};
use crate::pools::Pools;
use crate::row::{column, parsed};
use crate::tx::{Parameter, answered};
use crate::url::Connected;

/// Events that the proxy has not received yet. If the queue is full, the feed waits, and the proxy's lease is not
/// renewed.
const QUEUE_LEN: usize = 1024;
/// The most rows that `events_after` returns.
const BATCH_LEN: usize = 1000;

/// The position of a proxy in the stream. It outlives the proxy's feeds.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) instance: Uuid,
    /// Events up to this epoch have been put into a feed. Negative: none yet.
    delivered: AtomicI64,
    acknowledged: AtomicI64,
    heartbeat: Duration,
    lease: Duration,
    /// Locked while the lease is renewed or given up, so that a heartbeat in progress does not register a retired proxy
    /// again.
    pub(crate) retired: Mutex<bool>,
}

impl Reader {
    /// A proxy whose last heartbeat is older than `lease` counts as gone; it sends three in that time.
    pub(crate) fn new(instance: Uuid, lease: Duration) -> Self {
        Self {
            instance,
            delivered: AtomicI64::new(-1),
            acknowledged: AtomicI64::new(0),
            heartbeat: lease / 3,
            lease,
            retired: Mutex::new(false),
        }
    }

    pub(crate) fn note_acknowledged(&self, epoch: Epoch) -> i64 {
        self.acknowledged.fetch_max(epoch.0, Ordering::AcqRel).max(epoch.0)
    }

    pub(crate) fn lease_seconds(&self) -> f64 {
        self.lease.as_secs_f64()
    }
}

/// Opens a feed. The first one starts now, a later one where the previous ended, so that sessions that had to end in
/// between do end.
pub(crate) async fn open(pools: &Pools, reader: Arc<Reader>) -> Result<RouteChangeFeed> {
    let connected = pools.listener().await?;
    answered(connected.client.batch_execute("LISTEN tdb_routes")).await?;
    if reader.delivered.load(Ordering::Acquire) < 0 {
        let rows = answered(connected.client.query("SELECT newest_epoch() AS epoch", &[])).await?;
        let newest: i64 = rows.first().map_or(Ok(0), |row| column(row, "epoch"))?;
        reader.delivered.store(newest, Ordering::Release);
        reader.note_acknowledged(Epoch(newest));
    }
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let feed = Feed {
        connected,
        reader,
        sender,
    };
    feed.renew_lease().await?;
    tokio::spawn(feed.run());
    Ok(RouteChangeFeed::new(receiver))
}

struct Feed {
    connected: Connected,
    reader: Arc<Reader>,
    sender: mpsc::Sender<RouteChange>,
}

impl Feed {
    /// Runs until the reader is dropped or the connection fails.
    async fn run(self) {
        let mut beat = interval(self.reader.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Err(error) = self.deliver().await {
                tracing::warn!(%error, "the feed of route changes is lost");
                return;
            }
            let alive = tokio::select! {
                () = self.connected.notified.notified() => Ok(()),
                _ = beat.tick() => self.renew_lease().await,
                () = self.sender.closed() => return,
            };
            if let Err(error) = alive {
                tracing::warn!(%error, "the feed of route changes is lost");
                return;
            }
        }
    }

    /// Reads everything after the last delivered epoch.
    async fn deliver(&self) -> Result<()> {
        loop {
            let last = self.reader.delivered.load(Ordering::Acquire);
            let sql =
                "SELECT epoch, project_id, kind, blueprint, tenant, workspace_id, database_id, user_name, credential_id
                       FROM events_after($1)";
            let rows = self.ask(sql, &[&last]).await?;
            for row in &rows {
                let change = change(row)?;
                let epoch = change.epoch().0;
                if self.sender.send(change).await.is_err() {
                    return Ok(());
                }
                self.reader.delivered.store(epoch, Ordering::Release);
            }
            if rows.len() < BATCH_LEN {
                return Ok(());
            }
        }
    }

    async fn renew_lease(&self) -> Result<()> {
        let retired = self.reader.retired.lock().await;
        if *retired {
            return Ok(());
        }
        let acknowledged = self.reader.acknowledged.load(Ordering::Acquire);
        let sql = "SELECT acknowledge($1, $2, make_interval(secs => $3))";
        self.ask(
            sql,
            &[&self.reader.instance, &acknowledged, &self.reader.lease_seconds()],
        )
        .await?;
        Ok(())
    }

    /// A reply that takes longer than a heartbeat counts as lost: an operation may be waiting for this proxy.
    async fn ask(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        match timeout(self.reader.heartbeat, self.connected.client.query(sql, parameters)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(StoreError::unavailable("the connection of the feed does not answer")),
        }
    }
}

fn change(row: &Row) -> Result<RouteChange> {
    let epoch = Epoch(column(row, "epoch")?);
    let project = parsed(row, "project_id")?;
    Ok(match column(row, "kind")? {
        "workspace" => RouteChange::Workspace {
            epoch,
            project,
            blueprint: parsed(row, "blueprint")?,
        },
        "tenant" => RouteChange::Tenant {
            epoch,
            project,
            tenant: parsed(row, "tenant")?,
        },
        "database_closed" => {
            let database = DatabaseId::from_uuid(column(row, "database_id")?);
            RouteChange::DatabaseClosed {
                epoch,
                project,
                tenant: parsed(row, "tenant")?,
                database,
            }
        }
        "workspace_closed" => {
            let workspace = WorkspaceId::from_uuid(column(row, "workspace_id")?);
            RouteChange::WorkspaceClosed {
                epoch,
                project,
                blueprint: parsed(row, "blueprint")?,
                workspace,
            }
        }
        "credential" => RouteChange::Credential {
            epoch,
            user: parsed(row, "user_name")?,
        },
        "credential_revoked" => {
            let credential = CredentialId::from_uuid(column(row, "credential_id")?);
            RouteChange::CredentialRevoked {
                epoch,
                user: parsed(row, "user_name")?,
                credential,
            }
        }
        _ => return Err(StoreError::corrupt("kind")),
    })
}
