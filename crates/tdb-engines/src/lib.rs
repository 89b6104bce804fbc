//! What can be done to a database server, one module per engine.

pub mod fault;
pub mod postgres;
