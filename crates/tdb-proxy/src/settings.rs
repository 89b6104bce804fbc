//! The settings of the data plane. The defaults are those of the shipped configuration.

use std::num::NonZeroU32;
use std::time::Duration;

use tdb_contract::PoolMode;
use tokio_util::sync::CancellationToken;

/// The limits and deadlines of the data plane.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// The maximum number of concurrent connections, including those that have not logged in yet.
    pub clients_max: NonZeroU32,
    /// The maximum number of concurrent clients of a database whose route sets no limit.
    pub database_clients_max: NonZeroU32,
    /// The time limit from accept to the end of authentication, including the TLS handshake.
    pub login_timeout: Duration,
    /// The time limit from connecting to a database server to its first ReadyForQuery.
    pub upstream_connect_timeout: Duration,
    /// How long cached routes and credentials are used while the metadata store is unavailable.
    pub stale_routes_max: Duration,
    /// Whether client connections may, must or cannot use TLS.
    pub tls_mode: ClientTlsMode,
    /// Whether the clients of a tenant's database share server connections.
    pub pool_mode: PoolMode,
    /// The maximum number of shared connections to one database server.
    pub server_connections_max: NonZeroU32,
    /// How long a session waits for one of the shared connections.
    pub server_connection_timeout: Duration,
    /// How long a shared connection that no session uses stays open.
    pub server_idle_timeout: Duration,
}

/// Whether client connections use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTlsMode {
    /// TLS is not offered: SSLRequest is answered with `N`.
    Disable,
    /// The client decides.
    Prefer,
    /// Unencrypted connections are refused.
    Require,
}

/// Stops the data plane: gracefully with `drain`, immediately with `now`.
#[derive(Clone, Debug)]
pub struct Stop {
    /// When cancelled, no new connections are accepted, and sessions end when their transactions do.
    pub drain: CancellationToken,
    /// When cancelled, all sessions are closed immediately.
    pub now: CancellationToken,
    /// How long transactions may continue after `drain` was cancelled.
    pub drain_timeout: Duration,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            clients_max: NonZeroU32::new(10_000).unwrap_or(NonZeroU32::MAX),
            database_clients_max: NonZeroU32::new(100).unwrap_or(NonZeroU32::MAX),
            login_timeout: Duration::from_secs(15),
            upstream_connect_timeout: Duration::from_secs(10),
            stale_routes_max: Duration::from_secs(3600),
            tls_mode: ClientTlsMode::Prefer,
            pool_mode: PoolMode::Session,
            server_connections_max: NonZeroU32::new(80).unwrap_or(NonZeroU32::MAX),
            server_connection_timeout: Duration::from_secs(30),
            server_idle_timeout: Duration::from_secs(60),
        }
    }
}
