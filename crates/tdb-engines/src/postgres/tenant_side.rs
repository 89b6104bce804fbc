//! What templates and tenants carry of ours: `tdb.deployed_change`, `tdb.setting` and the guard. Workspaces do not.

use crate::postgres::error::EngineError;
use crate::postgres::ident::literal;
use crate::postgres::server::Server;
use crate::postgres::session::{self, Session};

/// Replaces the function that the guard's event triggers call.
const GUARD: &str = include_str!("../../sql/postgres/guard.sql");

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
        let sql = include_str!("../../sql/postgres/tenant_side.sql").replace(":guard", GUARD);
        inside.run(&sql).await?;
    }
    leave(server, inside, database).await
}

/// Sets it for a tenant's database; one that was made by an older program gets the present guard with it.
pub async fn set_ddl(server: &Server, database: &str, ddl: TenantDdl) -> Result<(), EngineError> {
    let (value, triggers) = match ddl {
        TenantDdl::Allow => ("allow", "DISABLE"),
        TenantDdl::Deny => ("deny", "ENABLE ALWAYS"),
    };
    let inside = server.dedicated(database).await?;
    inside
        .run(&format!(
            "BEGIN;\n{GUARD}\nUPDATE tdb.setting SET value = {} WHERE name = 'tenant_ddl';\n\
             ALTER EVENT TRIGGER tdb_guard_end {triggers}; ALTER EVENT TRIGGER tdb_guard_drop {triggers};\nCOMMIT",
            literal(value)
        ))
        .await?;
    leave(server, inside, database).await
}

/// Within a transaction of the administrator, where an extension has been made that a tenant could not make again.
pub(crate) async fn keep_extensions(session: &Session) -> Result<(), EngineError> {
    let known = "SELECT FROM pg_event_trigger WHERE evtname = 'tdb_keep_extensions'";
    if session.row(known, &[]).await?.is_some() {
        return Ok(());
    }
    session
        .run(include_str!("../../sql/postgres/keep_extensions.sql"))
        .await
}

async fn leave(server: &Server, inside: Session, database: &str) -> Result<(), EngineError> {
    let outside = server.maintenance().await?;
    session::leave(&outside, inside, database).await?;
    server.keep_maintenance(outside);
    Ok(())
}
