//! Sessions that a server currently has.

use time::OffsetDateTime;

use crate::postgres::error::EngineError;
use crate::postgres::server::Server;

/// When the server process `pid` started, by the server's clock; `None` if there is no such process. Process id and start
/// time together identify a session permanently, although process ids are reused.
pub async fn backend_start(server: &Server, pid: i32) -> Result<Option<OffsetDateTime>, EngineError> {
    let session = server.maintenance().await?;
    let row = session
        .row("SELECT backend_start FROM pg_stat_activity WHERE pid = $1", &[&pid])
        .await?;
    server.keep_maintenance(session);
    Ok(row.map(|row| row.try_get(0)).transpose()?.flatten())
}
