//! Drops what blocks while it is dropped, on a thread of its own: a process that is
//! killed and waited for, a zygote and all that it ever started. Whoever drops one on
//! an async thread only hands it over.
//!
//! What is handed over is accounted for: who needs the room that it still takes, or
//! takes leave, can wait until it is gone. It must not know what it drops.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

/// How much all reapers of this program have been handed and not dropped yet.
static PENDING: Mutex<u64> = Mutex::new(0);
static FEWER_PENDING: Condvar = Condvar::new();

/// Waits until all that was handed over is gone, but not longer than `limit`: for a
/// program that ends, so that it leaves nothing behind. Blocks.
pub fn until_reaped(limit: Duration) {
    let mut pending = PENDING.lock();
    // Whether it took longer or not, there is nothing more to do about it.
    let _ = FEWER_PENDING.wait_while_for(&mut pending, |pending| *pending > 0, limit);
}

/// One thing that is handed over, as long as it is not gone.
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

/// A thread that drops things, one after the other. Clones are the same; it ends,
/// when the last one is gone, with what it was handed.
#[derive(Debug, Clone)]
pub(super) struct Reaper {
    /// `None` where there is no thread to be had.
    queue: Option<Sender<Box<dyn Send>>>,
    handed: Arc<AtomicU64>,
    done: Arc<watch::Sender<u64>>,
}

impl Reaper {
    /// Starts it. The name is that of its thread, of 15 bytes at most.
    pub(super) fn start(name: &str) -> Reaper {
        let (queue, handed) = channel::<Box<dyn Send>>();
        let done = Arc::new(watch::Sender::new(0));
        let of_thread = Arc::clone(&done);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let started = thread.spawn(move || {
            for dead in handed {
                // A panic is a fault of ours, and keeps nothing else from being dropped.
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

    /// Drops that, soon, elsewhere.
    fn hand(&self, dead: impl Send + 'static) {
        let Some(queue) = &self.queue else { return };
        self.handed.fetch_add(1, Ordering::SeqCst);
        // In this order they are dropped.
        let dead = (dead, Pending::begin());
        if queue.send(Box::new(dead)).is_err() {
            // What could not be sent was dropped here.
            self.done.send_modify(|done| *done += 1);
        }
    }

    /// Waits until all is gone that was handed over by now.
    pub(super) async fn until_caught_up(&self) {
        let handed = self.handed.load(Ordering::SeqCst);
        if *self.done.borrow() >= handed {
            return;
        }
        // It lives as long as this does.
        let _ = self.done.subscribe().wait_for(|done| *done >= handed).await;
    }
}

/// Something that blocks while it is dropped: its reaper drops it.
#[derive(Debug)]
pub(super) struct Reaped<T: Send + 'static> {
    /// `None` only while this is dropped, or taken apart.
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

    /// What it is; from now on it is whoever has it who drops it.
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
