//! How much room there is where starts fail for want of something that all links share.

use std::time::Duration;

use super::Moment;
use crate::backoff::doubled;

/// For how long no process is added after a start has failed for want of something:
/// at first, and at most.
pub(super) const STARVED_REST_MIN: Duration = Duration::from_millis(100);
pub(super) const STARVED_REST_MAX: Duration = Duration::from_secs(5);

/// How long no start must have failed for want of something until that counts as over:
/// twice what starts rest at most, so that some have been tried since.
pub(in super::super) const STARVED_OVER_AFTER: Duration = Duration::from_secs(10);

/// What is known of a runner that had too little of something, once.
#[derive(Debug, Default)]
pub(super) struct Starved {
    /// Until when there is room for no more than that.
    until: Moment,
    processes_max: usize,
    /// How often, in a row.
    times: u32,
}

impl Starved {
    /// A start has failed, and `left` processes are left, or on their way.
    pub(super) fn failed(&mut self, left: usize, now: Moment) {
        if now < self.until {
            self.processes_max = self.processes_max.min(left);
            return;
        }
        if now >= self.until + STARVED_OVER_AFTER {
            self.times = 0;
        }
        let wait = doubled(STARVED_REST_MIN, STARVED_REST_MAX, self.times);
        *self = Starved {
            until: now + wait,
            processes_max: left,
            times: self.times.saturating_add(1),
        };
    }

    /// For how many processes there is room now, of as many as there may be.
    pub(super) fn room(&self, processes_max: usize, now: Moment) -> usize {
        match now < self.until {
            true => processes_max.min(self.processes_max),
            false => processes_max,
        }
    }

    /// When there is room again for as many as there may be.
    pub(super) fn until(&self) -> Moment {
        self.until
    }
}
