//! The use cases that need DDL capture: the change log, versions and their builds, deployments.

pub(crate) mod ahead;
pub(crate) mod blueprints;
pub(crate) mod builds;
pub(crate) mod deployments;
pub(crate) mod differences;
pub(crate) mod drain;
pub(crate) mod drain_timer;
pub(crate) mod drift;
pub(crate) mod extensions;
pub(crate) mod failing;
pub(crate) mod head;
pub(crate) mod journals;
pub(crate) mod leftovers;
pub(crate) mod plan;
pub(crate) mod proof;
pub(crate) mod repair;
pub(crate) mod reverts;
pub(crate) mod rollout;
pub(crate) mod session_settings;
pub(crate) mod skips;
pub(crate) mod stock;
pub(crate) mod templates;
pub(crate) mod versions;
pub(crate) mod watches;
