//! The largest burst of calls of late, for pools whose pipelines start slowly.
//!
//! Of calls that come at once, most find only what is in reserve, and their average rate says
//! little: ten in one second, and then none for ten seconds, are one a second. So the reserve
//! of a pool also remembers how many calls came while one pipeline would have settled. Where
//! that is quick, the rest of a burst waits only for a moment, so nothing is remembered.

use std::time::Duration;

use super::Moment;

/// From this time to settle on. The time until programs are executed does not count: it is
/// long only where the whole machine is busy, and more processes would make it no better.
const SLOW: Duration = Duration::from_millis(50);

/// A burst is remembered for as long as this, and for at most twice as long.
const MEMORY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Bursts {
    /// When the present burst began.
    began: Moment,
    /// The calls of the present burst.
    calls: usize,
    /// When the present period of `MEMORY` began.
    period: Moment,
    /// The largest bursts of the present and of the last period.
    largest: [usize; 2],
}

impl Bursts {
    /// A call has come, to a pool whose pipelines take that long to settle.
    pub(super) fn record(&mut self, settle_time: Duration, now: Moment) {
        if settle_time < SLOW {
            self.calls = 0;
            return;
        }
        if self.calls == 0 || now >= self.began + settle_time {
            (self.began, self.calls) = (now, 0);
        }
        self.calls += 1;
        if now >= self.period + MEMORY {
            self.largest = [0, self.of_last_period(now)];
            self.period = now;
        }
        self.largest[0] = self.largest[0].max(self.calls);
    }

    /// The largest burst of late, in calls; 0 if there was none.
    pub(super) fn largest(&self, now: Moment) -> usize {
        if now < self.period + MEMORY {
            self.largest[0].max(self.largest[1])
        } else {
            self.of_last_period(now)
        }
    }

    /// The largest burst of the present period, if that becomes the last one now.
    fn of_last_period(&self, now: Moment) -> usize {
        if now < self.period + 2 * MEMORY {
            self.largest[0]
        } else {
            0
        }
    }
}
