//! PostgreSQL: prepare a server, create roles and databases, read a workspace's journal and convert it to changes, apply
//! changes, take fingerprints, run queries.
//!
//! There are two kinds of session. A [`Server`] connects as the administrator and runs only constant SQL. A [`DatabaseLogin`]
//! connects as a role that can reach one database; SQL that a user wrote, or that can call a user's code, runs only there.

pub mod activity;
pub mod apply;
pub mod capture;
pub mod change;
pub mod databases;
pub mod declared_roles;
mod deparse;
pub mod deployed_record;
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
pub use login::DatabaseLogin;
pub use server::{Probe, Server};
