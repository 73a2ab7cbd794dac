//! An idle pipeline of a pool.
//!
//! The future that watches a pipeline borrows it, so both live in one future,
//! which gives the pipeline back when it has been spoiled, or is wanted. No task
//! stands between a pipeline and its taker.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use super::Idle;

/// An idle pipeline that is watched, and can be had back at any time.
pub(super) struct IdleEntry<P> {
    watch: Pin<Box<dyn Future<Output = (P, Condition)> + Send>>,
    wanted: Arc<AtomicBool>,
}

/// What a pipeline is like when it is taken.
pub(super) enum Condition {
    /// As good as just started.
    Fresh,
    /// It has ended, or has written something.
    Spoiled,
}

impl<P: Idle> IdleEntry<P> {
    pub(super) fn new(pipeline: P) -> IdleEntry<P> {
        let wanted = Arc::new(AtomicBool::new(false));
        let is_wanted = Arc::clone(&wanted);
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
        IdleEntry { watch, wanted }
    }
}

impl<P> IdleEntry<P> {
    /// The pipeline, if it has been spoiled; else wakes `context` when it is.
    pub(super) fn poll_spoiled(&mut self, context: &mut Context<'_>) -> Poll<P> {
        self.watch
            .as_mut()
            .poll(context)
            .map(|(pipeline, _)| pipeline)
    }

    /// The pipeline, at once, and whether it is still fresh.
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
