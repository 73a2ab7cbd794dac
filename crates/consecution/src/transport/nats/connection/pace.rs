//! Decides how soon to reconnect after a connection was lost.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// The longest wait between attempts to connect; jittered. It is short, because calls of
/// the whole fleet wait for the connection, and an attempt costs the server little.
pub(crate) const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
pub(crate) const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(10);

/// A connection that has lasted at least this long was a good one.
const GOOD_CONNECTION_MIN: Duration = Duration::from_secs(2);

/// Decides when to reconnect: at once after a good connection, else later each time. If
/// something breaks each connection at once, such as a malformed message from outside, we
/// must not keep ourselves and the server busy with reconnecting.
pub(crate) struct Pace {
    backoff: Backoff,
    /// When the last connection began.
    began: Option<Instant>,
}

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace {
            backoff: Backoff::new(RECONNECT_WAIT_MIN, RECONNECT_WAIT_MAX),
            began: None,
        }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        let is_good = |began| now.saturating_duration_since(began) >= GOOD_CONNECTION_MIN;
        let wait = if self.began.is_none_or(is_good) {
            self.backoff.reset();
            Duration::ZERO
        } else {
            self.backoff.next()
        };
        self.began = Some(now + wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_connection_is_made_again_at_once_and_one_that_keeps_breaking_ever_later() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        assert_eq!(pace.next(now), Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..20 {
            now += Duration::from_millis(1);
            let wait = pace.next(now);
            waits.push(wait);
            now += wait;
        }
        assert!(waits[0] >= RECONNECT_WAIT_MIN / 2 && waits[0] <= RECONNECT_WAIT_MIN);
        assert!(waits.iter().all(|wait| *wait <= RECONNECT_WAIT_MAX));
        assert!(waits[19] >= RECONNECT_WAIT_MAX / 2);
        assert_eq!(pace.next(now + GOOD_CONNECTION_MIN), Duration::ZERO);
        assert!(pace.next(now + GOOD_CONNECTION_MIN) <= RECONNECT_WAIT_MIN);
    }
}
