//! Spans that have ended and were not sent yet. Their number is bounded: those that find no
//! room are dropped and counted.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Notes;

pub(super) struct Queue {
    waiting: Mutex<VecDeque<Notes>>,
    spans_max: usize,
    batch_max: usize,
    /// Told when there is a first span, and when there are enough for a batch.
    more: Notify,
    pub(super) sent: Counter,
    pub(super) dropped: Counter,
}

impl Queue {
    /// A queue of so many spans, which are sent in batches of so many.
    pub(super) fn new(spans_max: usize, batch_max: usize) -> Queue {
        Queue {
            waiting: Mutex::default(),
            spans_max,
            batch_max,
            more: Notify::new(),
            sent: Counter::default(),
            dropped: Counter::default(),
        }
    }

    /// Adds a span, or drops it if there is no room. Never waits.
    pub(super) fn push(&self, span: Notes) {
        let count = {
            let mut waiting = self.waiting.lock();
            if waiting.len() < self.spans_max {
                waiting.push_back(span);
                waiting.len()
            } else {
                0
            }
        };
        match count {
            0 => {
                self.dropped.inc();
            }
            count if count == 1 || count == self.batch_max => self.more.notify_one(),
            _ => {}
        }
    }

    pub(super) fn count(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Resolves when there are enough spans for a batch, or `delay` after the first one.
    pub(super) async fn until_due(&self, delay: Duration) {
        let until = async |count| {
            while self.count() < count {
                self.more.notified().await;
            }
        };
        until(1).await;
        let _ = timeout(delay, until(self.batch_max)).await;
    }

    /// The oldest spans, as many as a batch has at most.
    pub(super) fn take(&self) -> Vec<Notes> {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(self.batch_max);
        waiting.drain(..count).collect()
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Spans that a collector has taken";
        registry.register("spans_sent", help, self.sent.clone());
        let help = "Spans that were dropped, since no collector took them in time";
        registry.register("spans_dropped", help, self.dropped.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const DELAY: Duration = Duration::from_secs(5);

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let queue = Queue::new(3, 2);
        for _ in 0..5 {
            queue.push(Notes::default());
        }
        assert_eq!((queue.count(), queue.dropped.get()), (3, 2));
        assert_eq!((queue.take().len(), queue.take().len()), (2, 1));
        queue.push(Notes::default());
        assert_eq!((queue.count(), queue.dropped.get()), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_due_when_it_is_full_or_has_waited() {
        let queue = Queue::new(10, 3);
        let mut due = Box::pin(queue.until_due(DELAY));
        assert!(due.as_mut().now_or_never().is_none());
        queue.push(Notes::default());
        assert!(due.as_mut().now_or_never().is_none());
        let began = tokio::time::Instant::now();
        due.await;
        assert_eq!(began.elapsed().as_secs(), DELAY.as_secs());
        queue.push(Notes::default());
        queue.push(Notes::default());
        assert!(queue.until_due(DELAY).now_or_never().is_some());
    }
}
