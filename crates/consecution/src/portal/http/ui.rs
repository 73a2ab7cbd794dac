//! The page: files that the program carries, and nothing from elsewhere.

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

/// What the page may do: run its own script, ask this server, and show what a chain gave.
/// No other page may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; \
     form-action 'none'";

pub(super) async fn page() -> Response<Body> {
    file("text/html; charset=utf-8", include_str!("ui/page.html"))
}

pub(super) async fn style() -> Response<Body> {
    file("text/css; charset=utf-8", include_str!("ui/page.css"))
}

pub(super) async fn script() -> Response<Body> {
    file("text/javascript; charset=utf-8", include_str!("ui/page.js"))
}

fn file(kind: &'static str, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        // A new version of the program has a new page.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
