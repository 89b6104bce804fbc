//! For tests only: real PostgreSQL clusters that live as long as a value, and free ports. Nothing here fakes a server.

mod cluster;

pub use cluster::{BinDir, Cluster, ClusterOptions, Durability};

use std::net::{Ipv4Addr, TcpListener};

/// A TCP port on 127.0.0.1 that was free a moment ago.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
