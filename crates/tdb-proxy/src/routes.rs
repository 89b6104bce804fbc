//! Cached lookups of credentials by user name, and of routes by database name.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tdb_contract::{Credential, Rights, Route, RouteChange, RouteSource, Unavailable};
use tdb_names::{DatabaseName, ProjectId, UserName};
use tokio::time::timeout;

use crate::cache::Cache;

/// The time limit for one lookup at the source; the login's deadline is longer.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

type RouteKey = (ProjectId, DatabaseName, Rights);

pub(crate) struct Routes {
    source: Arc<dyn RouteSource>,
    credentials: Cache<UserName, Credential>,
    routes: Cache<RouteKey, Route>,
}

impl Routes {
    pub(crate) fn new(source: Arc<dyn RouteSource>, stale_max: Duration) -> Self {
        Self {
            source,
            credentials: Cache::new(stale_max),
            routes: Cache::new(stale_max),
        }
    }

    pub(crate) async fn credential(&self, user: &UserName) -> Result<Option<Rc<Credential>>, Unavailable> {
        self.credentials
            .resolve(user, || in_time(self.source.credential(user)))
            .await
    }

    pub(crate) async fn route(
        &self,
        project: &ProjectId,
        database: &DatabaseName,
        rights: Rights,
    ) -> Result<Option<Rc<Route>>, Unavailable> {
        let key = (project.clone(), database.clone(), rights);
        self.routes
            .resolve(&key, || in_time(self.source.route(project, database, rights)))
            .await
    }

    /// Whether the cached credential still has the same id and verifiers. False also if it is no longer cached.
    pub(crate) fn holds(&self, user: &UserName, credential: &Credential) -> bool {
        self.credentials.holds(user, |cached| {
            cached.id == credential.id && cached.login == credential.login
        })
    }

    pub(crate) fn feed_restored(&self) {
        self.credentials.feed_restored();
        self.routes.feed_restored();
    }

    pub(crate) fn feed_lost(&self) {
        self.credentials.feed_lost();
        self.routes.feed_lost();
    }

    /// Drops the cache entries that `change` makes stale.
    pub(crate) fn apply(&self, change: &RouteChange) {
        match change {
            RouteChange::Workspace { project, blueprint, .. }
            | RouteChange::WorkspaceClosed { project, blueprint, .. } => {
                let workspace = DatabaseName::Workspace(blueprint.clone());
                self.routes
                    .invalidate(|(owner, database, _)| owner == project && *database == workspace);
            }
            RouteChange::Tenant { project, tenant, .. } | RouteChange::DatabaseClosed { project, tenant, .. } => {
                self.routes.invalidate(|(owner, database, _)| {
                    owner == project && matches!(database, DatabaseName::Tenant { tenant: t, .. } if t == tenant)
                });
            }
            RouteChange::Credential { user, .. } | RouteChange::CredentialRevoked { user, .. } => {
                self.credentials.invalidate(|cached| cached == user);
            }
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Unavailable> {
    match timeout(LOOKUP_TIME_MAX, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Unavailable {
            reason: format!("no answer within {LOOKUP_TIME_MAX:?}"),
        }),
    }
}
