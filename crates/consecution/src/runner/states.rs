//! The states of a runner's links, and the summary of them that it announces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chain::LinkId;
use tokio::sync::watch;
use tokio::time::sleep;

use super::worker::LoadError;
use crate::error::with_causes;
use crate::link_store::RunnerState;

/// How long to gather changes before they are announced, since many come at the same time.
const TELL_PAUSE: Duration = Duration::from_millis(250);

/// The most characters of the announced reason why a link is broken.
const REASON_CHARS_MAX: usize = 500;

/// The states of all links of a runner.
#[derive(Default)]
pub(super) struct States {
    links: BTreeMap<LinkId, Known>,
    last_key: Key,
    /// Whether the runner accepts no more calls.
    pub(super) is_draining: bool,
    /// If the runner is starved: why processes cannot be started.
    pub(super) starved: Option<Arc<str>>,
    /// When the runner was started, in seconds since 1970.
    started: u64,
}

struct Known {
    key: Key,
    state: LinkState,
}

/// Tells workers of the same link apart: one may still be draining when the next one starts.
type Key = u64;

/// The state of a link.
#[derive(Clone)]
pub(super) enum LinkState {
    /// Its image is being pulled, or its zygote opened.
    Loading,
    /// It answers calls.
    Serving,
    /// It could not be loaded, or its zygote is gone; it is loaded again after a while.
    Broken(Arc<LoadError>),
}

impl States {
    /// The states of a runner that starts now.
    pub(super) fn started_now() -> States {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        States {
            started: now.unwrap_or_default().as_secs(),
            ..States::default()
        }
    }

    /// Whether no link is known.
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub(super) fn get(&self, id: LinkId) -> Option<&LinkState> {
        self.links.get(&id).map(|known| &known.state)
    }

    /// How many links there are in each state.
    pub(super) fn counts(&self) -> [(&'static str, usize); 3] {
        let states = || self.links.values().map(|known| &known.state);
        let of = |is: fn(&LinkState) -> bool| states().filter(|state| is(state)).count();
        [
            ("loading", of(|state| matches!(state, LinkState::Loading))),
            ("serving", of(|state| matches!(state, LinkState::Serving))),
            ("broken", of(|state| matches!(state, LinkState::Broken(_)))),
        ]
    }

    /// The summary to announce.
    pub(super) fn summary(&self, processes_max: usize) -> RunnerState {
        let mut summary = RunnerState {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            processes_max,
            draining: self.is_draining,
            starved: (self.starved.as_deref()).map(|reason| {
                let reason = reason.chars().take(REASON_CHARS_MAX);
                reason.collect()
            }),
            ..RunnerState::default()
        };
        for (id, known) in &self.links {
            match &known.state {
                LinkState::Serving => summary.serving += 1,
                LinkState::Loading if summary.loading.len() < RunnerState::LINKS_LISTED_MAX => {
                    summary.loading.push(id.to_string());
                }
                LinkState::Broken(error)
                    if summary.broken.len() < RunnerState::LINKS_LISTED_MAX =>
                {
                    let reason = format!("failed to {}", with_causes(&**error));
                    let reason = reason.chars().take(REASON_CHARS_MAX).collect();
                    summary.broken.insert(id.to_string(), reason);
                }
                LinkState::Loading | LinkState::Broken(_) => {}
            }
        }
        summary
    }
}

/// Reports the state of a link, for its worker.
pub(super) struct StatusReporter {
    states: watch::Sender<States>,
    id: LinkId,
    key: Key,
}

impl StatusReporter {
    /// A reporter for a new worker; the link is loading.
    pub(super) fn new(states: &watch::Sender<States>, id: LinkId) -> StatusReporter {
        let mut key = 0;
        states.send_modify(|states| {
            states.last_key += 1;
            key = states.last_key;
            let state = LinkState::Loading;
            states.links.insert(id, Known { key, state });
        });
        StatusReporter {
            states: states.clone(),
            id,
            key,
        }
    }

    /// Reports a state. It is ignored if the link was removed, or has a newer worker.
    pub(super) fn report(&self, state: LinkState) {
        self.states.send_if_modified(|states| {
            let known = states.links.get_mut(&self.id);
            let Some(known) = known.filter(|known| known.key == self.key) else {
                return false;
            };
            known.state = state;
            true
        });
    }
}

/// Removes a link.
pub(super) fn forget(states: &watch::Sender<States>, id: LinkId) {
    states.send_modify(|states| drop(states.links.remove(&id)));
}

/// Removes all links: no more calls are accepted.
pub(super) fn drain(states: &watch::Sender<States>) {
    states.send_modify(|states| {
        states.links.clear();
        states.is_draining = true;
    });
}

/// Keeps `told` up to date, until it has no receiver any more.
pub(super) async fn summarise(
    mut states: watch::Receiver<States>,
    processes_max: usize,
    told: watch::Sender<RunnerState>,
) {
    loop {
        let summary = states.borrow_and_update().summary(processes_max);
        told.send_if_modified(|told| {
            let is_new = *told != summary;
            *told = summary;
            is_new
        });
        tokio::select! {
            () = told.closed() => return,
            changed = states.changed() => if changed.is_err() { return },
        }
        sleep(TELL_PAUSE).await;
    }
}
