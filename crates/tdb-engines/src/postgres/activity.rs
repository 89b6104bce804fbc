//! Sessions that a server currently has.

use std::time::Duration;

use time::OffsetDateTime;

use crate::postgres::error::EngineError;
use crate::postgres::server::Server;

/// The time after which a session whose password was accepted is listed with its role.
const LOGIN_TIME: Duration = Duration::from_millis(200);

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

/// Ends the sessions of `roles` that begin before this call, whatever they connected through, except that of the process `kept`.
pub async fn end_sessions(server: &Server, roles: &[&str], kept: Option<i32>) -> Result<(), EngineError> {
    let session = server.maintenance().await?;
    let Some(now) = session.row("SELECT clock_timestamp()", &[]).await? else {
        return Err(EngineError::Unexpected("no time".to_owned()));
    };
    let (now, kept): (OffsetDateTime, i32) = (now.try_get(0)?, kept.unwrap_or(0));
    let end = include_str!("../../sql/postgres/end_sessions.sql");
    session.rows(end, &[&roles, &now, &kept]).await?;
    tokio::time::sleep(LOGIN_TIME).await;
    session.rows(end, &[&roles, &now, &kept]).await?;
    server.keep_maintenance(session);
    Ok(())
}
