//! Routes and responses that all addresses of this program share.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use chain::Right;
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::access::Caller;
use super::body::discard;
use super::problem::{Problem, RETRY_AFTER_S};
use crate::trace::CallId;

/// The methods of routes for monitoring, as in `Allow`. axum routes `HEAD` like `GET`.
pub(crate) const LOOK: &str = "GET, HEAD";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/healthz`, and `/metrics` with the metrics in `registry`.
pub(crate) fn health_and_metrics<S>(registry: Arc<Registry>) -> Router<S> {
    Router::new()
        .route("/healthz", get(async || text(TEXT, "ok\n")))
        .route("/metrics", get(metrics))
        .with_state(registry)
}

async fn metrics(
    State(registry): State<Arc<Registry>>,
    Extension(id): Extension<CallId>,
    caller: Caller,
) -> Response<Body> {
    if !caller.may(&Right::Metrics) {
        return caller
            .lacks(Right::Metrics)
            .with_call_id(&id)
            .into_response();
    }
    let mut metrics = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut metrics, &registry);
    text(OPENMETRICS, metrics)
}

/// Answers a request for a path that does not exist.
pub(crate) async fn not_found(Extension(id): Extension<CallId>, request: Request) -> Problem {
    let path = request.uri().path();
    let problem = Problem::not_found(format!("there is nothing at {path}"));
    discard(request);
    problem.with_call_id(&id)
}

/// Answers a request with a method other than those of [`LOOK`].
pub(crate) async fn only_looks(Extension(id): Extension<CallId>, request: Request) -> Problem {
    let problem = Problem::not_allowed(request.uri().path(), LOOK);
    discard(request);
    problem.with_call_id(&id)
}

/// Whether a process or a chain is ready, for those who may know no more.
#[derive(Serialize)]
struct ReadyAlone {
    ready: bool,
}

/// The answer of `/readyz`: 200 if `is_ready`, otherwise 503. The reasons are for those who
/// may see them.
pub(crate) fn readiness(
    is_ready: bool,
    readiness: &impl Serialize,
    caller: &Caller,
) -> Response<Body> {
    if !caller.may(&Right::View) {
        return readiness_of(is_ready, &ReadyAlone { ready: is_ready });
    }
    readiness_of(is_ready, readiness)
}

fn readiness_of(is_ready: bool, readiness: &impl Serialize) -> Response<Body> {
    if is_ready {
        return json(StatusCode::OK, readiness);
    }
    let mut response = json(StatusCode::SERVICE_UNAVAILABLE, readiness);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, RETRY_AFTER_S.into());
    response
}

/// `value` as JSON. A line feed follows, so that a terminal's prompt begins a new line.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // A value of texts and numbers can always be written.
    let mut json = serde_json::to_string(value).unwrap_or_default();
    json.push('\n');
    json_bytes(status, json)
}

/// What is JSON already.
pub(crate) fn json_bytes(status: StatusCode, json: impl Into<Body>) -> Response<Body> {
    let mut response = text(JSON, json);
    *response.status_mut() = status;
    response
}

fn text(kind: &'static str, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
