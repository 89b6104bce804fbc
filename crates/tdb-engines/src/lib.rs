//! tdb-engines
