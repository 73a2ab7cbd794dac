//! Decides when to log a trouble that repeats: when it is new or changes.

use std::time::Duration;

use tokio::time::Instant;

/// Remembers what was logged last.
#[derive(Debug, Default)]
pub(crate) struct LogOnChange {
    /// After how long the same trouble is logged again, if ever.
    again_after: Option<Duration>,
    /// How long to wait after a log line before another trouble is logged.
    other_after: Duration,
    /// The last logged trouble, empty if all was well, and when it was logged.
    last: Option<(String, Instant)>,
}

impl LogOnChange {
    /// Logs the same trouble again after that time; the [`Default`] never does.
    pub(crate) fn again_after(again_after: Duration) -> LogOnChange {
        LogOnChange {
            again_after: Some(again_after),
            ..LogOnChange::default()
        }
    }

    /// Logs other trouble, too, only after that time. Use it for troubles that alternate.
    pub(crate) fn other_after(self, other_after: Duration) -> LogOnChange {
        LogOnChange {
            other_after,
            ..self
        }
    }

    /// Whether to log this trouble now. If so, it counts as logged.
    pub(crate) fn lets(&mut self, trouble: &str) -> bool {
        let now = Instant::now();
        let is_due = match &self.last {
            None => true,
            Some((logged, at)) => {
                let wait = match logged == trouble {
                    true => self.again_after,
                    false => Some(self.other_after),
                };
                wait.is_some_and(|wait| now.duration_since(*at) >= wait)
            }
        };
        if is_due {
            self.last = Some((trouble.to_owned(), now));
        }
        is_due
    }

    /// Whether to log that all is well: after trouble, and the first time. If so, it counts as
    /// logged.
    pub(crate) fn lets_all_is_well(&mut self) -> bool {
        let is_due = !matches!(&self.last, Some((logged, _)) if logged.is_empty());
        if is_due {
            self.last = Some((String::new(), Instant::now()));
        }
        is_due
    }

    /// All is well, so the next trouble is new. Returns whether anything was logged before.
    pub(crate) fn forget(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const AGAIN_AFTER: Duration = Duration::from_secs(60);
    const OTHER_AFTER: Duration = Duration::from_secs(5);

    fn now_and_then() -> LogOnChange {
        LogOnChange::again_after(AGAIN_AFTER).other_after(OTHER_AFTER)
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_is_logged_at_once_and_then_now_and_then() {
        let mut log = now_and_then();
        for (trouble, seconds_later, wanted) in [
            ("refused", 0, true),
            ("refused", 59, false),
            ("refused", 1, true),
            ("timed out", 1, false),
            ("timed out", 4, true),
        ] {
            advance(Duration::from_secs(seconds_later)).await;
            assert_eq!(log.lets(trouble), wanted, "{trouble}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_is_never_logged_again_unless_asked_for_or_it_was_over() {
        let mut log = LogOnChange::default();
        assert!(!log.forget());
        assert!(log.lets("refused"));
        advance(1000 * AGAIN_AFTER).await;
        assert!(!log.lets("refused"));
        assert!(log.lets("timed out"));
        assert!(log.forget());
        assert!(log.lets("timed out"));
    }

    #[tokio::test(start_paused = true)]
    async fn that_all_is_well_is_logged_once_after_trouble() {
        let mut log = now_and_then();
        assert!(log.lets_all_is_well());
        advance(AGAIN_AFTER).await;
        assert!(!log.lets_all_is_well());
        assert!(log.lets("refused"));
        assert!(log.lets_all_is_well());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_and_goes_is_not_logged_each_time() {
        let (mut log, mut logged) = (now_and_then(), 0);
        for _ in 0..100 {
            logged += usize::from(log.lets("timed out") | log.lets_all_is_well());
            advance(Duration::from_millis(100)).await;
        }
        assert!(logged <= 4, "{logged}");
    }
}
