//! Table `log_facts`: the schema facts that result from replaying all changes of a workspace, skipped ones included, as
//! of the last comparison that showed no difference. One row per workspace.

use std::collections::BTreeMap;

use tdb_names::{ProjectId, WorkspaceId};

use crate::error::StoreError;
use crate::row::{column, number};
use crate::tx::Tx;

/// Stores the facts, in place of earlier ones.
pub async fn store(
    tx: &Tx,
    project: &ProjectId,
    workspace: WorkspaceId,
    changes: u32,
    pg_major: u32,
    facts: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    let json = serde_json::to_value(facts).map_err(|_| StoreError::corrupt("facts"))?;
    let sql = "INSERT INTO log_facts (workspace_id, project_id, changes, pg_major, facts) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (workspace_id) DO UPDATE SET changes = $3, pg_major = $4, facts = $5";
    let (changes, pg_major) = (number(changes)?, number(pg_major)?);
    tx.execute(
        sql,
        &[&workspace.as_uuid(), &project.as_str(), &changes, &pg_major, &json],
    )
    .await?;
    Ok(())
}

/// The stored facts, if they cover exactly this number of changes on this major version.
pub async fn of(
    tx: &Tx,
    workspace: WorkspaceId,
    changes: u32,
    pg_major: u32,
) -> Result<Option<BTreeMap<String, String>>, StoreError> {
    let sql = "SELECT facts FROM log_facts WHERE workspace_id = $1 AND changes = $2 AND pg_major = $3";
    let row = tx
        .query_opt(sql, &[&workspace.as_uuid(), &number(changes)?, &number(pg_major)?])
        .await?;
    let Some(row) = row else { return Ok(None) };
    let facts = serde_json::from_value(column(&row, "facts")?);
    facts.map(Some).map_err(|_| StoreError::corrupt("facts"))
}
