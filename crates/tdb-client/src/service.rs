//! The service itself: name, version, health.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    pub name: String,
    /// The same.
    pub service: String,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`; a service that is not answers 503.
    pub status: String,
    /// `ok` when the metadata store answered in time.
    pub metadata_store: String,
}
