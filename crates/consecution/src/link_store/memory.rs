//! The link store that stays in this process.
//!
//! A watcher keeps what it has told, and compares that with what is known: so
//! it holds no queue that could grow, and however slow it is, what it tells
//! last is true.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chain::{Link, LinkId};
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use super::{Announcement, Change, LinkStore, LinkStoreError, RunnerState};

/// The links that are known.
type Links = BTreeMap<LinkId, Arc<Link>>;

/// Keeps links in memory.
#[derive(Clone, Default)]
pub struct Memory {
    links: Arc<watch::Sender<Links>>,
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
        let id = link.id();
        self.links.send_if_modified(|links| {
            let new = !links.contains_key(&id);
            if new {
                links.insert(id, link);
            }
            new
        });
        Box::pin(ready(Ok(())))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Link>>, LinkStoreError>> {
        let links = self.links.borrow().values().cloned().collect();
        Box::pin(ready(Ok(links)))
    }

    fn remove(&self, id: LinkId) -> BoxFuture<'_, Result<bool, LinkStoreError>> {
        let removed = self
            .links
            .send_if_modified(|links| links.remove(&id).is_some());
        Box::pin(ready(Ok(removed)))
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
        Announcement::new(Withdraw {
            runners: Arc::clone(&self.runners),
            name: runner.to_owned(),
            key,
        })
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
        let watcher = Watcher {
            known: self.links.subscribe(),
            told: Links::new(),
            _store: self.clone(),
        };
        stream::unfold(watcher, async |mut watcher| {
            let changes = watcher.changes().await?;
            Some((stream::iter(changes), watcher))
        })
        .flatten()
        .boxed()
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

/// One stream of changes.
struct Watcher {
    known: watch::Receiver<Links>,
    /// What its reader takes for true once it has read the last changes.
    told: Links,
    /// A watcher waits for changes for as long as it is held.
    _store: Memory,
}

impl Watcher {
    /// What has changed since the last time; waits until something has.
    async fn changes(&mut self) -> Option<Vec<Change>> {
        loop {
            let known = self.known.borrow_and_update().clone();
            let changes = differences(&self.told, &known);
            if !changes.is_empty() {
                self.told = known;
                return Some(changes);
            }
            self.known.changed().await.ok()?;
        }
    }
}

/// What makes `known` out of `told`.
fn differences(told: &Links, known: &Links) -> Vec<Change> {
    let removed = told.keys().filter(|id| !known.contains_key(id));
    let put = known.iter().filter(|(id, _)| !told.contains_key(id));
    let removed = removed.map(|id| Change::Removed(*id));
    removed
        .chain(put.map(|(_, link)| Change::Put(Arc::clone(link))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link_store::conformance;

    #[tokio::test(start_paused = true)]
    async fn it_conforms() {
        conformance::all(&Memory::new()).await;
    }

    #[tokio::test]
    async fn a_watcher_holds_no_more_than_one_change_a_link() {
        let store = Memory::new();
        let link = Arc::new(Link {
            image: "busybox".to_owned(),
            ..Link::default()
        });
        let mut watcher = Watcher {
            known: store.links.subscribe(),
            told: Links::new(),
            _store: store.clone(),
        };
        for _ in 0..1_000 {
            store.put(Arc::clone(&link)).await.unwrap();
            store.remove(link.id()).await.unwrap();
        }
        store.put(Arc::clone(&link)).await.unwrap();
        assert_eq!(watcher.changes().await.unwrap(), [Change::Put(link)]);
    }
}
