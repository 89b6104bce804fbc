//! What the clients of one database may use of the shared connections, and how many they have. The limits follow changes of the
//! tenant's while the clients are connected.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tdb_contract::{Place, Rights, RouteChange, RouteKind, TenantLimits};
use tdb_names::{DatabaseName, ProjectId};
use tokio::time::sleep;

use super::{Pool, ServerPool, examine};
use crate::Plane;

/// The shared connections of one tenant's database.
pub(crate) struct Share {
    pub kind: RouteKind,
    project: ProjectId,
    database: DatabaseName,
    limits: Cell<TenantLimits>,
    /// The connections that exist or are being opened.
    open: Cell<u32>,
}

/// How often changed limits are looked up until the source answers, and the pause in between.
const LOOKUPS_MAX: u32 = 5;
const LOOKUP_PAUSE: Duration = Duration::from_secs(1);

impl Share {
    pub(super) fn is_full(&self) -> bool {
        self.max().is_some_and(|max| self.open.get() >= max)
    }

    /// Whether the limit was lowered below the number of connections.
    pub(super) fn is_over(&self) -> bool {
        self.max().is_some_and(|max| self.open.get() > max)
    }

    pub(super) fn max(&self) -> Option<u32> {
        self.limits.get().server_connections_max.map(Into::into)
    }

    pub(super) fn queue_timeout(&self) -> Option<Duration> {
        self.limits.get().queue_timeout
    }

    pub(super) fn opened(&self) {
        self.open.set(self.open.get() + 1);
    }

    pub(super) fn closed(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

impl Pool {
    /// The share of a database, with the limits of its route.
    pub(crate) fn share(
        &self,
        kind: RouteKind,
        project: &ProjectId,
        database: &DatabaseName,
        limits: TenantLimits,
    ) -> Rc<Share> {
        let mut shares = self.shares.borrow_mut();
        let share = shares.entry(kind).or_insert_with(|| {
            Rc::new(Share {
                kind,
                project: project.clone(),
                database: database.clone(),
                limits: Cell::new(limits),
                open: Cell::new(0),
            })
        });
        share.limits.set(limits);
        share.clone()
    }

    /// Forgets the databases without clients and connections.
    pub(crate) fn forget_shares(&self) {
        self.shares.borrow_mut().retain(|_, share| Rc::strong_count(share) > 1);
    }

    /// The databases whose limits a change can affect.
    pub(crate) fn shares_of(&self, change: &RouteChange) -> Vec<Rc<Share>> {
        match change {
            RouteChange::Tenant { project, tenant, .. } => {
                let shares = self.shares.borrow();
                let affected = shares.values().filter(|share| {
                    share.project == *project
                        && matches!(&share.database, DatabaseName::Tenant { tenant: of, .. } if of == tenant)
                });
                affected.cloned().collect()
            }
            RouteChange::Workspace { .. }
            | RouteChange::DatabaseClosed { .. }
            | RouteChange::WorkspaceClosed { .. }
            | RouteChange::Credential { .. }
            | RouteChange::CredentialRevoked { .. } => Vec::new(),
        }
    }

    pub(crate) fn all_shares(&self) -> Vec<Rc<Share>> {
        self.shares.borrow().values().cloned().collect()
    }

    /// Looks up the limits of databases again and applies them to the clients that are connected. If the source does not answer
    /// for some time, the earlier limits stay until the next client logs in.
    pub(crate) async fn refresh(&self, plane: &Plane, shares: Vec<Rc<Share>>) {
        for share in shares {
            for _ in 0..LOOKUPS_MAX {
                let route = plane.routes.route(&share.project, &share.database, Rights::ReadWrite);
                match route.await {
                    Ok(Some(route)) => {
                        share.limits.set(route.limits);
                        let Place::Postgres(place) = &route.place;
                        let server = self.server(&place.server);
                        server.changed(share.kind);
                        shrink(&server, &share).await;
                        break;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, database = %share.database, "cannot look up the changed limits of a tenant");
                        sleep(LOOKUP_PAUSE).await;
                    }
                }
            }
        }
    }
}

/// Closes idle connections that are more than the limit. What a session has left in one is kept, or the connection stays with it.
pub(super) async fn shrink(server: &Rc<ServerPool>, share: &Rc<Share>) {
    while share.is_over() {
        if let Some(connection) = server.take_oldest_free(Some(share.kind)) {
            connection.end().await;
            continue;
        }
        let Some((key, victim)) = server.victim(None, Some(share.kind)) else {
            return;
        };
        examine(server, &key, victim).await;
    }
}
