//! The classes of statements that the capture distinguishes.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ddl,
    CreateIndexConcurrently,
    DropIndexConcurrently,
    DetachConcurrently,
    Extension {
        cascade: bool,
    },
    /// DO, CALL, SELECT: can run DDL in functions, and is replayed as a whole.
    Carrier,
    /// Changes rows or the position of a sequence; can run DDL in a trigger.
    Data,
    /// EXECUTE, FETCH, EXPLAIN: the text of what they run is elsewhere or not executed directly.
    Prepared,
    Control(Control),
    /// GRANT or REVOKE on the journal's schema, which has no effect, since the owner cannot grant privileges on it.
    Journal,
    /// Concerns roles, databases, tablespaces or the server's settings.
    NotSchema,
    /// SET, SHOW, LISTEN, VACUUM and the like: no effect on a schema, or one that is captured apart from the journal.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Begin,
    Commit,
    Prepare,
    Rollback,
    Savepoint,
    Release,
    RollbackTo,
}
