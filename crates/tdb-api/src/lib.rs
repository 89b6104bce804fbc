//! tdb-api
