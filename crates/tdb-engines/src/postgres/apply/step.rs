//! Applies a change in one transaction with its row in `tdb.deployed_change`, and decides which changes cannot be.

use std::collections::BTreeMap;
use std::time::Duration;

use super::failure::StepError;
use super::plan::{BringUp, NumberedChange};
use super::record;
use crate::postgres::change::{Change, Mode, Statement};
use crate::postgres::error::ErrorClass;
use crate::postgres::extensions::Extension;
use crate::postgres::ident::{literal, quote};
use crate::postgres::session::Session;

/// Added to statement_timeout for the deadline of the answer: the server ends a slow statement itself.
const ANSWER_MARGIN: Duration = Duration::from_secs(10);

/// Begins a transaction of a change. Code in an earlier change may have changed settings of the session, which the
/// implicit transaction of this message has begun with.
pub(super) const BEGIN: &str = "RESET ALL; BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE;\n";

pub(super) enum Kind<'a> {
    Together,
    Lone(&'a Statement),
    /// The administrator creates it.
    Extension(Extension),
    /// The administrator sets it.
    Setting {
        name: &'a str,
        value: Option<&'a str>,
    },
}

/// How to run a change; an error if it is broken or combines statements that cannot share a transaction.
pub(super) fn kind(change: &Change) -> Result<Kind<'_>, StepError> {
    if let Some(reason) = &change.broken {
        return Err(StepError::refused(
            format!("the change cannot be replayed: {reason}"),
            None,
        ));
    }
    let lone = change
        .statements
        .iter()
        .find(|statement| statement.mode != Mode::Transactional);
    match (lone, change.statements.len()) {
        (None, _) => Ok(Kind::Together),
        (Some(statement), 1) => Ok(match &statement.mode {
            Mode::Extension {
                name,
                schema,
                version,
                owner,
            } => Kind::Extension(Extension {
                name: name.clone(),
                schema: schema.clone(),
                version: version.clone(),
                owner: *owner,
            }),
            Mode::Setting { name, value } => Kind::Setting {
                name,
                value: value.as_deref(),
            },
            Mode::Transactional | Mode::CreateIndex { .. } | Mode::DropIndex { .. } | Mode::DetachPartition { .. } => {
                Kind::Lone(statement)
            }
        }),
        (Some(statement), _) => Err(StepError::refused(
            "a statement that cannot run in a transaction is combined with other statements".to_owned(),
            Some(statement.sql.to_string()),
        )),
    }
}

pub(super) async fn together(
    session: &Session,
    plan: &BringUp<'_>,
    numbered: &NumberedChange,
) -> Result<(), StepError> {
    let done = inside(session, plan, numbered).await;
    match done {
        Ok(()) => Ok(session.run("COMMIT").await?),
        Err(error) => {
            // The connection may be gone; then there is nothing to roll back.
            let _ = session.run("ROLLBACK").await;
            Err(error)
        }
    }
}

async fn inside(session: &Session, plan: &BringUp<'_>, numbered: &NumberedChange) -> Result<(), StepError> {
    let limit = plan.limits.statement_timeout + ANSWER_MARGIN;
    // Sent together with the first statement's settings, which saves one round trip per tenant.
    let mut begin = BEGIN;
    let mut before = None;
    for statement in &numbered.change.statements {
        // Before each statement, since the one before may have changed role or settings. A statement that changes them back
        // can affect only its own database.
        let prologue = prologue(plan, statement, before, Scope::Transaction);
        session.run(&format!("{begin}{prologue}")).await?;
        begin = "";
        let sql = statement.sql.render(plan.owner);
        let ran = session.run_within(limit, &sql).await;
        ran.map_err(StepError::while_running(statement.sql.to_string()))?;
        before = Some(&statement.settings);
    }
    crate::fault::point("apply.before_row");
    // Deferred triggers are a user's code: they must run now, as the owner, and not at COMMIT as tdb_migrators. A change
    // without statements begins its transaction here.
    let owner = quote(plan.owner);
    session
        .run_within(
            limit,
            &format!("{begin}SET LOCAL ROLE {owner}; SET CONSTRAINTS ALL IMMEDIATE"),
        )
        .await?;
    session
        .run("SET LOCAL ROLE tdb_migrators; SET LOCAL search_path = pg_catalog")
        .await?;
    let insert = record::of(include_str!("../../../sql/postgres/deployed_record.sql"), numbered);
    match session.execute(&insert, &[]).await {
        Ok(0) => {
            let message = "code in the change wrote to tdb.deployed_change, which only TenantsDB may write";
            Err(StepError::refused(message.to_owned(), None))
        }
        // Another session has inserted the row in the meantime: the next attempt reads it.
        Err(error) if error.has("23505") => Err(StepError {
            class: ErrorClass::Retry,
            error,
            statement: None,
        }),
        other => Ok(other.map(drop)?),
    }
}

#[derive(Clone, Copy)]
pub(super) enum Scope {
    Transaction,
    Session,
}

/// SQL that sets role and settings for one statement: first the recorded settings, then the timeouts of the plan, which
/// they cannot override. Settings of the statement before (`before`) that this one does not have are set to their
/// defaults.
pub(super) fn prologue(
    plan: &BringUp<'_>,
    statement: &Statement,
    before: Option<&BTreeMap<String, String>>,
    scope: Scope,
) -> String {
    let set = match scope {
        Scope::Transaction => "SET LOCAL",
        Scope::Session => "SET SESSION",
    };
    let local = matches!(scope, Scope::Transaction);
    let mut sql = String::new();
    for name in before.into_iter().flat_map(BTreeMap::keys) {
        if !statement.settings.contains_key(name) {
            sql.push_str(&format!("{set} {} TO DEFAULT;\n", quote(name)));
        }
    }
    let recorded = statement
        .settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in recorded.chain([("search_path", statement.search_path.as_str())]) {
        let (name, value) = (literal(name), literal(value));
        sql.push_str(&format!("SELECT pg_catalog.set_config({name}, {value}, {local});\n"));
    }
    let lock = plan.limits.lock_timeout.as_millis();
    let time = plan.limits.statement_timeout.as_millis();
    sql.push_str(&format!(
        "{set} lock_timeout = {lock};\n{set} statement_timeout = {time};\n"
    ));
    let role = statement.role.as_deref().unwrap_or(plan.owner);
    sql.push_str(&format!("{set} ROLE {}", quote(role)));
    sql
}
