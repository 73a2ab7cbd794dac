//! A result that several tasks can await.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt, Shared};

/// The result of a future. Clones can be awaited in several places.
#[derive(Clone)]
pub struct Pending<T: Clone>(Shared<BoxFuture<'static, T>>);

impl<T: Clone> Pending<T> {
    /// The result of `future`.
    pub fn new(future: impl Future<Output = T> + Send + 'static) -> Pending<T> {
        Pending(future.boxed().shared())
    }
}

impl<T: Clone> Future for Pending<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.0.poll_unpin(context)
    }
}

impl<T: Clone + fmt::Debug> fmt::Debug for Pending<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Pending")
            .field(&self.0.peek())
            .finish()
    }
}
