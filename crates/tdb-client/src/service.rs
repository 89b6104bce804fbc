//! The service's name, version and health.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The service's name and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Always `TenantsDB`.
    pub name: String,
    /// The same as `name`.
    pub service: String,
    /// The version of the software.
    pub version: String,
}

/// The service's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`. If the service is not healthy, the answer is a problem with status 503.
    pub status: String,
    /// `ok`: the metadata store answered in time.
    pub metadata_store: String,
}
