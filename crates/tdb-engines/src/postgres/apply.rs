//! Bringing a database to a set of changes: one mechanism for replay on builds and for deployments to tenants.
//!
//! Exactly once: a change and its row in `tdb.deployed_change` commit together, or, where a statement refuses a
//! transaction, the row says `started` before and the catalog is asked afterwards.

pub(crate) mod failure;
mod lone;
mod mutex;
pub(crate) mod plan;
mod step;

pub use failure::ApplyError;
pub(crate) use failure::StepError;
pub use plan::{BringUp, Limits, NumberedChange};

use crate::fault;
use crate::postgres::change::Checksum;
use crate::postgres::error::EngineError;
use crate::postgres::extensions;
use crate::postgres::fingerprint::{self, Fingerprint};
use crate::postgres::login::Login;
use crate::postgres::session::Session;
use crate::postgres::session_settings;

/// All changes are on the database now.
#[derive(Debug)]
pub struct Applied {
    /// Those that this call put there.
    pub applied: Vec<i64>,
    /// How many of the changes are there: all.
    pub changes_done: u32,
    session: Session,
}

impl Applied {
    /// What the schema is now, in the session that brought it there: its catalogs are warm.
    pub async fn fingerprint(self, owner: &str) -> Result<Fingerprint, EngineError> {
        // Whatever the changes left behind: settings, role, temporary tables with the catalogs' names.
        self.session.run("DISCARD ALL").await?;
        fingerprint::take_in(&self.session, owner).await
    }
}

/// A row of `tdb.deployed_change`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployed {
    pub id: i64,
    pub checksum: Checksum,
    pub state: DeployedState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeployedState {
    /// A statement that cannot share a transaction with its row was begun.
    Started,
    Done,
}

/// Applies each missing change exactly once, in order, logged in as the database's deployer role. `progress` is told how
/// many of the changes are there whenever that grows. Not cancel safe, but may be killed anywhere and called again: a
/// COMMIT whose answer was lost is an error of class `Retry`, and the next call reads the row.
pub async fn bring_up(
    login: &Login,
    plan: &BringUp<'_>,
    progress: &(dyn Fn(u32) + Send + Sync),
) -> Result<Applied, ApplyError> {
    let mut applied = Vec::new();
    let mut done = 0;
    let session = start(login, plan).await.map_err(|error| error.at(None, done))?;
    let known = read_deployed(&session)
        .await
        .map_err(|error| StepError::from(error).at(None, done))?;
    let is_done = |id: i64| known.iter().any(|row| row.id == id && row.state == DeployedState::Done);
    for numbered in plan.changes {
        if let Some(error) = mismatch(numbered, &known) {
            return Err(error.at(Some(numbered.id), done));
        }
        // The changes at the front that are there already count at once.
        if is_done(numbered.id) {
            done += 1;
        }
    }
    progress(done);
    for numbered in plan.changes.iter().filter(|numbered| !is_done(numbered.id)) {
        let step = match step::kind(&numbered.change) {
            Ok(step::Kind::Together) => step::together(&session, plan, numbered).await,
            Ok(step::Kind::Lone(statement)) => lone::run(&session, plan, numbered, statement).await,
            Ok(step::Kind::Extension(extension)) => {
                extensions::replay(plan, &login.database, numbered, &extension).await
            }
            Ok(step::Kind::Setting { name, value }) => {
                session_settings::replay(plan, &login.database, numbered, name, value).await
            }
            Err(error) => Err(error),
        };
        step.map_err(|error| error.at(Some(numbered.id), done))?;
        fault::point("apply.change_committed");
        applied.push(numbered.id);
        done += 1;
        progress(done);
    }
    Ok(Applied {
        applied,
        changes_done: done,
        session,
    })
}

/// What a database says about itself: its rows of `tdb.deployed_change`, for a login of its deployer role.
pub async fn deployed(login: &Login) -> Result<Vec<Deployed>, EngineError> {
    let session = login.open(&login.application_name).await?;
    read_deployed(&session).await
}

async fn start(login: &Login, plan: &BringUp<'_>) -> Result<Session, StepError> {
    let session = login.open(&mutex::application_name(plan.attempt)).await?;
    mutex::end_orphans(&session, plan.attempt).await?;
    mutex::acquire(&session, plan.limits.lock_polls).await?;
    Ok(session)
}

/// Reads as the writer's role: the deployer itself has no rights in `tdb`.
async fn read_deployed(session: &Session) -> Result<Vec<Deployed>, EngineError> {
    session.run("BEGIN READ ONLY; SET LOCAL ROLE tdb_migrators").await?;
    let rows = session.rows(include_str!("../../sql/postgres/deployed.sql"), &[]).await;
    session.run("COMMIT").await?;
    let mut known = Vec::new();
    for row in rows? {
        let (id, checksum, state): (i64, &[u8], &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let checksum = Checksum::from_bytes(checksum);
        known.push(Deployed {
            id,
            checksum: checksum.ok_or_else(|| EngineError::Unexpected(format!("checksum of change {id}")))?,
            state: match state {
                "done" => DeployedState::Done,
                _ => DeployedState::Started,
            },
        });
    }
    Ok(known)
}

/// The database has another change under this number: nothing may be built on it.
fn mismatch(numbered: &NumberedChange, known: &[Deployed]) -> Option<StepError> {
    let row = known.iter().find(|row| row.id == numbered.id)?;
    if row.checksum == numbered.change.checksum() {
        return None;
    }
    let message = format!(
        "change {} on this database is not the one of the change log",
        numbered.id
    );
    Some(StepError::refused(message, None))
}
