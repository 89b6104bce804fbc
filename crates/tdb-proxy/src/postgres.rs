//! PostgreSQL sessions. The steps of a connection, in order: `startup`, `authenticate`, `dial`, `relay`.

mod authenticate;
pub(crate) mod cancel;
mod capture;
mod data_tap;
mod dial;
mod pipe;
pub(crate) mod pool;
mod pooled;
mod read_only;
mod refuse;
mod relay;
mod render;
mod server_login;
pub(crate) mod session;
mod startup;
mod text_tap;

use tdb_names::Engine;
use tdb_wire_postgres::report::SqlState;

use crate::listener::Protocol;

/// How the listener serves PostgreSQL connections.
pub(crate) const PROTOCOL: Protocol = Protocol {
    engine: Engine::PostgreSql,
    serve: |plane, stream, address, admission| {
        Box::pin(async move { session::serve(&plane, stream, address, admission).await })
    },
    rejected: |plane| plane.metrics.refusal(SqlState::TooManyConnections.code()),
};
