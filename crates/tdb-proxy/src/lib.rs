//! tdb-proxy
