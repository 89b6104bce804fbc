//! Files under `tests/fixtures`.

use std::path::{Path, PathBuf};

/// The story's schema: one of everything that is part of a schema.
pub const SCHEMA: &str = include_str!("../fixtures/schema.sql");

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}
