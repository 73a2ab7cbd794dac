//! Makes a chain's links known, and known again where a store has lost them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chain::{Chain, ChainLink};
use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::link_store::{LinkStore, LinkStoreError, MISSING_MAX};
use crate::log_batch::LogBatch;

/// How many links are put at a time.
const PUTS_MAX: usize = 16;

/// How long to wait before a store is tried again: at first, and at most.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(100);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long a chain that nobody serves is left alone once it was published again.
const AGAIN_WAIT: Duration = Duration::from_secs(10);

/// Whether a chain's links have been made known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// Not yet, for this reason, a lower-case fragment.
    Waiting(Arc<str>),
    /// They have.
    Done,
}

/// A chain's links, on their way to the store.
pub(super) struct Publishing {
    chain: Arc<Chain>,
    state: watch::Sender<Publication>,
    /// Somebody has found a link missing.
    missed: Notify,
}

impl Publishing {
    pub(super) fn new(chain: Arc<Chain>) -> Publishing {
        let waiting = Publication::Waiting("nobody has asked for it".into());
        Publishing {
            state: watch::Sender::new(waiting),
            missed: Notify::new(),
            chain,
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<Publication> {
        self.state.subscribe()
    }

    /// Puts all links.
    pub(super) async fn publish(&self, store: &dyn LinkStore) -> Result<(), LinkStoreError> {
        put(store, self.chain.links.iter()).await?;
        self.state.send_replace(Publication::Done);
        Ok(())
    }

    /// Nobody serves one of the links, or the store does not have it: where one
    /// was lost, others may have been.
    pub(super) fn miss(&self) {
        self.missed.notify_one();
    }

    /// Puts all links until that has worked, and those that are missing when one
    /// is missed, for as long as it is polled.
    pub(super) async fn keep(
        &self,
        store: &dyn LinkStore,
        republished: &Arc<LogBatch>,
    ) -> Infallible {
        let name = &self.chain.name;
        let mut backoff = Backoff::new(RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX);
        while let Err(error) = self.publish(store).await {
            self.wait(&error.to_string());
            sleep(backoff.next()).await;
        }
        tracing::info!(chain = name, "the links of chain '{name}' are published");
        let mut said = String::new();
        loop {
            self.missed.notified().await;
            let put = self.put_missing(store).await;
            // What was missed until now has been seen to.
            self.missed.notified().now_or_never();
            match put {
                Ok(put) => {
                    said.clear();
                    for link in put {
                        republished.add(format!("{name}/{}", link.name));
                    }
                }
                Err(error) => {
                    // As long as nothing changes, there is nothing more to say.
                    let error = error.to_string();
                    if said != error {
                        tracing::warn!(
                            chain = name,
                            "failed to publish links of chain '{name}' again: failed to {error}"
                        );
                        said = error;
                    }
                    self.miss();
                }
            }
            sleep(AGAIN_WAIT).await;
        }
    }

    /// Puts the links that the store does not have, and gives those. It is asked
    /// first, since that costs it less than a put of what is there.
    async fn put_missing(&self, store: &dyn LinkStore) -> Result<Vec<&ChainLink>, LinkStoreError> {
        let by_id: BTreeMap<_, _> = self
            .chain
            .links
            .iter()
            .map(|link| (link.id, link))
            .collect();
        let ids: Vec<_> = by_id.keys().copied().collect();
        let mut missing = Vec::new();
        for ids in ids.chunks(MISSING_MAX) {
            let found = store.missing(ids).await?;
            missing.extend(found.iter().filter_map(|id| by_id.get(id).copied()));
        }
        put(store, missing.iter().copied()).await?;
        Ok(missing)
    }

    /// Takes note of what it waits for, and says so if that is new.
    fn wait(&self, error: &str) {
        let waiting = Publication::Waiting(format!("failed to {error}").into());
        let is_new = self.state.send_if_modified(|state| {
            let is_new = *state != waiting;
            *state = waiting;
            is_new
        });
        if is_new {
            let name = &self.chain.name;
            tracing::warn!(
                chain = name,
                "waiting to publish the links of chain '{name}': failed to {error}"
            );
        }
    }
}

/// Puts these links, several at a time.
async fn put(
    store: &dyn LinkStore,
    links: impl Iterator<Item = &ChainLink>,
) -> Result<(), LinkStoreError> {
    let puts: Vec<_> = links
        .map(|link| store.put(Arc::clone(&link.link)))
        .collect();
    let puts = stream::iter(puts).buffer_unordered(PUTS_MAX);
    puts.try_for_each(async |_is_new| Ok(())).await
}
