//! The links that a watcher knows, as plain data.

use std::collections::BTreeSet;
use std::sync::Arc;

use chain::{Link, LinkId};

use crate::link_store::changes::Links;

/// The cluster and the revision of data that etcd returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The id of the cluster.
    pub(super) cluster: u64,
    /// The revision: how many changes the cluster has made.
    pub(super) revision: i64,
}

impl Position {
    /// Whether data at `self`, read after data at `earlier`, continues it. If not, the earlier
    /// data was lost: the cluster is a new one, or was restored from a backup.
    pub(super) fn continues(self, earlier: Position) -> bool {
        self.cluster == earlier.cluster && self.revision >= earlier.revision
    }
}

/// The known links.
///
/// A link is forgotten when it is removed, but not when etcd has lost its data: a runner that
/// still serves an unused link does little harm, while one that drops links in use does
/// much.
#[derive(Debug, Default)]
pub(super) struct View {
    position: Option<Position>,
    links: Links,
    /// The links that etcd had before it lost its data, and has not got again.
    kept: BTreeSet<LinkId>,
}

impl View {
    /// The known links.
    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// etcd was listed, and has exactly these links. If it has just lost its data, returns how
    /// many links are kept that it no longer has.
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

    /// All changes up to this revision have been applied.
    pub(super) fn reached(&mut self, revision: i64) {
        if let Some(position) = &mut self.position {
            position.revision = position.revision.max(revision);
        }
    }

    /// etcd has this link now.
    pub(super) fn put(&mut self, id: LinkId, link: Arc<Link>) {
        self.kept.remove(&id);
        self.links.insert(id, link);
    }

    /// etcd no longer has this link.
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
