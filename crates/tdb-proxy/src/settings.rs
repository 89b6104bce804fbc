//! What can be set from outside. The defaults are the shipped configuration's.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The limits and deadlines of the data plane.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Most connections at a time, those that have not logged in yet included.
    pub clients_max: NonZeroU32,
    /// Most clients of one database at a time, where its route sets no limit of its own.
    pub database_clients_max: NonZeroU32,
    /// From accept to the end of authentication, TLS included.
    pub login_timeout: Duration,
    /// From dialling a database server to its first ReadyForQuery.
    pub upstream_connect_timeout: Duration,
    /// How long known routes serve while the metadata store cannot be asked.
    pub stale_routes_max: Duration,
    /// Whether clients may, must or cannot use TLS.
    pub tls_mode: ClientTlsMode,
}

/// Whether clients may or must encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTlsMode {
    /// SSLRequest is answered `N`.
    Disable,
    /// Clients choose.
    Prefer,
    /// A startup packet in clear is refused.
    Require,
}

/// How to stop: `drain` lets running transactions finish for `drain_timeout`, `now` ends everything at once.
#[derive(Clone, Debug)]
pub struct Stop {
    /// No new clients; sessions end when their transactions do.
    pub drain: CancellationToken,
    /// All sessions end at once.
    pub now: CancellationToken,
    /// How long transactions may go on after `drain`.
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
        }
    }
}
