//! tdb-tests
