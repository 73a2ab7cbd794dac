//! The span of a call over HTTP, as OpenTelemetry's conventions for HTTP have it.

use axum::http::Version;
use axum::http::header::HeaderMap;
use axum::http::request::Parts;

use super::Offered;
use crate::spans::{Kind, Span};
use crate::trace::{CallId, Trace, TraceParent, TraceState};

/// The caller's place in a distributed trace (W3C Trace Context), and what tracing systems add
/// to it.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Begins the span of a call, inside of the caller's if it has one; the trace is inside of it.
pub(super) fn begin(head: &Parts, chain: &Offered, call_id: &CallId) -> (Trace, Span) {
    let parent = head.headers.get(TRACEPARENT);
    let parent = parent.and_then(|parent| TraceParent::new(parent.as_bytes()));
    let mut trace = Trace {
        call_id: call_id.clone(),
        state: parent.as_ref().and_then(|_| state(&head.headers)),
        parent,
    };
    // A chain is called at its own path or at `/`, so the path is the route.
    let route = head.uri.path();
    let span = trace.begin(Kind::Server, || format!("{} {route}", head.method));
    span.note(|notes| {
        notes.set("http.request.method", head.method.to_string());
        notes.set("http.route", route.to_owned());
        notes.set("url.path", route.to_owned());
        // Only HTTP/2 says it; a proxy in front may speak another one anyway.
        if let Some(scheme) = head.uri.scheme_str() {
            notes.set("url.scheme", scheme.to_owned());
        }
        notes.set("network.protocol.version", version(head.version));
        notes.set("consecution.call_id", call_id.as_str().to_owned());
        notes.set("consecution.chain", chain.name().to_owned());
    });
    (trace, span)
}

/// All that `tracestate` says, which may be given in several fields.
fn state(headers: &HeaderMap) -> Option<TraceState> {
    let mut all = headers.get_all(TRACESTATE).iter();
    let first = all.next()?.as_bytes();
    match all.next() {
        None => TraceState::new(first),
        Some(second) => {
            let parts = [first, second.as_bytes()].into_iter();
            let parts: Vec<_> = parts.chain(all.map(|part| part.as_bytes())).collect();
            TraceState::new(&parts.join(&b','))
        }
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
