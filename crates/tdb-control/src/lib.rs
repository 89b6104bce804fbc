//! Use cases and state machines of the control plane: workspaces, versions, tenants, deployments, and the workers that
//! finish interrupted work. No HTTP and no wire protocol. A user's SQL never runs in a session of an administrator.

mod attempt;
mod control;
mod core;
mod entry;
mod error;
mod idempotency;
mod identity;
mod jobs;
mod keyed;
mod leases;
mod lifecycle;
mod metrics;
pub mod model;
mod page;
mod points;
mod schema;
mod sweep;
mod throttle;

pub use crate::core::{ControlSettings, Signup};
pub use control::{Control, Parts};
pub use entry::EntryKind;
pub use error::ControlError;
pub use idempotency::{IdempotencyKey, Kept, Once};
pub use identity::{Identity, KeyScope};
pub use lifecycle::servers::ServerEnrolment;
pub use page::{Limit, Page};
pub use points::POINTS;
pub use schema::watches::{DeploymentWatch, News};
