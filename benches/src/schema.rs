//! The schema of the tenants in the measurements: tables with keys and indexes as in a typical application.

use std::fmt::Write as _;

/// The DDL of `tables` tables, `item_1` to `item_N`; each except the first has a foreign key to the previous one.
pub(crate) fn ddl(tables: u32) -> String {
    let mut text = String::new();
    for table in 1..=tables {
        let reference = match table {
            1 => String::new(),
            _ => format!(" REFERENCES item_{}", table - 1),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "CREATE TABLE item_{table} (\n  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n  parent bigint{reference},\n  \
             code text NOT NULL UNIQUE,\n  title text NOT NULL DEFAULT '',\n  amount numeric(12, 2) CHECK (amount >= 0),\n  \
             created_at timestamptz NOT NULL DEFAULT now()\n);\nCREATE INDEX ON item_{table} (created_at);"
        );
    }
    text
}
