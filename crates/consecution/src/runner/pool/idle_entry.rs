//! An idle pipeline of a pool.
//!
//! The future that watches a pipeline borrows it, so both live in one future, which returns
//! the pipeline when it is spoiled or wanted. So no task is needed to watch it, and taking it
//! needs no message to one.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use super::{Idle, Probe};

/// An idle pipeline that is watched, and can be taken at any time.
pub(super) struct IdleEntry<P> {
    watch: Pin<Box<dyn Future<Output = (P, Condition)> + Send>>,
    wanted: Arc<AtomicBool>,
    /// `None` during a look, or if there is nothing to look at.
    pub(super) probe: Option<Box<dyn Probe>>,
}

/// The condition of a pipeline when it is taken.
pub(super) enum Condition {
    /// Like one that has just started.
    Fresh,
    /// A process of it has ended, or the last one has written something.
    Spoiled,
}

impl<P: Idle> IdleEntry<P> {
    pub(super) fn new(pipeline: P) -> IdleEntry<P> {
        let wanted = Arc::new(AtomicBool::new(false));
        let is_wanted = Arc::clone(&wanted);
        let probe = pipeline.probe();
        let watch = Box::pin(async move {
            let condition = {
                let mut spoiled = pin!(pipeline.spoiled());
                poll_fn(|context| match spoiled.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Condition::Spoiled),
                    Poll::Pending if is_wanted.load(Ordering::Relaxed) => {
                        Poll::Ready(Condition::Fresh)
                    }
                    Poll::Pending => Poll::Pending,
                })
                .await
            };
            (pipeline, condition)
        });
        IdleEntry {
            watch,
            wanted,
            probe,
        }
    }
}

impl<P> IdleEntry<P> {
    /// Ready with the pipeline if it is spoiled; otherwise wakes `context` when it is.
    pub(super) fn poll_spoiled(&mut self, context: &mut Context<'_>) -> Poll<P> {
        self.watch
            .as_mut()
            .poll(context)
            .map(|(pipeline, _)| pipeline)
    }

    /// Returns the pipeline at once, with its condition.
    pub(super) fn take(mut self) -> (P, Condition) {
        self.wanted.store(true, Ordering::Relaxed);
        match self
            .watch
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(taken) => taken,
            Poll::Pending => unreachable!("a watch ends when its pipeline is wanted"),
        }
    }
}
