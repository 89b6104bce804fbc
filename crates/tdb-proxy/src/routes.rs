//! Who users are and where databases are, cached.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tdb_contract::{Credential, Rights, Route, RouteChange, RouteSource, Unavailable};
use tdb_names::{DatabaseName, ProjectId, UserName};
use tokio::time::timeout;

use crate::cache::Cache;

/// The source must answer within it; the login's own deadline is longer.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);

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

    /// Whether nothing has said since that this credential is another or gone.
    pub(crate) fn holds(&self, user: &UserName, credential: &Credential) -> bool {
        self.credentials.holds(user, |known| {
            known.id == credential.id && known.login == credential.login
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

    /// Forgets what `change` is about.
    pub(crate) fn apply(&self, change: &RouteChange) {
        match change {
            RouteChange::Workspace { project, blueprint, .. }
            | RouteChange::WorkspaceClosed { project, blueprint, .. } => {
                let workspace = DatabaseName::Workspace(blueprint.clone());
                self.routes
                    .forget(|(owner, database, _)| owner == project && *database == workspace);
            }
            RouteChange::Tenant { project, tenant, .. } | RouteChange::DatabaseClosed { project, tenant, .. } => {
                self.routes.forget(|(owner, database, _)| {
                    owner == project && matches!(database, DatabaseName::Tenant { tenant: t, .. } if t == tenant)
                });
            }
            RouteChange::Credential { user, .. } | RouteChange::CredentialRevoked { user, .. } => {
                self.credentials.forget(|known| known == user);
            }
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Unavailable> {
    match timeout(ASK_TIME_MAX, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Unavailable {
            reason: format!("no answer within {ASK_TIME_MAX:?}"),
        }),
    }
}
