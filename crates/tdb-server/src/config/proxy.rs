//! The section `[proxy]`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reader::{Problem, Section};
use super::{PublicAddress, Tls, loopback, number, read_tls};

const PROXY_PORT: u16 = 6432;

#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub listen: SocketAddr,
    /// The `host:port` in connection strings; `None` means the listening address.
    pub public_address: Option<PublicAddress>,
    pub clients_max: NonZeroU32,
    pub database_clients_max: NonZeroU32,
    pub login_timeout: Duration,
    pub upstream_connect_timeout: Duration,
    pub stale_routes_max: Duration,
    pub pool_mode: PoolMode,
    pub server_connections_max: NonZeroU32,
    pub server_connection_timeout: Duration,
    pub server_idle_timeout: Duration,
    pub tls: Tls,
}

/// Whether the clients of a tenant's database share server connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PoolMode {
    /// A client has a server connection while it is connected
    Session,
    /// A client has a server connection during a transaction
    Auto,
}

/// The default of `proxy.server_connections_max`.
pub(crate) const SERVER_CONNECTIONS_MAX: NonZeroU32 = number(80);

pub(super) fn read(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Proxy {
    let proxy = Proxy {
        listen: section.value("listen", loopback(PROXY_PORT), problems),
        public_address: section.optional("public_address", problems),
        clients_max: section.value("clients_max", number(10_000), problems),
        database_clients_max: section.value("database_clients_max", number(100), problems),
        login_timeout: section.duration("login_timeout", Duration::from_secs(15), problems),
        upstream_connect_timeout: section.duration("upstream_connect_timeout", Duration::from_secs(10), problems),
        stale_routes_max: section.duration("stale_routes_max", Duration::from_secs(3600), problems),
        pool_mode: section.value("pool_mode", PoolMode::Session, problems),
        server_connections_max: section.value("server_connections_max", SERVER_CONNECTIONS_MAX, problems),
        server_connection_timeout: section.duration("server_connection_timeout", Duration::from_secs(30), problems),
        server_idle_timeout: section.duration("server_idle_timeout", Duration::from_secs(60), problems),
        tls: read_tls(section.section("tls", problems), problems),
    };
    section.close(problems);
    proxy
}
