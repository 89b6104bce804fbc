//! For tests and benchmarks only: temporary PostgreSQL clusters and free ports. There are no fakes or mocks of a server.

mod cluster;
pub mod read_only;

pub use cluster::{BinDir, Cluster, ClusterOptions, Durability};

use std::net::{Ipv4Addr, TcpListener};

/// A TCP port on 127.0.0.1 that was free when this function returned. Another process can take it before the caller does.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
