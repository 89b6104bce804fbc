//! PostgreSQL sessions, in the order of a connection's life: startup, authenticate, dial, relay.

mod authenticate;
pub(crate) mod cancel;
mod capture;
mod data_tap;
mod dial;
mod read_only;
mod refuse;
mod relay;
mod render;
pub(crate) mod session;
mod startup;
mod text_tap;
