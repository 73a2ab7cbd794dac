//! Lowers the limit on processes while starts fail because the runner is short of a resource
//! that all links share.

use std::time::Duration;

use super::Moment;
use crate::backoff::doubled;

/// How long no process is added after such a failure: at first, and at most.
pub(super) const STARVED_REST_MIN: Duration = Duration::from_millis(100);
pub(super) const STARVED_REST_MAX: Duration = Duration::from_secs(5);

/// The shortage counts as over once no start has failed for this long: twice
/// [`STARVED_REST_MAX`], so that starts have been tried since.
pub(in super::super) const STARVED_OVER_AFTER: Duration = Duration::from_secs(10);

/// The last shortage, if there was one.
#[derive(Debug, Default)]
pub(super) struct Starved {
    /// Until when the limit is lowered.
    until: Moment,
    /// The lowered limit.
    processes_max: usize,
    /// How many times in a row it was lowered.
    times: u32,
}

impl Starved {
    /// A start has failed; `left` processes remain, some of them starting.
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

    /// The limit on processes now; `processes_max` without a shortage.
    pub(super) fn room(&self, processes_max: usize, now: Moment) -> usize {
        match now < self.until {
            true => processes_max.min(self.processes_max),
            false => processes_max,
        }
    }

    /// When the limit is no longer lowered.
    pub(super) fn until(&self) -> Moment {
        self.until
    }
}
