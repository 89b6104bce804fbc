//! The statements that write `tdb.deployed_change`. They have no parameters: the trigger `guard_record` recognizes code that writes
//! to the table by the context of the statement, and PostgreSQL can add parameters to the context.

use super::plan::NumberedChange;

/// Inserts the row of a complete change, in a transaction of the administrator.
pub(crate) const INSERT_DONE: &str =
    "INSERT INTO tdb.deployed_change (change_id, checksum, state) VALUES (:id, :checksum, 'done')";

/// The text with the change's number for `:id` and its checksum for `:checksum`.
pub(crate) fn of(text: &str, numbered: &NumberedChange) -> String {
    let checksum = format!("pg_catalog.decode('{}', 'hex')", numbered.change.checksum());
    text.replace(":id", &numbered.id.to_string())
        .replace(":checksum", &checksum)
}
