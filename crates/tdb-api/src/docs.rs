//! `GET /docs`: a page for people, rendered from `/openapi.json` by a script. Everything is served from the binary; the
//! page may not load anything from other hosts.

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let css = HeaderValue::from_static("text/css; charset=utf-8");
    let script = HeaderValue::from_static("text/javascript; charset=utf-8");
    Router::new()
        .route("/docs", file(html, include_str!("../page/index.html")))
        .route("/docs/page.css", file(css, include_str!("../page/page.css")))
        .route("/docs/page.js", file(script, include_str!("../page/page.js")))
}

fn file<S: Clone + Send + Sync + 'static>(kind: HeaderValue, text: &'static str) -> MethodRouter<S> {
    get(async move || {
        let headers = [
            (CONTENT_TYPE, kind),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        (headers, text).into_response()
    })
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn read(path: &str) -> (axum::http::response::Parts, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let (head, body) = routes::<()>()
            .with_state(())
            .oneshot(request)
            .await
            .unwrap()
            .into_parts();
        let text = to_bytes(body, 1 << 20).await.unwrap();
        (head, String::from_utf8(text.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_page_loads_only_what_the_binary_serves() {
        let (head, page) = read("/docs").await;
        assert_eq!(head.status, 200);
        assert_eq!(head.headers[CONTENT_SECURITY_POLICY], POLICY);
        let sources = page
            .split(['"', '\''])
            .filter(|part| part.starts_with('/') || part.contains("//"));
        for source in sources {
            assert!(
                ["/docs/page.css", "/docs/page.js", "/openapi.json"].contains(&source),
                "{source}"
            );
            if source != "/openapi.json" {
                assert_eq!(read(source).await.0.status, 200, "{source}");
            }
        }
        // It contains nothing that the content security policy would block.
        assert!(!page.contains("style=") && !page.contains("onclick") && !page.contains("<script>"));
        let (_, script) = read("/docs/page.js").await;
        assert!(
            !script.contains("innerHTML") && !script.contains("://"),
            "text is inserted as text only"
        );
    }
}
