//! Makes a chain's links known, and known again where a store has lost them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chain::Chain;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::link_store::{LinkStore, LinkStoreError};
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
        self.put(store).await?;
        self.state.send_replace(Publication::Done);
        Ok(())
    }

    /// Nobody serves one of the links, or the store does not have it: where one
    /// was lost, others may have been.
    pub(super) fn miss(&self) {
        self.missed.notify_one();
    }

    /// Puts all links until that has worked, and again when one is missed, for as
    /// long as it is polled. What is there is not put, so that runners hear only
    /// of what was lost.
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
            match self.put(store).await {
                Ok(new) => {
                    said.clear();
                    for link in new {
                        republished.add(format!("{name}/{link}"));
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

    /// Puts all links, several at a time; gives the names of those that were not
    /// there.
    async fn put(&self, store: &dyn LinkStore) -> Result<Vec<&str>, LinkStoreError> {
        let puts = self.chain.links.iter().map(|link| async {
            let is_new = store.put(Arc::clone(&link.link)).await?;
            Ok(is_new.then_some(link.name.as_str()))
        });
        let puts: Vec<_> = puts.collect();
        let new = stream::iter(puts).buffer_unordered(PUTS_MAX);
        new.try_filter_map(async |name| Ok(name))
            .try_collect()
            .await
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
