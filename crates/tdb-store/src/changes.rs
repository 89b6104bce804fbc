//! Table `changes`: the change log of each workspace. Rows are only ever added; of an existing one, the state changes.

use serde_json::Value;
use tdb_names::{ProjectId, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::row::{column, count, parsed, words};
use crate::tx::Tx;

words! {
    /// `deployed` is not among them: it follows from what tenants hold.
    ChangeState { Pending = "pending", Skipped = "skipped", Reverted = "reverted", Broken = "broken" }
}

#[derive(Clone, Debug)]
pub struct ChangeRow {
    /// Counts up within the workspace, in an order in which the changes replay.
    pub id: u32,
    pub statements: Vec<String>,
    pub tags: Vec<String>,
    pub objects: Vec<String>,
    pub left_out: Vec<String>,
    /// The change as the engine replays it.
    pub body: Value,
    pub checksum: Vec<u8>,
    pub author: String,
    pub state: ChangeState,
    pub reason: Option<String>,
    pub committed_at: OffsetDateTime,
    /// The change that this one undoes.
    pub reverts: Option<u32>,
}

/// A change on its way into the log.
#[derive(Clone, Debug)]
pub struct NewChange {
    pub xid: i64,
    pub statements: Vec<String>,
    pub tags: Vec<String>,
    pub objects: Vec<String>,
    pub left_out: Vec<String>,
    pub body: Value,
    pub checksum: Vec<u8>,
    pub state: ChangeState,
    pub reason: Option<String>,
    /// The server process it came from and when that began; and who it is if no session of the proxy is known there.
    pub pid: i32,
    pub backend_start: OffsetDateTime,
    pub role: String,
    pub committed_at: OffsetDateTime,
}

impl ChangeRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: count(row, "id")?,
            statements: texts(row, "statements")?,
            tags: texts(row, "tags")?,
            objects: texts(row, "objects")?,
            left_out: texts(row, "left_out")?,
            body: column(row, "body")?,
            checksum: column(row, "checksum")?,
            author: column(row, "author")?,
            state: parsed(row, "state")?,
            reason: column(row, "reason")?,
            committed_at: column(row, "committed_at")?,
            reverts: match column::<Option<i32>>(row, "reverts")? {
                Some(_) => Some(count(row, "reverts")?),
                None => None,
            },
        })
    }
}

fn texts(row: &Row, name: &str) -> Result<Vec<String>, StoreError> {
    let json: Value = column(row, name)?;
    serde_json::from_value(json).map_err(|_| StoreError::corrupt(name))
}

/// Appends changes in the order given, each once by its transaction; the caller holds the workspace's row. Gives the
/// numbers of those that were not in the log yet.
pub async fn append(
    tx: &Tx,
    project: &ProjectId,
    workspace: WorkspaceId,
    changes: &[NewChange],
) -> Result<Vec<u32>, StoreError> {
    let incoming: Vec<Value> = changes.iter().map(NewChange::to_json).collect();
    let sql = "INSERT INTO changes (workspace_id, project_id, id, xid, statements, tags, objects, left_out, body, checksum, author,
                                    state, reason, committed_at)
               SELECT $1, $2, (SELECT coalesce(max(id), 0) FROM changes WHERE workspace_id = $1) + row_number() OVER (ORDER BY n),
                      (j->>'xid')::bigint, j->'statements', j->'tags', j->'objects', j->'left_out', j->'body',
                      decode(j->>'checksum', 'hex'),
                      coalesce((SELECT coalesce(c.name, c.user_name, 'credential:' || s.credential_id,
                                                'key:' || coalesce(api_key_name(s.key_id), s.key_id::text))
                                  FROM workspace_sessions s LEFT JOIN credentials c ON c.id = s.credential_id
                                 WHERE s.workspace_id = $1 AND s.server_pid = (j->>'pid')::int
                                   AND s.backend_start = (j->>'backend_start')::timestamptz
                                 ORDER BY s.id DESC LIMIT 1), 'direct:' || (j->>'role')),
                      j->>'state', j->>'reason', (j->>'committed_at')::timestamptz
                 FROM jsonb_array_elements($3) WITH ORDINALITY AS incoming(j, n)
                WHERE NOT EXISTS (SELECT FROM changes WHERE workspace_id = $1 AND xid = (j->>'xid')::bigint)
               RETURNING id";
    let rows = tx
        .query(sql, &[&workspace.as_uuid(), &project.as_str(), &Value::Array(incoming)])
        .await?;
    let mut numbers = rows.iter().map(|row| count(row, "id")).collect::<Result<Vec<_>, _>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}

impl NewChange {
    fn to_json(&self) -> Value {
        let hex: String = self.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        serde_json::json!({
            "xid": self.xid.to_string(),
            "statements": self.statements,
            "tags": self.tags,
            "objects": self.objects,
            "left_out": self.left_out,
            "body": self.body,
            "checksum": hex,
            "state": self.state.as_str(),
            "reason": self.reason,
            "pid": self.pid,
            "backend_start": timestamp(self.backend_start),
            "role": self.role,
            "committed_at": timestamp(self.committed_at),
        })
    }
}

/// RFC 3339 with all of PostgreSQL's microseconds.
fn timestamp(at: OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

const SELECT: &str = "SELECT id, statements, tags, objects, left_out, body, checksum, author, state, reason, committed_at, reverts FROM changes";

/// All of a workspace, by number.
pub async fn all(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<ChangeRow>, StoreError> {
    let rows = tx
        .query(
            &format!("{SELECT} WHERE workspace_id = $1 ORDER BY id"),
            &[&workspace.as_uuid()],
        )
        .await?;
    rows.iter().map(ChangeRow::from_row).collect()
}

/// The named ones, by number.
pub async fn of_ids(tx: &Tx, workspace: WorkspaceId, ids: &[u32]) -> Result<Vec<ChangeRow>, StoreError> {
    let ids = crate::row::numbers(ids)?;
    let sql = format!("{SELECT} WHERE workspace_id = $1 AND id = ANY ($2) ORDER BY id");
    let rows = tx.query(&sql, &[&workspace.as_uuid(), &ids]).await?;
    rows.iter().map(ChangeRow::from_row).collect()
}

/// The change of a transaction of the workspace's database.
pub async fn by_xid(tx: &Tx, workspace: WorkspaceId, xid: i64) -> Result<Option<ChangeRow>, StoreError> {
    let sql = format!("{SELECT} WHERE workspace_id = $1 AND xid = $2");
    let row = tx.query_opt(&sql, &[&workspace.as_uuid(), &xid]).await?;
    row.as_ref().map(ChangeRow::from_row).transpose()
}

/// Says what a change undoes.
pub async fn set_reverts(tx: &Tx, workspace: WorkspaceId, id: u32, reverts: u32) -> Result<(), StoreError> {
    let sql = "UPDATE changes SET reverts = $3 WHERE workspace_id = $1 AND id = $2";
    let (id, reverts) = (crate::row::number(id)?, crate::row::number(reverts)?);
    tx.execute(sql, &[&workspace.as_uuid(), &id, &reverts]).await?;
    Ok(())
}

/// Who had a change made that a session of ours made.
pub async fn set_author(tx: &Tx, workspace: WorkspaceId, id: u32, author: &str) -> Result<(), StoreError> {
    let sql = "UPDATE changes SET author = $3 WHERE workspace_id = $1 AND id = $2";
    let id = crate::row::number(id)?;
    tx.execute(sql, &[&workspace.as_uuid(), &id, &author]).await?;
    Ok(())
}

pub async fn set_state(
    tx: &Tx,
    workspace: WorkspaceId,
    id: u32,
    state: ChangeState,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let id = crate::row::number(id)?;
    let sql = "UPDATE changes SET state = $3, reason = coalesce($4, reason) WHERE workspace_id = $1 AND id = $2";
    tx.execute(sql, &[&workspace.as_uuid(), &id, &state.as_str(), &reason])
        .await?;
    Ok(())
}

/// The head of one workspace in numbers, without the bodies: for lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadCounts {
    /// Changes not skipped.
    pub changes: u32,
    pub statements: u32,
    pub broken: u32,
}

/// A change without its text: what head is computed of.
#[derive(Clone, Debug)]
pub struct HeadRow {
    pub id: u32,
    pub checksum: Vec<u8>,
    pub statements: u32,
    pub state: ChangeState,
    pub reason: Option<String>,
}

/// All of a workspace, by number.
pub async fn heads(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<HeadRow>, StoreError> {
    let sql = "SELECT id, checksum, jsonb_array_length(statements) AS statements, state, reason
                 FROM changes WHERE workspace_id = $1 ORDER BY id";
    let rows = tx.query(sql, &[&workspace.as_uuid()]).await?;
    let head = |row: &Row| {
        Ok(HeadRow {
            id: count(row, "id")?,
            checksum: column(row, "checksum")?,
            statements: count(row, "statements")?,
            state: parsed(row, "state")?,
            reason: column(row, "reason")?,
        })
    };
    rows.iter().map(head).collect()
}

/// How many there are.
pub async fn total(tx: &Tx, workspace: WorkspaceId) -> Result<u32, StoreError> {
    let row = tx
        .query_one(
            "SELECT count(*) AS n FROM changes WHERE workspace_id = $1",
            &[&workspace.as_uuid()],
        )
        .await?;
    crate::row::total(&row, "n")
}

/// The version that first held each change.
pub async fn first_versions(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<(u32, u32)>, StoreError> {
    let sql =
        "SELECT id, min(number) AS version FROM versions, unnest(change_ids) AS id WHERE workspace_id = $1 GROUP BY id";
    let rows = tx.query(sql, &[&workspace.as_uuid()]).await?;
    rows.iter()
        .map(|row| Ok((count(row, "id")?, count(row, "version")?)))
        .collect()
}

/// Changes of head that a tenant database lacks whose tenant is not deleted; all of head while there is none.
/// Those after number `after`, at most `limit`.
pub async fn undeployed(tx: &Tx, workspace: WorkspaceId, after: u32, limit: i64) -> Result<Vec<u32>, StoreError> {
    let sql = "WITH fleet AS (
                 SELECT DISTINCT v.number, v.change_ids FROM tenant_databases d
                   JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant
                   JOIN versions v ON v.workspace_id = d.workspace_id AND v.number = d.version
                  WHERE d.workspace_id = $1 AND d.status = 'ready' AND t.status IN ('ready', 'suspended'))
               SELECT c.id FROM changes c
                WHERE c.workspace_id = $1 AND c.state IN ('pending', 'broken') AND c.id > $2
                  AND (NOT EXISTS (SELECT FROM fleet) OR EXISTS (SELECT FROM fleet WHERE NOT c.id = ANY (fleet.change_ids)))
                ORDER BY c.id LIMIT $3";
    let after = crate::row::number(after)?;
    let rows = tx.query(sql, &[&workspace.as_uuid(), &after, &limit]).await?;
    rows.iter().map(|row| count(row, "id")).collect()
}

/// Who holds a change for good: a tenant by name, or a version with a published template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Tenant(String),
    Deployment(String),
    Version(u32),
}

/// The first holder found of a change: a skip would leave it there.
pub async fn holder(tx: &Tx, workspace: WorkspaceId, id: u32) -> Result<Option<Holder>, StoreError> {
    let sql = "SELECT kind, name FROM (
                 SELECT 1 AS rank, 'tenant' AS kind, d.tenant AS name FROM tenant_databases d
                   JOIN versions v ON v.workspace_id = d.workspace_id AND v.number = d.version
                  WHERE d.workspace_id = $1 AND $2 = ANY (v.change_ids)
                 UNION ALL
                 SELECT 2, 'deployment', p.id FROM deployments p
                   JOIN versions v ON v.workspace_id = p.workspace_id AND v.number = p.version
                   JOIN deployment_targets g ON g.deployment_id = p.id AND g.status NOT IN ('done', 'skipped')
                  WHERE p.workspace_id = $1 AND $2 = ANY (v.change_ids)
                 UNION ALL
                 SELECT 3, 'version', p.version::text FROM templates p
                   JOIN versions v ON v.workspace_id = p.workspace_id AND v.number = p.version
                  WHERE p.workspace_id = $1 AND p.status IN ('publishing', 'published') AND $2 = ANY (v.change_ids)) AS held
               ORDER BY rank, name LIMIT 1";
    let row = tx
        .query_opt(sql, &[&workspace.as_uuid(), &crate::row::number(id)?])
        .await?;
    let Some(row) = row else { return Ok(None) };
    let name: String = column(&row, "name")?;
    Ok(Some(match column::<&str>(&row, "kind")? {
        "tenant" => Holder::Tenant(name),
        "deployment" => Holder::Deployment(name),
        _ => Holder::Version(name.parse().map_err(|_| StoreError::corrupt("version"))?),
    }))
}
