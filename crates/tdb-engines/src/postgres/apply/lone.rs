//! A statement that cannot run in a transaction block: commits `started`, runs the statement, checks the catalog, commits
//! `done`. Success of the statement alone is not sufficient, since an index can exist and be invalid.

use std::time::Duration;

use super::failure::StepError;
use super::plan::{BringUp, NumberedChange};
use super::record;
use super::step::{BEGIN, Scope, prologue};
use crate::postgres::change::{Mode, Statement};
use crate::postgres::error::EngineError;
use crate::postgres::ident::quote;
use crate::postgres::session::Session;

const ANSWER_MARGIN: Duration = Duration::from_secs(10);

/// The state of an index in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Missing,
    Invalid,
    Valid,
}

/// Whether an earlier attempt had written `started` (`Found`), and so may have run the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Fresh,
    Found,
}

pub(super) async fn run(
    session: &Session,
    plan: &BringUp<'_>,
    numbered: &NumberedChange,
    statement: &Statement,
) -> Result<(), StepError> {
    let mark = write_started(session, numbered).await?;
    crate::fault::point("apply.lone.started");
    match &statement.mode {
        Mode::CreateIndex { index } => create_index(session, plan, statement, &here(plan, index), mark).await?,
        Mode::DropIndex { indexes } => {
            let indexes: Vec<String> = indexes.iter().map(|index| here(plan, index)).collect();
            drop_index(session, plan, statement, &indexes, mark).await?;
        }
        Mode::DetachPartition { table, partition } => {
            detach(session, plan, statement, (&here(plan, table), partition), mark).await?;
        }
        // Extensions and settings, which the administrator applies, do not get here.
        Mode::Transactional | Mode::Extension { .. } | Mode::Setting { .. } => {
            execute(session, plan, statement).await?
        }
    }
    crate::fault::point("apply.lone.ran");
    write_done(session, numbered).await?;
    Ok(())
}

/// An identity with `"$user"` replaced by the schema of the owner's name.
fn here(plan: &BringUp<'_>, identity: &str) -> String {
    match identity.strip_prefix("\"$user\".") {
        Some(name) => format!("{}.{name}", quote(plan.owner)),
        None => identity.to_owned(),
    }
}

async fn create_index(
    session: &Session,
    plan: &BringUp<'_>,
    statement: &Statement,
    index: &str,
    mark: Mark,
) -> Result<(), StepError> {
    match (look(session, index).await?, mark) {
        (Index::Valid, Mark::Found) => return Ok(()),
        // The index is not from this change; the server reports the conflict when the statement runs.
        (Index::Valid, Mark::Fresh) | (Index::Missing, _) => {}
        (Index::Invalid, _) => drop_invalid(session, plan, statement, index).await?,
    }
    let ran = execute(session, plan, statement).await;
    match (ran, look(session, index).await) {
        (Ok(()), Ok(Index::Valid)) => Ok(()),
        (Ok(()), Ok(Index::Missing | Index::Invalid)) => {
            let message = format!("index {index} is not valid after it was built");
            Err(StepError::refused(message, Some(statement.sql.to_string())))
        }
        (Ok(()), Err(error)) => Err(error.into()),
        (Err(failed), Ok(Index::Invalid)) => {
            // A failed change must leave nothing. If this fails too, the next attempt drops the index.
            let _ = drop_invalid(session, plan, statement, index).await;
            Err(failed)
        }
        (Err(failed), _) => Err(failed),
    }
}

async fn drop_index(
    session: &Session,
    plan: &BringUp<'_>,
    statement: &Statement,
    indexes: &[String],
    mark: Mark,
) -> Result<(), StepError> {
    let mut left = indexes.len();
    for index in indexes {
        if look(session, index).await? == Index::Missing {
            left -= 1;
        }
    }
    match (left, mark) {
        (0, Mark::Found) => Ok(()),
        _ => execute(session, plan, statement).await,
    }
}

/// The statement commits twice. Between the two, the partition is pending, and only FINALIZE can complete it.
async fn detach(
    session: &Session,
    plan: &BringUp<'_>,
    statement: &Statement,
    (table, partition): (&str, &str),
    mark: Mark,
) -> Result<(), StepError> {
    let row = session
        .row(
            include_str!("../../../sql/postgres/partition_state.sql"),
            &[&table, &partition],
        )
        .await?;
    let Some(row) = row else {
        return match mark {
            Mark::Found => Ok(()),
            // The server reports what is wrong.
            Mark::Fresh => execute(session, plan, statement).await,
        };
    };
    let (name, pending): (String, bool) = (
        row.try_get(0).map_err(EngineError::from)?,
        row.try_get(1).map_err(EngineError::from)?,
    );
    if pending {
        let sql = format!("ALTER TABLE {table} DETACH PARTITION {name} FINALIZE");
        return text(session, plan, statement, &sql).await;
    }
    execute(session, plan, statement).await
}

async fn execute(session: &Session, plan: &BringUp<'_>, statement: &Statement) -> Result<(), StepError> {
    text(session, plan, statement, &statement.sql.render(plan.owner)).await
}

async fn drop_invalid(
    session: &Session,
    plan: &BringUp<'_>,
    statement: &Statement,
    index: &str,
) -> Result<(), StepError> {
    text(
        session,
        plan,
        statement,
        &format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"),
    )
    .await
}

/// Runs the text with session settings, since there is no transaction. Settings and role are reset even if it fails.
async fn text(session: &Session, plan: &BringUp<'_>, statement: &Statement, sql: &str) -> Result<(), StepError> {
    session.run(&prologue(plan, statement, None, Scope::Session)).await?;
    let ran = session
        .run_within(plan.limits.statement_timeout + ANSWER_MARGIN, sql)
        .await;
    // RESET ALL does not reset the role. DISCARD ALL would release the deployment lock, which the session holds.
    let reset = session.run("SET ROLE none; RESET ALL").await;
    ran.map_err(StepError::while_running(statement.sql.to_string()))?;
    Ok(reset?)
}

async fn look(session: &Session, index: &str) -> Result<Index, EngineError> {
    let row = session
        .row(include_str!("../../../sql/postgres/index_state.sql"), &[&index])
        .await?;
    Ok(match row.map(|row| row.try_get(0)).transpose()? {
        None => Index::Missing,
        Some(false) => Index::Invalid,
        Some(true) => Index::Valid,
    })
}

async fn write_started(session: &Session, numbered: &NumberedChange) -> Result<Mark, EngineError> {
    let sql = "INSERT INTO tdb.deployed_change (change_id, checksum, state) VALUES (:id, :checksum, 'started') \
               ON CONFLICT (change_id) DO NOTHING";
    Ok(match as_writer(session, &record::of(sql, numbered)).await? {
        0 => Mark::Found,
        _ => Mark::Fresh,
    })
}

async fn write_done(session: &Session, numbered: &NumberedChange) -> Result<(), EngineError> {
    let sql = "UPDATE tdb.deployed_change SET state = 'done', at = now() WHERE change_id = :id";
    as_writer(session, &record::of(sql, numbered)).await.map(drop)
}

async fn as_writer(session: &Session, sql: &str) -> Result<u64, EngineError> {
    let role = quote(crate::postgres::server::MIGRATORS_ROLE);
    session
        .run(&format!(
            "{BEGIN}SET LOCAL ROLE {role}; SET LOCAL search_path = pg_catalog"
        ))
        .await?;
    match session.execute(sql, &[]).await {
        Ok(count) => session.run("COMMIT").await.map(|()| count),
        Err(error) => {
            let _ = session.run("ROLLBACK").await;
            Err(error)
        }
    }
}
