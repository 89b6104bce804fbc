//! What a tenant's clients may use in a proxy.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lists::words;

/// The largest number of clients or connections that can be set.
pub const LIMIT_MAX: u32 = 1_000_000;
/// The longest time that can be set, in seconds: a day.
pub const QUEUE_TIMEOUT_MAX: u32 = 86_400;

words! {
    /// Whether clients share server connections.
    PoolMode {
        /// A client has a server connection while it is connected.
        Session = "session",
        /// Clients share server connections, each during its transactions.
        Auto = "auto",
    }
}

/// What the clients of each database of a tenant may use in one proxy. Null is what the proxy's configuration says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantLimits {
    /// The tenant's name.
    pub tenant_id: String,
    /// Whether clients with a read-write credential share server connections.
    pub pool_mode: Option<PoolMode>,
    /// How many clients may be connected to a database at the same time.
    pub clients_max: Option<u32>,
    /// How many shared server connections a database may have.
    pub server_connections_max: Option<u32>,
    /// How long a client waits for a shared server connection, in seconds.
    pub queue_timeout: Option<u32>,
}

/// The request to replace all limits of a tenant. Omitted fields become null: what the proxy's configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTenantLimits {
    /// Whether clients with a read-write credential share server connections. Clients that are connected keep their mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_mode: Option<PoolMode>,
    /// How many clients may be connected to a database at the same time. Clients that are connected stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub clients_max: Option<u32>,
    /// How many shared server connections a database may have. Further clients wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub server_connections_max: Option<u32>,
    /// How long a client waits for a shared server connection, in seconds, until it is ended with SQLSTATE 53300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub queue_timeout: Option<u32>,
}
