//! The data plane with a real PostgreSQL server, real sockets and real drivers. Only its two interfaces to the control plane
//! are replaced: the lookup of users and databases (`support::Directory`), and the drain of journals (`support::Journal`).

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
