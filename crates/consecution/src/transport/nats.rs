//! The transport over NATS: a call goes to whichever runner of the link's queue
//! group the server picks.
//!
//! A small call is one message each way. A large or a slow one goes on as
//! numbered frames between two private inboxes, under credit, with signs of life
//! from both sides. `docs/protocol.md` describes the wire. Nothing here knows
//! what a chain is, or starts a process.

use std::sync::Arc;

use chain::LinkId;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::watch;

use super::{Refusal, RefusalReason, Registration, Reply, Request, Service, Transport, subject};
use crate::config::NatsOptions;
use connection::{Guard, Shared};

mod answer;
mod body;
mod caller;
mod connection;
mod dial;
mod exchange;
mod following;
mod frame;
mod head;
mod header_block;
mod identity;
mod inbox;
mod line;
mod look;
mod options;
mod outcome;
mod pace;
mod requests;
mod server;
mod silence;
mod strangers;
mod wire;

pub use connection::Connection;
pub use options::NatsError;

/// Which end of calls a connection is for. It decides what its private inboxes
/// start with, so that NATS permissions can tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Makes calls.
    Portal,
    /// Answers calls.
    Runner,
}

impl Role {
    fn inbox(self) -> &'static str {
        match self {
            Role::Portal => subject::PORTAL_INBOX,
            Role::Runner => subject::RUNNER_INBOX,
        }
    }
}

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

    /// How it is with the connection now, and whenever that changes.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.shared.connection()
    }

    /// Sends what is still to be sent and closes the connection, for good. To be
    /// called last on leaving, when the registrations are drained.
    pub async fn close(&self) {
        self.shared.close().await;
    }
}

impl Transport for Nats {
    fn call(&self, id: LinkId, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        caller::call(&self.shared, id, request).boxed()
    }

    fn serve(&self, id: LinkId, service: Arc<dyn Service>) -> Registration {
        server::serve(Arc::clone(&self.shared), id, service)
    }

    fn probe(&self, id: LinkId) -> BoxFuture<'_, Result<(), RefusalReason>> {
        caller::probe(&self.shared, id).boxed()
    }
}
