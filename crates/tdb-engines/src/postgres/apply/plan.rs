//! What a database is to be brought to.

use std::time::Duration;

use uuid::Uuid;

use crate::postgres::change::Change;
use crate::postgres::server::Server;

/// A change under its number in the workspace.
#[derive(Clone, Debug)]
pub struct NumberedChange {
    pub id: i64,
    pub change: Change,
}

#[derive(Clone, Debug)]
pub struct BringUp<'a> {
    /// The database's owner role, under which the statements run.
    pub owner: &'a str,
    /// Shown as `tdb-deploy/<attempt>`; sessions of other attempts on this database are ended.
    pub attempt: Uuid,
    /// For extensions that only a superuser may make.
    pub administrator: &'a Server,
    /// In order. What is there already (same id, same checksum) is passed over.
    pub changes: &'a [NumberedChange],
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub lock_timeout: Duration,
    pub statement_timeout: Duration,
    /// How often the deployment lock is asked for, every 100 ms, before its holder is reported.
    pub lock_polls: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lock_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(600),
            lock_polls: 50,
        }
    }
}
