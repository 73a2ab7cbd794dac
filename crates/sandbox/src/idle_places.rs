//! Idle places: their last process is over, and if it has left no trace, the next ones
//! use them.

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags};

use crate::wire::{LET_GO, Report, receive, send};

/// The most idle places of a link. Each has an init and its namespaces, some 100 KiB of
/// the kernel's memory. If processes come and go, few are idle at a time.
const IDLE_PLACES_MAX: usize = 16;

/// How long to wait until init has checked a place, which takes some 50 µs. Waiting
/// longer than the some 500 µs that a new place takes would be no gain.
const FINDING_WAIT_MAX: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000,
};

/// An idle place. Its init exits when the control socket is closed, or when it has found
/// a trace.
#[derive(Debug)]
pub(crate) struct IdlePlace {
    pub(crate) control: OwnedFd,
    /// The pidfd of its init.
    pub(crate) pidfd: OwnedFd,
}

/// The idle places of a zygote.
#[derive(Debug, Default)]
pub(crate) struct IdlePlaces(Mutex<Vec<IdlePlace>>);

/// What init has found in a place.
enum Finding {
    /// It is still looking.
    NotYet,
    NoTrace,
    /// A trace, so that init has exited; or init is gone for another reason.
    Gone,
}

impl IdlePlace {
    /// The place of a process that is over and dropped. Tells init that it may check the
    /// place.
    pub(crate) fn let_go(control: OwnedFd, pidfd: OwnedFd) -> IdlePlace {
        // If this message gets lost, init waits a little longer.
        let _ = send(&control, LET_GO, &[], SendFlags::DONTWAIT);
        IdlePlace { control, pidfd }
    }

    fn finding_within(&self, wait: Timespec) -> Finding {
        let mut wanted = [PollFd::new(&self.control, PollFlags::IN)];
        // If waiting fails, the result is not there yet.
        let _ = rustix::io::retry_on_intr(|| poll(&mut wanted, Some(&wait)));
        self.finding()
    }

    fn finding(&self) -> Finding {
        match receive(&self.control, RecvFlags::DONTWAIT) {
            Ok(Some(message)) => match Report::from_bytes(&message.bytes) {
                Some(Report::Traceless) => Finding::NoTrace,
                _ => Finding::Gone,
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Finding::NotYet,
            Ok(None) | Err(_) => Finding::Gone,
        }
    }
}

impl IdlePlaces {
    /// Takes a place without a trace: of several the one that was used last, whose memory
    /// is still in caches. If there is none, waits a moment for one that init still
    /// checks, since making another place takes longer. Drops places with a trace.
    pub(crate) fn take(&self) -> Option<IdlePlace> {
        let mut waiting = self.0.lock();
        for at in (0..waiting.len()).rev() {
            match waiting[at].finding() {
                Finding::NotYet => {}
                Finding::NoTrace => return Some(waiting.remove(at)),
                Finding::Gone => drop(waiting.remove(at)),
            }
        }
        // The first of those that are left has been in check for longest.
        let place = (!waiting.is_empty()).then(|| waiting.remove(0))?;
        drop(waiting);
        match place.finding_within(FINDING_WAIT_MAX) {
            Finding::NoTrace => return Some(place),
            Finding::NotYet => self.give_back(place),
            Finding::Gone => {}
        }
        None
    }

    /// Keeps the place of a process that is over, unless there are enough.
    pub(crate) fn give_back(&self, place: IdlePlace) {
        let mut waiting = self.0.lock();
        if waiting.len() < IDLE_PLACES_MAX {
            waiting.push(place);
        }
    }

    /// Drops all places; their inits exit.
    pub(crate) fn clear(&self) {
        let waiting = std::mem::take(&mut *self.0.lock());
        drop(waiting);
    }
}
