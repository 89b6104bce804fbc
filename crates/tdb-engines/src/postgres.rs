//! PostgreSQL: prepare a server, create roles and databases, read a workspace's journal, split its text into changes, run
//! changes, fingerprint, query.
//!
//! Two kinds of session, never mixed: a [`Server`] is the administrator and runs constant SQL only; a [`Login`] is a role
//! that reaches one database, and only there may text run that came from a user or that can call a user's code.

pub mod activity;
pub mod apply;
pub mod capture;
pub mod change;
pub mod databases;
pub mod declared_roles;
mod deparse;
mod error;
pub mod extensions;
pub mod fingerprint;
mod ident;
pub mod journal;
mod login;
pub mod query;
pub mod readers;
pub mod role_states;
pub mod roles;
pub mod schema;
mod server;
mod session;
pub mod session_settings;
pub mod tenant_side;

pub use error::{EngineError, ErrorClass, Lack, SqlState};
pub use login::Login;
pub use server::{Probe, Server};
