//! tdb-store
