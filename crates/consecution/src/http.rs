//! An HTTP/1.1 server for one address.
//!
//! It accepts, bounds and drains connections, and has the routes and responses that all
//! addresses of this program share. Each address serves a [`Router`](axum::Router); this
//! module must not know what is in it.
//!
//! | module | for |
//! |---|---|
//! | `listen` | parses addresses, and listens there |
//! | `server` | accepts connections, and drains them |
//! | `places` | limits connections, and decides which one makes room for others |
//! | `connection` | serves one connection |
//! | `socket` | notices that a client is gone |
//! | `stall` | notices that a client no longer reads |
//! | `client` | a connection as routes see it |
//! | `routes`, `problem` | routes and responses that all addresses share |
//! | `body` | the rest of a body whose request has been answered |

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
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub(crate) use body::{discard, is_held_back, swallow};
pub(crate) use client::{Client, Reset};
pub use listen::{Listen, ListenAddressError, ListenError};
pub(crate) use problem::{Problem, problem_response};
pub(crate) use routes::{
    LOOK, health_and_metrics, json, json_bytes, not_found, only_looks, readiness,
};
pub use server::{Drained, Server};
pub(crate) use stall::look_every;

/// The default limit on connections. A few more are for monitoring, and take no calls.
pub const CONNECTIONS_MAX_DEFAULT: usize = 1024;

/// By default, how long a client may take to send a request's head, and to begin the next
/// request.
pub const HEAD_WAIT_MAX_DEFAULT: Duration = Duration::from_secs(30);

/// By default, how long a drain waits for requests in flight.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// By default, how long a client may read nothing of its reply, or send nothing of its
/// request.
pub const STALL_WAIT_MAX_DEFAULT: Duration = Duration::from_secs(60);

/// The settings of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most connections.
    pub connections_max: usize,
    /// How long a client may take to send a request's head, and to begin the next request.
    pub head_wait_max: Duration,
    /// How long a drain waits for requests in flight.
    pub grace: Duration,
    /// How long a client may read nothing of its reply while nothing else moves, or send
    /// nothing of its request while we wait for it.
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

/// A registry for the metrics of this process, which has the version of the program. All names
/// begin with `consecution_`.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("consecution");
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of the program", version);
    registry
}

/// Registers the number of open connections.
pub(crate) fn count_connections(registry: &mut Registry) -> Gauge {
    let connections = Gauge::default();
    registry.register("http_connections", "Open connections", connections.clone());
    connections
}
