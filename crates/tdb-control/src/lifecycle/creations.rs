//! A limit on the number of databases that are created on one server at the same time: each creation copies files, and
//! a few of them saturate a disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tdb_names::ServerName;
use tdb_problems::ProblemCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{ControlError, Result};
use crate::leases::{Lease, Leases, Subject};

/// The limit per server, over all processes.
const AT_ONCE: usize = 4;
/// How long a creation waits for a slot.
const PLACE_TIME_MAX: Duration = Duration::from_secs(120);
const LOOK_FIRST: Duration = Duration::from_millis(2);
const LOOK_LAST: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub(crate) struct Creations {
    leases: Leases,
    /// The queue of this process, in order of arrival.
    queues: Arc<Mutex<HashMap<ServerName, Arc<Semaphore>>>>,
}

/// A slot for creating one database. Dropping it releases the slot.
#[derive(Debug)]
pub(crate) struct CreationPlace {
    lease: Lease,
    _permit: OwnedSemaphorePermit,
}

impl Creations {
    pub(crate) fn new(leases: Leases) -> Self {
        Self {
            leases,
            queues: Arc::default(),
        }
    }

    /// Waits for a slot, at most `PLACE_TIME_MAX`.
    pub(crate) async fn place(&self, server: &ServerName) -> Result<CreationPlace> {
        let deadline = Instant::now() + PLACE_TIME_MAX;
        let late = || {
            let detail = format!("too many databases are being created on server \"{server}\"");
            ControlError::busy(ProblemCode::ServerBusy, detail)
        };
        let permit = timeout_at(deadline, self.queue(server).acquire_owned());
        let permit = permit.await.map_err(|_| late())?.map_err(ControlError::internal)?;
        let mut pause = LOOK_FIRST;
        loop {
            for place in 0..AT_ONCE {
                let subject = Subject::Creation(server.clone(), place);
                if let Some(lease) = self.leases.try_take(subject).await? {
                    return Ok(CreationPlace { lease, _permit: permit });
                }
            }
            if Instant::now() + pause > deadline {
                return Err(late());
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    fn queue(&self, server: &ServerName) -> Arc<Semaphore> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(AT_ONCE));
        queues.entry(server.clone()).or_insert_with(new).clone()
    }
}

impl CreationPlace {
    pub(crate) fn during<'a, T: Send + 'a>(
        &'a self,
        work: impl Future<Output = Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        self.lease.during(work)
    }
}
