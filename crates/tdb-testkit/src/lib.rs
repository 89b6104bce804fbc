//! For tests and benchmarks only: temporary PostgreSQL clusters and free ports. There are no fakes or mocks of a server.

mod cluster;
pub mod read_only;

pub use cluster::{BinDir, Cluster, ClusterOptions, Durability};

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Below the ports that Linux gives to outgoing connections, of which any can be taken at any time.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A TCP port on 127.0.0.1 that was free when this function returned. Another process can take it before the caller does.
pub fn free_port() -> io::Result<u16> {
    let random = RandomState::new();
    for attempt in 0..100 {
        let chosen = random.hash_one(attempt) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(chosen).map_err(io::Error::other)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
