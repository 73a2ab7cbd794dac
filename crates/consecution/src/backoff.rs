//! Exponential backoff with jitter.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Waits that double with each failure, up to a limit.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    /// The failures in a row so far.
    failures: u32,
}

impl Backoff {
    /// Waits from `min` to `max`.
    pub(crate) fn new(min: Duration, max: Duration) -> Backoff {
        Backoff {
            min,
            max,
            failures: 0,
        }
    }

    /// How long to wait now: a random part of the present wait, at least half of it, so that
    /// those who failed together do not come back together.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = doubled(self.min, self.max, self.failures);
        self.failures = self.failures.saturating_add(1);
        let random = RandomState::new().hash_one(()) as u32;
        whole / 2 + whole.mul_f64(f64::from(random) / f64::from(u32::MAX)) / 2
    }

    /// Starts again with the shortest wait, after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The wait after a failure that follows so many others in a row: `min` after the first, then
/// twice as long each time, up to `max`.
pub(crate) fn doubled(min: Duration, max: Duration, failures: u32) -> Duration {
    min.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX))
        .min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_doubles_up_to_its_bound_until_something_goes_well() {
        let (min, max) = (Duration::from_millis(100), Duration::from_millis(300));
        let mut backoff = Backoff::new(min, max);
        for whole in [100, 200, 300, 300].map(Duration::from_millis) {
            let wait = backoff.next();
            assert!((whole / 2..=whole).contains(&wait), "{wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= min);
    }

    #[test]
    fn it_stays_at_its_bound_however_much_fails() {
        let (min, max) = (Duration::from_secs(60), Duration::from_secs(3600));
        for (failures, minutes) in [(0, 1), (5, 32), (6, 60), (31, 60), (32, 60), (u32::MAX, 60)] {
            let wait = doubled(min, max, failures);
            assert_eq!(wait, Duration::from_secs(minutes * 60), "{failures}");
        }
    }
}
