//! Keeps the links of all of a portal's chains in the link store, and publishes there
//! which chains the portal serves.
//!
//! A store may lose its data. So the publisher regularly asks the store which links are
//! missing, and puts these again.

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
use crate::error::with_causes;
use crate::link_store::{LinkStore, MISSING_MAX, OfferedLink, PortalState, Registration};
use crate::log_batch::LogBatch;

/// The longest time between two checks for missing links; jittered.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The pause after each question of a check: so a portal asks about at most a hundred
/// links a second, and the check of a portal with more than a thousand links takes longer
/// than [`LOOK_EVERY`].
const LOOK_REST: Duration = Duration::from_millis(300);

/// Keeps links in the store until it is dropped. After that the links stay in the store,
/// because others may use them, but are not put again.
pub struct Publisher {
    store: Arc<dyn LinkStore>,
    /// The task that puts each chain's links; dropping it ends the task.
    publishing: Vec<(Portal, JoinSet<Infallible>)>,
    republished: Arc<LogBatch>,
    offered: watch::Sender<Arc<[Portal]>>,
    state: watch::Sender<PortalState>,
    announcement: Registration,
    _looking: JoinSet<Infallible>,
}

impl Publisher {
    /// Publishes the links of these chains, retrying for as long as the store cannot be
    /// reached, and puts links again that the store loses. `name` is the portal's unique
    /// name. Needs a tokio runtime.
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

    /// Replaces the chains that the portal serves.
    pub fn offer(&mut self, portals: &[Portal]) {
        self.publishing
            .retain(|(kept, _)| portals.iter().any(|portal| portal.is(kept)));
        self.publish(portals);
        self.offered.send_replace(Arc::from(portals));
        self.state.send_replace(state(portals));
    }

    /// Stops publishing, and waits, for some seconds at most, until the store has deleted
    /// the portal's state.
    pub async fn withdraw(self) {
        let Publisher { announcement, .. } = self;
        announcement.withdraw().await;
    }

    /// Starts to publish the links of chains that are new.
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

/// The state that a portal with these chains publishes.
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

/// Asks which links the store does not have, and has the chains that use them put these
/// again.
async fn look(portals: &[Portal], store: &dyn LinkStore) {
    let mut users: BTreeMap<LinkId, Vec<&Portal>> = BTreeMap::new();
    for portal in portals {
        // The links of other chains are still being put for the first time.
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
            // The connection already logs that the store does not answer.
            Err(error) => {
                let error = with_causes(&error);
                tracing::debug!("failed to look for lost links: failed to {error}");
                return;
            }
        };
        for portal in missing.iter().filter_map(|id| users.get(id)).flatten() {
            portal.publishing.miss();
        }
    }
}
