//! The links that a runner serves, for calls that go on from one to the next
//! without leaving it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use chain::LinkId;
use futures_util::FutureExt;
use futures_util::future::{join_all, maybe_done};

use super::pool::Taken;
use super::service::{PoolService, Warm};
use crate::transport::Following;

/// Who serves which link. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Neighbours(Arc<Mutex<HashMap<LinkId, Weak<PoolService>>>>);

/// A process of a link that follows.
pub(super) struct Follower {
    pub(super) service: Arc<PoolService>,
    pub(super) taken: Taken<Warm>,
    /// The codes that complete its input.
    pub(super) accepted: Vec<u8>,
}

impl Neighbours {
    /// Lets calls go on to that link until the result is dropped.
    pub(super) fn enter(&self, service: &Arc<PoolService>) -> Entered {
        let entered = Entered {
            neighbours: self.clone(),
            id: service.id,
            service: Arc::downgrade(service),
        };
        self.lock().insert(service.id, Arc::downgrade(service));
        entered
    }

    /// Takes a process of each link, as far as they are here and have one. Nobody
    /// waits for room while holding others.
    pub(super) async fn take(&self, following: &[Following]) -> Vec<Follower> {
        let mut takes = Vec::new();
        for Following { id, accepted } in following {
            let Some(service) = self.get(*id) else { break };
            let take = async move {
                // Why not, its own call will be told.
                let taken = service.pool.take_beside().await.ok()?;
                let accepted = accepted.clone();
                Some(Follower {
                    service,
                    taken,
                    accepted,
                })
            };
            // In line at once, so that what one call needs is started together,
            // and many calls are over one after the other and not all at the end.
            let mut take = Box::pin(maybe_done(take));
            let _ = take.as_mut().now_or_never();
            let is_refused = matches!(take.as_mut().output_mut(), Some(None));
            takes.push(take);
            if is_refused {
                break;
            }
        }
        join_all(takes.iter_mut()).await;
        let taken = takes.iter_mut().map(|take| take.as_mut().take_output());
        taken.map_while(Option::flatten).collect()
    }

    fn get(&self, id: LinkId) -> Option<Arc<PoolService>> {
        self.lock().get(&id)?.upgrade()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LinkId, Weak<PoolService>>> {
        // Nothing that runs under the lock can leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Neighbours::enter`].
pub(super) struct Entered {
    neighbours: Neighbours,
    id: LinkId,
    service: Weak<PoolService>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut services = self.neighbours.lock();
        // The link may have come back meanwhile, with another service.
        let is_ours = |service: &Weak<PoolService>| service.ptr_eq(&self.service);
        if services.get(&self.id).is_some_and(is_ours) {
            services.remove(&self.id);
        }
    }
}
