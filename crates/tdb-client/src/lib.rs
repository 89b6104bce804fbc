//! The admin API's vocabulary: requests, answers, lists and problem documents, shared by the API that sends them and by
//! those who call it. With the feature `http` also the typed client over HTTP. It decides nothing: names are plain text
//! here and are parsed by the API.

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
pub mod lists;
pub mod problems;
pub mod queries;
pub mod servers;
pub mod service;
pub mod settings;
pub mod tenants;
mod times;
pub mod versions;
pub mod workspaces;
