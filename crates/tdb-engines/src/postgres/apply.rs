//! Applies changes to a database: the same code replays changes on builds and deploys them to tenants.
//!
//! Each change is applied exactly once. It commits together with its row in `tdb.deployed_change`; for a statement that
//! cannot run in a transaction, the row is first committed as `started`, and the catalog then shows what the statement did.

mod deployer;
pub(crate) mod failure;
mod lone;
mod mutex;
pub(crate) mod plan;
pub(crate) mod record;
mod step;

pub use failure::ApplyError;
pub(crate) use failure::StepError;
pub use plan::{BringUp, NumberedChange, TimeLimits};

use crate::fault;
use crate::postgres::change::Checksum;
use crate::postgres::error::EngineError;
use crate::postgres::extensions;
use crate::postgres::fingerprint::{self, Fingerprint};
use crate::postgres::login::DatabaseLogin;
use crate::postgres::session::Session;
use crate::postgres::session_settings;
use crate::postgres::tenant_side;

/// The result of [`bring_up`]: the database has all changes of the plan.
#[derive(Debug)]
pub struct Applied {
    /// The ids of the changes that this call applied.
    pub applied: Vec<i64>,
    /// The number of changes of the plan, all of which are now applied.
    pub changes_done: u32,
    session: Session,
}

impl Applied {
    /// Takes the fingerprint of the schema. It uses the session that applied the changes, whose catalog caches are filled.
    /// `owner` is the database's owner role.
    pub async fn fingerprint(self, owner: &str) -> Result<Fingerprint, EngineError> {
        // Removes what the changes left in the session: settings, role, temporary tables that hide catalogs.
        self.session.run("DISCARD ALL").await?;
        fingerprint::take_in(&self.session, owner).await
    }
}

/// A row of `tdb.deployed_change`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The change's number in its workspace.
    pub id: i64,
    /// The checksum that the change had when it was applied.
    pub checksum: Checksum,
    /// Whether it is complete.
    pub state: DeployedState,
}

/// The state of a change in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeployedState {
    /// A statement that cannot run in a transaction was started. Whether it took effect is not recorded yet.
    Started,
    /// All statements are committed.
    Done,
}

/// Applies each missing change exactly once and in order. `login` must be the database's deployer role. `progress` is
/// called with the number of applied changes, at the start and after each change. Not cancel safe, but the process may
/// be killed at any point and the call repeated: if the answer to COMMIT is lost, the error has class `Retry`, and the
/// next call finds the row.
pub async fn bring_up(
    login: &DatabaseLogin,
    plan: &BringUp<'_>,
    progress: &(dyn Fn(u32) + Send + Sync),
) -> Result<Applied, ApplyError> {
    let mut applied = Vec::new();
    let mut done = 0;
    let session = start(login, plan).await.map_err(|error| error.at(None, done))?;
    let known = guarded_record(&session, login, plan)
        .await
        .map_err(|error| StepError::from(error).at(None, done))?;
    let is_done = |id: i64| known.iter().any(|row| row.id == id && row.state == DeployedState::Done);
    for numbered in plan.changes {
        if let Some(error) = mismatch(numbered, &known) {
            return Err(error.at(Some(numbered.id), done));
        }
        // Changes that are already applied count from the start.
        if is_done(numbered.id) {
            done += 1;
        }
    }
    progress(done);
    let mut password = deployer::Password::default();
    for numbered in plan.changes.iter().filter(|numbered| !is_done(numbered.id)) {
        let step = match names_no_taken_role(plan, numbered).and_then(|()| step::kind(&numbered.change)) {
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
        let restored = password.restore(&session, login, plan).await;
        restored.map_err(|error| StepError::from(error).at(Some(numbered.id), done))?;
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

/// Reads the rows of `tdb.deployed_change`. `login` must be the database's deployer role.
pub async fn deployed(login: &DatabaseLogin) -> Result<Vec<Deployed>, EngineError> {
    let session = login.open(&login.application_name).await?;
    Ok(read_deployed(&session).await?.rows)
}

/// Reads the rows and, if necessary, has the administrator protect their table.
async fn guarded_record(
    session: &Session,
    login: &DatabaseLogin,
    plan: &BringUp<'_>,
) -> Result<Vec<Deployed>, EngineError> {
    let record = read_deployed(session).await?;
    if record.guard == Guard::Missing {
        tenant_side::guard_record(plan.administrator, &login.database).await?;
    }
    Ok(record.rows)
}

/// The contents of `tdb.deployed_change`.
struct Record {
    rows: Vec<Deployed>,
    guard: Guard,
}

/// Whether a trigger keeps code in a change from writing the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Missing,
    Present,
}

async fn start(login: &DatabaseLogin, plan: &BringUp<'_>) -> Result<Session, StepError> {
    // RESET ROLE in a function returns to the owner here too, as in a workspace.
    let session = login
        .open_for(&mutex::application_name(plan.attempt), plan.owner)
        .await?;
    mutex::end_orphans(&session, plan.attempt).await?;
    mutex::acquire(&session, plan.limits.lock_polls).await?;
    Ok(session)
}

/// Reads as `tdb_migrators`: the deployer, which does not inherit, has no privileges in schema `tdb`.
async fn read_deployed(session: &Session) -> Result<Record, EngineError> {
    session.run("BEGIN READ ONLY; SET LOCAL ROLE tdb_migrators").await?;
    let rows = session.rows(include_str!("../../sql/postgres/deployed.sql"), &[]).await;
    session.run("COMMIT").await?;
    let mut record = Record {
        rows: Vec::new(),
        guard: Guard::Missing,
    };
    for row in rows? {
        if row.try_get(0)? {
            record.guard = Guard::Present;
        }
        let Some(id) = row.try_get::<_, Option<i64>>(1)? else {
            continue;
        };
        let (checksum, state): (&[u8], &str) = (row.try_get(2)?, row.try_get(3)?);
        let checksum = Checksum::from_bytes(checksum);
        record.rows.push(Deployed {
            id,
            checksum: checksum.ok_or_else(|| {
                EngineError::Refused(format!("change {id} in this database differs from the change log"))
            })?,
            state: match state {
                "done" => DeployedState::Done,
                _ => DeployedState::Started,
            },
        });
    }
    Ok(record)
}

/// A grant would otherwise go to a role that is not the project's.
fn names_no_taken_role(plan: &BringUp<'_>, numbered: &NumberedChange) -> Result<(), StepError> {
    let mut named = numbered.change.roles.iter().filter(|role| plan.taken.contains(role));
    match named.next() {
        Some(role) => Err(EngineError::RoleTaken { role: role.clone() }.into()),
        None => Ok(()),
    }
}

/// An error if the database has a different change with this number: then no change may be applied.
fn mismatch(numbered: &NumberedChange, known: &[Deployed]) -> Option<StepError> {
    let row = known.iter().find(|row| row.id == numbered.id)?;
    if row.checksum == numbered.change.checksum() {
        return None;
    }
    let message = format!("change {} in this database differs from the change log", numbered.id);
    Some(StepError::refused(message, None))
}
