//! The privileges of a database's read-only role: it can read the owner's objects, and nothing else. They are ordinary
//! grants to one group role per server, in databases with a read-only credential only, since dumps contain them. The
//! predefined role `pg_read_all_data` is not used, because it can also read `pg_authid`.

use crate::postgres::error::EngineError;
use crate::postgres::ident::{literal, quote};
use crate::postgres::roles::RoleNames;
use crate::postgres::server::{CLOSE_WRITERS, READERS_ROLE, Server, WRITERS_ROLE};
use crate::postgres::session::Session;

/// Whether a database has a read-only credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// It has none: nothing is granted for reading.
    None,
    /// It has one: what the owner has now, and creates later, is granted to the group of read-only roles.
    Admitted,
}

/// How far [`admit`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantProgress {
    /// All is granted.
    Complete,
    /// Clients changed the definitions of some tables, for which nothing could be granted now.
    SomeBusy,
}

/// Gives a database's roles the memberships and privileges of the current version, if an older version created them, and
/// grants reading if `readers` says so. Idempotent. Waits at most 2 s for locks of the database's clients, and does not
/// make their DDL fail.
pub async fn admit(
    server: &Server,
    database: &str,
    roles: &RoleNames,
    readers: Readers,
) -> Result<GrantProgress, EngineError> {
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
    let progress = match readers {
        Readers::None => GrantProgress::Complete,
        Readers::Admitted => admit_to_relations(&inside).await?,
    };
    server.leave(inside, database).await?;
    Ok(progress)
}

/// The databases among `databases`, which have readers, whose default privileges for reading a client removed. Runs one query.
pub async fn lacking(server: &Server, databases: &[&str]) -> Result<Vec<String>, EngineError> {
    let session = server.maintenance().await?;
    let text = include_str!("../../sql/postgres/readers_lacking.sql");
    let rows = session.rows(text, &[&databases]).await?;
    server.keep_maintenance(session);
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// After the default privileges, so that no table is left out that is created meanwhile.
async fn admit_to_relations(inside: &Session) -> Result<GrantProgress, EngineError> {
    inside.run("SET synchronous_commit = off").await?;
    match inside
        .run(include_str!("../../sql/postgres/readers_relations.sql"))
        .await
    {
        Ok(_) => Ok(GrantProgress::Complete),
        Err(error) if error.has("55P03") => Ok(GrantProgress::SomeBusy),
        Err(error) => Err(error),
    }
}
