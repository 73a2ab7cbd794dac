//! Places whose last process has left no trace, for the next processes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fd::OwnedFd;

/// How many places of a link wait for a process; each keeps an init and its
/// namespaces, some 100 KiB of the kernel's memory. Where processes come and go,
/// few wait at a time.
const WAITING_MAX: usize = 16;

/// A place that waits: its init exits when the control socket is closed.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) control: OwnedFd,
    /// Of its init.
    pub(crate) pidfd: OwnedFd,
}

/// The waiting places of a zygote.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<Vec<Place>>);

impl Places {
    /// The one that was used last, whose memory is at hand.
    pub(crate) fn take(&self) -> Option<Place> {
        self.lock().pop()
    }

    /// Keeps a place, unless there are enough.
    pub(crate) fn give_back(&self, place: Place) {
        let mut waiting = self.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push(place);
        }
    }

    /// Lets go of all, whose inits exit.
    pub(crate) fn clear(&self) {
        let waiting = std::mem::take(&mut *self.lock());
        drop(waiting);
    }

    /// What it protects stays whole also where its holder panics.
    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
