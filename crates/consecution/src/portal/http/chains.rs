//! The chains that are offered at one time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::metrics::{ChainMetrics, Metrics};
use crate::portal::Portal;

/// A chain that is offered.
pub(super) struct Offered {
    pub(super) portal: Portal,
    pub(super) metrics: Arc<ChainMetrics>,
}

impl Offered {
    pub(super) fn new(portal: Portal, metrics: &Metrics) -> Offered {
        Offered {
            metrics: metrics.of_chain(portal.chain()),
            portal,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.portal.chain().name
    }
}

/// All of them; others take their place as a whole. A request goes on with those
/// that it has found.
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

    pub(super) fn all(&self) -> &[Offered] {
        &self.all
    }

    /// The one that is also found at `/`.
    pub(super) fn first(&self) -> Option<&Offered> {
        self.all.first()
    }

    pub(super) fn find(&self, name: &str) -> Option<&Offered> {
        self.by_name.get(name).and_then(|at| self.all.get(*at))
    }
}
