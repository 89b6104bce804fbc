//! PostgreSQL's wire protocol without I/O: startup packets, frames, both sides of SCRAM, the client's side of a login, the
//! state of a session, and the messages that the proxy sends itself. Source: PostgreSQL manual, chapter "Frontend/Backend
//! Protocol". A length from the wire is always checked before memory is allocated for it.

pub mod backend;
mod descriptions;
pub mod flow;
pub mod frame;
pub mod frontend;
pub mod login;
pub mod reading;
pub mod report;
pub mod requests;
pub mod scram;
pub mod startup;
pub mod statements;
pub mod tokens;
pub mod traces;
