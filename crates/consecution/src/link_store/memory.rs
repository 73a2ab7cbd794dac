//! The link store that stays in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use chain::{Link, LinkId};
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::changes::Known;
use super::{Change, LinkStore, LinkStoreError, PortalState, Registration, RunnerState};

/// Keeps links in memory.
#[derive(Clone, Default)]
pub struct Memory {
    links: Known,
    images: Arc<Mutex<BTreeMap<String, Arc<str>>>>,
    runners: Arc<Mutex<Announced<RunnerState>>>,
    portals: Arc<Mutex<Announced<PortalState>>>,
    unnamed: Arc<Mutex<BTreeMap<LinkId, SystemTime>>>,
}

/// What runners or portals say of themselves, by name. The key tells
/// announcements of the same name apart: the last one counts.
struct Announced<S> {
    by_name: BTreeMap<String, (u64, watch::Receiver<S>)>,
    last_key: u64,
}

impl<S> Default for Announced<S> {
    fn default() -> Announced<S> {
        Announced {
            by_name: BTreeMap::new(),
            last_key: 0,
        }
    }
}

impl<S: Clone> Announced<S> {
    fn states(&self) -> BTreeMap<String, S> {
        let states = self.by_name.iter();
        let states = states.map(|(name, (_, state))| (name.clone(), state.borrow().clone()));
        states.collect()
    }
}

impl Memory {
    /// A store that knows no link yet.
    pub fn new() -> Memory {
        Memory::default()
    }
}

impl LinkStore for Memory {
    fn put(&self, link: Arc<Link>) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        Box::pin(ready(Ok(self.links.put(link.id(), link))))
    }

    fn missing<'a>(
        &'a self,
        ids: &'a [LinkId],
    ) -> BoxFuture<'a, Result<Vec<LinkId>, LinkStoreError>> {
        let missing = ids.iter().filter(|id| !self.links.contains(**id));
        Box::pin(ready(Ok(missing.copied().collect())))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>> {
        Box::pin(ready(Ok(self.links.list())))
    }

    fn remove(&self, id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        self.unnamed.lock().remove(&id);
        Box::pin(ready(Ok(self.links.remove(id))))
    }

    fn pin_image(
        &self,
        reference: &str,
        digest: &str,
    ) -> BoxFuture<'_, Result<Arc<str>, LinkStoreError>> {
        let mut images = self.images.lock();
        let pinned = images
            .entry(reference.to_owned())
            .or_insert_with(|| digest.into());
        Box::pin(ready(Ok(Arc::clone(pinned))))
    }

    fn pinned_image(
        &self,
        reference: &str,
    ) -> BoxFuture<'_, Result<Option<Arc<str>>, LinkStoreError>> {
        let pinned = self.images.lock().get(reference).cloned();
        Box::pin(ready(Ok(pinned)))
    }

    fn announce(&self, runner: &str, state: watch::Receiver<RunnerState>) -> Registration {
        announce(&self.runners, runner, state)
    }

    fn runners(&self) -> BoxFuture<'_, Result<BTreeMap<String, RunnerState>, LinkStoreError>> {
        Box::pin(ready(Ok(self.runners.lock().states())))
    }

    fn announce_portal(&self, portal: &str, state: watch::Receiver<PortalState>) -> Registration {
        announce(&self.portals, portal, state)
    }

    fn portals(&self) -> BoxFuture<'_, Result<BTreeMap<String, PortalState>, LinkStoreError>> {
        Box::pin(ready(Ok(self.portals.lock().states())))
    }

    fn note_unnamed(
        &self,
        id: LinkId,
        since: Option<SystemTime>,
    ) -> BoxFuture<'_, Result<(), LinkStoreError>> {
        let mut unnamed = self.unnamed.lock();
        match since {
            Some(since) => unnamed.insert(id, since),
            None => unnamed.remove(&id),
        };
        Box::pin(ready(Ok(())))
    }

    fn unnamed(&self) -> BoxFuture<'_, Result<BTreeMap<LinkId, SystemTime>, LinkStoreError>> {
        Box::pin(ready(Ok(self.unnamed.lock().clone())))
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        self.links.watch(())
    }
}

fn announce<S: Send + Sync + 'static>(
    announced: &Arc<Mutex<Announced<S>>>,
    name: &str,
    state: watch::Receiver<S>,
) -> Registration {
    let mut all = announced.lock();
    all.last_key += 1;
    let key = all.last_key;
    all.by_name.insert(name.to_owned(), (key, state));
    let withdraw = Withdraw {
        announced: Arc::clone(announced),
        name: name.to_owned(),
        key,
    };
    Registration::new(withdraw, ready(()))
}

/// Forgets who was announced when it is dropped.
struct Withdraw<S> {
    announced: Arc<Mutex<Announced<S>>>,
    name: String,
    key: u64,
}

impl<S> Drop for Withdraw<S> {
    fn drop(&mut self) {
        let by_name = &mut self.announced.lock().by_name;
        if by_name
            .get(&self.name)
            .is_some_and(|(key, _)| *key == self.key)
        {
            by_name.remove(&self.name);
        }
    }
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
