//! Drops things whose drop blocks, on a thread of its own: a process that must be killed
//! and waited for, a zygote with everything that it ever started. Async code only hands
//! them over.
//!
//! The reaper counts what it was handed. So code that needs the room that these things
//! still take, or that shuts down, can wait until they are gone. The reaper must not know
//! what it drops.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

/// How many things all reapers of this program have been handed and not dropped yet.
static PENDING: Mutex<u64> = Mutex::new(0);
static FEWER_PENDING: Condvar = Condvar::new();

/// Blocks until everything that was handed over is dropped, but no longer than `limit`. A
/// program calls this before it exits, so that it leaves nothing behind.
pub fn until_reaped(limit: Duration) {
    let mut pending = PENDING.lock();
    // If it took longer, there is nothing more to do about it.
    let _ = FEWER_PENDING.wait_while_for(&mut pending, |pending| *pending > 0, limit);
}

/// Counts one thing that was handed over, until it is dropped.
struct Pending;

impl Pending {
    fn begin() -> Pending {
        *PENDING.lock() += 1;
        Pending
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        *PENDING.lock() -= 1;
        FEWER_PENDING.notify_all();
    }
}

/// A thread that drops things one after the other. Clones share the thread. When the last
/// clone is gone, the thread drops what it was handed and ends.
#[derive(Debug, Clone)]
pub(super) struct Reaper {
    /// `None` if the thread could not be started: then things are dropped in place.
    queue: Option<Sender<Box<dyn Send>>>,
    handed: Arc<AtomicU64>,
    done: Arc<watch::Sender<u64>>,
}

impl Reaper {
    /// Starts a reaper. `name` is the name of its thread, of at most 15 bytes.
    pub(super) fn start(name: &str) -> Reaper {
        let (queue, handed) = channel::<Box<dyn Send>>();
        let done = Arc::new(watch::Sender::new(0));
        let of_thread = Arc::clone(&done);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let started = thread.spawn(move || {
            for dead in handed {
                // A panic in a drop is a bug, but must not stop other things from being
                // dropped.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(dead)));
                of_thread.send_modify(|done| *done += 1);
            }
        });
        if let Err(error) = &started {
            tracing::warn!("failed to start a thread that ends processes: {error}");
        }
        Reaper {
            queue: started.is_ok().then_some(queue),
            handed: Arc::default(),
            done,
        }
    }

    /// Hands `dead` over to the thread, which drops it soon.
    fn hand(&self, dead: impl Send + 'static) {
        let Some(queue) = &self.queue else { return };
        self.handed.fetch_add(1, Ordering::SeqCst);
        // A tuple's fields are dropped in this order: first the thing, then its count.
        let dead = (dead, Pending::begin());
        if queue.send(Box::new(dead)).is_err() {
            // `dead` could not be sent, so it was dropped here.
            self.done.send_modify(|done| *done += 1);
        }
    }

    /// Waits until everything that was handed over before this call is dropped.
    pub(super) async fn until_caught_up(&self) {
        let handed = self.handed.load(Ordering::SeqCst);
        if *self.done.borrow() >= handed {
            return;
        }
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.done.subscribe().wait_for(|done| *done >= handed).await;
    }
}

/// Wraps a value whose drop blocks. When this is dropped, the reaper drops the value.
#[derive(Debug)]
pub(super) struct Reaped<T: Send + 'static> {
    /// `None` only inside `drop` and `into_inner`.
    inner: Option<T>,
    reaper: Reaper,
}

impl<T: Send + 'static> Reaped<T> {
    pub(super) fn new(inner: T, reaper: &Reaper) -> Reaped<T> {
        Reaped {
            inner: Some(inner),
            reaper: reaper.clone(),
        }
    }

    /// Unwraps the value. From now on its owner drops it, not the reaper.
    pub(super) fn into_inner(mut self) -> T {
        self.inner.take().expect("there until dropped")
    }
}

impl<T: Send + 'static> Deref for Reaped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("there until dropped")
    }
}

impl<T: Send + 'static> DerefMut for Reaped<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("there until dropped")
    }
}

impl<T: Send + 'static> Drop for Reaped<T> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            self.reaper.hand(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::ThreadId;

    use futures_util::FutureExt;

    use super::*;

    /// Says where it is dropped, when it may be.
    struct Slow {
        go: std::sync::mpsc::Receiver<()>,
        dropped_on: Arc<Mutex<Option<ThreadId>>>,
    }

    impl Drop for Slow {
        fn drop(&mut self) {
            self.go.recv().unwrap();
            *self.dropped_on.lock() = Some(std::thread::current().id());
        }
    }

    struct Panics;

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }

    #[tokio::test]
    async fn what_blocks_is_dropped_elsewhere_and_can_be_waited_for() {
        let reaper = Reaper::start("test");
        reaper.until_caught_up().now_or_never().unwrap();
        let (may_go, go) = channel();
        let dropped_on = Arc::default();
        drop(Reaped::new(Panics, &reaper));
        let slow = Slow {
            go,
            dropped_on: Arc::clone(&dropped_on),
        };
        drop(Reaped::new(slow, &reaper));
        let mut waiting = Box::pin(reaper.until_caught_up());
        assert!((&mut waiting).now_or_never().is_none());
        may_go.send(()).unwrap();
        waiting.await;
        let on = dropped_on.lock().unwrap();
        assert_ne!(on, std::thread::current().id());
    }
}
