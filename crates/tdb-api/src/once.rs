//! The header `Idempotency-Key` of requests that create something: the same request with the same key gets the same
//! answer, and nothing is created twice.

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use tdb_control::{Control, IdempotencyKey, Identity, Kept, Once};
use tracing::{Instrument, Span, warn};

use crate::extract::read_body;
use crate::refusal::{Answer, Refusal};

/// Endpoints whose POST creates something. Other requests can be repeated without harm, except queries.
pub(crate) const CREATING: [&str; 8] = [
    "/projects",
    "/projects/{id}/roles",
    "/apikeys",
    "/workspaces",
    "/tenants",
    "/deployments",
    "/credentials",
    "/servers",
];
pub(crate) const HEADER: &str = "Idempotency-Key";
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks an answer that was stored.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The middleware of all endpoints that require an API key. It must be inside authentication.
pub(crate) async fn once(State(control): State<Control>, request: Request, next: Next) -> Answer<Response> {
    let Some(key) = key_of(&request)? else {
        return Ok(next.run(request).await);
    };
    let identity = request.extensions().get::<Identity>().cloned();
    let identity = identity.ok_or_else(|| Refusal::internal("idempotency is mounted outside of authentication"))?;
    let (mut parts, body) = request.into_parts();
    let body = read_body(body).await?;
    let asked = parts.uri.path_and_query().map_or("", |asked| asked.as_str());
    let identity = match control
        .idempotency
        .once(&identity, &key, &[asked.as_bytes(), &body])
        .await?
    {
        Once::Go(identity) => identity,
        Once::Done(kept) => return Ok(again(kept)),
    };
    parts.extensions.insert(identity.clone());
    let request = Request::from_parts(parts, Body::from(body));
    let (to_settle, attempt) = (control.clone(), identity.clone());
    let work = async move {
        let response = next.run(request).await;
        settle(&to_settle, &attempt, response).await
    };
    Ok(control
        .idempotency
        .run_once(identity, work.instrument(Span::current()))
        .await?)
}

fn key_of(request: &Request) -> Answer<Option<IdempotencyKey>> {
    let creates = request
        .extensions()
        .get::<MatchedPath>()
        .is_some_and(|path| CREATING.contains(&path.as_str()));
    let Some(value) = request
        .headers()
        .get(&KEY)
        .filter(|_| creates && request.method() == Method::POST)
    else {
        return Ok(None);
    };
    let key = value.to_str().ok().and_then(IdempotencyKey::parse);
    key.map(Some)
        .ok_or_else(|| Refusal::invalid(HEADER, "must be 1 to 255 printable ASCII characters"))
}

/// Stores a successful answer before it is sent. A refused request creates nothing, so its key is released.
async fn settle(control: &Control, identity: &Identity, response: Response) -> Response {
    if !response.status().is_success() {
        if let Err(error) = control.idempotency.release_key(identity).await {
            warn!(%error, "could not release an idempotency key; it stays claimed until its lease expires");
        }
        return response;
    }
    let (parts, body) = response.into_parts();
    // The body is already in memory.
    let body = match to_bytes(body, usize::MAX).await {
        Ok(body) => body,
        Err(error) => return Refusal::internal(error.to_string()).into_response(),
    };
    let kept = Kept {
        status: parts.status.as_u16(),
        body: String::from_utf8_lossy(&body).into_owned().into(),
    };
    if let Err(error) = control.idempotency.keep_answer(identity, &kept).await {
        warn!(%error, "could not store an answer; a repeated request is answered from its receipt");
    }
    Response::from_parts(parts, Body::from(body))
}

fn again(kept: Kept) -> Response {
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (REPLAYED, HeaderValue::from_static("true")),
    ];
    (status, headers, kept.body.expose_secret().to_owned()).into_response()
}
