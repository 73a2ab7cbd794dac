//! What is worth saying again in the log, as plain data.

use std::time::Duration;

use tokio::time::Instant;

/// How long the same trouble goes on until it is said again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long something is the last that was said, at least.
const OTHER_AFTER: Duration = Duration::from_secs(5);

/// Remembers what was said last.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    last: Option<(String, Instant)>,
}

impl Quiet {
    /// Whether trouble is to be said now. If so, it counts as said.
    pub(super) fn lets(&mut self, trouble: &str, now: Instant) -> bool {
        let is_due = match &self.last {
            None => true,
            Some((said, at)) if said == trouble => now.duration_since(*at) >= AGAIN_AFTER,
            Some((_, at)) => now.duration_since(*at) >= OTHER_AFTER,
        };
        if is_due {
            self.last = Some((trouble.to_owned(), now));
        }
        is_due
    }

    /// Whether it is to be said that all is well, which it is after trouble, and
    /// at first. If so, it counts as said.
    pub(super) fn lets_all_is_well(&mut self, now: Instant) -> bool {
        let is_due = !matches!(&self.last, Some((said, _)) if said.is_empty());
        if is_due {
            self.last = Some((String::new(), now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_at_once_and_then_now_and_then() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let mut lets = |trouble, seconds| quiet.lets(trouble, start + Duration::from_secs(seconds));
        assert!(lets("refused", 0));
        assert!(!lets("refused", 59));
        assert!(lets("refused", 60));
        assert!(!lets("timed out", 61));
        assert!(lets("timed out", 65));
    }

    #[test]
    fn that_all_is_well_is_said_once_after_trouble() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        assert!(quiet.lets_all_is_well(now));
        assert!(!quiet.lets_all_is_well(now + AGAIN_AFTER));
        assert!(quiet.lets("refused", now + AGAIN_AFTER));
        assert!(quiet.lets_all_is_well(now + AGAIN_AFTER));
    }

    #[test]
    fn what_comes_and_goes_is_not_said_each_time() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let said = (0..100u32).filter(|tenths| {
            let now = start + Duration::from_millis(100) * *tenths;
            quiet.lets("timed out", now) | quiet.lets_all_is_well(now)
        });
        assert!(said.count() <= 4);
    }
}
