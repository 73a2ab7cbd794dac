//! From what is known to what a watcher is told.
//!
//! A watcher keeps what it has told, and compares that with what is known: so
//! it holds no queue that could grow, and however slow it is, what it tells
//! last is true.

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::{Link, LinkId};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use super::Change;

/// The links that are known.
pub(super) type Links = BTreeMap<LinkId, Arc<Link>>;

/// What changes in `known`, from nothing on. `source`, which keeps it up to
/// date, is held for as long as the stream is.
pub(super) fn changes(
    known: watch::Receiver<Links>,
    source: impl Send + 'static,
) -> BoxStream<'static, Change> {
    let watcher = Watcher {
        known,
        told: Links::new(),
    };
    stream::unfold((watcher, source), async |(mut watcher, source)| {
        let changes = watcher.changes().await?;
        Some((stream::iter(changes), (watcher, source)))
    })
    .flatten()
    .boxed()
}

/// One stream of changes.
struct Watcher {
    known: watch::Receiver<Links>,
    /// What its reader takes for true once it has read the last changes.
    told: Links,
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

    #[tokio::test]
    async fn a_watcher_holds_no_more_than_one_change_a_link() {
        let link = Arc::new(Link::new("busybox"));
        let known = watch::Sender::new(Links::new());
        let mut watcher = Watcher {
            known: known.subscribe(),
            told: Links::new(),
        };
        for _ in 0..1_000 {
            known.send_modify(|links| drop(links.insert(link.id(), Arc::clone(&link))));
            known.send_modify(Links::clear);
        }
        known.send_modify(|links| drop(links.insert(link.id(), Arc::clone(&link))));
        assert_eq!(watcher.changes().await.unwrap(), [Change::Put(link)]);
    }
}
