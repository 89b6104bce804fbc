//! TenantsDB's own objects in templates and tenant databases: `tdb.deployed_change`, `tdb.setting` and the guard, which are
//! event triggers that can refuse DDL. Workspaces have the journal instead.

use crate::postgres::error::EngineError;
use crate::postgres::ident::literal;
use crate::postgres::server::Server;
use crate::postgres::session::Session;

/// Replaces the function that the guard's event triggers call.
const GUARD: &str = include_str!("../../sql/postgres/guard.sql");
/// Creates the trigger that keeps code in a change from writing `tdb.deployed_change`.
const GUARD_RECORD: &str = include_str!("../../sql/postgres/guard_record.sql");

/// Whether the roles of a tenant may run DDL in their database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantDdl {
    /// They may. The guard's triggers are disabled.
    Allow,
    /// Only deployments and the administrator may. Temporary objects are still allowed.
    Deny,
}

/// Creates these objects in the database that becomes the first template; later templates and tenants are clones of it.
/// Idempotent.
pub async fn install(server: &Server, database: &str) -> Result<(), EngineError> {
    let inside = server.dedicated(database).await?;
    let known = inside
        .row("SELECT FROM pg_namespace WHERE nspname = 'tdb'", &[])
        .await?;
    if known.is_none() {
        let sql = include_str!("../../sql/postgres/tenant_side.sql")
            .replace(":guard", GUARD)
            .replace(":record", GUARD_RECORD);
        inside.run(&sql).await?;
    }
    server.leave(inside, database).await
}

/// Protects `tdb.deployed_change` in a database that a template of an older version gave no such trigger. The caller holds the
/// deployment lock.
pub(crate) async fn guard_record(server: &Server, database: &str) -> Result<(), EngineError> {
    let inside = server.dedicated(database).await?;
    inside
        .run(&format!("BEGIN; SET LOCAL lock_timeout = '2s';\n{GUARD_RECORD}COMMIT"))
        .await?;
    server.leave(inside, database).await
}

/// Allows or refuses DDL in a tenant's database. Also replaces the guard's function, which may be of an older version.
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
    server.leave(inside, database).await
}

/// Installs the event trigger that keeps tenants from dropping extensions that only a superuser can create. Runs in the
/// administrator's transaction that creates such an extension. Idempotent.
pub(crate) async fn keep_extensions(session: &Session) -> Result<(), EngineError> {
    let known = "SELECT FROM pg_event_trigger WHERE evtname = 'tdb_keep_extensions'";
    if session.row(known, &[]).await?.is_some() {
        return Ok(());
    }
    session
        .run(include_str!("../../sql/postgres/keep_extensions.sql"))
        .await
}
