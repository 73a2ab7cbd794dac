//! Registrations that last as long as they are held.

use futures_util::future::{BoxFuture, FutureExt};

/// Keeps a service registered at a transport, or a runner or portal announced in a link store.
/// Dropping it ends the registration some time later.
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
