//! Keeps the set of links, and notifies watchers of changes.
//!
//! For each watcher, a change is recorded as the id of its link, so its cost does not
//! depend on the number of links. An id is recorded only while the watcher's last
//! notification about that link is out of date. So a watcher's records never exceed the
//! links that it knows plus those that exist, and its last notification about a link is
//! always true, however slow the watcher is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chain::{Link, LinkId};
use futures_util::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Change;

/// Links by their id.
pub(super) type Links = BTreeMap<LinkId, Arc<Link>>;

/// The known links, and their watchers. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    links: Links,
    /// The watchers, by a number.
    watchers: BTreeMap<u64, Told>,
    last_key: u64,
}

/// The notifications of one watcher.
#[derive(Default)]
struct Told {
    links: BTreeSet<LinkId>,
    /// The links about which its last notification is out of date.
    outdated: BTreeSet<LinkId>,
    wake: Arc<Notify>,
}

impl Told {
    fn note(&mut self, id: LinkId, is_known: bool) {
        if self.links.contains(&id) == is_known {
            self.outdated.remove(&id);
        } else {
            self.outdated.insert(id);
            self.wake.notify_one();
        }
    }
}

impl State {
    fn put(&mut self, id: LinkId, link: Arc<Link>) -> bool {
        let is_new = self.links.insert(id, link).is_none();
        if is_new {
            self.note(id, true);
        }
        is_new
    }

    fn remove(&mut self, id: LinkId) -> bool {
        let was_known = self.links.remove(&id).is_some();
        if was_known {
            self.note(id, false);
        }
        was_known
    }

    fn note(&mut self, id: LinkId, is_known: bool) {
        for told in self.watchers.values_mut() {
            told.note(id, is_known);
        }
    }
}

impl Known {
    /// Adds a link; returns whether it is new.
    pub(super) fn put(&self, id: LinkId, link: Arc<Link>) -> bool {
        self.0.lock().put(id, link)
    }

    /// Removes a link; returns whether it was known.
    pub(super) fn remove(&self, id: LinkId) -> bool {
        self.0.lock().remove(id)
    }

    /// Replaces all links. Compares all of them, so use it for lists only.
    pub(super) fn replace(&self, links: &Links) {
        let mut state = self.0.lock();
        let gone: Vec<_> = (state.links.keys().copied())
            .filter(|id| !links.contains_key(id))
            .collect();
        for id in gone {
            state.remove(id);
        }
        for (id, link) in links {
            state.put(*id, Arc::clone(link));
        }
    }

    /// Whether the link is known.
    pub(super) fn contains(&self, id: LinkId) -> bool {
        self.0.lock().links.contains_key(&id)
    }

    /// All links, by id.
    pub(super) fn list(&self) -> Vec<Arc<Link>> {
        self.0.lock().links.values().cloned().collect()
    }

    /// Streams the known links, and then the changes. The stream holds `source`, the tasks that
    /// keep the links up to date.
    pub(super) fn watch(&self, source: impl Send + 'static) -> BoxStream<'static, Change> {
        let watcher = Watcher::new(self.clone());
        stream::unfold((watcher, source), async |(watcher, source)| {
            let changes = watcher.changes().await;
            Some((stream::iter(changes), (watcher, source)))
        })
        .flatten()
        .boxed()
    }
}

/// One stream of changes.
struct Watcher {
    known: Known,
    key: u64,
    wake: Arc<Notify>,
}

impl Watcher {
    fn new(known: Known) -> Watcher {
        let wake = Arc::default();
        let mut state = known.0.lock();
        state.last_key += 1;
        let key = state.last_key;
        let told = Told {
            outdated: state.links.keys().copied().collect(),
            wake: Arc::clone(&wake),
            ..Told::default()
        };
        state.watchers.insert(key, told);
        drop(state);
        Watcher { known, key, wake }
    }

    /// The changes since the last call, removals first; waits for one.
    async fn changes(&self) -> Vec<Change> {
        loop {
            let changes = self.untold();
            if !changes.is_empty() {
                return changes;
            }
            self.wake.notified().await;
        }
    }

    /// Takes the changes that the watcher was not notified of yet.
    fn untold(&self) -> Vec<Change> {
        let mut state = self.known.0.lock();
        let State {
            links, watchers, ..
        } = &mut *state;
        let Some(told) = watchers.get_mut(&self.key) else {
            return Vec::new();
        };
        let (mut changes, mut put) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut told.outdated) {
            match links.get(&id) {
                Some(link) => {
                    told.links.insert(id);
                    put.push(Change::Put(Arc::clone(link)));
                }
                None => {
                    told.links.remove(&id);
                    changes.push(Change::Removed(id));
                }
            }
        }
        changes.append(&mut put);
        changes
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let told = self.known.0.lock().watchers.remove(&self.key);
        // Dropped after the lock is released, because it may be large.
        drop(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(count: usize) -> Vec<Arc<Link>> {
        let link = |number| Arc::new(Link::new(format!("image-{number}")));
        (0..count).map(link).collect()
    }

    fn outdated(known: &Known) -> usize {
        let state = known.0.lock();
        state
            .watchers
            .values()
            .map(|told| told.outdated.len())
            .sum()
    }

    #[tokio::test]
    async fn a_watcher_holds_no_more_than_what_differs_from_what_it_was_told() {
        let known = Known::default();
        let watcher = Watcher::new(known.clone());
        let links = links(1_000);
        for link in &links {
            known.put(link.id(), Arc::clone(link));
            assert!(outdated(&known) <= 1);
            known.remove(link.id());
        }
        assert_eq!(outdated(&known), 0);
        known.put(links[0].id(), Arc::clone(&links[0]));
        assert_eq!(
            watcher.changes().await,
            [Change::Put(Arc::clone(&links[0]))]
        );
        drop(watcher);
        assert!(known.0.lock().watchers.is_empty());
    }

    #[tokio::test]
    async fn a_change_does_not_look_at_the_links_that_stay() {
        // Looking at all of them each time would take many minutes.
        let known = Known::default();
        let (links, other) = (links(20_000), Arc::new(Link::new("other")));
        for link in &links {
            known.put(link.id(), Arc::clone(link));
        }
        let watcher = Watcher::new(known.clone());
        assert_eq!(watcher.changes().await.len(), links.len());
        for _ in 0..20_000 {
            known.put(other.id(), Arc::clone(&other));
            assert_eq!(watcher.changes().await, [Change::Put(Arc::clone(&other))]);
            known.remove(other.id());
            assert_eq!(watcher.changes().await, [Change::Removed(other.id())]);
        }
    }

    #[tokio::test]
    async fn a_list_changes_only_what_differs() {
        let known = Known::default();
        let links = links(3);
        let of = |links: &[Arc<Link>]| {
            let links = links.iter().map(|link| (link.id(), Arc::clone(link)));
            links.collect::<Links>()
        };
        known.replace(&of(&links[..2]));
        let watcher = Watcher::new(known.clone());
        assert_eq!(watcher.changes().await.len(), 2);
        known.replace(&of(&links[1..]));
        assert_eq!(
            watcher.changes().await,
            [
                Change::Removed(links[0].id()),
                Change::Put(Arc::clone(&links[2]))
            ]
        );
    }
}
