//! The link store that stays in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chain::{Link, LinkId};
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::BoxStream;
use tokio::sync::watch;

use super::changes::Known;
use super::{Announcement, Change, LinkStore, LinkStoreError, RunnerState};

/// Keeps links in memory.
#[derive(Clone, Default)]
pub struct Memory {
    links: Known,
    images: Arc<Mutex<BTreeMap<String, Arc<str>>>>,
    runners: Arc<Mutex<Runners>>,
}

/// What runners say of themselves, by name. The key tells announcements of the
/// same name apart: the last one counts.
#[derive(Default)]
struct Runners {
    by_name: BTreeMap<String, (u64, watch::Receiver<RunnerState>)>,
    last_key: u64,
}

impl Memory {
    /// A store that knows no link yet.
    pub fn new() -> Memory {
        Memory::default()
    }
}

impl LinkStore for Memory {
    fn put(&self, link: Arc<Link>) -> BoxFuture<'_, Result<(), LinkStoreError>> {
        self.links.put(link.id(), link);
        Box::pin(ready(Ok(())))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>> {
        Box::pin(ready(Ok(self.links.list())))
    }

    fn remove(&self, id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        Box::pin(ready(Ok(self.links.remove(id))))
    }

    fn pin_image(
        &self,
        reference: &str,
        digest: &str,
    ) -> BoxFuture<'_, Result<Arc<str>, LinkStoreError>> {
        let mut images = locked(&self.images);
        let pinned = images
            .entry(reference.to_owned())
            .or_insert_with(|| digest.into());
        Box::pin(ready(Ok(Arc::clone(pinned))))
    }

    fn pinned_image(
        &self,
        reference: &str,
    ) -> BoxFuture<'_, Result<Option<Arc<str>>, LinkStoreError>> {
        let pinned = locked(&self.images).get(reference).cloned();
        Box::pin(ready(Ok(pinned)))
    }

    fn announce(&self, runner: &str, state: watch::Receiver<RunnerState>) -> Announcement {
        let mut runners = locked(&self.runners);
        runners.last_key += 1;
        let key = runners.last_key;
        runners.by_name.insert(runner.to_owned(), (key, state));
        let withdraw = Withdraw {
            runners: Arc::clone(&self.runners),
            name: runner.to_owned(),
            key,
        };
        Announcement::new(withdraw, ready(()))
    }

    fn runners(&self) -> BoxFuture<'_, Result<BTreeMap<String, RunnerState>, LinkStoreError>> {
        let runners = locked(&self.runners);
        let states = runners
            .by_name
            .iter()
            .map(|(name, (_, state))| (name.clone(), state.borrow().clone()));
        Box::pin(ready(Ok(states.collect())))
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        self.links.watch(())
    }
}

/// Forgets a runner when it is dropped.
struct Withdraw {
    runners: Arc<Mutex<Runners>>,
    name: String,
    key: u64,
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        let by_name = &mut locked(&self.runners).by_name;
        if by_name
            .get(&self.name)
            .is_some_and(|(key, _)| *key == self.key)
        {
            by_name.remove(&self.name);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under the lock can leave it half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link_store::conformance;

    #[tokio::test(start_paused = true)]
    async fn it_conforms() {
        conformance::all(&Memory::new()).await;
    }
}
