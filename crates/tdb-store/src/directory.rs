//! The store's answers to the proxy: by a role that may execute a few functions and read no table. The proxy has a
//! separate runtime; all I/O of this module runs on the control plane's, which owns the connections.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tdb_contract::{
    Credential, Epoch, Login, Place, PostgresPlace, Rights, Route, RouteChangeFeed, RouteKind, RouteSource, RouteState,
    Unavailable,
};
use tdb_names::{CredentialId, DatabaseId, DatabaseName, Engine, ProjectId, UserName, WorkspaceId};
use tokio::runtime::Handle;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::Result;
use crate::feed::{self, Reader};
use crate::row::{column, count, parsed};
use crate::{Store, credentials, limits, servers, tenants};

/// Routes and credentials for one proxy.
#[derive(Clone, Debug)]
pub struct Directory {
    store: Store,
    /// The control plane's runtime.
    runtime: Handle,
    reader: Arc<Reader>,
}

/// What identifies a proxy, and how long others wait for it.
#[derive(Clone, Copy, Debug)]
pub struct DirectorySettings {
    /// The id of the proxy's process.
    pub instance: Uuid,
    /// After this time without a heartbeat, suspending, deleting and rotating no longer wait for the proxy.
    pub lease: Duration,
}

impl Default for DirectorySettings {
    fn default() -> Self {
        Self {
            instance: Uuid::new_v4(),
            lease: Duration::from_secs(10),
        }
    }
}

impl Directory {
    /// `runtime` must be the one that `store` was opened on.
    pub fn new(store: Store, runtime: Handle, settings: DirectorySettings) -> Self {
        Self {
            store,
            runtime,
            reader: Arc::new(Reader::new(settings.instance, settings.lease)),
        }
    }

    /// Says that the proxy stops: no one waits for its acknowledgements any longer.
    pub async fn retire(&self) -> Result<(), Unavailable> {
        let reader = self.reader.clone();
        self.on_runtime(async move |store| {
            let mut retired = reader.retired.lock().await;
            *retired = true;
            store.ask("SELECT retire_proxy($1)", &[&reader.instance]).await?;
            Ok(())
        })
        .await
    }

    /// Runs to the end even if the caller is cancelled, so that no connection is left in the middle of a reply.
    async fn on_runtime<T, F>(&self, work: impl FnOnce(Store) -> F) -> Result<T, Unavailable>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let done = self.runtime.spawn(work(self.store.clone())).await;
        match done {
            Ok(answer) => answer.map_err(|error| Unavailable {
                reason: error.to_string(),
            }),
            Err(error) => Err(Unavailable {
                reason: error.to_string(),
            }),
        }
    }
}

#[async_trait]
impl RouteSource for Directory {
    async fn credential(&self, user: &UserName) -> Result<Option<Credential>, Unavailable> {
        let user = user.clone();
        self.on_runtime(|store| async move {
            let sql = "SELECT id, project_id, verifier, scope, blueprint, tenant, rights, expires_at FROM credential_by_user($1)";
            let rows = store.ask(sql, &[&user.as_str()]).await?;
            rows.first().map(credential).transpose()
        })
        .await
    }

    async fn route(
        &self,
        project: &ProjectId,
        database: &DatabaseName,
        rights: Rights,
    ) -> Result<Option<Route>, Unavailable> {
        let (project, database) = (project.clone(), database.clone());
        self.on_runtime(move |store| async move {
            let tenant = match &database {
                DatabaseName::Workspace(_) => None,
                DatabaseName::Tenant { tenant, .. } => Some(tenant.as_str()),
            };
            let sql =
                "SELECT id, engine, server, host, port, tls, physical_database, role, secret, status, tenant_status,
                              pool_mode, clients_max, server_connections_max, queue_timeout
                       FROM route($1, $2, $3, $4)";
            let blueprint = database.blueprint().as_str();
            let word = credentials::rights_word(rights);
            let rows = store.ask(sql, &[&project.as_str(), &blueprint, &tenant, &word]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let mut route = route(&store, row, &database)?;
            if route.state == RouteState::NotReady && has_failed(&store, route.kind).await? {
                route.state = RouteState::Failed;
            }
            Ok(Some(route))
        })
        .await
    }

    async fn subscribe(&self) -> Result<RouteChangeFeed, Unavailable> {
        let reader = self.reader.clone();
        self.on_runtime(|store| async move { feed::open(store.pools(), reader).await })
            .await
    }

    async fn acknowledge(&self, epoch: Epoch) -> Result<(), Unavailable> {
        let reader = self.reader.clone();
        self.on_runtime(move |store| async move {
            let acknowledged = reader.note_acknowledged(epoch);
            let sql = "SELECT acknowledge($1, $2, make_interval(secs => $3))";
            store
                .ask(sql, &[&reader.instance, &acknowledged, &reader.lease_seconds()])
                .await?;
            Ok(())
        })
        .await
    }
}

/// Whether creating this database has failed so often that the API shows an error.
async fn has_failed(store: &Store, kind: RouteKind) -> Result<bool> {
    let RouteKind::Tenant(database) = kind else {
        return Ok(false);
    };
    let sql = "SELECT attempts FROM creation_attempts($1)";
    let rows = store.ask(sql, &[&database.as_uuid()]).await?;
    let attempts = rows.first().map(|row| count(row, "attempts")).transpose()?;
    Ok(attempts.is_some_and(|attempts| attempts >= tenants::ATTEMPTS_SHOWN_AS_ERROR))
}

fn credential(row: &Row) -> Result<Credential> {
    Ok(Credential {
        id: CredentialId::from_uuid(column(row, "id")?),
        project: parsed(row, "project_id")?,
        login: Login {
            scram_sha_256: parsed(row, "verifier")?,
        },
        scope: credentials::scope(row)?,
        rights: credentials::rights(row)?,
        expires_at: column::<Option<SystemTime>>(row, "expires_at")?,
    })
}

fn route(store: &Store, row: &Row, database: &DatabaseName) -> Result<Route> {
    let id: Uuid = column(row, "id")?;
    let name: Option<String> = column(row, "physical_database")?;
    let state = match &name {
        Some(_) => state(column(row, "tenant_status")?, column(row, "status")?),
        None => RouteState::NotReady,
    };
    Ok(Route {
        place: match parsed(row, "engine")? {
            Engine::PostgreSql => Place::Postgres(postgres_place(store, row, name.unwrap_or_default())?),
        },
        kind: match database {
            DatabaseName::Workspace(_) => RouteKind::Workspace(WorkspaceId::from_uuid(id)),
            DatabaseName::Tenant { .. } => RouteKind::Tenant(DatabaseId::from_uuid(id)),
        },
        state,
        limits: limits::from_row(row)?,
    })
}

fn postgres_place(store: &Store, row: &Row, database: String) -> Result<PostgresPlace> {
    let role: String = column(row, "role")?;
    Ok(PostgresPlace {
        server: Arc::new(servers::endpoint(row, "server")?),
        database,
        secret: store.open_role(&role, column(row, "secret")?)?,
        role,
    })
}

/// The status set by the owner comes first. A database with a running deployment serves its clients meanwhile.
fn state(tenant: Option<&str>, database: &str) -> RouteState {
    match (tenant, database) {
        (Some("suspended"), _) => RouteState::Suspended,
        (Some("deleted"), _) => RouteState::Deleted,
        (Some("deleting"), _) => RouteState::NotReady,
        (_, "ready") => RouteState::Active,
        _ => RouteState::NotReady,
    }
}
