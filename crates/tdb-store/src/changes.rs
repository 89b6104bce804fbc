//! Table `changes`: the change log of each workspace. Rows are only added; of an existing row, only state, reason,
//! author and `reverts` change.

use serde_json::Value;
use tdb_names::{ProjectId, WorkspaceId};
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::row::{column, count, parsed, words};
use crate::tx::Tx;

words! {
    /// Whether a change is part of head. Whether it is deployed is not stored here: that follows from the tenants'
    /// versions.
    ChangeState {
        /// It is part of head.
        Pending = "pending",
        /// Its author excluded it from head.
        Skipped = "skipped",
        /// It and the change that undoes it cancel each other out; neither is part of head.
        Reverted = "reverted",
        /// It cannot be replayed; `reason` says why. No version can be created until it is skipped or repaired.
        Broken = "broken",
    }
}

/// A schema change captured in a workspace: the DDL of one committed transaction.
#[derive(Clone, Debug)]
pub struct ChangeRow {
    /// A number that increases within the workspace, in an order in which the changes can be replayed.
    pub id: u32,
    /// The SQL text of its statements, in order.
    pub statements: Vec<String>,
    /// The command tags of its statements, such as `CREATE TABLE`.
    pub tags: Vec<String>,
    /// Identities of the objects that it changed, such as `public.orders`.
    pub objects: Vec<String>,
    /// Statements of the same transaction that are not replayed, such as those that change data.
    pub left_out: Vec<String>,
    /// The change as the engine replays it.
    pub body: Value,
    /// A hash of the content, by which equal changes are recognized.
    pub checksum: Vec<u8>,
    /// Who made the change: the name of a credential or of an API key, else the database role.
    pub author: String,
    /// Whether it is part of head.
    pub state: ChangeState,
    /// Why it is broken, or why it was skipped.
    pub reason: Option<String>,
    /// When its transaction was committed, by the server's clock.
    pub committed_at: OffsetDateTime,
    /// The change that this one undoes.
    pub reverts: Option<u32>,
}

/// A change to be appended to the log.
#[derive(Clone, Debug)]
pub struct NewChange {
    /// The full transaction id in the workspace's database. A transaction is appended once.
    pub xid: i64,
    /// The SQL text of its statements, in order.
    pub statements: Vec<String>,
    /// The command tags of its statements, such as `CREATE TABLE`.
    pub tags: Vec<String>,
    /// Identities of the objects that it changed.
    pub objects: Vec<String>,
    /// Statements of the same transaction that are not replayed.
    pub left_out: Vec<String>,
    /// The change as the engine replays it.
    pub body: Value,
    /// A hash of the content, by which equal changes are recognized.
    pub checksum: Vec<u8>,
    /// `Pending`, or `Broken` if capture could not make a replayable change of it.
    pub state: ChangeState,
    /// Why it is broken.
    pub reason: Option<String>,
    /// The process id of the server process that it came from. With `backend_start`, it identifies the session, and so
    /// the author.
    pub pid: i32,
    /// When that server process started.
    pub backend_start: OffsetDateTime,
    /// The database role; the author if no recorded session matches.
    pub role: String,
    /// When its transaction was committed, by the server's clock.
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

/// Appends changes in the given order and returns the numbers of those that were not in the log yet; a transaction is
/// appended once. The caller must hold the lock on the workspace's row.
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

/// RFC 3339 with PostgreSQL's full precision of microseconds.
fn timestamp(at: OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

const SELECT: &str = "SELECT id, statements, tags, objects, left_out, body, checksum, author, state, reason, committed_at, reverts FROM changes";

/// All changes of a workspace, by number.
pub async fn all(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<ChangeRow>, StoreError> {
    let rows = tx
        .query(
            &format!("{SELECT} WHERE workspace_id = $1 ORDER BY id"),
            &[&workspace.as_uuid()],
        )
        .await?;
    rows.iter().map(ChangeRow::from_row).collect()
}

/// The changes with these numbers, by number.
pub async fn of_ids(tx: &Tx, workspace: WorkspaceId, ids: &[u32]) -> Result<Vec<ChangeRow>, StoreError> {
    let ids = crate::row::numbers(ids)?;
    let sql = format!("{SELECT} WHERE workspace_id = $1 AND id = ANY ($2) ORDER BY id");
    let rows = tx.query(&sql, &[&workspace.as_uuid(), &ids]).await?;
    rows.iter().map(ChangeRow::from_row).collect()
}

/// For those of `objects` that pending changes changed: the number of each such change, and the object's identity.
pub async fn pending_of_objects(
    tx: &Tx,
    workspace: WorkspaceId,
    objects: &[String],
) -> Result<Vec<(u32, String)>, StoreError> {
    let sql = "SELECT c.id, o.object FROM changes c, jsonb_array_elements_text(c.objects) AS o(object)
                WHERE c.workspace_id = $1 AND c.state = 'pending' AND o.object = ANY ($2)";
    let rows = tx.query(sql, &[&workspace.as_uuid(), &objects]).await?;
    rows.iter()
        .map(|row| Ok((count(row, "id")?, column(row, "object")?)))
        .collect()
}

/// The change that came from this transaction of the workspace's database.
pub async fn by_xid(tx: &Tx, workspace: WorkspaceId, xid: i64) -> Result<Option<ChangeRow>, StoreError> {
    let sql = format!("{SELECT} WHERE workspace_id = $1 AND xid = $2");
    let row = tx.query_opt(&sql, &[&workspace.as_uuid(), &xid]).await?;
    row.as_ref().map(ChangeRow::from_row).transpose()
}

/// Records that change `id` undoes change `reverts`.
pub async fn set_reverts(tx: &Tx, workspace: WorkspaceId, id: u32, reverts: u32) -> Result<(), StoreError> {
    let sql = "UPDATE changes SET reverts = $3 WHERE workspace_id = $1 AND id = $2";
    let (id, reverts) = (crate::row::number(id)?, crate::row::number(reverts)?);
    tx.execute(sql, &[&workspace.as_uuid(), &id, &reverts]).await?;
    Ok(())
}

/// Records the author of a change that one of our own sessions made for a user.
pub async fn set_author(tx: &Tx, workspace: WorkspaceId, id: u32, author: &str) -> Result<(), StoreError> {
    let sql = "UPDATE changes SET author = $3 WHERE workspace_id = $1 AND id = $2";
    let id = crate::row::number(id)?;
    tx.execute(sql, &[&workspace.as_uuid(), &id, &author]).await?;
    Ok(())
}

/// Sets a change's state. A `reason` of `None` keeps the stored one.
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

/// Counts over the head of a workspace, without the changes' text, for lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadCounts {
    /// Changes that are not skipped.
    pub changes: u32,
    /// Their statements.
    pub statements: u32,
    /// How many of them are broken.
    pub broken: u32,
}

/// A change without its text: what the state of head is computed from.
#[derive(Clone, Debug)]
pub struct HeadRow {
    /// The change's number.
    pub id: u32,
    /// A hash of the content.
    pub checksum: Vec<u8>,
    /// How many statements it has.
    pub statements: u32,
    /// Whether it is part of head.
    pub state: ChangeState,
    /// Why it is broken, or why it was skipped.
    pub reason: Option<String>,
    /// Roles that it names and its project had not declared.
    pub undeclared: Vec<String>,
}

/// All changes of a workspace, by number, without their text.
pub async fn heads(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<HeadRow>, StoreError> {
    let sql = "SELECT id, checksum, jsonb_array_length(statements) AS statements, state, reason,
                      coalesce(body->'undeclared', '[]') AS undeclared
                 FROM changes WHERE workspace_id = $1 ORDER BY id";
    let rows = tx.query(sql, &[&workspace.as_uuid()]).await?;
    let head = |row: &Row| {
        Ok(HeadRow {
            id: count(row, "id")?,
            checksum: column(row, "checksum")?,
            statements: count(row, "statements")?,
            state: parsed(row, "state")?,
            reason: column(row, "reason")?,
            undeclared: texts(row, "undeclared")?,
        })
    };
    rows.iter().map(head).collect()
}

/// The number of changes of a workspace, in every state.
pub async fn total(tx: &Tx, workspace: WorkspaceId) -> Result<u32, StoreError> {
    let row = tx
        .query_one(
            "SELECT count(*) AS n FROM changes WHERE workspace_id = $1",
            &[&workspace.as_uuid()],
        )
        .await?;
    crate::row::total(&row, "n")
}

/// For each change that is in a version: its number, and the first version that contains it.
pub async fn first_versions(tx: &Tx, workspace: WorkspaceId) -> Result<Vec<(u32, u32)>, StoreError> {
    let sql =
        "SELECT id, min(number) AS version FROM versions, unnest(change_ids) AS id WHERE workspace_id = $1 GROUP BY id";
    let rows = tx.query(sql, &[&workspace.as_uuid()]).await?;
    rows.iter()
        .map(|row| Ok((count(row, "id")?, count(row, "version")?)))
        .collect()
}

/// Numbers of the changes of head that some tenant database lacks, or all changes of head if there is no tenant
/// database. Databases of deleted tenants do not count. Those after number `after`, at most `limit`.
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

/// What keeps a change from being skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeUse {
    /// The tenant of this name has the change.
    Tenant(String),
    /// A deployment with this id, which has unfinished targets, contains the change.
    Deployment(String),
    /// This version, which has a published template, contains the change.
    Version(u32),
}

/// The first use of a change; `None` if the change can be skipped.
pub async fn first_use(tx: &Tx, workspace: WorkspaceId, id: u32) -> Result<Option<ChangeUse>, StoreError> {
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
        "tenant" => ChangeUse::Tenant(name),
        "deployment" => ChangeUse::Deployment(name),
        _ => ChangeUse::Version(name.parse().map_err(|_| StoreError::corrupt("version"))?),
    }))
}
