//! Waiting longer each time that something fails.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Waits that double, up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `min` to `max`.
    pub(crate) fn new(min: Duration, max: Duration) -> Backoff {
        Backoff {
            min,
            max,
            next: min,
        }
    }

    /// How long to wait now: between half of what it is this time and all of
    /// it, so that those who failed together do not come back together.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        let random = RandomState::new().hash_one(()) as u32;
        whole / 2 + whole.mul_f64(f64::from(random) / f64::from(u32::MAX)) / 2
    }

    /// It went well: the next failure is the first again.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
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
}
