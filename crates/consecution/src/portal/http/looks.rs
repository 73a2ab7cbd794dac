//! Whether links can be called, as it was found out last.
//!
//! A link is asked about once however many want to know, each waits only so
//! long, and an answer is good for a second: runners hear little of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chain::LinkId;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::transport::{RefusalReason, Transport};

/// How long to wait for what is known of the links.
pub(super) const LOOK_WAIT_MAX: Duration = Duration::from_secs(1);

/// How many links are asked about at a time, for one who wants to know of many.
const LOOKS_MAX: usize = 256;

/// How old an answer may be.
pub(super) const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// How many links something is known of, beyond those that are asked about.
const KNOWN_MAX: usize = 4096;

/// Knows which links can be called.
pub trait Links: Send + Sync {
    /// How it is with that link now.
    fn state(&self, id: LinkId) -> BoxFuture<'_, LinkState>;

    /// Why no runner can be reached, if that is so, as a lower-case fragment.
    fn unreachable(&self) -> Option<String>;
}

/// Whether a link can be called. Reasons are lower-case fragments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// It can.
    Served,
    /// It cannot: nobody serves it, and nothing more is known.
    Unserved,
    /// It cannot, for this reason, which may pass.
    Missing(String),
    /// It cannot: who tried to serve it has failed, for this reason.
    Broken(String),
}

impl LinkState {
    /// Why it cannot be called.
    pub(super) fn reason(&self) -> Option<String> {
        match self {
            LinkState::Served => None,
            LinkState::Unserved => Some(RefusalReason::NoRunner.to_string()),
            LinkState::Missing(reason) | LinkState::Broken(reason) => Some(reason.clone()),
        }
    }
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
            Err(RefusalReason::NoRunner) => LinkState::Unserved,
            Err(reason) => LinkState::Missing(reason.to_string()),
        });
        state.boxed()
    }

    fn unreachable(&self) -> Option<String> {
        None
    }
}

/// What is known of links.
pub(super) struct Looks {
    links: Arc<dyn Links>,
    known: Mutex<HashMap<LinkId, Arc<Look>>>,
}

/// What was found last, and when. Held while it is found out, so that this is
/// done once.
type Look = tokio::sync::Mutex<Option<(Instant, LinkState)>>;

impl Looks {
    pub(super) fn new(links: Arc<dyn Links>) -> Looks {
        Looks {
            links,
            known: Mutex::default(),
        }
    }

    /// As [`Links::unreachable`].
    pub(super) fn unreachable(&self) -> Option<String> {
        self.links.unreachable()
    }

    /// How it is with one link.
    pub(super) async fn state(&self, id: LinkId) -> LinkState {
        self.state_until(id, Instant::now() + LOOK_WAIT_MAX).await
    }

    /// How it is with these.
    pub(super) async fn states(&self, ids: BTreeSet<LinkId>) -> BTreeMap<LinkId, LinkState> {
        let until = Instant::now() + LOOK_WAIT_MAX;
        let looks = ids
            .into_iter()
            .map(|id| async move { (id, self.state_until(id, until).await) });
        let looks = stream::iter(looks).buffer_unordered(LOOKS_MAX);
        looks.collect().await
    }

    async fn state_until(&self, id: LinkId, until: Instant) -> LinkState {
        let look = self.look(id);
        let mut known = look.lock().await;
        if let Some((at, state)) = &*known
            && at.elapsed() < ANSWER_AGE_MAX
        {
            return state.clone();
        }
        let looked = timeout_at(until, self.links.state(id)).await;
        let state = looked.unwrap_or_else(|_| {
            LinkState::Missing(format!("nobody has answered for {LOOK_WAIT_MAX:?}"))
        });
        *known = Some((Instant::now(), state.clone()));
        state
    }

    fn look(&self, id: LinkId) -> Arc<Look> {
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX && !known.contains_key(&id) {
            known.retain(|_, look| Arc::strong_count(look) > 1);
        }
        Arc::clone(known.entry(id).or_default())
    }
}
