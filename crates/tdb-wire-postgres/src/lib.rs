//! tdb-wire-postgres
