//! Who is on a server at this moment.

use time::OffsetDateTime;

use crate::postgres::error::EngineError;
use crate::postgres::server::Server;

/// When a server process began, by the server's clock; none where it is gone. With the pid it names a session for ever.
pub async fn backend_start(server: &Server, pid: i32) -> Result<Option<OffsetDateTime>, EngineError> {
    let session = server.maintenance().await?;
    let row = session
        .row("SELECT backend_start FROM pg_stat_activity WHERE pid = $1", &[&pid])
        .await?;
    server.keep_maintenance(session);
    Ok(row.map(|row| row.try_get(0)).transpose()?.flatten())
}
