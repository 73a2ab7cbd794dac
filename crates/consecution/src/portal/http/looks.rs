//! Whether links can be called: asks, and caches the answers.
//!
//! However many want to know, runners are asked about a link once at a time, and the answer
//! is used for a second. Each waits only for a limited time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chain::LinkId;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, timeout, timeout_at};

use crate::figures::Processes;
use crate::link_store::RunnerState;
use crate::transport::{RefusalReason, Transport};

/// How long to wait for the states of links.
pub(super) const LOOK_WAIT_MAX: Duration = Duration::from_secs(1);

/// How many links to ask about at a time, for one request that needs many.
const LOOKS_MAX: usize = 256;

/// How long an answer is used.
pub(super) const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// How many answers to keep, beyond those being asked for.
const KNOWN_MAX: usize = 4096;

/// Knows which links can be called.
pub trait Links: Send + Sync {
    /// The present state of a link.
    fn state(&self, id: LinkId) -> BoxFuture<'_, LinkState>;

    /// Why no runner can be reached, as a lower-case fragment; `None` if runners can be
    /// reached.
    fn unreachable(&self) -> Option<String>;

    /// What runners do now, as far as they say, and the processes of these links. Asked for
    /// only while somebody looks on.
    fn figures(&self, _wanted: BTreeSet<LinkId>) -> BoxFuture<'_, Figures> {
        std::future::ready(Figures::default()).boxed()
    }
}

/// What runners do at a moment.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// The processes of each link that a runner serves, over all runners.
    pub links: BTreeMap<LinkId, Processes>,
    /// The runners that are known.
    pub runners: Vec<RunnerEntry>,
}

/// A runner, as people see it who look on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunnerEntry {
    /// Its name; `None` if it is in this process.
    pub name: Option<String>,
    /// The program's version.
    pub version: String,
    /// When it was started, in seconds since 1970; 0 if that is unknown.
    pub started: u64,
    /// The most processes that it has at a time.
    pub processes_max: usize,
    /// What its processes do; `None` if it has not said.
    pub processes: Option<Processes>,
    /// It accepts no more calls.
    pub draining: bool,
    /// Why it cannot start processes, if it lacks something.
    pub starved: Option<String>,
    /// How many links it serves.
    pub serving: usize,
    /// How many it loads.
    pub loading: usize,
    /// Links that it cannot serve, by id, and why; at most [`BROKEN_MAX`](Self::BROKEN_MAX).
    pub broken: BTreeMap<String, String>,
}

impl RunnerEntry {
    /// The most broken links that are listed.
    pub const BROKEN_MAX: usize = 10;

    /// The entry of a runner in this state.
    pub fn new(
        name: Option<String>,
        state: &RunnerState,
        processes: Option<Processes>,
    ) -> RunnerEntry {
        let broken = state.broken.iter().take(RunnerEntry::BROKEN_MAX);
        RunnerEntry {
            name,
            version: state.version.clone(),
            started: state.started,
            processes_max: state.processes_max,
            processes,
            draining: state.draining,
            starved: state.starved.clone(),
            serving: state.serving,
            loading: state.loading.len(),
            broken: broken.map(|(id, why)| (id.clone(), why.clone())).collect(),
        }
    }
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
    /// It cannot: a runner that tried to serve it has failed, for this reason.
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

/// The cached states of links.
pub(super) struct Looks {
    links: Arc<dyn Links>,
    known: Mutex<HashMap<LinkId, Arc<Look>>>,
}

/// The last answer, and when it came. Locked while runners are asked, so that this is done
/// once.
type Look = tokio::sync::Mutex<Option<(Instant, LinkState)>>;

impl Looks {
    pub(super) fn new(links: Arc<dyn Links>) -> Looks {
        Looks {
            links,
            known: Mutex::default(),
        }
    }

    /// Like [`Links::unreachable`].
    pub(super) fn unreachable(&self) -> Option<String> {
        self.links.unreachable()
    }

    /// Like [`Links::figures`]; nothing where that takes too long.
    pub(super) async fn figures(&self, wanted: BTreeSet<LinkId>) -> Figures {
        let figures = timeout(LOOK_WAIT_MAX, self.links.figures(wanted)).await;
        figures.unwrap_or_default()
    }

    /// The state of one link.
    pub(super) async fn state(&self, id: LinkId) -> LinkState {
        self.state_until(id, Instant::now() + LOOK_WAIT_MAX).await
    }

    /// The states of several links.
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
