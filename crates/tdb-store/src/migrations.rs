//! The numbered migrations of the schema `control_plane`: embedded in the program, applied in order under an advisory
//! lock, each in a separate transaction, recorded with a checksum. If an applied one was changed, nothing is applied.

use std::sync::Arc;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use tdb_auth::{ClientTls, MasterKey};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::access;
use crate::setup::{self, SetupError, hex};
use crate::tx::answered;
use crate::url::StoreUrl;

/// In the order of their numbers, without gaps.
const MIGRATIONS: [Migration; 17] = [
    Migration {
        number: 1,
        name: "initial",
        sql: include_str!("../migrations/0001_initial.sql"),
    },
    Migration {
        number: 2,
        name: "spares",
        sql: include_str!("../migrations/0002_spares.sql"),
    },
    Migration {
        number: 3,
        name: "settings",
        sql: include_str!("../migrations/0003_settings.sql"),
    },
    Migration {
        number: 4,
        name: "accounts",
        sql: include_str!("../migrations/0004_accounts.sql"),
    },
    Migration {
        number: 5,
        name: "speakers",
        sql: include_str!("../migrations/0005_speakers.sql"),
    },
    Migration {
        number: 6,
        name: "attempts",
        sql: include_str!("../migrations/0006_attempts.sql"),
    },
    Migration {
        number: 7,
        name: "names",
        sql: include_str!("../migrations/0007_names.sql"),
    },
    Migration {
        number: 8,
        name: "log_facts",
        sql: include_str!("../migrations/0008_log_facts.sql"),
    },
    Migration {
        number: 9,
        name: "engines",
        sql: include_str!("../migrations/0009_engines.sql"),
    },
    Migration {
        number: 10,
        name: "session_settings",
        sql: include_str!("../migrations/0010_session_settings.sql"),
    },
    Migration {
        number: 11,
        name: "roles",
        sql: include_str!("../migrations/0011_roles.sql"),
    },
    Migration {
        number: 12,
        name: "leases",
        sql: include_str!("../migrations/0012_leases.sql"),
    },
    Migration {
        number: 13,
        name: "drift",
        sql: include_str!("../migrations/0013_drift.sql"),
    },
    Migration {
        number: 14,
        name: "declared_roles",
        sql: include_str!("../migrations/0014_declared_roles.sql"),
    },
    Migration {
        number: 15,
        name: "declared_role_faults",
        sql: include_str!("../migrations/0015_declared_role_faults.sql"),
    },
    Migration {
        number: 16,
        name: "database_access",
        sql: include_str!("../migrations/0016_database_access.sql"),
    },
    Migration {
        number: 17,
        name: "limits",
        sql: include_str!("../migrations/0017_limits.sql"),
    },
];
/// If two programs start at once, the second waits this long for the first. The limit of the statement is longer, so that the
/// error is that of the lock (55P03). A lock on a table is waited for only
/// briefly at a time, so that the transactions of a running process, which queue behind that wait, are neither slowed
/// down nor chosen as the victims of a deadlock (PostgreSQL checks for one after a second).
const LOCK: &str = "SET lock_timeout = '60s'; SET statement_timeout = '65s';
    SELECT pg_advisory_lock(8390876222181731424); SET lock_timeout = '300ms'; SET statement_timeout = '60s'";
const LOCKED_TIME_MAX: Duration = Duration::from_secs(60);
const LOCKED_PAUSE: Duration = Duration::from_millis(100);
const VERSION_MIN: i32 = 130_000;

struct Migration {
    number: i32,
    name: &'static str,
    sql: &'static str,
}

/// A migration and whether it is applied, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// The migration's number, from 1.
    pub number: i32,
    /// Its short name.
    pub name: String,
    /// Whether it is applied.
    pub state: MigrationState,
}

/// Whether a migration is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// Not applied.
    Pending,
    /// Applied as this program has it.
    Applied {
        /// When it was applied.
        at: OffsetDateTime,
    },
    /// Applied with a text that differs from this program's.
    Changed {
        /// When it was applied.
        at: OffsetDateTime,
    },
    /// Applied by a newer program; this one does not have it.
    Unknown {
        /// When it was applied.
        at: OffsetDateTime,
    },
}

/// Brings the store to this program's schema and creates its login roles and access rules. It can be repeated, and run
/// from several programs at once. Returns the names of the migrations applied now.
pub async fn migrate(
    url: &StoreUrl,
    master_key: &Arc<MasterKey>,
    tls: &ClientTls,
) -> Result<Vec<MigrationStatus>, SetupError> {
    let connected = url.connect("migrate", tls).await?;
    let client = &connected.client;
    check_server(client).await?;
    // The lock is released when the session ends, in every case.
    locked(client).await?;
    answered(client.batch_execute(setup::SCHEMA))
        .await
        .map_err(SetupError::schema)?;
    let mut applied = Vec::new();
    for status in checked(client).await? {
        if status.state == MigrationState::Pending {
            apply(client, status.number).await?;
            applied.push(status);
        }
    }
    setup::name_installation(client).await?;
    let logins = setup::login_roles(client, master_key).await?;
    access::apply(client, &logins).await?;
    setup::check_privacy(client).await?;
    Ok(applied)
}

/// The state of every migration that this program has or that was applied. Changes nothing.
pub async fn status(url: &StoreUrl, tls: &ClientTls) -> Result<Vec<MigrationStatus>, SetupError> {
    let connected = url.connect("migrate status", tls).await?;
    check_server(&connected.client).await?;
    listed(&connected.client).await
}

/// The state of each migration; an error if an applied one was changed or belongs to a newer program.
pub(crate) async fn checked(client: &Client) -> Result<Vec<MigrationStatus>, SetupError> {
    let all = listed(client).await?;
    for status in &all {
        match status.state {
            MigrationState::Pending | MigrationState::Applied { .. } => {}
            MigrationState::Changed { .. } => {
                return Err(SetupError::Changed {
                    number: status.number,
                    name: status.name.clone(),
                });
            }
            MigrationState::Unknown { .. } => {
                return Err(SetupError::Newer {
                    number: status.number,
                    name: status.name.clone(),
                });
            }
        }
    }
    Ok(all)
}

async fn check_server(client: &Client) -> Result<(), SetupError> {
    let sql =
        "SELECT current_setting('server_version_num')::int, r.rolsuper FROM pg_roles r WHERE r.rolname = current_user";
    let row = answered(client.query_one(sql, &[])).await?;
    let version: i32 = row.try_get(0).map_err(SetupError::schema_of)?;
    if version < VERSION_MIN {
        return Err(SetupError::Version {
            found: version / 10_000,
        });
    }
    if row.try_get(1).map_err(SetupError::schema_of)? {
        tracing::warn!("the metadata store is owned by a superuser; a separate role with CREATEROLE is sufficient");
    }
    Ok(())
}

/// Waits for the lock longer than the usual limit for a reply of the store.
async fn locked(client: &Client) -> Result<(), SetupError> {
    client.batch_execute(LOCK).await.map_err(|error| {
        if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            SetupError::Locked
        } else {
            SetupError::Store(error.into())
        }
    })
}

async fn listed(client: &Client) -> Result<Vec<MigrationStatus>, SetupError> {
    let exists = "SELECT to_regclass('control_plane.schema_migrations') IS NOT NULL";
    let exists: bool = answered(client.query_one(exists, &[]))
        .await?
        .try_get(0)
        .map_err(SetupError::schema_of)?;
    let rows = if exists {
        let sql = "SELECT number, name, checksum, applied_at FROM control_plane.schema_migrations ORDER BY number";
        answered(client.query(sql, &[])).await?
    } else {
        Vec::new()
    };
    let mut recorded = Vec::new();
    for row in &rows {
        let read =
            || Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
        recorded.push(read().map_err(SetupError::schema_of)?);
    }
    Ok(compared(&recorded))
}

type Recorded = (i32, String, String, OffsetDateTime);

fn compared(recorded: &[Recorded]) -> Vec<MigrationStatus> {
    let mut all: Vec<MigrationStatus> = MIGRATIONS
        .iter()
        .map(|migration| {
            let state = match recorded.iter().find(|(number, ..)| *number == migration.number) {
                None => MigrationState::Pending,
                Some((_, _, checksum, at)) if *checksum == migration.checksum() => MigrationState::Applied { at: *at },
                Some((_, _, _, at)) => MigrationState::Changed { at: *at },
            };
            MigrationStatus {
                number: migration.number,
                name: migration.name.to_owned(),
                state,
            }
        })
        .collect();
    let unknown = recorded
        .iter()
        .filter(|(number, ..)| MIGRATIONS.iter().all(|known| known.number != *number));
    all.extend(unknown.map(|(number, name, _, at)| MigrationStatus {
        number: *number,
        name: name.clone(),
        state: MigrationState::Unknown { at: *at },
    }));
    all
}

async fn apply(client: &Client, number: i32) -> Result<(), SetupError> {
    let Some(migration) = MIGRATIONS.iter().find(|migration| migration.number == number) else {
        return Ok(());
    };
    let record = format!(
        "INSERT INTO control_plane.schema_migrations (number, name, checksum) VALUES ({number}, '{}', '{}')",
        migration.name,
        migration.checksum()
    );
    // In one message, so that nothing can be executed in between.
    let script = format!(
        "BEGIN; SET LOCAL search_path = control_plane, pg_catalog;\n{}\n;{record}; COMMIT",
        migration.sql
    );
    let failed = |cause| SetupError::Failed {
        number,
        name: migration.name.to_owned(),
        cause,
    };
    run(client, &script).await.map_err(failed)
}

/// Runs a script that begins and ends a transaction, and repeats it while a running process has a table locked.
pub(crate) async fn run(client: &Client, script: &str) -> Result<(), tokio_postgres::Error> {
    let deadline = Instant::now() + LOCKED_TIME_MAX;
    loop {
        let done = client.batch_execute(script).await;
        let locked = done
            .as_ref()
            .err()
            .and_then(tokio_postgres::Error::code)
            .is_some_and(|code| [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].contains(code));
        if !locked || Instant::now() > deadline {
            return done;
        }
        client.batch_execute("ROLLBACK").await?;
        sleep(LOCKED_PAUSE).await;
    }
}

impl Migration {
    fn checksum(&self) -> String {
        hex(digest(&SHA256, self.sql.as_bytes()).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_gaps() {
        let numbers: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.number).collect();
        assert_eq!(numbers, (1..).take(numbers.len()).collect::<Vec<_>>());
    }

    #[test]
    fn a_changed_text_and_an_unknown_number_are_distinguished() {
        let at = OffsetDateTime::UNIX_EPOCH;
        let good = MIGRATIONS[0].checksum();
        assert_eq!(compared(&[])[0].state, MigrationState::Pending);
        assert_eq!(
            compared(&[(1, "initial".into(), good.clone(), at)])[0].state,
            MigrationState::Applied { at }
        );
        let found = compared(&[
            (1, "initial".into(), "00".into(), at),
            (9_999, "later".into(), good, at),
        ]);
        assert_eq!(found[0].state, MigrationState::Changed { at });
        assert_eq!(
            found[MIGRATIONS.len()],
            MigrationStatus {
                number: 9_999,
                name: "later".into(),
                state: MigrationState::Unknown { at }
            }
        );
    }
}
