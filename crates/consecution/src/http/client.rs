//! The connection that a request came on, as far as a site has to do with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::watch;

use super::server::Stage;

/// Who asks, on which connection. Clones are the same.
#[derive(Clone)]
pub(crate) struct Client(Arc<State>);

struct State {
    stage: watch::Receiver<Stage>,
    is_extra: AtomicBool,
    runs: AtomicUsize,
    reset: Reset,
}

impl Client {
    pub(super) fn new(stage: watch::Receiver<Stage>) -> Client {
        Client(Arc::new(State {
            stage,
            is_extra: AtomicBool::new(false),
            runs: AtomicUsize::new(0),
            reset: Reset::default(),
        }))
    }

    /// Whether the server is about to end, so that whoever asks had better look
    /// elsewhere.
    pub(crate) fn is_draining(&self) -> bool {
        *self.0.stage.borrow() > Stage::Open
    }

    /// Whether the connection is one of the few beyond the bound, which are for
    /// looking and not for calling.
    pub(crate) fn is_extra(&self) -> bool {
        self.0.is_extra.load(Ordering::Acquire)
    }

    pub(super) fn set_extra(&self, is_extra: bool) {
        self.0.is_extra.store(is_extra, Ordering::Release);
    }

    /// Asks for the connection to be reset.
    pub(crate) fn reset(&self) -> &Reset {
        &self.0.reset
    }

    /// Something is run for the request: a client that closes its sending half
    /// while the result is held has given it up, and the connection is closed.
    pub(crate) fn run(&self) -> Run {
        self.0.runs.fetch_add(1, Ordering::AcqRel);
        Run(self.clone())
    }

    pub(super) fn has_run(&self) -> bool {
        self.0.runs.load(Ordering::Acquire) > 0
    }
}

/// See [`Client::run`].
pub(crate) struct Run(Client);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.0.runs.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Asks for the connection to be reset when it is closed. Clones are the same.
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
