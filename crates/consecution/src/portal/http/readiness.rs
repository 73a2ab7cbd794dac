//! Whether chains can be run, for `/readyz`.
//!
//! Behind a load balancer, a portal should get calls as soon as it can run all chains that
//! the other portals can run, and none while it drains or reaches no runner. But a chain that
//! no portal can run must not take all portals out of service.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::response::Response;
use serde::Serialize;

use super::Offered;
use chain::LinkId;

use super::looks::{Figures, LinkState, Links, Looks};
use crate::http;
use crate::http::access::Caller;
use crate::portal::{Portal, Publication};

/// What is known of whether chains can be run.
pub(super) struct Readiness {
    looks: Looks,
}

/// Whether chains can be run, as clients see it.
#[derive(Debug, Serialize)]
pub(super) struct Ready {
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    missing: Vec<Missing>,
}

/// A link that cannot be called.
#[derive(Debug, Serialize)]
struct Missing {
    chain: String,
    link_index: usize,
    link_name: String,
    reason: String,
    /// A runner that tried to serve it has failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    broken: bool,
}

impl Readiness {
    pub(super) fn new(links: Arc<dyn Links>) -> Readiness {
        Readiness {
            looks: Looks::new(links),
        }
    }

    /// Whether this process should get calls of all these chains.
    pub(super) async fn of_all(&self, chains: &[Offered], is_draining: bool) -> Ready {
        let missing = self.missing(chains, |_| false).await;
        mark_seen(chains, &missing);
        self.ready(chains, is_draining, missing)
    }

    /// The same for people who look on, without asking for links that are said to be
    /// served: nothing that decides who gets calls may depend on that.
    pub(super) async fn beside(
        &self,
        chains: &[Offered],
        is_served: impl Fn(LinkId) -> bool,
    ) -> Ready {
        let missing = self.missing(chains, is_served).await;
        let reason = self.unavailable(false);
        Ready::new(
            reason.or_else(|| none_can_be_run(chains, &missing)),
            missing,
        )
    }

    /// Like [`Links::figures`].
    pub(super) async fn figures(&self, chains: &[Offered]) -> Figures {
        self.looks.figures(ids(chains)).await
    }

    fn ready(&self, chains: &[Offered], is_draining: bool, missing: Vec<Missing>) -> Ready {
        let reason = self.unavailable(is_draining).or_else(|| {
            if let Some(name) = first_not_known(chains, &missing) {
                return Some(format!("chain '{name}' has not been ready yet"));
            }
            none_can_be_run(chains, &missing)
        });
        Ready::new(reason, missing)
    }

    /// Whether this process should get calls of this chain.
    pub(super) async fn of_one(&self, chain: &Offered, is_draining: bool) -> Ready {
        let chains = std::slice::from_ref(chain);
        let missing = self.missing(chains, |_| false).await;
        mark_seen(chains, &missing);
        let reason = self.unavailable(is_draining).or_else(|| {
            let is_missing = !missing.is_empty();
            is_missing.then(|| format!("chain '{}' cannot be run", chain.name()))
        });
        Ready::new(reason, missing)
    }

    /// Why nobody serves a link, if more is known than that.
    pub(super) async fn why_unserved(&self, portal: &Portal, link_index: usize) -> Option<String> {
        let link = portal.chain().links.get(link_index)?;
        let reason = match self.looks.state(link.id).await {
            LinkState::Served | LinkState::Unserved => None,
            LinkState::Missing(reason) | LinkState::Broken(reason) => Some(reason),
        };
        let reasons = [reason, unpublished(portal)].into_iter().flatten();
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        (!reasons.is_empty()).then_some(reasons)
    }

    /// Why this process should get no calls, whatever the states of its links.
    fn unavailable(&self, is_draining: bool) -> Option<String> {
        if is_draining {
            return Some("it finishes what is in flight, and ends".to_owned());
        }
        let why = self.looks.unreachable()?;
        Some(format!("no runner can be reached: {why}"))
    }

    /// The links of these chains that cannot be called.
    async fn missing(
        &self,
        chains: &[Offered],
        is_served: impl Fn(LinkId) -> bool,
    ) -> Vec<Missing> {
        let mut asked = ids(chains);
        asked.retain(|id| !is_served(*id));
        let states = self.looks.states(asked).await;
        let mut all = Vec::new();
        for offered in chains {
            let chain = offered.portal.chain();
            let mut missing = chain.links.iter().enumerate().filter_map(|(at, link)| {
                let state = states.get(&link.id)?;
                let reasons = [Some(state.reason()?), unpublished(&offered.portal)];
                Some(Missing {
                    chain: chain.name.clone(),
                    link_index: at,
                    link_name: link.name.clone(),
                    reason: Vec::from_iter(reasons.into_iter().flatten()).join("; "),
                    broken: matches!(state, LinkState::Broken(_)),
                })
            });
            let before = all.len();
            all.extend(&mut missing);
            if all.len() > before {
                // The link store may have lost it.
                offered.portal.publishing.miss();
            }
        }
        all
    }
}

impl Ready {
    fn new(reason: Option<String>, missing: Vec<Missing>) -> Ready {
        Ready {
            ready: reason.is_none(),
            reason,
            missing,
        }
    }
}

impl Ready {
    /// The answer, as far as the caller may see it.
    pub(super) fn answer(&self, caller: &Caller) -> Response {
        http::readiness(self.ready, self, caller)
    }
}

/// The links of these chains.
fn ids(chains: &[Offered]) -> BTreeSet<LinkId> {
    let links = chains
        .iter()
        .flat_map(|offered| &offered.portal.chain().links);
    links.map(|link| link.id).collect()
}

/// What to say if no chain can be run.
fn none_can_be_run(chains: &[Offered], missing: &[Missing]) -> Option<String> {
    let is_missing = |offered: &Offered| is_any_of(missing, offered);
    let none = chains.iter().all(is_missing);
    none.then(|| "no chain can be run".to_owned())
}

/// Marks the chains of which no link is missing.
fn mark_seen(chains: &[Offered], missing: &[Missing]) {
    let whole = chains.iter().filter(|offered| !is_any_of(missing, offered));
    whole.for_each(Offered::set_seen_ready);
}

/// The first chain that was never seen ready, and is not known to be broken.
fn first_not_known<'a>(chains: &'a [Offered], missing: &[Missing]) -> Option<&'a str> {
    let is_broken = |offered: &Offered| {
        let mut missing = missing.iter();
        missing.any(|missing| missing.broken && missing.chain == offered.name())
    };
    let mut chains = chains.iter();
    let not_known = chains.find(|offered| !offered.was_seen_ready() && !is_broken(offered))?;
    Some(not_known.name())
}

fn is_any_of(missing: &[Missing], offered: &Offered) -> bool {
    missing
        .iter()
        .any(|missing| missing.chain == offered.name())
}

/// Why runners may not know a chain's links yet.
fn unpublished(portal: &Portal) -> Option<String> {
    match &*portal.publication().borrow() {
        Publication::Done => None,
        Publication::Waiting(why) => Some(format!("it is not published yet: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::looks::{ANSWER_AGE_MAX, LOOK_WAIT_MAX, Probed};
    use super::super::metrics::Metrics;
    use super::*;
    use crate::link_store::memory::Memory;
    use crate::transport::Transport;
    use crate::transport::conformance::fake;
    use crate::transport::in_process::InProcess;
    use chain::{Chain, ChainLink, Link, LinkId};
    use futures_util::future::{BoxFuture, FutureExt, join_all, pending, ready};
    use parking_lot::Mutex;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::Instant;

    fn chain_of(name: &str, links: usize) -> Chain {
        let link = |index| Link {
            command: Some(format!("/bin/{name}/{index}")),
            ..Link::new("fake")
        };
        Chain {
            deadline: chain::Deadline::None,
            ..Chain::new(name, (0..links).map(|index| ChainLink::new(link(index))))
        }
    }

    async fn offered(chain: Chain, transport: InProcess) -> Offered {
        let portal = Portal::new(chain, Arc::new(transport)).unwrap();
        portal.publish(&Memory::new()).await.unwrap();
        offered_by(&portal)
    }

    fn offered_by(portal: &Portal) -> Offered {
        let metrics = Metrics::new(&mut crate::http::registry(), Arc::default());
        Offered::new(portal.clone(), &metrics)
    }

    fn reasons(ready: &Ready) -> Vec<(usize, &str)> {
        let missing = ready.missing.iter();
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

        fn unreachable(&self) -> Option<String> {
            None
        }
    }

    /// Says what it was told.
    #[derive(Default)]
    struct Told {
        states: Mutex<BTreeMap<LinkId, LinkState>>,
        unreachable: Mutex<Option<String>>,
        asked: AtomicUsize,
    }

    impl Links for Told {
        fn state(&self, id: LinkId) -> BoxFuture<'_, LinkState> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let states = self.states.lock();
            let state = states.get(&id).cloned().unwrap_or(LinkState::Unserved);
            ready(state).boxed()
        }

        fn unreachable(&self) -> Option<String> {
            self.unreachable.lock().clone()
        }
    }

    impl Told {
        fn tell(&self, offered: &Offered, state: LinkState) {
            let id = offered.portal.chain().links[0].id;
            self.states.lock().insert(id, state);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn links_anywhere_are_missing_until_they_are_served() {
        let transport = InProcess::new();
        let portal = Portal::new(chain_of("test", 2), Arc::new(transport.clone())).unwrap();
        let ids = [0, 1].map(|index| portal.chain().links[index].id);
        let _first = transport.serve(ids[0], fake::echo());
        let readiness = Readiness::new(Arc::new(Probed::new(Arc::new(transport.clone()))));
        let chains = [offered_by(&portal)];
        let nobody = "no runner serves the link";
        let unpublished = format!("{nobody}; it is not published yet: nobody has asked for it");
        let seen = readiness.of_all(&chains, false).await;
        assert_eq!(reasons(&seen), [(1, unpublished.as_str())]);

        portal.publish(&Memory::new()).await.unwrap();
        tokio::time::advance(ANSWER_AGE_MAX).await;
        let seen = readiness.of_all(&chains, false).await;
        assert_eq!(reasons(&seen), [(1, nobody)]);
        assert!(!seen.ready);

        let _second = transport.serve(ids[1], fake::echo());
        assert!(!readiness.of_all(&chains, false).await.ready);
        tokio::time::advance(ANSWER_AGE_MAX).await;
        let seen = readiness.of_all(&chains, false).await;
        assert!(seen.ready && seen.missing.is_empty());
        assert!(!readiness.of_all(&chains, true).await.ready);
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_ready_once_each_chain_was_or_is_known_to_be_broken() {
        let told = Arc::new(Told::default());
        let readiness = Readiness::new(Arc::<Told>::clone(&told));
        let [one, two, three] = ["one", "two", "three"].map(|name| chain_of(name, 1));
        let chains = [
            offered(one, InProcess::new()).await,
            offered(two, InProcess::new()).await,
            offered(three, InProcess::new()).await,
        ];
        let broken = || LinkState::Broken("it has no command".to_owned());
        let look = async || {
            tokio::time::advance(ANSWER_AGE_MAX).await;
            let ready = readiness.of_all(&chains, false).await;
            assert_eq!(ready.ready, ready.reason.is_none());
            ready.reason.unwrap_or_else(|| "ready".to_owned())
        };
        assert_eq!(look().await, "chain 'one' has not been ready yet");
        told.tell(&chains[0], LinkState::Served);
        told.tell(
            &chains[2],
            LinkState::Missing("it is being loaded".to_owned()),
        );
        assert_eq!(look().await, "chain 'two' has not been ready yet");
        told.tell(&chains[1], broken());
        assert_eq!(look().await, "chain 'three' has not been ready yet");
        told.tell(&chains[2], LinkState::Served);
        assert_eq!(look().await, "ready");
        // Each alone can be lost, and not all of them.
        told.tell(&chains[2], LinkState::Unserved);
        assert_eq!(look().await, "ready");
        told.tell(&chains[0], broken());
        assert_eq!(look().await, "no chain can be run");
        told.tell(&chains[1], LinkState::Served);
        assert_eq!(look().await, "ready");
        assert!(!readiness.of_one(&chains[0], false).await.ready);
        assert!(readiness.of_one(&chains[1], false).await.ready);
        assert!(!readiness.of_one(&chains[1], true).await.ready);
        *told.unreachable.lock() = Some("connection refused".to_owned());
        assert_eq!(look().await, "no runner can be reached: connection refused");
        assert!(!readiness.of_one(&chains[1], false).await.ready);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_links_are_asked_about_once_and_not_waited_for_long() {
        let links = Arc::new(Silent::default());
        let readiness = Readiness::new(Arc::<Silent>::clone(&links));
        let chains = [offered(chain_of("test", 250), InProcess::new()).await];
        let before = Instant::now();
        let answers = join_all((0..100).map(|_| readiness.of_all(&chains, false))).await;
        assert_eq!(before.elapsed(), LOOK_WAIT_MAX);
        assert_eq!(links.0.load(Ordering::SeqCst), 250);
        let silent = (0..250).map(|index| (index, "nobody has answered for 1s"));
        let silent: Vec<_> = silent.collect();
        assert!(answers.iter().all(|ready| reasons(ready) == silent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_finds_nobody_asks_about_its_own_link_and_once_for_all_like_it() {
        let links = Arc::new(Silent::default());
        let readiness = Readiness::new(Arc::<Silent>::clone(&links));
        let chain = offered(chain_of("test", 250), InProcess::new()).await;
        let before = Instant::now();
        let asking = (0..100).map(|_| readiness.why_unserved(&chain.portal, 7));
        for why in join_all(asking).await {
            assert_eq!(why.as_deref(), Some("nobody has answered for 1s"));
        }
        assert_eq!(before.elapsed(), LOOK_WAIT_MAX);
        assert_eq!(links.0.load(Ordering::SeqCst), 1);
        let told = Arc::new(Told::default());
        let readiness = Readiness::new(Arc::<Told>::clone(&told));
        assert_eq!(readiness.why_unserved(&chain.portal, 7).await, None);
        assert_eq!(told.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_does_not_stop_others() {
        let readiness = Readiness::new(Arc::new(Silent::default()));
        let chains = [offered(chain_of("test", 1), InProcess::new()).await];
        let impatient = async {
            tokio::select! {
                biased;
                _ = readiness.of_all(&chains, false) => panic!("nobody answers"),
                () = ready(()) => {}
            }
        };
        let ((), seen) = tokio::join!(impatient, readiness.of_all(&chains, false));
        assert_eq!(seen.missing.len(), 1);
    }
}
