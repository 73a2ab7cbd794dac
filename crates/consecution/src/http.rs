//! An HTTP server for one address.
//!
//! It accepts, bounds and drains connections, and has the routes and responses that all
//! addresses of this program share. Each address serves a [`Router`](axum::Router); this
//! module must not know what is in it.
//!
//! | module | for |
//! |---|---|
//! | `listen` | parses addresses, and listens there |
//! | `server` | serves connections, and drains them |
//! | `arrivals` | accepts connections, and has them encrypted |
//! | `tls` | certificates |
//! | `access` | who may do what: keys, client certificates, pages of other origins |
//! | `places` | limits connections, and decides which one makes room for others |
//! | `connection`, `http2` | serve one connection |
//! | `socket`, `encrypted` | notice that a client is gone |
//! | `stall` | notices that a client no longer reads |
//! | `client` | a connection as routes see it |
//! | `routes`, `problem` | routes and responses that all addresses share |
//! | `body` | the rest of a body whose request has been answered |
//! | `watched` | files that are read again when they change |

pub(crate) mod access;
mod arrivals;
mod body;
mod client;
mod connection;
mod encrypted;
mod http2;
mod listen;
mod places;
mod problem;
mod routes;
mod server;
mod socket;
mod stall;
mod tls;
mod watched;

use std::time::Duration;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use access::browser::{Origin, OriginError};
pub use access::{Keys, KeysError};
pub(crate) use body::{discard, is_held_back, swallow};
pub(crate) use client::{Client, Reset};
pub use listen::{Listen, ListenAddressError, ListenError};
pub(crate) use problem::{Problem, problem_response};
pub(crate) use routes::{
    LOOK, health_and_metrics, json, json_bytes, not_found, only_looks, readiness,
};
pub(crate) use server::Counts;
pub use server::{Drained, Server};
pub(crate) use stall::look_every;
pub use tls::{Tls, TlsError, TlsFiles};

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
    /// The certificates, if it is encrypted.
    pub tls: Option<Tls>,
    /// Who may do what. Without keys, everyone may do everything, or everyone with a
    /// certificate if `tls` knows of clients' ones.
    pub keys: Option<Keys>,
    /// The origins whose pages may call chains, besides that of the server itself.
    pub origins: Vec<Origin>,
    /// The names of the server, besides addresses and `localhost`, that pages may use where
    /// nothing else tells whose they are.
    pub hosts: Vec<String>,
}

impl Options {
    pub(crate) fn pages(&self) -> access::browser::Pages {
        access::browser::Pages {
            origins: self.origins.clone(),
            hosts: self.hosts.clone(),
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections_max: CONNECTIONS_MAX_DEFAULT,
            head_wait_max: HEAD_WAIT_MAX_DEFAULT,
            grace: GRACE_DEFAULT,
            stall_wait_max: STALL_WAIT_MAX_DEFAULT,
            tls: None,
            keys: None,
            origins: Vec::new(),
            hosts: Vec::new(),
        }
    }
}

/// A registry for the metrics of this process, which has the version of the program. All names
/// begin with `consecution_`.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("consecution");
    crate::spans::register(&mut registry);
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of the program", version);
    registry
}
