//! What a tenant's clients may use in a proxy. The proxies apply a change; no database server is contacted.

use std::sync::Arc;

use tdb_names::TenantName;
use tdb_store::{events, limits};

use crate::core::Core;
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::{Identity, KeyScope};
use crate::model::TenantLimits;

/// The limits of tenants.
#[derive(Clone)]
pub struct Limits {
    pub(crate) core: Arc<Core>,
}

impl Limits {
    /// The limits of a tenant, in every state of the tenant.
    pub async fn find(&self, identity: &Identity, tenant: &TenantName) -> Result<TenantLimits> {
        identity.require(KeyScope::Read)?;
        let tx = self.core.store.project(identity.project()).await?;
        let found = limits::of(&tx, identity.project(), tenant).await?;
        tx.rollback().await?;
        found.ok_or_else(|| ControlError::not_found(EntryKind::Tenant, tenant))
    }

    /// Replaces all limits of a tenant. Returns when the proxies use them for new clients.
    pub async fn replace(&self, identity: &Identity, tenant: &TenantName, new: &TenantLimits) -> Result<()> {
        identity.require(KeyScope::Write)?;
        let project = identity.project();
        let tx = self.core.store.project(project).await?;
        if !limits::replace(&tx, project, tenant, new).await? {
            return Err(ControlError::not_found(EntryKind::Tenant, tenant));
        }
        events::tenant_changed(&tx, project, tenant).await?;
        tx.commit().await?;
        self.core.wait_for_proxies().await
    }
}
