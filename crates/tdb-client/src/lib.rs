//! tdb-client
