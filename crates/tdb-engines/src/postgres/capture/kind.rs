//! What a statement is to the capture.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ddl,
    CreateIndexConcurrently,
    DropIndexConcurrently,
    DetachConcurrently,
    Extension {
        cascade: bool,
    },
    /// DO, CALL, SELECT: may hide DDL and replays whole.
    Carrier,
    /// Changes rows or a sequence's position; may hide DDL in a trigger.
    Data,
    /// EXECUTE, FETCH, EXPLAIN: what they run is elsewhere.
    Prepared,
    Control(Control),
    /// Privileges on the journal's schema: granted by those who have none to grant.
    Journal,
    /// Roles, databases, tablespaces, the server's settings.
    NotSchema,
    /// SET, SHOW, LISTEN, VACUUM…: of no consequence.
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
