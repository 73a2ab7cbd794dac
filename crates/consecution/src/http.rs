//! HTTP/1.1 on one address, for whoever has something to offer there.
//!
//! It takes, bounds and drains connections, and knows what all sites of this
//! program have in common. It must not know what a site offers: that is a
//! `Site`.
//!
//! | module | for |
//! |---|---|
//! | `listen` | where to listen, as users write it |
//! | `server` | takes connections, and drains them |
//! | `places` | room for connections, and who makes room for others |
//! | `connection` | one connection, to its end |
//! | `socket` | whether a client is still there |
//! | `stall` | whether it still takes what it was sent |
//! | `client` | what a site may know of a connection, and ask of it |
//! | `answer` | the body of a reply |

mod answer;
mod client;
mod connection;
mod listen;
mod places;
mod server;
mod socket;
mod stall;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

pub(crate) use answer::{Answer, Broken};
pub(crate) use client::{Client, Reset};
pub use listen::{Listen, ListenAddressError, ListenError};
pub use server::{Drained, Server};

/// How many connections there may be at a time, unless it is said otherwise. A
/// few more are for looking and not for calling.
pub const CONNECTIONS_MAX_DEFAULT: usize = 1024;

/// How long a client may take for a request's head, and for the next one, unless
/// it is said otherwise.
pub const HEAD_WAIT_MAX_DEFAULT: Duration = Duration::from_secs(30);

/// How long a drain waits for requests in flight, unless it is said otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// How long a client may take nothing of its reply, or send nothing of its
/// request, unless it is said otherwise.
pub const STALL_WAIT_MAX_DEFAULT: Duration = Duration::from_secs(60);

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections at a time.
    pub connections_max: usize,
    /// How long a client may take for a request's head, and for the next one.
    pub head_wait_max: Duration,
    /// How long a drain waits for requests in flight.
    pub grace: Duration,
    /// How long a client may take nothing of its reply while nothing else moves,
    /// or send nothing of its request while that is waited for.
    pub stall_wait_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections_max: CONNECTIONS_MAX_DEFAULT,
            head_wait_max: HEAD_WAIT_MAX_DEFAULT,
            grace: GRACE_DEFAULT,
            stall_wait_max: STALL_WAIT_MAX_DEFAULT,
        }
    }
}

/// What is offered on an address.
pub(crate) trait Site: Send + Sync {
    /// Answers a request, whatever it is.
    fn answer<'a>(
        &'a self,
        request: Request<Incoming>,
        client: &'a Client,
    ) -> BoxFuture<'a, Response<Answer>>;

    /// Where open connections are counted.
    fn connections(&self) -> &Gauge;
}

/// What is counted in this process, with nothing in it yet. All names begin with
/// `consecution_`.
pub fn registry() -> Registry {
    Registry::with_prefix("consecution")
}

/// Counts open connections.
pub(crate) fn count_connections(registry: &mut Registry) -> Gauge {
    let connections = Gauge::default();
    registry.register("http_connections", "Open connections", connections.clone());
    connections
}

/// Whether the process lives.
pub(crate) fn health() -> Response<Answer> {
    text("text/plain; charset=utf-8", "ok\n")
}

/// What is counted, as Prometheus reads it.
pub(crate) fn metrics(registry: &Registry) -> Response<Answer> {
    let mut metrics = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut metrics, registry);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    text(kind, metrics)
}

pub(crate) fn text(kind: &'static str, text: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(text.into()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Answer> {
    // Text and numbers can always be written.
    let mut json = serde_json::to_string(value).unwrap_or_default();
    json.push('\n');
    let mut response = text("application/json", json);
    *response.status_mut() = status;
    response
}
