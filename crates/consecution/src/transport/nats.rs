//! The transport over NATS: a call goes to whichever runner of the link's queue
//! group the server picks.
//!
//! A small call is one message each way. One that is large, or that writes and works
//! on, goes on as numbered frames between two private inboxes, under credit, with
//! signs of life from both sides. `docs/protocol.md` describes the wire. Nothing here
//! knows what a chain is, or starts a process.
//!
//! Three layers, each of which knows those above it in this table only:
//!
//! | | |
//! |---|---|
//! | `wire` | what travels: pure, bytes and headers to plain data and back |
//! | `connection` | how it travels: connections that are made again, inboxes, requests |
//! | `exchange` | a call in frames: its state as plain data, and one duplex for both sides |
//! | `client`, `server` | a call from its request on, made and answered |

use std::sync::Arc;

use chain::LinkId;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::watch;

use super::{Refusal, RefusalReason, Registration, Reply, Request, Service, Transport};
use crate::config::NatsOptions;
use connection::options;
use connection::{Guard, Shared};

mod client;
mod connection;
mod exchange;
mod role;
mod server;
mod wire;

pub use crate::connection::Connection;
pub use connection::error::NatsError;
pub use role::Role;
pub use wire::subject;

/// A connection to NATS that is made again whenever it is lost. Clones share it;
/// calls that are under way when the last one is dropped are lost.
#[derive(Clone)]
pub struct Nats {
    shared: Arc<Shared>,
    _guard: Arc<Guard>,
}

impl Nats {
    /// Starts to connect in the background, for ever and with backoff; calls wait
    /// for it a while. Must be called within a tokio runtime.
    ///
    /// `name` is the portal's or the runner's: the servers know the connection by
    /// it, and a runner's replies carry it.
    ///
    /// # Errors
    /// Something in `options` cannot be right, whatever the servers say. No text
    /// has a secret in it.
    pub fn new(options: &NatsOptions, role: Role, name: &str) -> Result<Nats, NatsError> {
        let target = options::target(options, role, name)?;
        let (shared, guard) = connection::start(target, role, name);
        Ok(Nats {
            shared,
            _guard: Arc::new(guard),
        })
    }

    /// State of the connection, now and whenever that changes.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.shared.health.joint()
    }

    /// Sends what is still to be sent and closes the connection, for good. To be
    /// called last on leaving, when the registrations are drained.
    pub async fn close(&self) {
        self.shared.close().await;
    }
}

impl Transport for Nats {
    fn call(&self, id: LinkId, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        client::call(&self.shared, id, request).boxed()
    }

    fn serve(&self, id: LinkId, service: Arc<dyn Service>) -> Registration {
        server::serve(Arc::clone(&self.shared), id, service)
    }

    fn probe(&self, id: LinkId) -> BoxFuture<'_, Result<(), RefusalReason>> {
        client::probe(&self.shared, id).boxed()
    }
}
