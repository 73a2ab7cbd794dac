//! Makes a chain's links known, and known again where a store has lost them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chain::{Chain, Link};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::link_store::{LinkStore, LinkStoreError};

/// How many links are put at a time.
const PUTS_MAX: usize = 16;

/// How long to wait before a store is tried again: at first, and at most.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(100);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long links that nobody serves are left alone once they were put again.
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
    /// Which links a call has found nobody for, in chain order.
    missed: Vec<AtomicBool>,
    /// There is one.
    missing: Notify,
}

impl Publishing {
    pub(super) fn new(chain: Arc<Chain>) -> Publishing {
        let waiting = Publication::Waiting("nobody has asked for it".into());
        Publishing {
            state: watch::Sender::new(waiting),
            missed: chain.links.iter().map(|_| AtomicBool::new(false)).collect(),
            missing: Notify::new(),
            chain,
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<Publication> {
        self.state.subscribe()
    }

    /// Puts all links.
    pub(super) async fn publish(&self, store: &dyn LinkStore) -> Result<(), LinkStoreError> {
        let links = self.chain.links.iter();
        put(store, links.map(|link| Arc::clone(&link.link)).collect()).await?;
        self.state.send_replace(Publication::Done);
        Ok(())
    }

    /// A call has found nobody for that link.
    pub(super) fn miss(&self, index: usize) {
        if let Some(missed) = self.missed.get(index) {
            missed.store(true, Ordering::Release);
            self.missing.notify_one();
        }
    }

    /// Puts all links until that has worked, and then those that are missed, for
    /// as long as it is polled.
    pub(super) async fn keep(&self, store: &dyn LinkStore) {
        let name = &self.chain.name;
        let mut backoff = Backoff::new(RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX);
        while let Err(error) = self.publish(store).await {
            self.wait(&error.to_string());
            sleep(backoff.next()).await;
        }
        tracing::info!(chain = name, "the links of chain '{name}' are published");
        loop {
            self.missing.notified().await;
            if let Err(error) = put(store, self.take_missed()).await {
                // The next call that misses one comes back to it.
                tracing::warn!(
                    chain = name,
                    "failed to publish links of chain '{name}' again: failed to {error}"
                );
            }
            sleep(AGAIN_WAIT).await;
        }
    }

    fn take_missed(&self) -> Vec<Arc<Link>> {
        let links = self.chain.links.iter().zip(&self.missed);
        links
            .filter(|(_, missed)| missed.swap(false, Ordering::AcqRel))
            .map(|(link, _)| Arc::clone(&link.link))
            .collect()
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
async fn put(store: &dyn LinkStore, links: Vec<Arc<Link>>) -> Result<(), LinkStoreError> {
    stream::iter(links.into_iter().map(|link| store.put(link)))
        .buffer_unordered(PUTS_MAX)
        .try_collect()
        .await
}
