//! HTTP/1.1 on one address, for whoever has something to offer there.
//!
//! It takes, bounds and drains connections, and has the routes and responses that
//! every address of this program shares. What an address offers is a
//! [`Router`](axum::Router); this module must not know what is in it.
//!
//! | module | for |
//! |---|---|
//! | `listen` | where to listen, as users write it |
//! | `server` | takes connections, and drains them |
//! | `places` | room for connections, and who makes room for others |
//! | `connection` | one connection, to its end |
//! | `socket` | whether a client is still there |
//! | `stall` | whether it still takes what it was sent |
//! | `client` | what a route may know of a connection, and ask of it |
//! | `routes`, `problem` | routes and responses that all addresses share |
//! | `body` | what is left of a request that has its answer |

mod body;
mod client;
mod connection;
mod listen;
mod places;
mod problem;
mod routes;
mod server;
mod socket;
mod stall;

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub(crate) use body::{discard, is_held_back, swallow};
pub(crate) use client::{Client, Reset};
pub use listen::{Listen, ListenAddressError, ListenError};
pub(crate) use problem::{Problem, problem_response};
pub(crate) use routes::{LOOK, health_and_metrics, json, not_found, only_looks, readiness};
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
