//! tdb-benches
