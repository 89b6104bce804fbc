//! What a database's read-only role may do: read what the owner has, and nothing else. The rights are plain grants to one
//! group of the server, made only in databases that are read so: they are in the database's dumps. No predefined role:
//! `pg_read_all_data` reads `pg_authid` too.

use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::roles::RoleNames;
use crate::postgres::server::{CLOSE_WRITERS, READERS_ROLE, Server, WRITERS_ROLE};
use crate::postgres::session::leave;

/// Whether the read-only role is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    None,
    Admitted,
}

/// Brings a database to what this program makes, whichever made it, and admits readers. Again: nothing is done. Waits
/// for locks that its owner holds a bounded time only.
pub async fn admit(server: &Server, database: &str, roles: &RoleNames, readers: Readers) -> Result<(), EngineError> {
    let [owner, readonly] = [&roles.owner, &roles.readonly].map(|name| quote(name));
    let (writers_role, readers_role) = (quote(WRITERS_ROLE), quote(READERS_ROLE));
    let grants = match readers {
        Readers::None => String::new(),
        Readers::Admitted => include_str!("../../sql/postgres/readers.sql").replace(":owner", &literal(&roles.owner)),
    };
    let inside = server.dedicated(database).await?;
    inside
        .run(&format!(
            "BEGIN; SET LOCAL lock_timeout = '2s'; SELECT pg_advisory_xact_lock(1952735588, 3);\n\
             {CLOSE_WRITERS}\n{grants}\n\
             GRANT {writers_role} TO {owner}; GRANT {readers_role} TO {readonly};\n\
             REVOKE pg_read_all_data FROM {readonly}; COMMIT"
        ))
        .await?;
    let outside = server.maintenance().await?;
    leave(&outside, inside, database).await?;
    server.keep_maintenance(outside);
    Ok(())
}
