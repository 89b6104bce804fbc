//! Tables `physical_databases` and `postgres_databases`: what workspaces, builds, templates and tenant databases have
//! in common. A database on a server and its three roles, created and removed in steps that can be
//! repeated.

use std::collections::HashSet;

use tdb_names::{ProjectId, ServerName};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::error::StoreError;
use crate::row::{column, parsed, words};
use crate::tx::Tx;

/// A login role of one database and its encrypted secret (context `role:<name>`).
#[derive(Clone, Debug)]
pub struct RoleSecret {
    /// The role's name.
    pub name: String,
    /// The secret, as [`crate::Store::seal_role`] encrypted it.
    pub sealed: Vec<u8>,
}

/// The three login roles of a database.
#[derive(Clone, Debug)]
pub struct RoleSecrets {
    /// Owns the database's objects; read-write credentials use it.
    pub owner: RoleSecret,
    /// Used by deployments.
    pub deployer: RoleSecret,
    /// Used by read-only credentials.
    pub readonly: RoleSecret,
}

/// Where a database is. While a database is being renamed, `database` is the new name; `oid` identifies it in any case.
#[derive(Clone, Debug)]
pub struct Physical {
    /// Part of the database's name while it is being created.
    pub id: Uuid,
    /// The server it is on.
    pub server: ServerName,
    /// Its current or next name; `None` before the first step.
    pub database: Option<String>,
    /// Its oid on the server; `None` until it exists.
    pub oid: Option<u32>,
    /// Its login roles.
    pub roles: RoleSecrets,
}

words! {
    /// The last completed step of a creation or deletion.
    Step {
        /// The row is stored; nothing exists on the server.
        Intent = "intent",
        /// The database exists, and its final name is chosen.
        Cloned = "cloned",
        /// A build or spare has its roles and can be used.
        Adopted = "adopted",
        /// A build has a version's changes and is being closed.
        Replayed = "replayed",
        /// It is a template that others are cloned from.
        Published = "published",
        /// A build, template or spare is going to be dropped.
        Retired = "retired",
        /// The creation is complete.
        Ready = "ready",
        /// The deletion has begun.
        Deleting = "deleting",
    }
}

/// The progress of a creation or deletion, and the last error.
#[derive(Clone, Debug)]
pub struct StepProgress {
    /// The last completed step.
    pub step: Step,
    /// How many attempts failed since the last completed step.
    pub attempts: u32,
    /// The last attempt's error, for the log and the operator.
    pub last_error: Option<String>,
}

/// The columns of [`Physical`] in a query that has the tables of [`join`].
pub(crate) const COLUMNS: &str = "p.id AS physical_id, p.server, p.name AS physical_database, g.oid AS database_oid, \
                                  g.owner_role, g.owner_secret, g.deployer_role, g.deployer_secret, g.readonly_role, \
                                  g.readonly_secret";

/// Joins each row of `rows`, a table or its alias, with the database that serves it.
pub(crate) fn join(kind: DatabaseKind, rows: &str) -> String {
    let column = kind.column();
    format!(
        "JOIN physical_databases p ON p.{column} = {rows}.id AND p.part = 'serving' JOIN postgres_databases g ON g.id = p.id"
    )
}

impl Physical {
    pub(crate) fn from_row(row: &Row) -> Result<Self, StoreError> {
        let role = |name: &str, secret: &str| -> Result<RoleSecret, StoreError> {
            Ok(RoleSecret {
                name: column(row, name)?,
                sealed: column(row, secret)?,
            })
        };
        Ok(Self {
            id: column(row, "physical_id")?,
            server: parsed(row, "server")?,
            database: column(row, "physical_database")?,
            oid: column::<Option<i64>>(row, "database_oid")?
                .map(u32::try_from)
                .transpose()
                .map_err(|_| StoreError::corrupt("database_oid"))?,
            roles: RoleSecrets {
                owner: role("owner_role", "owner_secret")?,
                deployer: role("deployer_role", "deployer_secret")?,
                readonly: role("readonly_role", "readonly_secret")?,
            },
        })
    }
}

impl StepProgress {
    pub(crate) fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            step: parsed(row, "step")?,
            attempts: crate::row::count(row, "attempts")?,
            last_error: column(row, "last_error")?,
        })
    }
}

words! {
    /// The kind of row that a database belongs to.
    DatabaseKind {
        /// A row of `workspaces`.
        Workspace = "workspace",
        /// A row of `templates`.
        Template = "template",
        /// A row of `tenant_databases`.
        TenantDatabase = "tenant_database",
    }
}

impl DatabaseKind {
    fn table(self) -> &'static str {
        match self {
            DatabaseKind::Workspace => "workspaces",
            DatabaseKind::Template => "templates",
            DatabaseKind::TenantDatabase => "tenant_databases",
        }
    }

    fn column(self) -> &'static str {
        match self {
            DatabaseKind::Workspace => "workspace_id",
            DatabaseKind::Template => "template_id",
            DatabaseKind::TenantDatabase => "tenant_database_id",
        }
    }
}

/// Stores the serving database of a row that was just inserted.
pub(crate) async fn insert(
    tx: &Tx,
    project: &ProjectId,
    kind: DatabaseKind,
    row_id: Uuid,
    physical: &Physical,
) -> Result<(), StoreError> {
    let sql = format!(
        "WITH place AS (INSERT INTO physical_databases (id, project_id, {}, part, server, name)
                        VALUES ($1, $2, $3, 'serving', $4, $5))
         INSERT INTO postgres_databases (id, project_id, oid, owner_role, owner_secret, deployer_role, deployer_secret,
                                         readonly_role, readonly_secret)
         VALUES ($1, $2, $6, $7, $8, $9, $10, $11, $12)",
        kind.column()
    );
    let roles = &physical.roles;
    let parameters: [&(dyn ToSql + Sync); 12] = [
        &physical.id,
        &project.as_str(),
        &row_id,
        &physical.server.as_str(),
        &physical.database,
        &physical.oid.map(i64::from),
        &roles.owner.name,
        &roles.owner.sealed,
        &roles.deployer.name,
        &roles.deployer.sealed,
        &roles.readonly.name,
        &roles.readonly.sealed,
    ];
    tx.execute(&sql, &parameters).await?;
    Ok(())
}

/// Moves the template's database to the tenant database, in place of the one that was planned for it.
pub(crate) async fn give_to_tenant(tx: &Tx, template: Uuid, database: Uuid, name: &str) -> Result<(), StoreError> {
    let own = "DELETE FROM physical_databases WHERE tenant_database_id = $1";
    tx.execute(own, &[&database]).await?;
    let sql =
        "UPDATE physical_databases SET template_id = NULL, tenant_database_id = $2, name = $3 WHERE template_id = $1";
    tx.execute(sql, &[&template, &database, &name]).await?;
    Ok(())
}

/// Records the database's name and oid together with the row's step that set them.
pub async fn record_database(
    tx: &Tx,
    kind: DatabaseKind,
    row_id: Uuid,
    step: Step,
    database: &str,
    oid: u32,
) -> Result<(), StoreError> {
    let sql = format!(
        "WITH step AS (UPDATE {} SET step = $2, last_error = NULL WHERE id = $1),
              place AS (UPDATE physical_databases SET name = $3 WHERE {} = $1 AND part = 'serving' RETURNING id)
         UPDATE postgres_databases g SET oid = $4 FROM place WHERE g.id = place.id",
        kind.table(),
        kind.column()
    );
    tx.execute(&sql, &[&row_id, &step.as_str(), &database, &i64::from(oid)])
        .await?;
    Ok(())
}

/// The current or next name of a database.
pub async fn recorded_name(tx: &Tx, id: Uuid) -> Result<Option<String>, StoreError> {
    let row = tx
        .query_opt("SELECT name FROM physical_databases WHERE id = $1", &[&id])
        .await?;
    Ok(row.map(|row| column(&row, "name")).transpose()?.flatten())
}

/// Records the current or next name of a database.
pub async fn record_name(tx: &Tx, id: Uuid, name: &str) -> Result<(), StoreError> {
    tx.execute("UPDATE physical_databases SET name = $2 WHERE id = $1", &[&id, &name])
        .await?;
    Ok(())
}

/// Records a failed step. The row is not worked on for `pause`.
pub async fn record_failure(
    tx: &Tx,
    kind: DatabaseKind,
    id: Uuid,
    error: &str,
    pause: std::time::Duration,
) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE {} SET attempts = attempts + 1, last_error = $2, not_before = now() + $3 * interval '1 second' WHERE id = $1",
        kind.table()
    );
    tx.execute(&sql, &[&id, &error, &pause.as_secs_f64()]).await?;
    Ok(())
}

/// The databases of a server that have a row in this installation.
#[derive(Debug, Default)]
pub struct Recorded {
    ids: HashSet<Uuid>,
    oids: HashSet<i64>,
}

impl Recorded {
    /// Whether a database has a row: by the id in the name of one that is being created, or by its oid.
    pub fn has(&self, id: Uuid, oid: u32) -> bool {
        self.ids.contains(&id) || self.oids.contains(&i64::from(oid))
    }
}

/// The databases of this server that have a row. A database with the installation's prefix that is not among them is an
/// orphan.
pub async fn recorded(tx: &Tx, server: &ServerName) -> Result<Recorded, StoreError> {
    let sql =
        "SELECT p.id, g.oid FROM physical_databases p JOIN postgres_databases g ON g.id = p.id WHERE p.server = $1";
    let mut recorded = Recorded::default();
    for row in tx.query(sql, &[&server.as_str()]).await? {
        recorded.ids.insert(column(&row, "id")?);
        recorded.oids.extend(column::<Option<i64>>(&row, "oid")?);
    }
    Ok(recorded)
}

/// Whether the row of another database has this name on the server.
pub async fn name_is_claimed(tx: &Tx, server: &ServerName, name: &str, except: Uuid) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM physical_databases WHERE server = $1 AND name = $2 AND id <> $3";
    Ok(tx.query_opt(sql, &[&server.as_str(), &name, &except]).await?.is_some())
}

/// The number of databases that the transaction's project has on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Workspaces of the project.
    pub workspaces: u32,
    /// Tenant databases of the project.
    pub tenant_databases: u32,
}

/// Counts the project's databases on one server.
pub async fn used_on(tx: &Tx, server: &ServerName) -> Result<Used, StoreError> {
    let used = used_on_each(tx, std::slice::from_ref(server)).await?.pop();
    used.ok_or_else(|| StoreError::corrupt("servers"))
}

/// Counts the project's databases on these servers, in their order.
pub async fn used_on_each(tx: &Tx, servers: &[ServerName]) -> Result<Vec<Used>, StoreError> {
    let names: Vec<&str> = servers.iter().map(ServerName::as_str).collect();
    let sql = "SELECT count(p.workspace_id) AS workspaces, count(p.tenant_database_id) AS tenant_databases
                 FROM unnest($1::text[]) WITH ORDINALITY AS s(name, n) LEFT JOIN physical_databases p ON p.server = s.name
                GROUP BY s.n ORDER BY s.n";
    let used = |row: &Row| {
        Ok(Used {
            workspaces: crate::row::total(row, "workspaces")?,
            tenant_databases: crate::row::total(row, "tenant_databases")?,
        })
    };
    tx.query(sql, &[&names]).await?.iter().map(used).collect()
}
