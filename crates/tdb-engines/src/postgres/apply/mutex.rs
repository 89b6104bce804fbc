//! The deployment lock: one deployer at a time per database. It is an advisory lock in the database itself, since a
//! lease in the metadata store does not stop a process that has lost the lease and still runs.

use std::time::Duration;

use uuid::Uuid;

use super::failure::StepError;
use crate::postgres::error::EngineError;
use crate::postgres::session::Session;

const PREFIX: &str = "tdb-deploy/";
const POLL: Duration = Duration::from_millis(100);

pub(super) fn application_name(attempt: Uuid) -> String {
    format!("{PREFIX}{attempt}")
}

/// Terminates sessions of earlier attempts on this database. They have the same role, so no further privilege is needed.
pub(super) async fn end_orphans(session: &Session, attempt: Uuid) -> Result<(), EngineError> {
    let own = application_name(attempt);
    session
        .rows(include_str!("../../../sql/postgres/end_orphans.sql"), &[&PREFIX, &own])
        .await
        .map(|_| ())
}

/// Polls, since a session that waits in `pg_advisory_lock` holds a snapshot, and CREATE INDEX CONCURRENTLY of the lock's
/// holder would wait for that snapshot without end.
pub(super) async fn acquire(session: &Session, polls: u32) -> Result<(), StepError> {
    for poll in 0..polls.max(1) {
        if poll > 0 {
            tokio::time::sleep(POLL).await;
        }
        let row = session
            .row("SELECT pg_catalog.pg_try_advisory_lock(1952735588, 2)", &[])
            .await?;
        if row.map(|row| row.try_get(0)).transpose().map_err(EngineError::from)? == Some(true) {
            return Ok(());
        }
    }
    let holder = session
        .row(include_str!("../../../sql/postgres/lock_holder.sql"), &[])
        .await?;
    let holder: Option<i32> = holder
        .map(|row| row.try_get(0))
        .transpose()
        .map_err(EngineError::from)?;
    let holder = holder.map_or("another session".to_owned(), |pid| {
        format!("the session with pid {pid}")
    });
    Err(EngineError::Locked { holder }.into())
}
