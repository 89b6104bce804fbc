//! What workspaces, builds, templates and tenant databases have in common: a database on a server and its three roles,
//! made and unmade in steps that can be done again.

use std::collections::HashSet;

use tdb_names::ServerName;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::StoreError;
use crate::row::{column, parsed};
use crate::tx::Tx;

/// A login role of one database and its sealed secret (context `role:<name>`).
#[derive(Clone, Debug)]
pub struct RoleSecret {
    pub name: String,
    pub sealed: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct RoleSecrets {
    pub owner: RoleSecret,
    pub deployer: RoleSecret,
    pub readonly: RoleSecret,
}

/// Where a database is. The name is what it has now or is about to have; the oid is what it is found by.
#[derive(Clone, Debug)]
pub struct Physical {
    pub server: ServerName,
    pub database: Option<String>,
    pub oid: Option<u32>,
    pub roles: RoleSecrets,
}

/// How far a creation or deletion has come, and what stopped it last.
#[derive(Clone, Debug)]
pub struct Progress {
    pub step: String,
    pub attempts: u32,
    pub last_error: Option<String>,
}

/// The columns of [`Physical`], for INSERT and SELECT lists.
pub(crate) const COLUMNS: &str = "server, physical_database, database_oid, owner_role, owner_secret, deployer_role, \
                                  deployer_secret, readonly_role, readonly_secret";

/// The same, each with `qualifier` before it.
pub(crate) fn columns_of(qualifier: &str) -> String {
    let qualified: Vec<String> = COLUMNS
        .split(',')
        .map(|name| format!("{qualifier}{}", name.trim()))
        .collect();
    qualified.join(", ")
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

impl Progress {
    pub(crate) fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            step: column(row, "step")?,
            attempts: crate::row::count(row, "attempts")?,
            last_error: column(row, "last_error")?,
        })
    }
}

/// Which table a database's row is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Workspaces,
    Templates,
    TenantDatabases,
}

impl Place {
    fn table(self) -> &'static str {
        match self {
            Place::Workspaces => "workspaces",
            Place::Templates => "templates",
            Place::TenantDatabases => "tenant_databases",
        }
    }
}

/// The step that is done.
pub async fn record_step(tx: &Tx, place: Place, id: Uuid, step: &str) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE {} SET step = $2, last_error = NULL WHERE id = $1",
        place.table()
    );
    tx.execute(&sql, &[&id, &step]).await?;
    Ok(())
}

/// The database's name and oid, with the step that made them so.
pub async fn record_database(
    tx: &Tx,
    place: Place,
    id: Uuid,
    step: &str,
    database: &str,
    oid: u32,
) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE {} SET step = $2, physical_database = $3, database_oid = $4, last_error = NULL WHERE id = $1",
        place.table()
    );
    tx.execute(&sql, &[&id, &step, &database, &i64::from(oid)]).await?;
    Ok(())
}

/// The name a database has or is going to have.
pub async fn recorded_name(tx: &Tx, place: Place, id: Uuid) -> Result<Option<String>, StoreError> {
    let sql = format!("SELECT physical_database FROM {} WHERE id = $1", place.table());
    let row = tx.query_opt(&sql, &[&id]).await?;
    Ok(row.map(|row| column(&row, "physical_database")).transpose()?.flatten())
}

pub async fn record_name(tx: &Tx, place: Place, id: Uuid, name: &str) -> Result<(), StoreError> {
    let sql = format!("UPDATE {} SET physical_database = $2 WHERE id = $1", place.table());
    tx.execute(&sql, &[&id, &name]).await?;
    Ok(())
}

/// A step failed; the row is left alone for `pause`.
pub async fn record_failure(
    tx: &Tx,
    place: Place,
    id: Uuid,
    error: &str,
    pause: std::time::Duration,
) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE {} SET attempts = attempts + 1, last_error = $2, not_before = now() + $3 * interval '1 second' WHERE id = $1",
        place.table()
    );
    tx.execute(&sql, &[&id, &error, &pause.as_secs_f64()]).await?;
    Ok(())
}

/// What the rows of this installation know of databases on a server.
#[derive(Debug, Default)]
pub struct Known {
    ids: HashSet<Uuid>,
    oids: HashSet<i64>,
}

impl Known {
    /// A database being made is known by the id in its name; one that was a spare has its tenant's row by its oid only.
    pub fn has(&self, id: Uuid, oid: u32) -> bool {
        self.ids.contains(&id) || self.oids.contains(&i64::from(oid))
    }
}

/// What is not among them and carries the installation's prefix is nobody's.
pub async fn known(tx: &Tx, server: &ServerName) -> Result<Known, StoreError> {
    let sql = "SELECT id, database_oid FROM (SELECT id, server, database_oid FROM workspaces
                 UNION ALL SELECT id, server, database_oid FROM templates
                 UNION ALL SELECT id, server, database_oid FROM tenant_databases) AS known WHERE server = $1";
    let mut known = Known::default();
    for row in tx.query(sql, &[&server.as_str()]).await? {
        known.ids.insert(column(&row, "id")?);
        known.oids.extend(column::<Option<i64>>(&row, "database_oid")?);
    }
    Ok(known)
}

/// Whether a row of another database already claims this name on the server.
pub async fn name_is_claimed(tx: &Tx, server: &ServerName, name: &str, except: Uuid) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM (SELECT id, server, physical_database FROM workspaces
                 UNION ALL SELECT id, server, physical_database FROM templates
                 UNION ALL SELECT id, server, physical_database FROM tenant_databases) AS known
               WHERE server = $1 AND physical_database = $2 AND id <> $3 LIMIT 1";
    Ok(tx.query_opt(sql, &[&server.as_str(), &name, &except]).await?.is_some())
}

/// What the project of the transaction has on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub workspaces: u32,
    pub tenant_databases: u32,
}

pub async fn used_on(tx: &Tx, server: &ServerName) -> Result<Used, StoreError> {
    let sql = "SELECT (SELECT count(*) FROM workspaces WHERE server = $1) AS workspaces,
                      (SELECT count(*) FROM tenant_databases WHERE server = $1) AS tenant_databases";
    let row = tx.query_one(sql, &[&server.as_str()]).await?;
    Ok(Used {
        workspaces: crate::row::total(&row, "workspaces")?,
        tenant_databases: crate::row::total(&row, "tenant_databases")?,
    })
}
