//! A request's connection, as routes see it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::arrivals::Peer;
use super::places::Further;
use super::server::Stage;

/// A request's connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Client(Arc<State>);

struct State {
    peer: Peer,
    stage: watch::Receiver<Stage>,
    is_extra: AtomicBool,
    /// Where it still has to take a place of its own.
    place_at: Mutex<Option<Further>>,
    place: Mutex<Option<OwnedSemaphorePermit>>,
    runs: AtomicUsize,
    reset: Reset,
}

impl Client {
    pub(super) fn new(peer: Peer, stage: watch::Receiver<Stage>) -> Client {
        Client(Arc::new(State {
            peer,
            stage,
            is_extra: AtomicBool::new(false),
            place_at: Mutex::default(),
            place: Mutex::default(),
            runs: AtomicUsize::new(0),
            reset: Reset::default(),
        }))
    }

    /// The address that it comes from.
    pub(super) fn address(&self) -> IpAddr {
        self.0.peer.address
    }

    /// The common name in the certificate that it has shown, empty if there is none in it.
    pub(super) fn certificate(&self) -> Option<&Arc<str>> {
        self.0.peer.certificate.as_ref()
    }

    /// Whether the server is draining, so that the client should use another one.
    pub(crate) fn is_draining(&self) -> bool {
        *self.0.stage.borrow() > Stage::Open
    }

    /// Resolves when the server begins to drain, or is gone.
    pub(crate) async fn until_draining(&self) {
        let mut stage = self.0.stage.clone();
        drop(stage.wait_for(|stage| *stage > Stage::Open).await);
    }

    /// Whether the connection has an extra place, which is for monitoring and not for calls.
    pub(crate) fn is_extra(&self) -> bool {
        self.0.is_extra.load(Ordering::Acquire)
    }

    pub(super) fn set_extra(&self, is_extra: bool) {
        self.0.is_extra.store(is_extra, Ordering::Release);
    }

    /// The request needs a place beside that of its connection. It may hold it until the
    /// returned value is dropped.
    pub(super) fn needs_place(&self, at: Further) -> OwnPlace {
        *self.0.place_at.lock() = Some(at);
        OwnPlace(self.clone())
    }

    /// Takes the place that the request needs; if there is none left, it counts as extra.
    pub(super) fn take_place(&self) {
        let Some(at) = self.0.place_at.lock().take() else {
            return;
        };
        match at.take() {
            Some(place) => *self.0.place.lock() = Some(place),
            None => self.set_extra(true),
        }
    }

    /// The request to reset the connection.
    pub(crate) fn reset(&self) -> &Reset {
        &self.0.reset
    }

    /// A run for the request has begun. If the client closes its sending half before the
    /// returned value is dropped, it has given the run up, and the connection is closed.
    pub(crate) fn run(&self) -> Run {
        self.0.runs.fetch_add(1, Ordering::AcqRel);
        Run(self.clone())
    }

    pub(super) fn has_run(&self) -> bool {
        self.0.runs.load(Ordering::Acquire) > 0
    }
}

/// See [`Client::needs_place`].
pub(super) struct OwnPlace(Client);

impl Drop for OwnPlace {
    fn drop(&mut self) {
        drop(self.0.0.place.lock().take());
    }
}

/// See [`Client::run`].
pub(crate) struct Run(Client);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.0.runs.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether to reset the connection when it is closed. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reset(Arc<AtomicBool>);

impl Reset {
    pub(crate) fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_asked_for(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
