//! Use cases and state machines of the control plane: workspaces, versions, tenants, deployments, and the workers that
//! finish what was begun. It speaks no HTTP and no wire protocol, and no text of a user ever runs in a session of an
//! administrator.

mod accounts;
mod blueprints;
mod builds;
mod control;
mod credentials;
mod deployments;
mod drain;
mod error;
mod extensions;
mod fleet;
mod idempotency;
mod identity;
mod jobs;
mod keyed;
pub mod model;
mod place;
mod plan;
mod points;
mod provision;
mod registry;
mod reverts;
mod rollout;
mod servers;
mod settings;
mod signup;
mod sweep;
mod tenants;
mod throttle;
mod versions;
mod watches;
mod workspaces;

pub use control::{Control, ControlSettings, Limit, Signup};
pub use error::{ControlError, Kind};
pub use idempotency::{IdempotencyKey, Kept, Once};
pub use identity::{Identity, KeyScope};
pub use points::POINTS;
pub use servers::ServerEnrolment;
pub use watches::{DeploymentWatch, News};
