//! The registry of database servers: list, register, test, drain and remove. Servers belong to no project, so every
//! method needs a key of the operator's account.

use std::sync::Arc;
use std::time::Instant;

use tdb_names::ServerName;
use tdb_problems::ProblemCode;
use tdb_store::{Tx, physical, projects, servers, templates};
use tokio::time::sleep;

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::leases::Subject;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::servers::{REMEMBERED_MAX, ServerEnrolment, facts, prepared, require_new, unfit};
use crate::model::{ServerInfo, ServerStatus, ServerTest};
use crate::page::Page;
use crate::schema::templates::Templates;

/// The database servers, for the operator.
#[derive(Clone)]
pub struct Registry {
    pub(crate) core: Arc<Core>,
    pub(crate) servers: Servers,
    pub(crate) templates: Templates,
}

impl Registry {
    /// All servers, by name, as stored. No server is contacted.
    pub async fn list(&self, identity: &Identity, page: &Page<ServerName>) -> Result<Vec<ServerInfo>> {
        self.require_operator(identity, KeyScope::Read).await?;
        let tx = self.core.store.jobs().await?;
        let rows = servers::list(&tx, page.after.as_ref(), page.limit.rows()).await?;
        let described = describe(&tx, rows).await?;
        tx.rollback().await?;
        Ok(described)
    }

    /// One server, as stored. The server is not contacted.
    pub async fn find(&self, identity: &Identity, name: &ServerName) -> Result<ServerInfo> {
        self.require_operator(identity, KeyScope::Read).await?;
        let tx = self.core.store.jobs().await?;
        let row = servers::by_name(&tx, name).await?;
        let described = describe(&tx, row.into_iter().collect()).await?.pop();
        tx.rollback().await?;
        described.ok_or_else(|| ControlError::not_found(EntryKind::Server, name))
    }

    /// Checks the server, prepares it and records it. New databases may then be placed there.
    pub async fn register(&self, identity: &Identity, enrolment: ServerEnrolment) -> Result<ServerInfo> {
        self.require_operator(identity, KeyScope::Admin).await?;
        let name = enrolment.endpoint.name.clone();
        if identity.receipt::<ServerName>()?.is_some() {
            return self.find(identity, &name).await;
        }
        let exists = || ControlError::Exists {
            what: EntryKind::Server,
            name: name.to_string(),
            hint: None,
        };
        let tx = self.core.store.jobs().await?;
        let known = servers::by_name(&tx, &name).await?;
        tx.rollback().await?;
        if known.is_some() {
            return Err(exists());
        }
        let server = self.servers.handle(&enrolment.administrator());
        let probe = prepared(&server).await.map_err(not_there)?;
        let tx = self.core.store.jobs().await?;
        require_new(&tx, &enrolment.endpoint, &probe).await?;
        let inserted = servers::insert(&tx, &self.core.store, &enrolment.administrator()).await?;
        let revision = inserted.ok_or_else(exists)?;
        servers::set_extensions(&tx, &name, &enrolment.extensions).await?;
        servers::record_facts(&tx, &name, probe.version, &facts(&probe)).await?;
        identity.leave_receipt(&tx, &self.core.store, &name).await?;
        tx.commit().await?;
        self.servers
            .remember(server, enrolment.opaque_names, Some(&probe), revision);
        self.find(identity, &name).await
    }

    /// Checks the server now, over a new connection, as a registration does.
    pub async fn test(&self, identity: &Identity, name: &ServerName) -> Result<ServerTest> {
        self.require_operator(identity, KeyScope::Admin).await?;
        let server = self.servers.admin(name).await?;
        let begun = Instant::now();
        let probe = server.probe_anew().await.map_err(|e| unfit(name, e))?;
        let took = begun.elapsed();
        let tx = self.core.store.jobs().await?;
        servers::record_facts(&tx, name, probe.version, &facts(&probe)).await?;
        tx.commit().await?;
        Ok(ServerTest {
            name: name.clone(),
            version: probe.version,
            connections_max: probe.max_connections,
            connections_reserved: probe.superuser_reserved,
            databases: probe.databases,
            took,
        })
    }

    /// Stops placing new databases on the server. Existing databases are not affected.
    pub async fn drain(&self, identity: &Identity, name: &ServerName) -> Result<ServerInfo> {
        self.require_operator(identity, KeyScope::Admin).await?;
        let tx = self.core.store.jobs().await?;
        if !servers::drain(&tx, name).await? {
            return Err(ControlError::not_found(EntryKind::Server, name));
        }
        tx.commit().await?;
        self.find(identity, name).await
    }

    /// Undoes a drain.
    pub async fn resume(&self, identity: &Identity, name: &ServerName) -> Result<ServerInfo> {
        self.require_operator(identity, KeyScope::Admin).await?;
        let tx = self.core.store.jobs().await?;
        if !servers::resume(&tx, name).await? {
            return Err(ControlError::not_found(EntryKind::Server, name));
        }
        tx.commit().await?;
        self.find(identity, name).await
    }

    /// Removes a server. 409 while workspaces or tenant databases are on it. Its templates are dropped first.
    pub async fn remove(&self, identity: &Identity, name: &ServerName) -> Result<()> {
        self.require_operator(identity, KeyScope::Admin).await?;
        let tx = self.core.store.jobs().await?;
        // Locks the row: a placement on this server commits before this, or is refused.
        if !servers::drain(&tx, name).await? {
            return Err(ControlError::not_found(EntryKind::Server, name));
        }
        let used = physical::used_on(&tx, name).await?;
        if used.workspaces > 0 || used.tenant_databases > 0 {
            let detail = format!(
                "server \"{name}\" still has databases (workspaces: {}, of tenants: {})",
                used.workspaces, used.tenant_databases
            );
            let hint = "Stop new ones with POST /servers/{name}/drain, and delete those that exist, including deleted tenants that can be restored.";
            return Err(ControlError::refused(ProblemCode::ServerNotEmpty, detail, hint));
        }
        let left = templates::retire_of_server(&tx, name).await?;
        tx.commit().await?;
        for (id, workspace) in left {
            let lease = self.core.leases.take(Subject::Builds(workspace, name.clone())).await?;
            lease.during(self.templates.finish(id)).await?;
        }
        // Wait until every process has noticed that the server takes no databases; after that its name may be given to
        // another server.
        sleep(REMEMBERED_MAX).await;
        let tx = self.core.store.jobs().await?;
        servers::delete(&tx, name).await?;
        tx.commit().await?;
        self.servers.forget(name);
        Ok(())
    }

    async fn require_operator(&self, identity: &Identity, scope: KeyScope) -> Result<()> {
        identity.require(scope)?;
        let tx = self.core.store.project(identity.project()).await?;
        let operator = projects::is_operator(&tx).await?;
        tx.rollback().await?;
        if operator {
            return Ok(());
        }
        Err(ControlError::refused(
            ProblemCode::OperatorOnly,
            "database servers belong to the installation, not to a project",
            "Use an admin key of the account that owns the installation's first project.",
        ))
    }
}

async fn describe(tx: &Tx, rows: Vec<servers::ServerRow>) -> Result<Vec<ServerInfo>> {
    let names: Vec<ServerName> = rows.iter().map(|row| row.endpoint.name.clone()).collect();
    let used = physical::used_on_each(tx, &names).await?;
    let described = rows.into_iter().zip(used).map(|(row, used)| ServerInfo {
        name: row.endpoint.name,
        host: row.endpoint.host,
        port: row.endpoint.port,
        tls: row.endpoint.tls,
        status: match row.status {
            servers::ServerStatus::Active => ServerStatus::Active,
            servers::ServerStatus::Draining => ServerStatus::Draining,
        },
        version: row.version,
        opaque_names: row.opaque_names,
        workspaces: used.workspaces,
        tenant_databases: used.tenant_databases,
        created_at: row.created_at,
        answered_at: row.answered_at,
        silent_since: row.silent_since,
    });
    Ok(described.collect())
}

/// An unreachable server that is not in use is an error of the request, not an outage.
fn not_there(error: ControlError) -> ControlError {
    match error {
        ControlError::Upstream { .. } => ControlError::refused(
            ProblemCode::ServerUnreachable,
            error.to_string(),
            "Check host, port and tls: TenantsDB itself must reach the server.",
        ),
        other => other,
    }
}
