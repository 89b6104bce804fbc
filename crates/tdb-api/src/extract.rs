//! The inputs of handlers: the identity and query parameters, the body, the names in the path. Unknown fields and
//! parameters are refused by name.

use std::time::Duration;

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tdb_control::{Control, Identity};
use tdb_problems::ProblemCode;
use tokio::time::timeout;

use crate::document::Document;
use crate::refusal::{Answer, Refusal};
use crate::typed;

/// The maximum length of a body. SQL text is the longest input.
pub(crate) const BODY_LEN_MAX: usize = 1024 * 1024;
/// The time for a body. Some are read before the client is authenticated.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// How much of a body that is too long is read and discarded, so that the client can read the response.
const DISCARD_LEN_MAX: usize = 16 * 1024 * 1024;

/// The middleware of all endpoints that require an API key.
pub(crate) async fn authenticate(State(control): State<Control>, mut request: Request, next: Next) -> Answer<Response> {
    let key = presented_key(request.headers()).ok_or_else(|| {
        Refusal::new(ProblemCode::Unauthorized, "no API key was given")
            .hint("Send the header \"Authorization: Bearer KEY\" or \"X-API-Key: KEY\".")
    })?;
    let identity = control.accounts.authenticate(key).await?;
    request.extensions_mut().insert(identity);
    Ok(next.run(request).await)
}

fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
    bearer
        .or_else(|| headers.get("x-api-key")?.to_str().ok().map(str::trim))
        .filter(|key| !key.is_empty())
}

/// No query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParams {}

/// The authenticated identity, and the parameters of the query string.
pub(crate) struct Caller<P = NoParams> {
    pub identity: Identity,
    pub params: P,
}

impl<S: Send + Sync, P: DeserializeOwned> FromRequestParts<S> for Caller<P> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Answer<Self> {
        let identity = parts.extensions.get::<Identity>().cloned();
        let identity = identity
            .ok_or_else(|| Refusal::internal("a handler that requires a key is mounted outside of authentication"))?;
        let query = Document::of_query(parts.uri.query().unwrap_or_default())?;
        let params = typed::of_query(&query)?;
        Ok(Self { identity, params })
    }
}

/// A JSON body. An empty one is read as `{}`.
pub(crate) struct Body<T>(pub T);

/// The body of a request whose input is only in the path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Answer<Self> {
        let json = is_json(request.headers());
        let bytes = read_body(request.into_body()).await?;
        match (bytes.is_empty(), json) {
            (true, _) => parse(b"{}").map(Body),
            (false, true) => parse(&bytes).map(Body),
            (false, false) => Err(
                Refusal::new(ProblemCode::UnsupportedMediaType, "the body is not declared as JSON")
                    .hint("Send the header \"Content-Type: application/json\"."),
            ),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let essence = kind
        .to_str()
        .ok()
        .and_then(|kind| kind.split(';').next())
        .unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

pub(crate) async fn read_body(body: HttpBody) -> Answer<Bytes> {
    read_within(body, BODY_TIME_MAX).await
}

async fn read_within(body: HttpBody, limit: Duration) -> Answer<Bytes> {
    timeout(limit, received(body)).await.unwrap_or_else(|_| {
        let detail = format!("the body was not complete after {} seconds", limit.as_secs());
        Err(Refusal::new(ProblemCode::MalformedRequest, detail))
    })
}

async fn received(body: HttpBody) -> Answer<Bytes> {
    let mut stream = body.into_data_stream();
    let (mut kept, mut seen) = (Vec::new(), 0_usize);
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| {
            let mut refusal = Refusal::new(
                ProblemCode::MalformedRequest,
                "the body ended before its announced length",
            );
            refusal.more.reason = Some(error.to_string());
            refusal
        })?;
        seen = seen.saturating_add(part.len());
        if seen <= BODY_LEN_MAX {
            kept.extend_from_slice(&part);
        } else if seen > DISCARD_LEN_MAX {
            break;
        }
    }
    if seen > BODY_LEN_MAX {
        return Err(Refusal::new(
            ProblemCode::TooLarge,
            format!("the body is longer than {BODY_LEN_MAX} bytes"),
        ));
    }
    Ok(kept.into())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    typed::of_body(&Document::of_body(bytes)?)
}

/// The variable segments of the path: a `String`, or a tuple, as the handler declares.
pub(crate) struct InPath<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let path = parts.uri.path().to_owned();
        // U+0000 is in no name and no id, and PostgreSQL cannot store it.
        if path.contains("%00") {
            return Err(Refusal::no_such_endpoint(&path));
        }
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(segments)) => Ok(Self(segments)),
            Err(PathRejection::MissingPathParams(error)) => Err(Refusal::internal(error.body_text())),
            // A segment that is not a valid name or id does not name any object.
            Err(_) => Err(Refusal::no_such_endpoint(&path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_body_that_does_not_end_is_refused_after_its_time() {
        let parts = stream::iter([Ok::<_, Infallible>("{")]).chain(stream::pending());
        let limit = Duration::from_millis(50);
        let refusal = read_within(HttpBody::from_stream(parts), limit).await.unwrap_err();
        assert_eq!(refusal.code, ProblemCode::MalformedRequest);
        assert_eq!(read_within(HttpBody::from("{}"), limit).await.unwrap(), "{}");
    }

    #[test]
    fn the_key_is_taken_from_either_header() {
        let given = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, header::HeaderValue::from_static(value));
            presented_key(&headers).map(str::to_owned)
        };
        assert_eq!(given("authorization", "Bearer k").as_deref(), Some("k"));
        assert_eq!(given("authorization", "bearer  k ").as_deref(), Some("k"));
        assert_eq!(given("x-api-key", "k").as_deref(), Some("k"));
        for (name, value) in [
            ("authorization", "Basic k"),
            ("authorization", "Bearer "),
            ("x-api-key", ""),
        ] {
            assert_eq!(given(name, value), None, "{value}");
        }
    }
}
