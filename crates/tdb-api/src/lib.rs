//! The admin API: thin handlers that parse a request, ask one use case of `tdb-control` and render its answer. It holds
//! no rule of the product, speaks to no database, and chooses HTTP status and problem code in one place.

mod apikeys;
mod blueprints;
mod credentials;
mod deployments;
mod describe;
mod drift;
mod extract;
mod pages;
mod projects;
mod queries;
mod refusal;
mod request;
mod servers;
mod service;
mod tenants;
mod workspaces;

use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Json, Router, routing};
use tdb_control::Control;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::refusal::Refusal;

/// All endpoints. Mount it at the root of the API's address.
pub fn router(control: Control) -> Router {
    let (guarded, _) = guarded().split_for_parts();
    let (open, _) = open().split_for_parts();
    let document = openapi();
    guarded
        .route_layer(from_fn_with_state(control.clone(), extract::authenticate))
        .merge(open)
        .route("/openapi.json", routing::get(async move || Json(document)))
        .fallback(async |request: Request| Refusal::no_such_endpoint(request.uri().path()))
        .method_not_allowed_fallback(async |request: Request| Refusal::wrong_method(request.method()))
        .layer(from_fn(request::serve))
        .with_state(control)
}

/// The description of all endpoints, as `GET /openapi.json` gives it.
pub fn openapi() -> OpenApi {
    let (_, mut document) = guarded().split_for_parts();
    let (_, open) = open().split_for_parts();
    document.merge(open);
    describe::complete(&mut document);
    document
}

fn guarded() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .merge(projects::routes())
        .merge(apikeys::routes())
        .merge(workspaces::routes())
        .merge(blueprints::routes())
        .merge(tenants::routes())
        .merge(deployments::routes())
        .merge(queries::routes())
        .merge(servers::routes())
        .merge(credentials::routes())
        .merge(drift::routes())
}

fn open() -> OpenApiRouter<Control> {
    service::routes()
}
