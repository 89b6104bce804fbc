//! What templates and tenants carry of ours: `tdb.deployed_change`, `tdb.setting` and the guard. Workspaces do not.

use crate::error::EngineError;
use crate::server::Server;

/// Whether a tenant's own role may change its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantDdl {
    Allow,
    Deny,
}

/// Fits out the database that becomes the first template. Again: nothing is done.
pub async fn install(server: &Server, database: &str) -> Result<(), EngineError> {
    let inside = server.dedicated(database).await?;
    let known = inside
        .row("SELECT FROM pg_namespace WHERE nspname = 'tdb'", &[])
        .await?;
    if known.is_none() {
        inside.run(include_str!("../sql/tenant_side.sql")).await?;
    }
    let outside = server.maintenance().await?;
    crate::databases::leave(&outside, inside, database).await?;
    server.keep_maintenance(outside);
    Ok(())
}

pub async fn set_ddl(server: &Server, database: &str, ddl: TenantDdl) -> Result<(), EngineError> {
    let value = match ddl {
        TenantDdl::Allow => "allow",
        TenantDdl::Deny => "deny",
    };
    let inside = server.dedicated(database).await?;
    inside
        .execute("UPDATE tdb.setting SET value = $1 WHERE name = 'tenant_ddl'", &[&value])
        .await
        .map(drop)
}
