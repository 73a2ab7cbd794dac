//! Keeps the links of all chains that a portal offers known to a link store, and
//! says there what it offers.
//!
//! It does not trust that a store keeps what it was given: now and then it asks
//! which of the links are missing there, and has those put again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chain::LinkId;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Portal;
use super::publish::Publication;
use crate::backoff::Backoff;
use crate::link_store::{LinkStore, MISSING_MAX, OfferedLink, PortalState, Registration};
use crate::log_batch::LogBatch;

/// How often to ask which links are missing, at most; jittered.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long to rest after each question: so a portal asks about a hundred links a
/// second at most, and for one with more than a thousand a look takes longer.
const LOOK_REST: Duration = Duration::from_millis(300);

/// Keeps links known for as long as it is held. They stay known after that,
/// since others may use them.
pub struct Publisher {
    store: Arc<dyn LinkStore>,
    /// What each chain's links are put by; ended when dropped.
    publishing: Vec<(Portal, JoinSet<Infallible>)>,
    republished: Arc<LogBatch>,
    offered: watch::Sender<Arc<[Portal]>>,
    state: watch::Sender<PortalState>,
    announcement: Registration,
    _looking: JoinSet<Infallible>,
}

impl Publisher {
    /// Publishes the links of these chains, however long the store is out of
    /// reach, and those again that it loses. `name` is the portal's, and unique.
    /// Needs a tokio runtime.
    pub fn start(store: Arc<dyn LinkStore>, name: &str, portals: &[Portal]) -> Publisher {
        let (state, said) = watch::channel(state(portals));
        let announcement = store.announce_portal(name, said);
        let (offered, to_look_at) = watch::channel(Arc::from(portals));
        let mut looking = JoinSet::new();
        looking.spawn(look_now_and_then(to_look_at, Arc::clone(&store)));
        let republished = LogBatch::new(|batch| {
            tracing::info!(
                "published {} again, which the link store did not have any more: {batch}",
                batch.links()
            );
        });
        let mut publisher = Publisher {
            store,
            publishing: Vec::new(),
            republished,
            offered,
            state,
            announcement,
            _looking: looking,
        };
        publisher.publish(portals);
        publisher
    }

    /// From now on these chains are offered, and no others.
    pub fn offer(&mut self, portals: &[Portal]) {
        self.publishing
            .retain(|(kept, _)| portals.iter().any(|portal| portal.is(kept)));
        self.publish(portals);
        self.offered.send_replace(Arc::from(portals));
        self.state.send_replace(state(portals));
    }

    /// Ends, and waits until the store has forgotten that the portal was there;
    /// for some seconds at most.
    pub async fn withdraw(self) {
        let Publisher { announcement, .. } = self;
        announcement.withdraw().await;
    }

    /// Begins with those that are new.
    fn publish(&mut self, portals: &[Portal]) {
        for portal in portals {
            if self.publishing.iter().any(|(kept, _)| portal.is(kept)) {
                continue;
            }
            let publishing = Arc::clone(&portal.publishing);
            let (store, republished) = (Arc::clone(&self.store), Arc::clone(&self.republished));
            let mut task = JoinSet::new();
            task.spawn(async move { publishing.keep(&*store, &republished).await });
            self.publishing.push((portal.clone(), task));
        }
    }
}

/// What a portal that offers these says of itself.
fn state(portals: &[Portal]) -> PortalState {
    let chains = portals.iter().map(|portal| {
        let links = portal.chain().links.iter().map(|link| OfferedLink {
            id: link.id.to_string(),
            name: link.name.clone(),
        });
        (portal.chain().name.clone(), links.collect())
    });
    PortalState {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        chains: chains.collect(),
        is_incomplete: false,
    }
}

async fn look_now_and_then(
    offered: watch::Receiver<Arc<[Portal]>>,
    store: Arc<dyn LinkStore>,
) -> Infallible {
    let mut pause = Backoff::new(LOOK_EVERY, LOOK_EVERY);
    loop {
        sleep(pause.next()).await;
        let portals = Arc::clone(&offered.borrow());
        look(&portals, &*store).await;
    }
}

/// Asks which links the store does not have, and has the chains that use them
/// published again.
async fn look(portals: &[Portal], store: &dyn LinkStore) {
    let mut users: BTreeMap<LinkId, Vec<&Portal>> = BTreeMap::new();
    for portal in portals {
        // The others are on their way.
        if *portal.publication().borrow() != Publication::Done {
            continue;
        }
        for link in &portal.chain().links {
            users.entry(link.id).or_default().push(portal);
        }
    }
    let ids: Vec<LinkId> = users.keys().copied().collect();
    for (index, ids) in ids.chunks(MISSING_MAX).enumerate() {
        if index > 0 {
            sleep(LOOK_REST).await;
        }
        let missing = match store.missing(ids).await {
            Ok(missing) => missing,
            // What does not answer was said by whoever asks.
            Err(error) => {
                tracing::debug!("failed to look for lost links: failed to {error}");
                return;
            }
        };
        for portal in missing.iter().filter_map(|id| users.get(id)).flatten() {
            portal.publishing.miss();
        }
    }
}
