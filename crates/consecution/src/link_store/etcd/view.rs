//! What a watcher of the links takes for true, as plain data.

use std::collections::BTreeSet;
use std::sync::Arc;

use chain::{Link, LinkId};

use crate::link_store::changes::Links;

/// Where the data that a server gave stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The cluster that it came from.
    pub(super) cluster: u64,
    /// How many changes that cluster's data has seen.
    pub(super) revision: i64,
}

impl Position {
    /// Whether data at `self`, that is got after data at `earlier`, continues
    /// it. If it does not, the earlier data was lost: the cluster is a new one,
    /// or was restored from a backup.
    pub(super) fn continues(self, earlier: Position) -> bool {
        self.cluster == earlier.cluster && self.revision >= earlier.revision
    }
}

/// The links that are known.
///
/// A link is forgotten when it was removed, not when etcd has lost its data: a
/// runner that goes on with a link that nobody uses does little harm, one that
/// drops links in use does much.
#[derive(Debug, Default)]
pub(super) struct View {
    position: Option<Position>,
    links: Links,
    /// Those that etcd held before it lost its data, and has not got again.
    kept: BTreeSet<LinkId>,
}

impl View {
    /// All that is known.
    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// The store holds exactly these links. Gives how many are kept that it has
    /// lost, if it has just lost its data.
    pub(super) fn listed(&mut self, position: Position, mut links: Links) -> Option<usize> {
        let earlier = self.position.replace(position);
        let has_lost_data = earlier.is_some_and(|earlier| !position.continues(earlier));
        if has_lost_data {
            self.kept = self.links.keys().copied().collect();
        }
        self.kept.retain(|id| !links.contains_key(id));
        for id in &self.kept {
            if let Some(link) = self.links.get(id) {
                links.insert(*id, Arc::clone(link));
            }
        }
        self.links = links;
        has_lost_data.then_some(self.kept.len())
    }

    /// Up to there, everything was told.
    pub(super) fn reached(&mut self, revision: i64) {
        if let Some(position) = &mut self.position {
            position.revision = position.revision.max(revision);
        }
    }

    /// The store holds this link.
    pub(super) fn put(&mut self, id: LinkId, link: Arc<Link>) {
        self.kept.remove(&id);
        self.links.insert(id, link);
    }

    /// The store does not hold this link any more.
    pub(super) fn removed(&mut self, id: LinkId) {
        self.kept.remove(&id);
        self.links.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Position = Position {
        cluster: 1,
        revision: 10,
    };

    fn links(images: &[&str]) -> Links {
        let links = images.iter().map(|image| Arc::new(Link::new(*image)));
        links.map(|link| (link.id(), link)).collect()
    }

    fn listed(position: Position, images: &[&str]) -> View {
        let mut view = View::default();
        assert_eq!(view.listed(position, links(images)), None);
        view
    }

    fn id(image: &str) -> LinkId {
        Link::new(image).id()
    }

    #[test]
    fn a_list_of_the_same_data_is_believed() {
        let mut view = listed(ONE, &["a", "b"]);
        let later = Position {
            revision: 12,
            ..ONE
        };
        assert_eq!(view.listed(later, links(&["b", "c"])), None);
        assert_eq!(*view.links(), links(&["b", "c"]));
    }

    #[test]
    fn events_are_believed() {
        let mut view = listed(ONE, &["a"]);
        view.put(id("b"), Arc::new(Link::new("b")));
        view.removed(id("a"));
        view.removed(id("never known"));
        assert_eq!(*view.links(), links(&["b"]));
    }

    #[test]
    fn links_outlive_the_loss_of_the_data() {
        let other_cluster = Position { cluster: 2, ..ONE };
        let older = Position { revision: 9, ..ONE };
        for position in [other_cluster, older] {
            let mut view = listed(ONE, &["a", "b"]);
            assert_eq!(view.listed(position, links(&[])), Some(2));
            assert_eq!(*view.links(), links(&["a", "b"]));
            // A portal puts its link; what others use is kept still.
            view.put(id("a"), Arc::new(Link::new("a")));
            assert_eq!(view.listed(position, links(&["a"])), None);
            assert_eq!(*view.links(), links(&["a", "b"]));
        }
    }

    #[test]
    fn a_kept_link_that_is_put_again_can_be_removed() {
        let other = Position { cluster: 2, ..ONE };
        let mut view = listed(ONE, &["a", "b"]);
        view.listed(other, links(&["a"]));
        view.removed(id("a"));
        assert_eq!(*view.links(), links(&["b"]));
        view.listed(other, links(&["b"]));
        view.listed(other, links(&[]));
        assert_eq!(*view.links(), links(&[]));
    }

    #[test]
    fn what_the_events_reached_counts_too() {
        let mut view = listed(ONE, &["a"]);
        view.reached(20);
        view.reached(15);
        let older = Position {
            revision: 19,
            ..ONE
        };
        assert_eq!(view.listed(older, links(&[])), Some(1));
    }
}
