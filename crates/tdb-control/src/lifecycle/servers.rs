//! Database servers: enrolled by the composition root, chosen for databases, and the administrator's handle on each.

use std::sync::PoisonError;

use secrecy::SecretString;
use serde_json::{Value, json};
use tdb_engines::postgres::{EngineError, Lack, Probe, Server};
use tdb_names::{BlueprintName, ProjectId, ServerEndpoint, ServerName};
use tdb_problems::ProblemCode;
use tdb_store::servers;

use crate::control::Control;
use crate::error::{ControlError, Result, upstream};

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
    /// Prepares the server (roles, base database) and records it; again with changed facts: updates it. One that was
    /// prepared before may be away: the others' tenants do not wait for it.
    pub async fn enrol_server(&self, enrolment: ServerEnrolment) -> Result<()> {
        let administrator = enrolment.administrator();
        let name = &administrator.endpoint.name;
        let (known, probe) = match self.prepare_server(&enrolment).await {
            Ok((known, probe)) => (known, Some(probe)),
            Err(error @ ControlError::Upstream { .. }) if self.is_enrolled(name).await? => {
                tracing::warn!(server = %name, error = %error.explained(), "the server cannot be used now");
                (self.unseen(&enrolment), None)
            }
            Err(error) => return Err(error),
        };
        let tx = self.inner.store.jobs().await?;
        servers::upsert(&tx, &self.inner.store, &administrator).await?;
        servers::set_extensions(&tx, name, &enrolment.extensions).await?;
        if let Some(probe) = probe {
            servers::record_facts(&tx, name, probe.version, &facts(&probe)).await?;
        }
        tx.commit().await?;
        self.remember(name, known);
        Ok(())
    }

    /// Looks at a server, and makes it ready where it is fit.
    pub(crate) async fn prepare_server(&self, enrolment: &ServerEnrolment) -> Result<(Known, Probe)> {
        let name = &enrolment.endpoint.name;
        let mut known = self.unseen(enrolment);
        let probe = known.server.probe().await.map_err(|e| unfit(name, e))?;
        known.server.prepare().await.map_err(|e| upstream(name, e))?;
        known.pg_major = u32::try_from(probe.version / 10_000).ok();
        Ok((known, probe))
    }

    fn unseen(&self, enrolment: &ServerEnrolment) -> Known {
        let server = Server::new(
            enrolment.endpoint.clone(),
            enrolment.admin_user.clone(),
            enrolment.admin_secret.clone(),
            self.inner.tls.clone(),
        );
        Known {
            server,
            opaque_names: enrolment.opaque_names,
            pg_major: None,
        }
    }

    async fn is_enrolled(&self, name: &ServerName) -> Result<bool> {
        let tx = self.inner.store.jobs().await?;
        let row = servers::administrator(&tx, &self.inner.store, name).await?;
        tx.rollback().await?;
        Ok(row.is_some())
    }

    /// Where a blueprint's next database goes.
    pub(crate) async fn place_for(&self, project: &ProjectId, blueprint: &BlueprintName) -> Result<ServerName> {
        let tx = self.inner.store.jobs().await?;
        let found = servers::emptiest(&tx, project, blueprint).await?;
        tx.rollback().await?;
        found.ok_or_else(|| {
            let detail = format!("there is no database server for \"{blueprint}\"");
            let hint = "Register one with POST /servers, or in proxy.toml; a drained server gets no new databases.";
            ControlError::refused(ProblemCode::NoServer, detail, hint)
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

    pub(crate) fn forget(&self, name: &ServerName) {
        self.inner
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    pub(crate) fn remember(&self, name: &ServerName, known: Known) {
        self.inner
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), known);
    }
}

impl ServerEnrolment {
    pub(crate) fn administrator(&self) -> servers::Administrator {
        servers::Administrator {
            endpoint: self.endpoint.clone(),
            user: self.admin_user.clone(),
            secret: self.admin_secret.clone(),
            opaque_names: self.opaque_names,
        }
    }
}

/// What is kept of a look at a server.
pub(crate) fn facts(probe: &Probe) -> Value {
    json!({
        "max_connections": probe.max_connections,
        "superuser_reserved_connections": probe.superuser_reserved,
    })
}

/// Why a server cannot be used, by what has to be changed: the server itself, its administrator, or the network.
pub(crate) fn unfit(server: &ServerName, error: EngineError) -> ControlError {
    let (code, hint) = match &error {
        EngineError::Lacks(Lack::Version { .. }) => (
            ProblemCode::ServerVersion,
            "Register a server of PostgreSQL 15 or newer.",
        ),
        EngineError::Lacks(Lack::Primary) => (ProblemCode::ServerStandby, "Register the primary."),
        EngineError::Lacks(Lack::Right(_)) => (
            ProblemCode::ServerRights,
            "Give the administrator SUPERUSER, or name another.",
        ),
        EngineError::Lacks(Lack::EventTriggers) => (
            ProblemCode::ServerEventTriggers,
            "Give the administrator SUPERUSER, or name another.",
        ),
        EngineError::Lacks(Lack::Connections { .. }) => {
            (ProblemCode::ServerCapacity, "Raise max_connections and restart it.")
        }
        EngineError::Sql { sqlstate, .. } if sqlstate.as_str().starts_with("28") => (
            ProblemCode::ServerLogin,
            "Check admin_user, admin_password and the server's pg_hba.conf.",
        ),
        _ => return upstream(server, error),
    };
    ControlError::refused(
        code,
        format!("database server \"{server}\" cannot be used: {error}"),
        hint,
    )
}
