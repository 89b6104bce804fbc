//! The data plane against a real PostgreSQL, real sockets and real drivers. Only its two seams to the control plane are
//! played by the tests: who a user is and where a database is (`support::Directory`), and what draining a journal means
//! (`support::Journal`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod capture;
mod ending;
mod hostile;
mod limits;
mod login;
mod read_only;
mod relay;
mod support;
mod tls;
mod upstream;
mod wire;
