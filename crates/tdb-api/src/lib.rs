//! The admin API: thin handlers that parse a request, call one use case of `tdb-control` and render its result. It
//! contains no business rules and no database access; HTTP status and problem code are chosen in one place.
// The code that `#[utoipa::path]` generates has unnecessary qualifications.
#![allow(unused_qualifications)]

mod apikeys;
mod blueprints;
mod credentials;
mod deployments;
mod describe;
mod docs;
mod document;
mod drift;
mod events;
mod extensions;
mod extract;
mod limits;
mod once;
mod pages;
mod projects;
mod queries;
mod refusal;
mod request;
mod roles;
mod servers;
mod service;
mod settings;
mod signup;
mod tenants;
mod typed;
mod workspaces;

use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Json, Router, routing};
use tdb_control::Control;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::refusal::Refusal;

/// The router with all endpoints, to be mounted at the root of the API's address. It serves `control`.
pub fn router(control: Control) -> Router {
    let (guarded, _) = guarded().split_for_parts();
    let (open, _) = open().split_for_parts();
    let document = openapi();
    let endpoints = guarded
        .route_layer(from_fn_with_state(control.clone(), once::once))
        .route_layer(from_fn_with_state(control.clone(), extract::authenticate))
        .merge(open)
        .merge(docs::routes())
        .route("/openapi.json", routing::get(async move || Json(document)));
    surround(endpoints).with_state(control)
}

/// Layers that apply to every request, whether a handler answers it or not.
fn surround<S: Clone + Send + Sync + 'static>(endpoints: Router<S>) -> Router<S> {
    endpoints
        .fallback(async |request: Request| Refusal::no_such_endpoint(request.uri().path()))
        .method_not_allowed_fallback(async |request: Request| Refusal::wrong_method(request.method()))
        .layer(from_fn(request::serve))
}

/// The OpenAPI document of all endpoints, as `GET /openapi.json` returns it.
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
        .merge(roles::routes())
        .merge(apikeys::routes())
        .merge(workspaces::routes())
        .merge(settings::routes())
        .merge(limits::routes())
        .merge(extensions::routes())
        .merge(blueprints::routes())
        .merge(tenants::routes())
        .merge(deployments::routes())
        .merge(events::routes())
        .merge(queries::routes())
        .merge(servers::routes())
        .merge(credentials::routes())
        .merge(drift::routes())
}

fn open() -> OpenApiRouter<Control> {
    service::routes().merge(signup::routes())
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, Response, StatusCode};
    use serde_json::Value;
    use tdb_client::workspaces::CreateWorkspace;
    use tower::ServiceExt;

    use super::*;
    use crate::extract::Caller;

    /// The layers, around endpoints that need no store.
    fn endpoints() -> Router {
        let echo = async |extract::Body(request): extract::Body<CreateWorkspace>| request.name;
        let unguarded = async |_: Caller| StatusCode::OK;
        let routes = Router::new()
            .route("/echo", routing::post(echo))
            .route("/unguarded", routing::get(unguarded));
        surround(routes)
    }

    async fn ask(request: Request<Body>) -> (Response<()>, Value) {
        let (head, body) = endpoints().oneshot(request).await.unwrap().into_parts();
        let text = to_bytes(body, 1 << 20).await.unwrap();
        (
            Response::from_parts(head, ()),
            serde_json::from_slice(&text).unwrap_or_default(),
        )
    }

    async fn post(body: impl Into<Body>) -> (Response<()>, Value) {
        let request = Request::post("/echo")
            .header("content-type", "application/json")
            .header("x-request-id", "mine-1");
        ask(request.body(body.into()).unwrap()).await
    }

    #[tokio::test]
    async fn every_refusal_is_a_problem_document_that_names_its_request() {
        let (answer, problem) = post(r#"{"name":"x","nmae":1}"#).await;
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.headers()["x-request-id"], "mine-1");
        let expected: [(&str, Value); 7] = [
            ("type", "urn:tenantsdb:problem:unknown_field".into()),
            ("status", 400.into()),
            ("code", "unknown_field".into()),
            ("instance", "/echo".into()),
            ("request_id", "mine-1".into()),
            ("success", false.into()),
            ("field", "nmae".into()),
        ];
        for (field, value) in expected {
            assert_eq!(problem[field], value, "{field}: {problem:#}");
        }
    }

    #[tokio::test]
    async fn unknown_paths_and_wrong_methods_are_refused_as_such() {
        let (answer, problem) = ask(Request::get("/no/such").body(Body::empty()).unwrap()).await;
        assert_eq!(
            (answer.status().as_u16(), problem["code"].as_str()),
            (404, Some("no_such_endpoint"))
        );
        let (answer, problem) = ask(Request::delete("/echo").body(Body::empty()).unwrap()).await;
        assert_eq!(
            (answer.status().as_u16(), problem["code"].as_str()),
            (405, Some("method_not_allowed"))
        );
        assert_eq!(answer.headers()["allow"], "POST");
    }

    #[tokio::test]
    async fn bodies_are_bounded_and_must_be_json() {
        let (answer, problem) = post("x".repeat(extract::BODY_LEN_MAX + 1)).await;
        assert_eq!(
            (answer.status().as_u16(), problem["code"].as_str()),
            (413, Some("too_large"))
        );
        let (answer, _) = post("x".repeat(extract::BODY_LEN_MAX)).await;
        assert_eq!(answer.status(), 400);
        let (answer, problem) = post("").await;
        assert_eq!(
            (answer.status().as_u16(), problem["field"].as_str()),
            (422, Some("name"))
        );
        let form = Request::post("/echo")
            .header("content-type", "text/plain")
            .body(Body::from("{}"))
            .unwrap();
        assert_eq!(ask(form).await.0.status(), 415);
    }

    #[tokio::test]
    async fn a_handler_outside_of_authentication_answers_nothing() {
        let (answer, problem) = ask(Request::get("/unguarded").body(Body::empty()).unwrap()).await;
        assert_eq!(
            (answer.status().as_u16(), problem["detail"].as_str()),
            (500, Some("internal error"))
        );
    }
}
