//! The types of the admin API: requests, answers, lists and problem documents, shared by the API and its clients. The
//! feature `http` adds a typed client. The crate validates nothing: names are plain text here, and the API parses them.

pub mod accounts;
pub mod blueprints;
pub mod connections;
pub mod credentials;
pub mod deployments;
pub mod drift;
pub mod events;
pub mod extensions;
#[cfg(feature = "http")]
pub mod http;
pub mod limits;
pub mod lists;
pub mod problems;
pub mod queries;
pub mod roles;
pub mod servers;
pub mod service;
pub mod settings;
pub mod tenants;
mod times;
pub mod versions;
pub mod workspaces;
