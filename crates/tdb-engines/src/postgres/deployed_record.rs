//! The rows of `tdb.deployed_change` in a tenant's database, as the administrator compares and corrects them. Only deployments
//! write them; code of a tenant that got hold of the deployer's role could have written others, which fail later deployments.

use std::collections::{BTreeMap, BTreeSet};

use crate::postgres::change::Checksum;
use crate::postgres::error::EngineError;
use crate::postgres::fingerprint::{self, Fingerprint};
use crate::postgres::server::Server;
use crate::postgres::session::Session;

/// More than any change log has.
const ROWS_MAX: u32 = 100_000;

/// What the rows should be.
#[derive(Clone, Debug, Default)]
pub struct ExpectedRecord {
    /// All changes of the change log. The database may have rows of these: a deployment can have failed after some changes.
    pub log: BTreeMap<i64, Checksum>,
    /// The changes of the database's version. It must have complete rows of these.
    pub deployed: BTreeSet<i64>,
}

/// A row that should be different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongRow {
    /// The change's number.
    pub id: i64,
    /// The row that the database should have; `None` if it should have none.
    pub expected: Option<String>,
    /// The row that the database has, if any.
    pub found: Option<String>,
}

/// The rows of a database by number: checksum in hexadecimal digits, and state.
pub type RecordedRows = BTreeMap<i64, (String, String)>;

/// Reads the rows of a database, and takes its fingerprint in the same session: see [`fingerprint::take`].
pub async fn rows_and_fingerprint(
    server: &Server,
    database: &str,
    owner: &str,
) -> Result<(RecordedRows, Fingerprint), EngineError> {
    let inside = server.dedicated(database).await?;
    let rows = read(&inside).await?;
    let fingerprint = fingerprint::take_in(&inside, owner).await?;
    server.leave(inside, database).await?;
    Ok((rows, fingerprint))
}

impl ExpectedRecord {
    /// The rows that should be different, by number.
    pub fn wrong_of(&self, found: &RecordedRows) -> Vec<WrongRow> {
        let ids: BTreeSet<i64> = self.deployed.iter().chain(found.keys()).copied().collect();
        let wrong = ids.into_iter().filter_map(|id| {
            let known = self.log.get(&id).map(Checksum::to_string);
            let row = found.get(&id);
            let is_right = match row {
                Some((checksum, state)) => {
                    known.as_ref() == Some(checksum) && (state == "done" || !self.deployed.contains(&id))
                }
                None => known.is_none(),
            };
            let is_deployed = self.deployed.contains(&id);
            (!is_right).then(|| WrongRow {
                id,
                expected: known.filter(|_| is_deployed).map(|checksum| shown(&checksum, "done")),
                found: row.map(|(checksum, state)| shown(checksum, state)),
            })
        });
        wrong.collect()
    }
}

/// Corrects the wrong rows of a database, and returns them. Fails if a deployment is running on it.
pub async fn correct(server: &Server, database: &str, expected: &ExpectedRecord) -> Result<Vec<WrongRow>, EngineError> {
    let session = server.dedicated(database).await?;
    session.run("BEGIN; SET LOCAL lock_timeout = '2s'").await?;
    // The lock of deployments, until the end of the transaction.
    let locked = session
        .row("SELECT pg_catalog.pg_try_advisory_xact_lock(1952735588, 2)", &[])
        .await?;
    if locked.map(|row| row.try_get(0)).transpose()? != Some(true) {
        let holder = "a deployment".to_owned();
        return Err(EngineError::Locked { holder });
    }
    let wrong = expected.wrong_of(&read(&session).await?);
    let corrections: Vec<String> = wrong.iter().map(|row| correction(row, expected)).collect();
    session.run(&format!("{}COMMIT", corrections.concat())).await?;
    server.leave(session, database).await?;
    Ok(wrong)
}

async fn read(session: &Session) -> Result<RecordedRows, EngineError> {
    // One more byte than a checksum has; what else a forged row contains is not read.
    let sql = format!(
        "SELECT change_id, encode(substr(checksum, 1, 33), 'hex'), state FROM tdb.deployed_change ORDER BY change_id LIMIT {ROWS_MAX}"
    );
    let rows = session.rows(&sql, &[]).await?;
    let rows = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?))));
    rows.collect()
}

fn shown(checksum: &str, state: &str) -> String {
    format!("{state}, checksum {checksum}")
}

/// A statement without parameters, which the trigger on the table accepts.
fn correction(row: &WrongRow, expected: &ExpectedRecord) -> String {
    let id = row.id;
    match expected.log.get(&id).filter(|_| expected.deployed.contains(&id)) {
        Some(checksum) => format!(
            "INSERT INTO tdb.deployed_change (change_id, checksum, state) VALUES ({id}, decode('{checksum}', 'hex'), 'done')
             ON CONFLICT (change_id) DO UPDATE SET checksum = EXCLUDED.checksum, state = 'done';\n"
        ),
        None => format!("DELETE FROM tdb.deployed_change WHERE change_id = {id};\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_wrong_unless_the_change_log_has_it() {
        let [a, b] = [1, 2].map(|byte| Checksum::from_bytes(&[byte; 32]).unwrap());
        let expected = ExpectedRecord {
            log: BTreeMap::from([(1, a), (2, b), (3, a), (4, b)]),
            deployed: BTreeSet::from([1, 2]),
        };
        let row = |checksum: Checksum, state: &str| (checksum.to_string(), state.to_owned());
        let done = |checksum| row(checksum, "done");
        // A deployment to a later version can have failed after change 3, and while change 4 was running.
        let right = RecordedRows::from([(1, done(a)), (2, done(b)), (3, done(a)), (4, row(b, "started"))]);
        assert_eq!(expected.wrong_of(&right), []);
        let wrong = RecordedRows::from([
            (1, row(a, "started")),
            (3, done(b)),
            (9, ("00".to_owned(), "done".to_owned())),
        ]);
        let wrong = expected.wrong_of(&wrong);
        let summary: Vec<_> = wrong
            .iter()
            .map(|row| (row.id, row.expected.is_some(), row.found.is_some()))
            .collect();
        assert_eq!(
            summary,
            [(1, true, true), (2, true, false), (3, false, true), (9, false, true)]
        );
        assert!(correction(&wrong[1], &expected).starts_with("INSERT"));
        assert!(correction(&wrong[2], &expected).starts_with("DELETE"));
    }
}
