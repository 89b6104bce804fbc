//! Looking at many tenants at once: queries, each in its tenant's own role, and drift.

use futures_util::StreamExt;
use tdb_contract::{Prepared, Repair};
use tdb_engines::postgres::EngineError;
use tdb_engines::postgres::fingerprint::{self, Difference as Found, Fingerprint};
use tdb_engines::postgres::query::{self, Access, Limits, Query};
use tdb_engines::postgres::session_settings;
use tdb_names::{BlueprintName, TenantName};
use tdb_store::physical::Physical;
use tdb_store::tenants::{DatabaseStatus, FleetRow, TenantStatus};
use tdb_store::workspaces::{WorkspaceRow, WorkspaceStatus};
use tdb_store::{deployments, tenants, versions, workspaces};
use uuid::Uuid;

use crate::control::Control;
use crate::error::{ControlError, Result, query_failed, upstream};
use crate::identity::{Identity, KeyScope};
use crate::lifecycle::place::{As, database_name};
use crate::model::{
    Difference, DriftReport, QueryResult, ResultColumn, SqlFailure, TenantChoice, TenantDrift, TenantQuery,
    TenantQueryResult, WorkspaceDrift,
};

/// What sessions of the API are called on the server; no name of a customer.
const APPLICATION: &str = "tdb-query";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

impl Control {
    /// In the workspace's own role; keys that may only read: in its read-only role. DDL is captured like any other.
    pub async fn workspace_query(
        &self,
        identity: &Identity,
        blueprint: &BlueprintName,
        sql: &str,
    ) -> Result<QueryResult> {
        identity.require(KeyScope::Read)?;
        let row = self.ready_workspace(identity, blueprint).await?;
        let failed = |error| query_failed(&row.physical.server, error);
        let access = access_of(identity);
        let query = self.open_query(row.id.as_uuid(), &row.physical, access).await?;
        let server_pid = query.server_pid();
        if let Err(error) = self.record_own_session(identity, &row, server_pid).await {
            tracing::warn!(error = %error.explained(), "changes of this query will not know their author");
        }
        let prepared = match access {
            Access::ReadWrite => self.make_written(&row, sql, server_pid).await,
            _ => Prepared::default(),
        };
        let sql = prepared.text.as_deref().unwrap_or(sql);
        let database = database_name(&row.physical)?;
        let logical = format!("{blueprint}_dev");
        let meant = session_settings::for_role(sql, &[database, &logical]);
        let result = query.run(meant.as_deref().unwrap_or(sql), access).await;
        // Before the answer, success or not: an error may have come after a COMMIT.
        self.drain_after(&row, Some(server_pid)).await;
        result
            .map(shown)
            .map_err(|error| advised(failed(error), &prepared.warnings))
    }

    /// In each tenant's own role; keys that may only read: in its read-only role.
    pub async fn tenant_query(&self, identity: &Identity, query: TenantQuery) -> Result<Vec<TenantQueryResult>> {
        identity.require(KeyScope::Read)?;
        self.workspace_row(identity, &query.blueprint)
            .await
            .map_err(|e| e.naming("blueprint"))?;
        let tx = self.inner.store.project(identity.project()).await?;
        let fleet = tenants::of_blueprint(&tx, identity.project(), &query.blueprint).await?;
        tx.rollback().await?;
        let chosen: Vec<FleetRow> = match &query.tenants {
            TenantChoice::All => fleet.into_iter().filter(is_there).collect(),
            TenantChoice::Named(names) => {
                let known = |name: &TenantName| fleet.iter().any(|row: &FleetRow| row.database.tenant == *name);
                if let Some(unknown) = names.iter().find(|name| !known(name)) {
                    return Err(ControlError::not_found("tenant", unknown));
                }
                fleet
                    .into_iter()
                    .filter(|row| names.contains(&row.database.tenant))
                    .collect()
            }
        };
        let (access, sql) = (access_of(identity), query.sql.as_str());
        let width = self.inner.settings.deployments_per_server.get();
        let results = futures_util::stream::iter(chosen)
            .map(|row| self.query_one(row, access, sql))
            .buffered(width);
        Ok(results.collect().await)
    }

    async fn query_one(&self, row: FleetRow, access: Access, sql: &str) -> TenantQueryResult {
        let tenant = row.database.tenant.clone();
        let failure = |sqlstate: &str, message: String| {
            Err(SqlFailure {
                sqlstate: sqlstate.to_owned(),
                message,
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
            Ok(query) => match query.run(sql, access).await {
                Ok(result) => Ok(shown(result)),
                Err(error) => failure(error.sqlstate().as_str(), error.to_string()),
            },
        };
        TenantQueryResult { tenant, outcome }
    }

    /// Logs in as the role that may do what the query may. A role that a client changed is set again first.
    async fn open_query(&self, id: Uuid, physical: &Physical, access: Access) -> Result<Query> {
        let role = match access {
            Access::ReadWrite => As::Owner,
            Access::ReadOnly => {
                self.admit_reader_of(id).await?;
                As::ReadOnly
            }
        };
        let login = self.login(physical, role, APPLICATION).await?;
        let opened = match Query::open(&login, Limits::default()).await {
            Err(EngineError::Sql { .. }) if self.repair_roles_of(id).await? == Repair::Done => {
                Query::open(&login, Limits::default()).await
            }
            other => other,
        };
        opened.map_err(|error| query_failed(&physical.server, error))
    }

    /// Live schemas against their versions', object by object; of one blueprint, or of all.
    pub async fn drift(&self, identity: &Identity, blueprint: Option<&BlueprintName>) -> Result<DriftReport> {
        identity.require(KeyScope::Read)?;
        let rows = match blueprint {
            Some(name) => vec![
                self.workspace_row(identity, name)
                    .await
                    .map_err(|e| e.naming("blueprint"))?,
            ],
            None => {
                let tx = self.inner.store.project(identity.project()).await?;
                let rows = workspaces::list(&tx, identity.project(), i64::MAX).await?;
                tx.rollback().await?;
                rows
            }
        };
        let mut report = DriftReport::default();
        for row in rows {
            self.workspace_drift(&row, &mut report).await;
            self.drift_of(identity, &row, &mut report).await?;
        }
        Ok(report)
    }

    async fn workspace_drift(&self, workspace: &WorkspaceRow, report: &mut DriftReport) {
        if workspace.status != WorkspaceStatus::Ready {
            return;
        }
        self.drain_if_possible(workspace).await;
        match self.uncaptured(workspace).await {
            Ok(differences) if differences.is_empty() => {}
            Ok(differences) => report.workspaces.push(WorkspaceDrift {
                blueprint: workspace.blueprint.clone(),
                differences: differences.into_iter().map(difference).collect(),
            }),
            Err(error) => {
                tracing::warn!(workspace = %workspace.id, error = %error.explained(), "a workspace could not be compared");
            }
        }
    }

    async fn drift_of(&self, identity: &Identity, workspace: &WorkspaceRow, report: &mut DriftReport) -> Result<()> {
        let tx = self.inner.store.project(identity.project()).await?;
        let fleet = tenants::of_blueprint(&tx, identity.project(), &workspace.blueprint).await?;
        // A tenant between two versions is listed in its deployment.
        let between = deployments::between_versions(&tx, workspace.id).await?;
        tx.rollback().await?;
        let settled = |row: &FleetRow| {
            row.database.status == DatabaseStatus::Ready
                && matches!(row.tenant_status, TenantStatus::Ready | TenantStatus::Suspended)
                && !between.contains(&row.database.id)
        };
        let width = self.inner.settings.deployments_per_server.get();
        let looks = fleet.into_iter().filter(settled).map(|row| self.look(workspace, row));
        let found: Vec<_> = futures_util::stream::iter(looks).buffered(width).collect().await;
        for (row, differences) in found {
            let (tenant, version) = (row.database.tenant, row.database.version.unwrap_or(1));
            match differences {
                Ok(differences) if differences.is_empty() => {}
                Ok(differences) => report.tenants.push(TenantDrift {
                    tenant,
                    blueprint: workspace.blueprint.clone(),
                    version,
                    differences: differences.into_iter().map(difference).collect(),
                }),
                Err(error) => report.unreachable.push((tenant, error.to_string())),
            }
        }
        Ok(())
    }

    async fn look(&self, workspace: &WorkspaceRow, row: FleetRow) -> (FleetRow, Result<Vec<Found>>) {
        let looked = self.differences(workspace, &row).await;
        (row, looked)
    }

    async fn differences(&self, workspace: &WorkspaceRow, row: &FleetRow) -> Result<Vec<Found>> {
        let physical = &row.database.physical;
        let server = self.server(&physical.server).await?;
        let pg_major = self.pg_major(&server).await?;
        let tx = self.inner.store.jobs().await?;
        let expected = versions::facts(&tx, workspace.id, row.database.version.unwrap_or(1), pg_major).await?;
        tx.rollback().await?;
        let expected = expected
            .ok_or_else(|| ControlError::not_found("fact list of version", row.database.version.unwrap_or(1)))?;
        let found = fingerprint::take(&server, database_name(physical)?, &physical.roles.owner.name).await;
        let found = found.map_err(|e| upstream(&physical.server, e))?;
        Ok(Fingerprint {
            hash: expected.hash,
            facts: expected.facts,
        }
        .diff(&found))
    }
}

/// Keys that may only read run one statement that reads.
fn access_of(identity: &Identity) -> Access {
    if identity.may(KeyScope::Write) {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    }
}

/// Suspended tenants refuse clients, not their owner.
fn is_there(row: &FleetRow) -> bool {
    row.database.status == DatabaseStatus::Ready
        && matches!(row.tenant_status, TenantStatus::Ready | TenantStatus::Suspended)
}

/// Why an extension that the text makes was not made ahead of it.
fn advised(error: ControlError, warnings: &[String]) -> ControlError {
    match error {
        ControlError::Query { sqlstate, message, .. } if sqlstate == INSUFFICIENT_PRIVILEGE && !warnings.is_empty() => {
            ControlError::Query {
                sqlstate,
                message,
                hint: Some(warnings.join("\n")),
            }
        }
        other => other,
    }
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

fn difference(found: Found) -> Difference {
    Difference {
        object: found.object,
        expected: found.expected,
        found: found.found,
    }
}
