//! The plan for [`super::bring_up`]: which changes, with which limits.

use std::time::Duration;

use uuid::Uuid;

use crate::postgres::change::Change;
use crate::postgres::server::Server;

/// A change and its number in the workspace.
#[derive(Clone, Debug)]
pub struct NumberedChange {
    /// The number, which is also the id in `tdb.deployed_change`.
    pub id: i64,
    /// The change. It must not be broken.
    pub change: Change,
}

/// What to apply to a database.
#[derive(Clone, Debug)]
pub struct BringUp<'a> {
    /// The database's owner role. Statements run as this role, or as the declared role that they name.
    pub owner: &'a str,
    /// The id of this attempt: the session's application name is `tdb-deploy/<attempt>`. Sessions of other attempts on this
    /// database are terminated.
    pub attempt: Uuid,
    /// Creates extensions that only a superuser can create, and sets session settings.
    pub administrator: &'a Server,
    /// In the order of replay. Changes that the database has (same id and checksum) are skipped.
    pub changes: &'a [NumberedChange],
    /// Declared roles whose names other roles of the server have. A change that names one fails before it starts.
    pub taken: &'a [String],
    /// Time limits.
    pub limits: TimeLimits,
}

/// Time limits for applying changes. They override the settings recorded in a change.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// PostgreSQL's `lock_timeout` for each statement.
    pub lock_timeout: Duration,
    /// PostgreSQL's `statement_timeout` for each statement.
    pub statement_timeout: Duration,
    /// How many times to try for the deployment lock, every 100 ms, before giving up. 0 counts as 1.
    pub lock_polls: u32,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            lock_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(600),
            lock_polls: 50,
        }
    }
}
