//! A runner's HTTP address: its metrics and its readiness.
//!
//! | request | gives |
//! |---|---|
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 while it accepts calls, knows of links and can start processes, else 503 |
//! | `GET /metrics` | metrics, for Prometheus |

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::watch;

use super::Runner;
use super::states::States;
use crate::connection::Connection;
use crate::http::access::Caller;
use crate::http::{self, Counts, Listen, ListenError, Options, Server};
use crate::link_store::RunnerState;

/// The connections that a runner needs, by the name of the server.
pub type Connections = BTreeMap<&'static str, watch::Receiver<Connection>>;

/// Opens an address with the readiness of `runner`, and the metrics in `registry`.
///
/// # Errors
/// The address cannot be listened on.
pub async fn bind(
    listen: &Listen,
    options: Options,
    runner: &Runner,
    connections: Connections,
    mut registry: Registry,
) -> Result<Server, ListenError> {
    let counts = Counts::register(&mut registry);
    let site = Site {
        states: runner.states.clone(),
        processes_max: runner.processes_max,
        connections,
    };
    let router = Router::new()
        .route("/readyz", get(ready))
        .with_state(Arc::new(site))
        .merge(http::health_and_metrics(Arc::new(registry)))
        .method_not_allowed_fallback(http::only_looks)
        .fallback(http::not_found);
    Server::bind(listen, options, router, &counts).await
}

/// The state for [`ready`].
struct Site {
    states: watch::Sender<States>,
    processes_max: usize,
    connections: Connections,
}

/// The state of a runner, as `/readyz` shows it. A broken link does not make it unready: it
/// affects no other link, and is retried.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    draining: bool,
    /// The servers that it is not connected to, and why.
    waiting: BTreeMap<&'static str, String>,
    /// Why processes cannot be started, if the runner is starved; otherwise `null`.
    starved: Option<String>,
    serving: usize,
    loading: Vec<String>,
    broken: BTreeMap<String, String>,
}

async fn ready(State(site): State<Arc<Site>>, caller: Caller) -> Response {
    let waiting = site.connections.iter();
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
    } = site.states.borrow().summary(site.processes_max);
    let readiness = Readiness {
        ready: waiting.is_empty() && !draining && starved.is_none(),
        draining,
        waiting,
        starved,
        serving,
        loading,
        broken,
    };
    http::readiness(readiness.ready, &readiness, &caller)
}
