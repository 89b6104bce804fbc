//! Following a deployment: one query of the store at a time serves all watchers of a deployment. Every change of a
//! target has a number, so that a watcher that reconnects gets what it missed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tdb_names::{DatabaseId, JobId, ProjectId};
use tdb_problems::ProblemCode;
use tdb_store::deployments;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::model::{DeploymentStatus, DeploymentTarget, JobSummary};
use crate::schema::deployments::{summary, target};

/// The pause between two queries for a watched deployment.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The maximum number of watchers per process: each one keeps a connection open.
const WATCHERS_MAX: usize = 1_000;

/// What has changed since the last news of a watcher.
#[derive(Clone, Debug)]
pub struct News {
    /// The number of the newest change, to be given to `Watches::watch` after a reconnection.
    pub number: u64,
    /// The deployment as a whole.
    pub summary: JobSummary,
    /// The targets that changed, in their current state, by number.
    pub targets: Vec<(u64, Arc<DeploymentTarget>)>,
    /// Whether the deployment has ended: these are the last news.
    pub last: bool,
}

/// The deployments that are being watched.
#[derive(Clone)]
pub struct Watches {
    core: Arc<Core>,
    boards: Arc<Mutex<HashMap<JobId, Arc<Watched>>>>,
    seats: Arc<Semaphore>,
    /// Cancelled when the workers stop. The watches end, and clients can reconnect to another process.
    pub(crate) stop: CancellationToken,
}

/// The state of a watched deployment, shared by its watchers.
#[derive(Debug)]
struct Watched {
    board: Mutex<Board>,
    /// Counts the changes of the board.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Board {
    summary: JobSummary,
    targets: BTreeMap<u64, Arc<DeploymentTarget>>,
    number_of: HashMap<DatabaseId, u64>,
}

/// One watcher of a deployment. Dropping it ends the watch.
#[derive(Debug)]
pub struct DeploymentWatch {
    watched: Arc<Watched>,
    changed: watch::Receiver<u64>,
    /// The number of the newest change that the watcher has.
    seen: Option<u64>,
    over: bool,
    _seat: OwnedSemaphorePermit,
}

impl Watches {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: core.clone(),
            boards: Arc::default(),
            seats: Arc::new(Semaphore::new(WATCHERS_MAX)),
            stop: CancellationToken::new(),
        }
    }

    /// Starts to watch a deployment. `seen` is the number of the newest change that the watcher has; `None` at its
    /// first connection. `LimitReached` if this process has too many watchers.
    pub async fn watch(&self, identity: &Identity, job: &JobId, seen: Option<u64>) -> Result<DeploymentWatch> {
        identity.require(KeyScope::Read)?;
        let seat = self.seats.clone().try_acquire_owned();
        let seat = seat.map_err(|_| {
            let detail = format!("{WATCHERS_MAX} watches of deployments are open");
            let hint = "Poll GET /deployments/{id} instead, or try again later.";
            ControlError::refused(ProblemCode::LimitReached, detail, hint)
        })?;
        let project = identity.project();
        let tx = self.core.store.project(project).await?;
        let row = deployments::by_id(&tx, project, job).await?;
        tx.rollback().await?;
        let row = row.ok_or_else(|| ControlError::not_found(EntryKind::Deployment, job))?;
        let watched = match self.known(job) {
            Some(watched) => watched,
            None => {
                let mut board = Board::empty(summary(row));
                board.take(self.news(project, job, 0).await?);
                self.begin_to_look(project, job, board)
            }
        };
        let mut changed = watched.changed.subscribe();
        changed.mark_changed();
        Ok(DeploymentWatch {
            watched,
            changed,
            seen,
            over: false,
            _seat: seat,
        })
    }

    fn begin_to_look(&self, project: &ProjectId, job: &JobId, board: Board) -> Arc<Watched> {
        let watched = Arc::new(Watched {
            board: Mutex::new(board),
            changed: watch::Sender::new(0),
        });
        self.insert(job, &watched);
        let (watches, project, job) = (self.clone(), project.clone(), job.clone());
        let looked_at = watched.clone();
        let work = async move {
            let stop = watches.stop.clone();
            let _stopped = stop
                .run_until_cancelled(watches.keep_looking(&project, &job, &looked_at))
                .await;
            watches.remove(&job, &looked_at);
            // Tells waiting watchers that this task sends no more news.
            looked_at.changed.send_modify(|count| *count = OVER);
        };
        self.core.tasks.spawn_on(work, &self.core.runtime);
        watched
    }

    async fn keep_looking(&self, project: &ProjectId, job: &JobId, watched: &Watched) {
        // The watcher that started this has the current state already, so the first query comes after a pause.
        while !watched.is_final() {
            sleep(LOOK_EVERY).await;
            if watched.changed.receiver_count() == 0 {
                return;
            }
            let known = watched.newest();
            match self.news(project, job, known).await {
                Ok(news) => watched.take(news),
                Err(error) => {
                    tracing::warn!(%job, error = %error.explained(), "a watched deployment could not be read; it will be retried")
                }
            }
        }
    }

    /// Reads the deployment before its targets, so the targets are never older than the summary.
    async fn news(&self, project: &ProjectId, job: &JobId, after: u64) -> Result<TargetNews> {
        let after = i64::try_from(after).map_err(ControlError::internal)?;
        let tx = self.core.store.project(project).await?;
        let row = deployments::by_id(&tx, project, job).await?;
        let targets = deployments::news(&tx, job, after).await?;
        tx.rollback().await?;
        Ok(TargetNews {
            summary: row.map(summary),
            targets,
        })
    }
}

/// The value of the change counter that means: no more changes.
const OVER: u64 = u64::MAX;

struct TargetNews {
    /// `None` if the deployment was deleted with its workspace.
    summary: Option<JobSummary>,
    targets: Vec<(i64, deployments::TargetRow)>,
}

impl Watches {
    fn known(&self, job: &JobId) -> Option<Arc<Watched>> {
        let boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        boards.get(job).filter(|watched| !watched.is_over()).cloned()
    }

    fn insert(&self, job: &JobId, watched: &Arc<Watched>) {
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        boards.insert(job.clone(), watched.clone());
    }

    fn remove(&self, job: &JobId, watched: &Arc<Watched>) {
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        if boards.get(job).is_some_and(|known| Arc::ptr_eq(known, watched)) {
            boards.remove(job);
        }
    }
}

impl Watched {
    fn is_final(&self) -> bool {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).is_final()
    }

    fn is_over(&self) -> bool {
        *self.changed.borrow() == OVER
    }

    fn newest(&self) -> u64 {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).newest()
    }

    fn take(&self, found: TargetNews) {
        let changed = self.board.lock().unwrap_or_else(PoisonError::into_inner).take(found);
        if changed {
            self.changed.send_modify(|count| *count = count.saturating_add(1));
        }
    }
}

impl Board {
    fn empty(summary: JobSummary) -> Self {
        Self {
            summary,
            targets: BTreeMap::new(),
            number_of: HashMap::new(),
        }
    }

    fn newest(&self) -> u64 {
        self.targets.keys().next_back().copied().unwrap_or(0)
    }

    fn is_final(&self) -> bool {
        match self.summary.status {
            DeploymentStatus::Completed | DeploymentStatus::Failed => true,
            DeploymentStatus::Planned | DeploymentStatus::Running => false,
        }
    }

    /// Updates the board and returns whether anything changed.
    fn take(&mut self, found: TargetNews) -> bool {
        let mut changed = !found.targets.is_empty();
        match found.summary {
            Some(summary) => {
                changed |= summary.status != self.summary.status;
                self.summary = summary;
            }
            None => {
                changed = true;
                self.summary.status = DeploymentStatus::Failed;
            }
        }
        for (number, row) in found.targets {
            let number = u64::try_from(number).unwrap_or(0);
            if let Some(old) = self.number_of.insert(row.database, number) {
                self.targets.remove(&old);
            }
            self.targets.insert(number, Arc::new(target(row)));
        }
        changed
    }
}

impl DeploymentWatch {
    /// Whether the deployment has ended and the watcher has all of its news.
    pub fn is_exhausted(&self) -> bool {
        let board = self.watched.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.is_final() && self.seen.is_some_and(|seen| seen >= board.newest())
    }

    /// Waits for news. The first come at once. `None` after the last news, or when the workers stop. Cancel safe.
    pub async fn next(&mut self) -> Option<News> {
        if self.over {
            return None;
        }
        self.changed.changed().await.ok()?;
        let stopped = *self.changed.borrow_and_update() == OVER;
        let board = self.watched.board.lock().unwrap_or_else(PoisonError::into_inner);
        let last = board.is_final();
        if stopped && !last {
            return None;
        }
        let seen = self.seen.unwrap_or(0);
        let newer = board.targets.range(seen.saturating_add(1)..);
        let targets = newer.map(|(number, target)| (*number, target.clone())).collect();
        let number = seen.max(board.newest());
        self.seen = Some(number);
        self.over = last;
        Some(News {
            number,
            summary: board.summary.clone(),
            targets,
            last,
        })
    }
}
