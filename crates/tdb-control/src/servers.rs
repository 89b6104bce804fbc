//! Database servers: enrolled by the composition root, listed, and the administrator's handle on each.

use std::sync::PoisonError;

use secrecy::SecretString;
use tdb_engines::Server;
use tdb_names::{BlueprintName, ServerEndpoint, ServerName};
use tdb_store::{physical, servers};

use crate::control::{Control, Limit};
use crate::error::{ControlError, Result, upstream};
use crate::identity::{Identity, KeyScope};
use crate::model::ServerInfo;

/// An administrator's way into a database server.
#[derive(Clone, Debug)]
pub struct ServerEnrolment {
    pub endpoint: ServerEndpoint,
    pub admin_user: String,
    pub admin_secret: SecretString,
    /// Physical names tell nothing about tenants.
    pub opaque_names: bool,
    /// Extensions that developers may have made by the administrator; `*`: all but those that reach too far.
    pub extensions: Vec<String>,
}

/// What is kept of a server in memory.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub server: Server,
    pub opaque_names: bool,
    /// None before the first look.
    pub pg_major: Option<u32>,
}

impl Control {
    /// Prepares the server (roles, base database) and records it; again with changed facts: updates it.
    pub async fn enrol_server(&self, enrolment: ServerEnrolment) -> Result<()> {
        let name = enrolment.endpoint.name.clone();
        let failed = |e| upstream(&name, e);
        let server = Server::new(
            enrolment.endpoint.clone(),
            enrolment.admin_user.clone(),
            enrolment.admin_secret.clone(),
            self.inner.tls.clone(),
        );
        let probe = server.probe().await.map_err(failed)?;
        server.prepare().await.map_err(failed)?;
        let administrator = servers::Administrator {
            endpoint: enrolment.endpoint,
            user: enrolment.admin_user,
            secret: enrolment.admin_secret,
            opaque_names: enrolment.opaque_names,
        };
        let facts = serde_json::json!({
            "max_connections": probe.max_connections,
            "superuser_reserved_connections": probe.superuser_reserved,
        });
        let tx = self.inner.store.jobs().await?;
        servers::upsert(&tx, &self.inner.store, &administrator).await?;
        servers::set_extensions(&tx, &name, &enrolment.extensions).await?;
        servers::record_facts(&tx, &name, probe.version, &facts).await?;
        tx.commit().await?;
        let pg_major = u32::try_from(probe.version / 10_000).ok();
        self.remember(
            &name,
            Known {
                server,
                opaque_names: administrator.opaque_names,
                pg_major,
            },
        );
        Ok(())
    }

    pub async fn servers(&self, identity: &Identity, limit: Limit) -> Result<Vec<ServerInfo>> {
        identity.require(KeyScope::Read)?;
        let tx = self.inner.store.project(identity.project()).await?;
        let mut found = Vec::new();
        for row in servers::list(&tx, limit.rows()).await? {
            // Of this project: what others have there is not for its eyes.
            let used = physical::used_on(&tx, &row.endpoint.name).await?;
            found.push(ServerInfo {
                name: row.endpoint.name,
                host: row.endpoint.host,
                port: row.endpoint.port,
                version: row.version,
                opaque_names: row.opaque_names,
                workspaces: used.workspaces,
                tenant_databases: used.tenant_databases,
                created_at: row.created_at,
            });
        }
        tx.rollback().await?;
        Ok(found)
    }

    /// Where a blueprint's databases go: the first server there is, until placement has more to choose from.
    pub(crate) async fn place_for(&self, blueprint: &BlueprintName) -> Result<ServerName> {
        let tx = self.inner.store.jobs().await?;
        let rows = servers::list(&tx, 1).await?;
        tx.rollback().await?;
        let first = rows.into_iter().next().map(|row| row.endpoint.name);
        first.ok_or_else(|| {
            let detail = format!("there is no database server for \"{blueprint}\"");
            ControlError::conflict("no_server", detail, "Register a database server in proxy.toml.")
        })
    }

    /// The administrator of a server; its sessions run constant SQL only.
    pub(crate) async fn server(&self, name: &ServerName) -> Result<Server> {
        Ok(self.known(name).await?.server)
    }

    pub(crate) async fn names_are_opaque(&self, name: &ServerName) -> Result<bool> {
        Ok(self.known(name).await?.opaque_names)
    }

    pub(crate) async fn pg_major(&self, server: &Server) -> Result<u32> {
        let name = &server.endpoint().name;
        let mut known = self.known(name).await?;
        if let Some(major) = known.pg_major {
            return Ok(major);
        }
        let probe = server.probe().await.map_err(|e| upstream(name, e))?;
        let major = u32::try_from(probe.version / 10_000).map_err(ControlError::internal)?;
        known.pg_major = Some(major);
        self.remember(name, known);
        Ok(major)
    }

    async fn known(&self, name: &ServerName) -> Result<Known> {
        if let Some(known) = self
            .inner
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
        {
            return Ok(known.clone());
        }
        let tx = self.inner.store.jobs().await?;
        let row = servers::administrator(&tx, &self.inner.store, name).await?;
        tx.rollback().await?;
        let row = row.ok_or_else(|| ControlError::not_found("server", name))?;
        let server = Server::new(row.endpoint, row.user, row.secret, self.inner.tls.clone());
        let known = Known {
            server,
            opaque_names: row.opaque_names,
            pg_major: None,
        };
        self.remember(name, known.clone());
        Ok(known)
    }

    fn remember(&self, name: &ServerName, known: Known) {
        self.inner
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), known);
    }
}
