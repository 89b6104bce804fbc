//! Invalidation: what a cache must forget and which sessions must end.

use tdb_names::{BlueprintName, CredentialId, DatabaseId, ProjectId, TenantName, UserName, WorkspaceId};
use tokio::sync::mpsc;

/// Counts up with every change of routes or credentials in the metadata store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

/// One change, in the order of its epoch. "End" means: running transactions get a few seconds, then 57P01.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Forget the routes of a blueprint's workspace or of a tenant; sessions go on.
    Workspace {
        epoch: Epoch,
        project: ProjectId,
        blueprint: BlueprintName,
    },
    Tenant {
        epoch: Epoch,
        project: ProjectId,
        tenant: TenantName,
    },
    /// Forget, and end the sessions on this database.
    DatabaseClosed {
        epoch: Epoch,
        project: ProjectId,
        tenant: TenantName,
        database: DatabaseId,
    },
    WorkspaceClosed {
        epoch: Epoch,
        project: ProjectId,
        blueprint: BlueprintName,
        workspace: WorkspaceId,
    },
    /// Forget the credential; with `CredentialRevoked`, end its sessions too.
    Credential { epoch: Epoch, user: UserName },
    CredentialRevoked {
        epoch: Epoch,
        user: UserName,
        credential: CredentialId,
    },
}

impl Change {
    pub fn epoch(&self) -> Epoch {
        match self {
            Change::Workspace { epoch, .. }
            | Change::Tenant { epoch, .. }
            | Change::DatabaseClosed { epoch, .. }
            | Change::WorkspaceClosed { epoch, .. }
            | Change::Credential { epoch, .. }
            | Change::CredentialRevoked { epoch, .. } => *epoch,
        }
    }
}

/// Changes as they come. It ends when the connection behind it is lost: subscribe again and flush.
#[derive(Debug)]
pub struct ChangeFeed {
    receiver: mpsc::Receiver<Change>,
}

impl ChangeFeed {
    pub fn new(receiver: mpsc::Receiver<Change>) -> Self {
        Self { receiver }
    }

    /// The next change; `None` when the feed was lost. Cancel safe.
    pub async fn next(&mut self) -> Option<Change> {
        self.receiver.recv().await
    }
}
