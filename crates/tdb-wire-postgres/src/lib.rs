//! PostgreSQL's wire protocol without I/O: startup packets, frames, the server's side of SCRAM, the client's side towards
//! database servers, the state of a session, and the messages the proxy says itself. Source: PostgreSQL manual, chapter "Frontend/Backend
//! Protocol". Nothing here allocates by a length that came from the wire before that length was checked.
#![warn(missing_docs, unreachable_pub, unused_qualifications)]

pub mod backend;
pub mod flow;
pub mod frame;
pub mod frontend;
pub mod login;
pub mod report;
pub mod scram;
pub mod startup;
