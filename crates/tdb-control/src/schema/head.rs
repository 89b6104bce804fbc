//! Head: the changes of a workspace that the next version contains, or why there can be no such version.

use std::sync::Arc;

use ring::digest::{Context, SHA256};
use tdb_engines::postgres::fingerprint::Difference;
use tdb_names::BlueprintName;
use tdb_problems::ProblemCode;
use tdb_store::StoreError;
use tdb_store::changes::{self, ChangeState, HeadRow};
use tdb_store::workspaces::WorkspaceRow;

use crate::core::Core;
use crate::error::{ControlError, Result};
use crate::schema::differences::shown;
use crate::schema::drain::Drains;
use crate::schema::failing::Failing;
use crate::schema::repair::{numbered, repair};

/// Why head cannot become a version.
#[derive(Debug)]
pub(crate) enum HeadProblem {
    /// Changes that cannot be replayed. The reason is that of the first one.
    Broken {
        first: u32,
        reason: String,
        all: Vec<u32>,
        /// Roles that they name and that the project had not declared.
        undeclared: Vec<String>,
    },
    Different {
        differences: Vec<Difference>,
        /// Changes that may be the cause.
        perhaps: Vec<Failing>,
    },
    Busy,
    /// The workspace's server does not answer, or its journal could not be read in time. So changes may be missing in
    /// the log.
    Unseen(ControlError),
    Other(ControlError),
}

impl From<ControlError> for HeadProblem {
    fn from(error: ControlError) -> Self {
        HeadProblem::Other(error)
    }
}

impl From<StoreError> for HeadProblem {
    fn from(error: StoreError) -> Self {
        HeadProblem::Other(error.into())
    }
}

impl HeadProblem {
    pub(crate) fn into_error(self, blueprint: &BlueprintName) -> ControlError {
        match self {
            HeadProblem::Unseen(error) | HeadProblem::Other(error) => error,
            HeadProblem::Broken {
                first,
                reason,
                all,
                undeclared,
            } => {
                let mut detail = format!("change {first} of \"{blueprint}\" cannot be replayed: {reason}");
                if all.len() > 1 {
                    detail.push_str(&format!("; {} cannot be replayed", numbered(&all)));
                }
                ControlError::refused(
                    ProblemCode::HeadBroken,
                    detail,
                    &repair(blueprint, &all, &undeclared, None),
                )
            }
            HeadProblem::Different { differences, perhaps } => {
                let mut detail = format!(
                    "the changes of \"{blueprint}\" do not give the workspace's schema: {}",
                    shown(&differences)
                );
                for Failing { change, reason } in &perhaps {
                    detail.push_str(&format!("; change {change} may be the cause, because {reason}"));
                }
                ControlError::refused(ProblemCode::HeadDiffers, detail, &equalize(&perhaps))
            }
            HeadProblem::Busy => {
                let detail = format!("the workspace of \"{blueprint}\" is currently being modified");
                ControlError::refused(ProblemCode::HeadBusy, detail, "Try again when no DDL is running in it.")
            }
        }
    }
}

/// How to make the workspace's schema and that of the changes equal again.
fn equalize(perhaps: &[Failing]) -> String {
    let uncaptured = "Something changed the workspace without being captured. Undo that (DROP ... IF EXISTS for what it created), or repeat it \
                      as DDL after that.";
    if perhaps.is_empty() {
        return uncaptured.to_owned();
    }
    let ids: Vec<u32> = perhaps.iter().map(|one| one.change).collect();
    format!(
        "If {} caused it, run DDL that has the same result in the workspace and in a replay, with names and values written out: ALTER ... \
         SET DEFAULT now(); CREATE ... IF NOT EXISTS and then DROP for what only a replay creates or keeps. If not: {uncaptured}",
        numbered(&ids)
    )
}

/// The current head of a workspace.
#[derive(Debug)]
pub(crate) struct Head {
    pub all: Vec<HeadRow>,
    pub ids: Vec<u32>,
    pub hash: Vec<u8>,
    pub statements: u32,
}

impl Head {
    pub(crate) fn of(all: Vec<HeadRow>) -> Result<Self, HeadProblem> {
        let head: Vec<&HeadRow> = all
            .iter()
            .filter(|c| matches!(c.state, ChangeState::Pending | ChangeState::Broken))
            .collect();
        let broken: Vec<&HeadRow> = head
            .iter()
            .filter(|change| change.state == ChangeState::Broken)
            .copied()
            .collect();
        if let Some(first) = broken.first() {
            return Err(HeadProblem::Broken {
                first: first.id,
                reason: first.reason.clone().unwrap_or_default(),
                all: broken.iter().map(|change| change.id).collect(),
                undeclared: broken
                    .iter()
                    .flat_map(|change| change.undeclared.iter().cloned())
                    .collect(),
            });
        }
        let content: Vec<(u32, &[u8])> = head
            .iter()
            .map(|change| (change.id, change.checksum.as_slice()))
            .collect();
        let (ids, hash) = (head.iter().map(|change| change.id).collect(), content_hash(&content));
        let statements = head.iter().map(|change| change.statements).sum();
        Ok(Self {
            ids,
            hash,
            statements,
            all,
        })
    }

    /// The number of changes in the log, including those that are not in head.
    pub(crate) fn length(&self) -> u32 {
        u32::try_from(self.all.len()).unwrap_or(u32::MAX)
    }

    /// The changes that are in the workspace but not in head.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = &HeadRow> {
        self.all
            .iter()
            .filter(|change| matches!(change.state, ChangeState::Skipped | ChangeState::Reverted))
    }
}

/// Reads the head of a workspace.
#[derive(Clone)]
pub(crate) struct Heads {
    pub(crate) core: Arc<Core>,
    pub(crate) drains: Drains,
}

impl Heads {
    pub(crate) async fn of(&self, row: &WorkspaceRow) -> Result<Head, HeadProblem> {
        Box::pin(self.drains.drain_row(row)).await.map_err(unseen)?;
        self.stored(row).await
    }

    /// Head without the changes that are still in the journal.
    pub(crate) async fn stored(&self, row: &WorkspaceRow) -> Result<Head, HeadProblem> {
        let tx = self.core.store.jobs().await?;
        let all = changes::heads(&tx, row.id).await?;
        tx.rollback().await?;
        Head::of(all)
    }
}

/// The problem if the journal cannot be drained.
fn unseen(error: ControlError) -> HeadProblem {
    match error.code() {
        ProblemCode::DatabaseUnreachable | ProblemCode::DatabaseTimedOut | ProblemCode::TimedOut => {
            HeadProblem::Unseen(error)
        }
        _ => HeadProblem::Other(error),
    }
}

/// SHA-256 over the numbers and checksums of a version's changes, in order.
pub(crate) fn content_hash(content: &[(u32, &[u8])]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    for (id, checksum) in content {
        context.update(&id.to_be_bytes());
        context.update(checksum);
    }
    context.finish().as_ref().to_vec()
}
