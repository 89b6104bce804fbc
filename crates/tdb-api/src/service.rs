//! The service itself: name, version and health. These endpoints require no key.

use axum::Json;
use axum::extract::State;
use tdb_client::lists::Success;
use tdb_client::service::{Health, Service};
use tdb_control::Control;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::refusal::Answer;

pub(crate) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(read_service))
        .routes(routes!(read_health))
}

/// Name and version
#[utoipa::path(get, path = "/", tag = "service", responses((status = 200, description = "Name and version of the service", body = Success<Service>)))]
async fn read_service() -> Json<Success<Service>> {
    Json(Success::of(Service {
        name: "TenantsDB".to_owned(),
        service: "TenantsDB".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

/// Whether the metadata store is reachable
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, description = "The service works", body = Success<Health>)))]
async fn read_health(State(control): State<Control>) -> Answer<Json<Success<Health>>> {
    control.health().await?;
    Ok(Json(Success::of(Health {
        status: "ok".to_owned(),
        metadata_store: "ok".to_owned(),
    })))
}
