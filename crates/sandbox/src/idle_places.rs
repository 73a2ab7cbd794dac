//! Places whose last process is over, for the next processes, if it has left no
//! trace there.

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags};

use crate::wire::{LET_GO, Report, receive, send};

/// How many places of a link wait for a process; each keeps an init and its
/// namespaces, some 100 KiB of the kernel's memory. Where processes come and go,
/// few wait at a time.
const IDLE_PLACES_MAX: usize = 16;

/// How long to wait for what init finds, which it does in some 50 us. Then another
/// place is made, in some 500.
const FINDING_WAIT_MAX: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000,
};

/// A place that waits: its init exits when the control socket is closed, or when
/// it has found a trace.
#[derive(Debug)]
pub(crate) struct IdlePlace {
    pub(crate) control: OwnedFd,
    /// Of its init.
    pub(crate) pidfd: OwnedFd,
}

/// The waiting places of a zygote.
#[derive(Debug, Default)]
pub(crate) struct IdlePlaces(Mutex<Vec<IdlePlace>>);

/// What init has found in a place.
enum Finding {
    /// It is still looking.
    NotYet,
    NoTrace,
    /// A trace, and has gone; or it is gone whatever it has found.
    Gone,
}

impl IdlePlace {
    /// That of a process that is over, in which nobody is interested any more.
    pub(crate) fn let_go(control: OwnedFd, pidfd: OwnedFd) -> IdlePlace {
        // If that does not get there, init waits a little longer.
        let _ = send(&control, LET_GO, &[], SendFlags::DONTWAIT);
        IdlePlace { control, pidfd }
    }

    fn finding_within(&self, wait: Timespec) -> Finding {
        let mut wanted = [PollFd::new(&self.control, PollFlags::IN)];
        // Where it cannot be waited for, it is not there yet.
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
    /// One without a trace: of those the one that was used last, whose memory is
    /// at hand. Waits a moment for one that is still looked through, where that is
    /// all there is: making another one takes longer. Places with a trace go.
    pub(crate) fn take(&self) -> Option<IdlePlace> {
        let mut waiting = self.0.lock();
        for at in (0..waiting.len()).rev() {
            match waiting[at].finding() {
                Finding::NotYet => {}
                Finding::NoTrace => return Some(waiting.remove(at)),
                Finding::Gone => drop(waiting.remove(at)),
            }
        }
        // The first one of those that are left has been looked through longest.
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

    /// Lets go of all, whose inits exit.
    pub(crate) fn clear(&self) {
        let waiting = std::mem::take(&mut *self.0.lock());
        drop(waiting);
    }
}
