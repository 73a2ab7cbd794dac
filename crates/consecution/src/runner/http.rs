//! A runner's own address: what it has counted, and how it is.
//!
//! | request | gives |
//! |---|---|
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 while it takes calls, hears of links and can start processes, else 503 |
//! | `GET /metrics` | what is counted, for Prometheus |

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::watch;

use super::Runner;
use super::states::States;
use crate::connection::Connection;
use crate::http::{self, Answer, Client, Listen, ListenError, Options, Server};
use crate::link_store::RunnerState;

/// How soon to come back where it is not ready, in seconds.
const RETRY_AFTER_S: u32 = 1;

/// The connections that a runner needs, by the name of the server.
pub type Connections = BTreeMap<&'static str, watch::Receiver<Connection>>;

/// Opens an address on which it is said how `runner` is, and all that is counted
/// in `registry`.
///
/// # Errors
/// The address cannot be had.
pub async fn bind(
    listen: &Listen,
    options: Options,
    runner: &Runner,
    connections: Connections,
    mut registry: Registry,
) -> Result<Server, ListenError> {
    let open = http::count_connections(&mut registry);
    let site = Site {
        states: runner.states.clone(),
        processes_max: runner.processes_max,
        connections,
        registry,
        open,
    };
    Server::bind(listen, options, Arc::new(site)).await
}

struct Site {
    states: watch::Sender<States>,
    processes_max: usize,
    connections: Connections,
    registry: Registry,
    open: Gauge,
}

/// How a runner is, as `/readyz` shows it. A broken link is no reason to be
/// unready: it hurts no other, and is tried again.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    draining: bool,
    /// Servers that it is not connected to, and why.
    waiting: BTreeMap<&'static str, String>,
    /// Why processes cannot be started for want of something; `null` while they can.
    starved: Option<String>,
    serving: usize,
    loading: Vec<String>,
    broken: BTreeMap<String, String>,
}

impl Site {
    fn dispatch(&self, request: &Request<Incoming>) -> Response<Answer> {
        let path = request.uri().path();
        if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
            let mut response = plain(format!("there is nothing at {path}\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(format!("{path} takes GET and HEAD\n"));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match path {
            "/readyz" => self.ready(),
            "/metrics" => http::metrics(&self.registry),
            _ => http::health(),
        }
    }

    fn ready(&self) -> Response<Answer> {
        let waiting = self.connections.iter();
        let waiting = waiting.filter_map(|(server, connection)| match &*connection.borrow() {
            Connection::Waiting(why) => Some((*server, why.to_string())),
            Connection::Connected => None,
        });
        let waiting: BTreeMap<_, _> = waiting.collect();
        let RunnerState {
            draining,
            starved,
            serving,
            loading,
            broken,
            ..
        } = self.states.borrow().summary(self.processes_max);
        let ready = waiting.is_empty() && !draining && starved.is_none();
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let readiness = Readiness {
            ready,
            draining,
            waiting,
            starved,
            serving,
            loading,
            broken,
        };
        let mut response = http::json(status, &readiness);
        if !ready {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, RETRY_AFTER_S.into());
        }
        response
    }
}

fn plain(text: String) -> Response<Answer> {
    http::text("text/plain; charset=utf-8", text)
}

impl http::Site for Site {
    fn answer<'a>(
        &'a self,
        request: Request<Incoming>,
        _client: &'a Client,
    ) -> BoxFuture<'a, Response<Answer>> {
        let response = self.dispatch(&request);
        Box::pin(std::future::ready(response))
    }

    fn connections(&self) -> &Gauge {
        &self.open
    }
}
