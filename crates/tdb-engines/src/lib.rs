//! Operations on database servers, one module per engine. No HTTP and no metadata store: the control plane decides what is
//! done, and keeps the record of it.

pub mod fault;
pub mod postgres;
