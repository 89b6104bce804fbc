//! The layer around every request: its id, its span, its deadline, and the problem document if it fails.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tdb_auth::base32;
use tdb_client::problems::{PROBLEM_JSON, Problem};
use tdb_problems::ProblemCode;
use tracing::{Instrument, error, info, info_span, warn};

use crate::refusal::Refusal;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The maximum length of a request id that is taken from the client.
const REQUEST_ID_LEN_MAX: usize = 64;
/// More than the sum of what one request may wait for (a query's 30 s, a creation's 10 s, acknowledgements).
const DEADLINE: Duration = Duration::from_secs(120);

/// The middleware of every request.
pub(crate) async fn serve(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let path = request.uri().path().to_owned();
    let span = info_span!("request", id = %id, method = %request.method(), path = %path);
    let mut response = answer(request, next, &id, &path).instrument(span).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

async fn answer(request: Request, next: Next, id: &str, path: &str) -> Response {
    let begun = Instant::now();
    let response = match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => timed_out().into_response(),
    };
    let response = match response.extensions().get::<Refusal>().cloned() {
        Some(refusal) => {
            log(&refusal);
            render(response, refusal, id, path)
        }
        None => response,
    };
    info!(
        status = response.status().as_u16(),
        took_ms = begun.elapsed().as_millis(),
        "answered"
    );
    response
}

fn timed_out() -> Refusal {
    Refusal::new(
        ProblemCode::TimedOut,
        format!("no result within {} seconds", DEADLINE.as_secs()),
    )
    .hint("What was started continues; read the object's state before you retry.")
}

/// A client's fault is logged as `info`; `error` means that an operator must act.
fn log(refusal: &Refusal) {
    let (code, detail) = (refusal.code.as_str(), refusal.detail.as_str());
    let reason = refusal.more.reason.as_deref().unwrap_or_default();
    match refusal.code.status() {
        500 => error!(code, detail, reason, "refused"),
        501.. => warn!(code, detail, reason, "refused"),
        _ => info!(code, detail, "refused"),
    }
}

/// Keeps the headers that the refusing layer set, such as `Allow`.
fn render(response: Response, refusal: Refusal, id: &str, path: &str) -> Response {
    let retry_after = refusal.more.retry_after;
    let problem = Problem {
        kind: refusal.code.urn(),
        title: refusal.code.title().to_owned(),
        status: refusal.code.status(),
        detail: refusal.detail,
        hint: refusal.more.hint,
        instance: path.to_owned(),
        code: refusal.code,
        request_id: id.to_owned(),
        field: refusal.more.field,
        sqlstate: refusal.more.sqlstate,
        success: false,
    };
    let mut rendered = (response.status(), Json(problem)).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow.clone());
    }
    if let Some(after) = retry_after {
        // Rounded up, so that a client that waits this long is not refused again.
        let seconds = after.as_millis().div_ceil(1000);
        rendered.headers_mut().insert(
            header::RETRY_AFTER,
            seconds.to_string().parse().unwrap_or(HeaderValue::from_static("1")),
        );
    }
    if refusal.code == ProblemCode::Unauthorized {
        rendered
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    rendered
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    rendered
}

/// The client's request id if it is suitable for a log line, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        (1..=REQUEST_ID_LEN_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match given.filter(sane) {
        Some(id) => id.to_owned(),
        None => base32(16).map_or_else(|_| "req_unknown".to_owned(), |random| format!("req_{random}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(given: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static(given));
        request_id(&headers)
    }

    #[test]
    fn a_sane_request_id_is_kept_and_another_replaced() {
        assert_eq!(id_for("abc-123_4.5"), "abc-123_4.5");
        for given in [
            "",
            "a b",
            "a\"b",
            "<script>",
            "0123456789012345678901234567890123456789012345678901234567890123456789",
        ] {
            assert!(id_for(given).starts_with("req_"), "{given}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
