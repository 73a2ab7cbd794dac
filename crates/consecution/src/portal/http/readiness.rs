//! Whether all chains can be run, as `/readyz` shows it.
//!
//! It asks about all links at the same time, waits only so long, and gives the
//! same answer to everybody who asks within a second: however often that is,
//! runners hear little of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chain::LinkId;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::Offered;
use crate::portal::Publication;
use crate::transport::{RefusalReason, Transport};

/// How long to wait for what is known of the links.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(1);

/// How many links are asked about at a time.
const LOOKS_MAX: usize = 256;

/// How old an answer may be.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// Knows which links can be called.
pub trait Links: Send + Sync {
    /// How it is with that link now.
    fn state(&self, id: LinkId) -> BoxFuture<'_, LinkState>;
}

/// Whether a link can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// It can.
    Served,
    /// It cannot, for this reason, a lower-case fragment.
    Missing(String),
}

/// The links that a transport reaches, wherever their runners are.
pub struct Probed(Arc<dyn Transport>);

impl Probed {
    /// Those of that transport.
    pub fn new(transport: Arc<dyn Transport>) -> Probed {
        Probed(transport)
    }
}

impl Links for Probed {
    fn state(&self, id: LinkId) -> BoxFuture<'_, LinkState> {
        let probing = self.0.probe(id);
        let state = probing.map(|probed| match probed {
            Ok(()) => LinkState::Served,
            Err(reason) => LinkState::Missing(reason.to_string()),
        });
        state.boxed()
    }
}

/// What keeps chains from being run.
pub(super) struct Readiness {
    links: Arc<dyn Links>,
    /// What was found last, and when. Held while it is found out, so that this
    /// is done once however many ask.
    found: Mutex<Option<(Instant, Arc<[Missing]>)>>,
}

/// A link that cannot be called.
#[derive(Debug, Serialize)]
pub(super) struct Missing {
    chain: String,
    link_index: usize,
    link_name: String,
    reason: String,
}

impl Readiness {
    pub(super) fn new(links: Arc<dyn Links>) -> Readiness {
        Readiness {
            links,
            found: Mutex::new(None),
        }
    }

    /// The links of these chains that cannot be called.
    pub(super) async fn missing(&self, chains: &[Offered]) -> Arc<[Missing]> {
        let mut found = self.found.lock().await;
        if let Some((at, missing)) = &*found
            && at.elapsed() < ANSWER_AGE_MAX
        {
            return Arc::clone(missing);
        }
        let missing: Arc<[Missing]> = self.look(chains).await.into();
        *found = Some((Instant::now(), Arc::clone(&missing)));
        missing
    }

    /// What is known of why nobody serves a link, beyond that.
    pub(super) async fn why_unserved(
        &self,
        chains: &[Offered],
        chain: &str,
        link_index: usize,
    ) -> Option<String> {
        let missing = self.missing(chains).await;
        let is_it = |missing: &&Missing| missing.chain == chain && missing.link_index == link_index;
        let reason = &missing.iter().find(is_it)?.reason;
        let said = RefusalReason::NoRunner.to_string();
        let more = reason.strip_prefix(&said).unwrap_or(reason);
        let more = more.trim_start_matches("; ");
        (!more.is_empty()).then(|| more.to_owned())
    }

    async fn look(&self, chains: &[Offered]) -> Vec<Missing> {
        let links = chains
            .iter()
            .flat_map(|offered| &offered.portal.chain().links);
        let ids: BTreeSet<_> = links.map(|link| link.id).collect();
        let reasons = self.reasons(ids).await;
        let mut missing = Vec::new();
        for offered in chains {
            let chain = offered.portal.chain();
            let publication = offered.portal.publication();
            for (link_index, link) in chain.links.iter().enumerate() {
                let Some(reason) = reasons.get(&link.id) else {
                    continue;
                };
                let reason = match &*publication.borrow() {
                    Publication::Done => reason.clone(),
                    Publication::Waiting(why) => {
                        format!("{reason}; it is not published yet: {why}")
                    }
                };
                missing.push(Missing {
                    chain: chain.name.clone(),
                    link_index,
                    link_name: link.name.clone(),
                    reason,
                });
            }
        }
        missing
    }

    /// Why links cannot be called, for those which cannot.
    async fn reasons(&self, ids: BTreeSet<LinkId>) -> BTreeMap<LinkId, String> {
        let until = Instant::now() + LOOK_WAIT_MAX;
        let looks = ids.into_iter().map(|id| async move {
            match timeout_at(until, self.links.state(id)).await {
                Ok(LinkState::Served) => None,
                Ok(LinkState::Missing(reason)) => Some((id, reason)),
                Err(_) => Some((id, format!("nobody has answered for {LOOK_WAIT_MAX:?}"))),
            }
        });
        let looks = stream::iter(looks).buffer_unordered(LOOKS_MAX);
        looks.filter_map(std::future::ready).collect().await
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Metrics;
    use super::*;
    use crate::link_store::memory::Memory;
    use crate::portal::Portal;
    use crate::transport::conformance::fake;
    use crate::transport::in_process::InProcess;
    use chain::{Chain, ChainLink, Link};
    use futures_util::future::{join_all, pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn chain(links: usize) -> Chain {
        let link = |index| Link {
            command: Some(format!("/bin/{index}")),
            ..Link::new("fake")
        };
        Chain {
            name: "test".to_owned(),
            deadline: chain::Deadline::None,
            links: (0..links)
                .map(|index| ChainLink::new(link(index)))
                .collect(),
        }
    }

    fn offered(portal: &Portal) -> [Offered; 1] {
        let metrics = Metrics::new(&mut crate::http::registry());
        [Offered {
            metrics: metrics.of_chain(portal.chain()),
            portal: portal.clone(),
        }]
    }

    fn reasons(missing: &[Missing]) -> Vec<(usize, &str)> {
        let missing = missing.iter();
        missing
            .map(|missing| (missing.link_index, missing.reason.as_str()))
            .collect()
    }

    /// Says nothing about any link.
    #[derive(Default)]
    struct Silent(AtomicUsize);

    impl Links for Silent {
        fn state(&self, _: LinkId) -> BoxFuture<'_, LinkState> {
            self.0.fetch_add(1, Ordering::SeqCst);
            pending().boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn links_anywhere_are_missing_until_they_are_served() {
        let transport = InProcess::new();
        let portal = Portal::new(chain(2), Arc::new(transport.clone())).unwrap();
        let ids = [0, 1].map(|index| portal.chain().links[index].id);
        let _first = transport.serve(ids[0], fake::echo());
        let readiness = Readiness::new(Arc::new(Probed::new(Arc::new(transport.clone()))));
        let chains = offered(&portal);
        let nobody = "no runner serves the link";
        let unpublished = format!("{nobody}; it is not published yet: nobody has asked for it");
        let missing = readiness.missing(&chains).await;
        assert_eq!(reasons(&missing), [(1, unpublished.as_str())]);

        portal.publish(&Memory::new()).await.unwrap();
        tokio::time::advance(ANSWER_AGE_MAX).await;
        let missing = readiness.missing(&chains).await;
        assert_eq!(reasons(&missing), [(1, nobody)]);

        let _second = transport.serve(ids[1], fake::echo());
        assert_eq!(reasons(&readiness.missing(&chains).await), [(1, nobody)]);
        tokio::time::advance(ANSWER_AGE_MAX).await;
        assert!(readiness.missing(&chains).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_links_are_asked_about_once_and_not_waited_for_long() {
        let links = Arc::new(Silent::default());
        let readiness = Readiness::new(Arc::<Silent>::clone(&links));
        let portal = Portal::new(chain(250), Arc::new(InProcess::new())).unwrap();
        portal.publish(&Memory::new()).await.unwrap();
        let chains = offered(&portal);
        let before = Instant::now();
        let answers = join_all((0..100).map(|_| readiness.missing(&chains))).await;
        assert_eq!(before.elapsed(), LOOK_WAIT_MAX);
        assert_eq!(links.0.load(Ordering::SeqCst), 250);
        let silent = (0..250).map(|index| (index, "nobody has answered for 1s"));
        let silent: Vec<_> = silent.collect();
        assert!(answers.iter().all(|missing| reasons(missing) == silent));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_does_not_stop_others() {
        let readiness = Readiness::new(Arc::new(Silent::default()));
        let portal = Portal::new(chain(1), Arc::new(InProcess::new())).unwrap();
        let chains = offered(&portal);
        let impatient = async {
            tokio::select! {
                biased;
                _ = readiness.missing(&chains) => panic!("nobody answers"),
                () = ready(()) => {}
            }
        };
        let ((), missing) = tokio::join!(impatient, readiness.missing(&chains));
        assert_eq!(missing.len(), 1);
    }
}
