//! Queries through the API: in a workspace, and in many tenants at once, each as a role of that database.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use tdb_contract::{Prepared, Repair};
use tdb_engines::postgres::EngineError;
use tdb_engines::postgres::extensions::written;
use tdb_engines::postgres::query::{self, Access, Query, QueryLimits, ResultBudget};
use tdb_names::{BlueprintName, ServerName, TenantName};
use tdb_store::physical::Physical;
use tdb_store::tenants;
use tdb_store::tenants::{DatabaseStatus, FleetRow, TenantStatus};
use uuid::Uuid;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result, query_failed};
use crate::identity::{Identity, KeyScope};
use crate::lifecycle::place::As;
use crate::lifecycle::place::Placement;
use crate::lifecycle::readers::ReadAccess;
use crate::lifecycle::repairs::Repairs;
use crate::lifecycle::workspaces::Workspaces;
use crate::model::{QueryResult, ResultColumn, SqlFailure, TenantChoice, TenantQuery, TenantQueryResult};
use crate::schema::drain::Drains;
use crate::schema::extensions::{Extensions, for_the_role};

/// The application name of the API's sessions. It must not contain a customer's name.
const APPLICATION: &str = "tdb-query";
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// The memory of the results of one request, in bytes: the process is also the proxy, and a request can ask thousands of
/// tenants for 16 MiB each.
const RESULTS_LEN_MAX: usize = 32 * 1024 * 1024;
/// The most characters of one tenant's error message; a message can contain a value of a megabyte.
const MESSAGE_LEN_MAX: usize = 1_000;

/// Queries of the API.
#[derive(Clone)]
pub struct Queries {
    pub(crate) core: Arc<Core>,
    pub(crate) placement: Placement,
    pub(crate) read_access: ReadAccess,
    pub(crate) repairs: Repairs,
    pub(crate) drains: Drains,
    pub(crate) workspaces: Workspaces,
    pub(crate) extensions: Extensions,
}

impl Queries {
    /// Runs `sql` in the workspace, as the owner's role or, with a key of scope read, as the read-only role. DDL is
    /// captured as in any other session.
    pub async fn in_workspace(&self, identity: &Identity, blueprint: &BlueprintName, sql: &str) -> Result<QueryResult> {
        identity.require(KeyScope::Read)?;
        let row = self.workspaces.ready(identity, blueprint).await?;
        let failed = |error| query_failed(&row.physical.server, error);
        let access = access_of(identity);
        let query = self.open_query(row.id.as_uuid(), &row.physical, access).await?;
        let server_pid = query.server_pid();
        if let Err(error) = self.drains.record_own_session(identity, &row, server_pid).await {
            tracing::warn!(error = %error.explained(), "the session could not be recorded; its changes will have the database role as author");
        }
        let prepared = match access {
            Access::ReadWrite => self.extensions.make_written(&row, sql, server_pid).await,
            _ => Prepared::default(),
        };
        let sql = prepared.text.as_deref().unwrap_or(sql);
        let meant = for_the_role(&row, sql)?;
        let result = query.run(meant.as_deref().unwrap_or(sql), access).await;
        // Before the answer, after an error too: a failed text may contain a COMMIT.
        self.drains.drain_after(&row, server_pid).await;
        result
            .map(shown)
            .map_err(|error| advised(failed(error), sql, &prepared.warnings))
    }

    /// Runs the query in each tenant, as the owner's role or, with a key of scope read, as the read-only role. The
    /// results are in the order of the tenants. An unknown tenant is an error; a failure in one tenant is its result. All
    /// results together take at most 32 MiB; those that have no room left are truncated.
    pub async fn in_tenants(&self, identity: &Identity, query: TenantQuery) -> Result<Vec<TenantQueryResult>> {
        identity.require(KeyScope::Read)?;
        self.workspaces
            .row(identity, &query.blueprint)
            .await
            .map_err(|e| e.naming(EntryKind::Blueprint))?;
        let tx = self.core.store.project(identity.project()).await?;
        let fleet = tenants::of_blueprint(&tx, identity.project(), &query.blueprint).await?;
        tx.rollback().await?;
        let chosen: Vec<FleetRow> = match &query.tenants {
            TenantChoice::All => fleet.into_iter().filter(is_there).collect(),
            TenantChoice::Named(names) => {
                let known = |name: &TenantName| fleet.iter().any(|row: &FleetRow| row.database.tenant == *name);
                if let Some(unknown) = names.iter().find(|name| !known(name)) {
                    return Err(ControlError::NoDatabase {
                        tenant: unknown.clone(),
                        blueprint: query.blueprint,
                    });
                }
                fleet
                    .into_iter()
                    .filter(|row| names.contains(&row.database.tenant))
                    .collect()
            }
        };
        let (access, sql) = (access_of(identity), query.sql.as_str());
        let width = self.core.settings.deployments_per_server.get();
        let budget = &ResultBudget::new(RESULTS_LEN_MAX);
        // Servers are queried independently: one that does not respond delays only its own tenants.
        let mut of_server: HashMap<ServerName, Vec<(usize, FleetRow)>> = HashMap::new();
        for (place, row) in chosen.into_iter().enumerate() {
            let server = row.database.physical.server.clone();
            of_server.entry(server).or_default().push((place, row));
        }
        let asked = of_server.into_values().map(|rows| {
            let each = |(place, row)| async move { (place, self.query_one(row, access, sql, budget).await) };
            stream::iter(rows).map(each).buffer_unordered(width).collect::<Vec<_>>()
        });
        let mut results = join_all(asked).await.concat();
        results.sort_unstable_by_key(|(place, _)| *place);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    async fn query_one(
        &self,
        row: FleetRow,
        access: Access,
        sql: &str,
        budget: &Arc<ResultBudget>,
    ) -> TenantQueryResult {
        let tenant = row.database.tenant.clone();
        let failure = |sqlstate: &str, message: String| {
            Err(SqlFailure {
                sqlstate: sqlstate.to_owned(),
                message: shortened(message),
                statement: None,
            })
        };
        if !is_there(&row) {
            let outcome = failure("57P03", format!("tenant \"{tenant}\" is not available"));
            return TenantQueryResult { tenant, outcome };
        }
        let (id, physical) = (row.database.id.as_uuid(), &row.database.physical);
        let outcome = match self.open_query(id, physical, access).await {
            Err(error) => failure(error.sqlstate().unwrap_or("08006"), error.to_string()),
            Ok(query) => match query.sharing(budget).run(sql, access).await {
                Ok(result) => Ok(shown(result)),
                Err(error) => failure(error.sqlstate().as_str(), error.to_string()),
            },
        };
        TenantQueryResult { tenant, outcome }
    }

    /// Opens a session in the role that matches the rights of the query. If the login is refused because a client
    /// changed the role, the role is restored first.
    async fn open_query(&self, id: Uuid, physical: &Physical, access: Access) -> Result<Query> {
        // A query in all tenants would wait for one login after the other.
        let opened = Box::pin(self.open_query_now(id, physical, access));
        self.placement.servers.patiently(&physical.server, opened).await
    }

    async fn open_query_now(&self, id: Uuid, physical: &Physical, access: Access) -> Result<Query> {
        let role = match access {
            Access::ReadWrite => As::Owner,
            Access::ReadOnly => {
                self.read_access.admit_one(id).await?;
                As::ReadOnly
            }
        };
        let login = self.placement.login(physical, role, APPLICATION).await?;
        let opened = match Query::open(&login, QueryLimits::default()).await {
            Err(EngineError::Sql { .. }) if self.repairs.repair_roles_of(id).await? == Repair::Done => {
                Query::open(&login, QueryLimits::default()).await
            }
            other => other,
        };
        opened.map_err(|error| query_failed(&physical.server, error))
    }
}

/// Keys of scope read run a single statement that only reads.
fn access_of(identity: &Identity) -> Access {
    if identity.may(KeyScope::Write) {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    }
}

/// A suspended tenant refuses clients, but the API can query it.
fn is_there(row: &FleetRow) -> bool {
    row.database.status == DatabaseStatus::Ready
        && matches!(row.tenant_status, TenantStatus::Ready | TenantStatus::Suspended)
}

/// Adds to an error the reason why an extension was not created before the text that creates it.
fn advised(error: ControlError, sql: &str, warnings: &[String]) -> ControlError {
    match error {
        // The code does not say which statement was refused, so the hint is added only to a text of one statement.
        ControlError::Query { sqlstate, message, .. }
            if sqlstate == INSUFFICIENT_PRIVILEGE && !warnings.is_empty() && written::is_one_statement(sql) =>
        {
            ControlError::Query {
                sqlstate,
                message,
                hint: Some(warnings.join("\n")),
            }
        }
        other => other,
    }
}

fn shortened(mut message: String) -> String {
    if let Some((cut, _)) = message.char_indices().nth(MESSAGE_LEN_MAX) {
        message.truncate(cut);
        message.shrink_to_fit();
        message.push('…');
    }
    message
}

fn shown(result: query::QueryResult) -> QueryResult {
    QueryResult {
        columns: result
            .columns
            .into_iter()
            .map(|column| ResultColumn {
                name: column.name,
                type_name: column.type_name,
            })
            .collect(),
        rows: result.rows,
        row_count: result.row_count,
        command: result.command,
        truncated: result.truncated,
    }
}
