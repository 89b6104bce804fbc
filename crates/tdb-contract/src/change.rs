//! Cache invalidation: which cached routes and credentials are stale, and which sessions must end.

use tdb_names::{BlueprintName, CredentialId, DatabaseId, ProjectId, TenantName, UserName, WorkspaceId};
use tokio::sync::mpsc;

/// The position of a change in the order of all changes to routes and credentials in the metadata store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(
    /// Increases by at least 1 with each change.
    pub i64,
);

/// A change to routes or credentials in the metadata store. To end a session means: a running transaction gets a few
/// seconds to finish, then the session is closed with SQLSTATE 57P01.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// Drop the cached routes to a blueprint's workspace. Its sessions continue.
    Workspace {
        /// The position of this change.
        epoch: Epoch,
        /// The project that the workspace belongs to.
        project: ProjectId,
        /// The workspace's blueprint.
        blueprint: BlueprintName,
    },
    /// Drop the cached routes to all databases of a tenant. Its sessions continue.
    Tenant {
        /// The position of this change.
        epoch: Epoch,
        /// The project that the tenant belongs to.
        project: ProjectId,
        /// The tenant.
        tenant: TenantName,
    },
    /// Drop the cached routes to all databases of a tenant, and end the sessions on one of them.
    DatabaseClosed {
        /// The position of this change.
        epoch: Epoch,
        /// The project that the tenant belongs to.
        project: ProjectId,
        /// The tenant.
        tenant: TenantName,
        /// The database whose sessions end.
        database: DatabaseId,
    },
    /// Drop the cached routes to a blueprint's workspace, and end the sessions on it.
    WorkspaceClosed {
        /// The position of this change.
        epoch: Epoch,
        /// The project that the workspace belongs to.
        project: ProjectId,
        /// The workspace's blueprint.
        blueprint: BlueprintName,
        /// The workspace whose sessions end; a later workspace of the same name has another id.
        workspace: WorkspaceId,
    },
    /// Drop a cached credential. Its sessions continue.
    Credential {
        /// The position of this change.
        epoch: Epoch,
        /// The credential's user name.
        user: UserName,
    },
    /// Drop a cached credential, and end its sessions.
    CredentialRevoked {
        /// The position of this change.
        epoch: Epoch,
        /// The credential's user name.
        user: UserName,
        /// The credential whose sessions end.
        credential: CredentialId,
    },
}

impl RouteChange {
    /// The position of this change in the order of all changes.
    pub fn epoch(&self) -> Epoch {
        match self {
            RouteChange::Workspace { epoch, .. }
            | RouteChange::Tenant { epoch, .. }
            | RouteChange::DatabaseClosed { epoch, .. }
            | RouteChange::WorkspaceClosed { epoch, .. }
            | RouteChange::Credential { epoch, .. }
            | RouteChange::CredentialRevoked { epoch, .. } => *epoch,
        }
    }
}

/// A stream of changes, in order. It ends when the connection to the metadata store is lost: changes may then have been
/// missed, so the receiver subscribes again and empties its caches.
#[derive(Debug)]
pub struct RouteChangeFeed {
    receiver: mpsc::Receiver<RouteChange>,
}

impl RouteChangeFeed {
    /// A feed of what is sent to `receiver`; it ends when all senders are dropped.
    pub fn new(receiver: mpsc::Receiver<RouteChange>) -> Self {
        Self { receiver }
    }

    /// The next change; `None` when the feed has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<RouteChange> {
        self.receiver.recv().await
    }
}
