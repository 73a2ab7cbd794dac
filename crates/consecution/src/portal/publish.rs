//! Puts a chain's links into the link store, and again if the store loses them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chain::{Chain, ChainLink};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::error::with_causes;
use crate::link_store::{LinkStore, LinkStoreError, MISSING_MAX, RETRY_WAIT_MAX, RETRY_WAIT_MIN};
use crate::log_batch::LogBatch;
use crate::log_on_change::LogOnChange;

/// The most links that are put at the same time: enough that a chain of many is known
/// soon, and no more than a store takes beside what others ask of it.
const PUTS_MAX: usize = 16;

/// The shortest and the longest pause between two checks for links that the store has
/// lost. It grows while links are missed again and again though the store has all of them.
const LOOK_REST_MIN: Duration = Duration::from_millis(100);
const LOOK_REST_MAX: Duration = Duration::from_secs(10);

/// How long a call that has found no runner waits for the result of a check.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(1);

/// Whether a chain's links have been put into the link store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// Not yet. The reason is a lower-case fragment.
    Waiting(Arc<str>),
    /// All links are in the store.
    Done,
}

/// The state of publishing a chain's links.
pub(super) struct Publishing {
    chain: Arc<Chain>,
    state: watch::Sender<Publication>,
    /// Notified when a call or `/readyz` has found a link missing.
    missed: Notify,
    looks: watch::Sender<Looks>,
    /// For each link, whether a runner has served it since it was last missed.
    served: Box<[AtomicBool]>,
    /// Notified when such a link is missed again: the last check's result is out of date.
    outdated: Notify,
}

/// The checks for links that the store has lost.
#[derive(Debug, Clone, Copy, Default)]
struct Looks {
    begun: u64,
    done: u64,
    /// The next check starts as soon as a link is missed: the pause is over.
    is_ready: bool,
    /// When links were last put again.
    put_at: Option<Instant>,
}

impl Publishing {
    pub(super) fn new(chain: Arc<Chain>) -> Publishing {
        let waiting = Publication::Waiting("nobody has asked for it".into());
        Publishing {
            state: watch::Sender::new(waiting),
            missed: Notify::new(),
            looks: watch::Sender::default(),
            served: chain.links.iter().map(|_| AtomicBool::new(false)).collect(),
            outdated: Notify::new(),
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

    /// Starts a check: no runner serves one of the links, or the store does not have it.
    /// If one link was lost, others may have been lost too.
    pub(super) fn miss(&self) {
        self.missed.notify_one();
    }

    /// Records that a runner serves these links of the chain.
    pub(super) fn note_served(&self, links: RangeInclusive<usize>) {
        for served in self.served.get(links).into_iter().flatten() {
            served.store(true, Ordering::Relaxed);
        }
    }

    /// Like [`miss`](Self::miss), for a call that has found no runner for `link`. Waits
    /// for a check, unless there was one since the link was last served. Returns when lost
    /// links were last put again, if ever: runners are about to serve those.
    pub(super) async fn heal(&self, link: usize) -> Option<Instant> {
        let now = Instant::now();
        let was_served = |served: &AtomicBool| served.swap(false, Ordering::Relaxed);
        let is_outdated = self.served.get(link).is_some_and(was_served);
        let mut looks = self.looks.subscribe();
        let wanted = {
            let looks = looks.borrow();
            (looks.is_ready || is_outdated).then_some(looks.begun + 1)
        };
        self.miss();
        if is_outdated {
            self.looks.send_modify(|looks| looks.is_ready = true);
            self.outdated.notify_one();
        }
        if let Some(wanted) = wanted {
            let looked = looks.wait_for(|looks| looks.done >= wanted || looks.put_at >= Some(now));
            // Even if the check was not over in time, the state has the last known result.
            drop(timeout(LOOK_WAIT_MAX, looked).await);
        }
        self.looks.borrow().put_at
    }

    /// Puts all links, retrying until that works; then, whenever a link is missed, puts
    /// those that the store has lost. Never returns.
    pub(super) async fn keep(
        &self,
        store: &dyn LinkStore,
        republished: &Arc<LogBatch>,
    ) -> Infallible {
        let name = &self.chain.name;
        let mut backoff = Backoff::new(RETRY_WAIT_MIN, RETRY_WAIT_MAX);
        while let Err(error) = self.publish(store).await {
            self.wait(&with_causes(&error));
            sleep(backoff.next()).await;
        }
        tracing::info!(chain = name, "the links of chain '{name}' are published");
        let mut log = LogOnChange::default();
        let mut rest = Backoff::new(LOOK_REST_MIN, LOOK_REST_MAX);
        loop {
            self.looks.send_modify(|looks| looks.is_ready = true);
            let quiet_since = Instant::now();
            self.missed.notified().await;
            if quiet_since.elapsed() >= LOOK_REST_MAX {
                rest.reset();
            }
            self.looks.send_modify(|looks| looks.begun += 1);
            let put = self.put_missing(store).await;
            let has_put = put.as_ref().is_ok_and(|put| !put.is_empty());
            self.looks.send_modify(|looks| {
                looks.done = looks.begun;
                looks.is_ready = false;
                looks.put_at = has_put.then(Instant::now).or(looks.put_at);
            });
            match put {
                Ok(put) => {
                    log.forget();
                    for link in put {
                        republished.add(format!("{name}/{}", link.name));
                    }
                }
                Err(error) => {
                    let error = with_causes(&error);
                    if log.lets(&error) {
                        tracing::warn!(
                            chain = name,
                            "failed to publish links of chain '{name}' again: failed to {error}"
                        );
                    }
                    self.miss();
                }
            }
            let outdated = async {
                sleep(LOOK_REST_MIN).await;
                self.outdated.notified().await;
            };
            if timeout(rest.next(), outdated).await.is_ok() {
                rest.reset();
            }
        }
    }

    /// Puts the links that the store does not have, and returns them. Asks the store
    /// first: that costs it less than putting links that it has.
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

    /// Records why the links are not published yet, and logs the reason if it is new.
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

/// Puts these links, [`PUTS_MAX`] at a time.
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
