//! Files under `tests/fixtures`.

use std::path::{Path, PathBuf};

/// The schema of the end-to-end test: one object of each kind that is part of a schema.
pub const SCHEMA: &str = include_str!("../fixtures/schema.sql");

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}
