//! tdb-control
