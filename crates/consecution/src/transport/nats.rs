//! The transport over NATS: the server delivers each call to one runner of the link's
//! queue group.
//!
//! A small call is one message in each direction. A call with a large body, or one that
//! goes on after its first output, continues as numbered frames between two private
//! inboxes, with credit for flow control and signs of life from both sides.
//! `docs/protocol.md` describes the wire format. Nothing here knows what a chain is, or
//! starts a process.
//!
//! The layers; each may use only those above it in this table:
//!
//! | | |
//! |---|---|
//! | `wire` | subjects, headers and frames: converts between bytes and plain data; pure |
//! | `connection` | connections that reconnect, inboxes, incoming requests |
//! | `exchange` | a call in frames: its state as plain data, and one duplex for both sides |
//! | `client`, `server` | the two sides of a call, from its request on |
//! | `stats` | what runners do, for portals that ask |

use std::sync::Arc;

use bytes::Bytes;
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
mod stats;
mod wire;

pub use crate::connection::Connection;
pub use connection::error::NatsError;
pub use role::Role;
pub use wire::subject;

/// A connection to NATS that reconnects whenever it is lost. Clones share it. Calls that
/// are in flight when the last clone is dropped are lost.
#[derive(Clone)]
pub struct Nats {
    shared: Arc<Shared>,
    _guard: Arc<Guard>,
}

impl Nats {
    /// Connects in the background, retrying with backoff for ever. Calls wait a while for
    /// the connection. Must be called within a tokio runtime.
    ///
    /// `name` is the name of the portal or the runner. It becomes the connection's name at
    /// the servers, and a runner's replies carry it.
    ///
    /// # Errors
    /// `options` are invalid, whatever the servers say. No error's text contains a secret.
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

    /// Answers portals that ask what this runner does with what `figures` gives, which gets
    /// the most bytes that it may have, until the registration is dropped.
    pub(crate) fn tell_figures(
        &self,
        figures: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static,
    ) -> Registration {
        stats::answer(Arc::clone(&self.shared), figures)
    }

    /// What runners answer that are asked what they do.
    pub(crate) async fn ask_for_figures(&self) -> Vec<Bytes> {
        stats::ask(&self.shared).await
    }

    /// Sends all pending messages and closes the connection for good. Call this last on
    /// shutdown, after the registrations were drained.
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
