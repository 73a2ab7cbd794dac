//! Limits the number of connections.
//!
//! Beside the ordinary places there are a few extra ones, so that a server can be monitored
//! even while clients hold all ordinary places: before its first request, nobody knows what a
//! connection is for. A connection in an extra place has little time. If all extra places are
//! taken, the oldest connection there that has not sent a request's head makes room, so that
//! silent clients cannot hold them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

/// How many extra places there are.
const EXTRA_MAX: usize = 16;

/// How long a connection in an extra place may take for a request's head, and altogether.
pub(super) const EXTRA_HEAD_WAIT_MAX: Duration = Duration::from_secs(5);
const EXTRA_WAIT_MAX: Duration = Duration::from_secs(15);

/// How long it has for a request's head before it may have to make room.
const EXTRA_HEAD_WAIT_MIN: Duration = Duration::from_millis(200);

/// The places of one address.
pub(super) struct Places {
    ordinary: Arc<Semaphore>,
    extra: Vec<Arc<Extra>>,
    /// Notified when an extra place is free again.
    is_free: Arc<Notify>,
}

/// The place of a connection, until it is dropped.
pub(super) struct Place {
    /// Empty while it is an extra place.
    ordinary: OnceLock<OwnedSemaphorePermit>,
    places: Arc<Semaphore>,
    extra: Option<Arc<Extra>>,
    is_free: Arc<Notify>,
}

/// See [`Place::further`]. Holds nothing yet.
pub(super) struct Further(Arc<Semaphore>);

struct Extra {
    since: Instant,
    has_head: AtomicBool,
    is_over: AtomicBool,
    must_go: Notify,
}

impl Places {
    pub(super) fn new(ordinary_max: usize) -> Places {
        let ordinary = Semaphore::new(ordinary_max.min(Semaphore::MAX_PERMITS));
        Places {
            ordinary: Arc::new(ordinary),
            extra: Vec::new(),
            is_free: Arc::default(),
        }
    }

    /// Waits for a place.
    pub(super) async fn take(&mut self) -> Place {
        loop {
            if let Ok(permit) = Arc::clone(&self.ordinary).try_acquire_owned() {
                return self.place(Some(permit), None);
            }
            self.extra.retain(|extra| !extra.is_over());
            if self.extra.len() < EXTRA_MAX {
                let extra = Arc::new(Extra::new());
                self.extra.push(Arc::clone(&extra));
                return self.place(None, Some(extra));
            }
            let silent = self.extra.iter().find(|extra| !extra.has_head());
            let silent = silent.map(|extra| (Arc::clone(extra), extra.since + EXTRA_HEAD_WAIT_MIN));
            let must_go = async {
                match silent {
                    Some((extra, at)) => {
                        sleep_until(at).await;
                        extra
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The semaphore is never closed, so this never fails.
                Ok(permit) = Arc::clone(&self.ordinary).acquire_owned() => {
                    return self.place(Some(permit), None);
                }
                () = self.is_free.notified() => {}
                extra = must_go => {
                    if !extra.has_head() {
                        extra.must_go.notify_one();
                        extra.is_over.store(true, Ordering::Release);
                    }
                }
            }
        }
    }

    /// A place beyond all limits, for a connection that must not be refused.
    pub(super) fn one_more(&self) -> Place {
        self.place(None, None)
    }

    fn place(&self, permit: Option<OwnedSemaphorePermit>, extra: Option<Arc<Extra>>) -> Place {
        Place {
            ordinary: permit.map_or_else(OnceLock::new, OnceLock::from),
            places: Arc::clone(&self.ordinary),
            extra,
            is_free: Arc::clone(&self.is_free),
        }
    }
}

impl Place {
    /// Whether it is still an extra place.
    pub(super) fn is_extra(&self) -> bool {
        self.extra.is_some() && self.ordinary.get().is_none()
    }

    /// A request's head has come: exchanges an extra place for an ordinary one, if one is
    /// free.
    pub(super) fn has_head(&self) {
        let Some(extra) = &self.extra else { return };
        extra.has_head.store(true, Ordering::Release);
        if self.ordinary.get().is_none()
            && let Ok(permit) = Arc::clone(&self.places).try_acquire_owned()
            && self.ordinary.set(permit).is_ok()
        {
            self.leave();
        }
    }

    /// Where a further request on the connection at the same time takes its place.
    pub(super) fn further(&self) -> Further {
        Further(Arc::clone(&self.places))
    }

    /// Resolves when the connection must be closed.
    pub(super) async fn until_over(&self) {
        let Some(extra) = &self.extra else {
            return std::future::pending().await;
        };
        let _ = timeout(EXTRA_WAIT_MAX, extra.must_go.notified()).await;
        if !self.is_extra() {
            std::future::pending().await
        }
    }

    fn leave(&self) {
        if let Some(extra) = &self.extra {
            extra.is_over.store(true, Ordering::Release);
            self.is_free.notify_one();
        }
    }
}

impl Further {
    /// A place until it is dropped; `None` if there is none left.
    pub(super) fn take(self) -> Option<OwnedSemaphorePermit> {
        self.0.try_acquire_owned().ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Extra {
    fn new() -> Extra {
        Extra {
            since: Instant::now(),
            has_head: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            must_go: Notify::new(),
        }
    }

    fn has_head(&self) -> bool {
        self.has_head.load(Ordering::Acquire)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_there_are_a_few_and_the_oldest_silent_one_makes_room() {
        let mut places = Places::new(1);
        let first = places.take().await;
        assert!(!first.is_extra());
        let mut extra = Vec::new();
        for _ in 0..EXTRA_MAX {
            extra.push(places.take().await);
        }
        assert!(extra.iter().all(Place::is_extra));
        extra[0].has_head();
        assert!(places.take().now_or_never().is_none());
        let began = Instant::now();
        let next = places.take().await;
        assert_eq!(began.elapsed(), EXTRA_HEAD_WAIT_MIN);
        assert!(next.is_extra());
        assert!(extra[1].until_over().now_or_never().is_some());
        assert!(extra[0].until_over().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_said_what_it_wants_is_not_sent_away_for_others() {
        let mut places = Places::new(1);
        let _first = places.take().await;
        let mut extra = Vec::new();
        for _ in 0..EXTRA_MAX {
            extra.push(places.take().await);
        }
        extra.iter().for_each(Place::has_head);
        let waiting = timeout(EXTRA_HEAD_WAIT_MAX, places.take()).await;
        assert!(waiting.is_err());
        extra.pop();
        assert!(places.take().await.is_extra());
    }

    #[tokio::test(start_paused = true)]
    async fn an_ordinary_place_that_is_free_by_then_is_had() {
        let mut places = Places::new(1);
        let first = places.take().await;
        let second = places.take().await;
        drop(first);
        assert!(second.is_extra());
        second.has_head();
        assert!(!second.is_extra());
        assert!(places.take().await.is_extra());
        let over = timeout(2 * EXTRA_WAIT_MAX, second.until_over()).await;
        assert!(over.is_err());
        drop(second);
        assert!(!places.take().await.is_extra());
    }
}
