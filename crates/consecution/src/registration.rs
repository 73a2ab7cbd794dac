//! What is made known to others for as long as somebody holds on to it.

use futures_util::future::{BoxFuture, FutureExt};

/// Keeps something known: a service that a transport offers, a runner or a portal that a
/// link store tells of. Some time after this is dropped it is known no more.
pub struct Registration {
    withdraw: Box<dyn Send + Sync>,
    over: BoxFuture<'static, ()>,
}

impl Registration {
    /// A registration that ends when `withdraw` is dropped; `over` resolves some time
    /// after that, when nothing is left of it.
    pub fn new(
        withdraw: impl Send + Sync + 'static,
        over: impl Future<Output = ()> + Send + 'static,
    ) -> Registration {
        Registration {
            withdraw: Box::new(withdraw),
            over: over.boxed(),
        }
    }

    /// Ends the registration, and waits until the trait's promise for that is kept: for a
    /// service, that all calls sent to it are answered; for an announcement, that its key is
    /// deleted. The method that returns the registration says how long this may take.
    pub async fn withdraw(self) {
        drop(self.withdraw);
        self.over.await;
    }
}
