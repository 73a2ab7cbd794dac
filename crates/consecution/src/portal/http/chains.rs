//! The chains that are offered at present.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::metrics::{ChainMetrics, Metrics};
use crate::portal::Portal;

/// An offered chain.
pub(super) struct Offered {
    pub(super) portal: Portal,
    pub(super) metrics: Arc<ChainMetrics>,
    was_seen_ready: AtomicBool,
}

impl Offered {
    pub(super) fn new(portal: Portal, metrics: &Metrics) -> Offered {
        Offered {
            metrics: metrics.of_chain(portal.chain()),
            portal,
            was_seen_ready: AtomicBool::new(false),
        }
    }

    /// Whether all of its links could be called at one time before.
    pub(super) fn was_seen_ready(&self) -> bool {
        self.was_seen_ready.load(Ordering::Acquire)
    }

    pub(super) fn set_seen_ready(&self) {
        self.was_seen_ready.store(true, Ordering::Release);
    }

    pub(super) fn name(&self) -> &str {
        &self.portal.chain().name
    }
}

/// All offered chains. They are only replaced as a whole; a request continues with those that
/// it began with.
pub(super) struct Chains {
    all: Vec<Offered>,
    by_name: BTreeMap<String, usize>,
}

impl Chains {
    pub(super) fn new(portals: Vec<Portal>, metrics: &Metrics) -> Chains {
        let all = portals
            .into_iter()
            .map(|portal| Offered::new(portal, metrics));
        let all: Vec<_> = all.collect();
        let names = all.iter().enumerate();
        let names = names.map(|(at, offered)| (offered.name().to_owned(), at));
        Chains {
            by_name: names.collect(),
            all,
        }
    }

    /// Takes over what is known of the replaced chains. A new chain counts as seen: otherwise a
    /// broken one would take this process out of service, and every other portal too.
    pub(super) fn taking_over_from(self, before: &Chains) -> Chains {
        for offered in &self.all {
            let is_known = |before: &Offered| before.was_seen_ready();
            if before.find(offered.name()).is_none_or(is_known) {
                offered.set_seen_ready();
            }
        }
        self
    }

    pub(super) fn all(&self) -> &[Offered] {
        &self.all
    }

    /// The first chain, which is also offered at `/`.
    pub(super) fn first(&self) -> Option<&Offered> {
        self.all.first()
    }

    pub(super) fn find(&self, name: &str) -> Option<&Offered> {
        self.by_name.get(name).and_then(|at| self.all.get(*at))
    }
}
