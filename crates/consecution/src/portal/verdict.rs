//! Collects how the links of a run end, and decides how the run ends.
//!
//! This module is pure: it makes no calls, waits for nothing and reads no clock. A run
//! fails with the first link in chain order that failed. So a failure does not decide the
//! run while a link before it may still fail too.

use std::sync::Arc;
use std::time::Duration;

use chain::{Chain, Link};
use parking_lot::Mutex;

use super::failure::{ChainError, FailureReason, LastWords, LinkReport, Report};
use crate::transport::{Cut, Ending, Outcome, OutputLeft, Usage, Waiting};

/// The state of a run, as far as it decides how the run ends.
pub(super) struct RunState {
    chain: Arc<Chain>,
    links: Vec<LinkState>,
    /// Why the caller's input broke off, if it did.
    input_cut: Option<Arc<str>>,
    /// Whether the caller has read the reply's body to its end, or reads no more of it.
    pub(super) drained: bool,
    /// Whether the time is over in which links before a failed one may still end.
    pub(super) patience_over: bool,
    /// Whether the chain's deadline passed, and with it the time for runners' reports.
    pub(super) overdue: bool,
}

/// The state of a link.
#[derive(Default)]
struct LinkState {
    asked: Asked,
    end: Option<LinkEnd>,
    /// The runner that accepted the call last, if it has a name.
    runner: Option<Arc<str>>,
    /// Whether the runner runs it joined to the link before it.
    is_joined: bool,
    /// Why the link's output broke off, if it did.
    output_cut: Option<Arc<str>>,
}

/// How the call of one link ended.
enum LinkEnd {
    /// A runner accepted the call, and it ended with this outcome.
    Ended(Outcome),
    /// No runner accepted the call.
    Refused(FailureReason),
}

/// The state of an attempt at a link's call before a runner accepts it. The attempt
/// writes it. Clones share the state.
#[derive(Clone, Default)]
pub(super) struct Asked(Arc<Mutex<Untaken>>);

#[derive(Default)]
struct Untaken {
    /// Why no runner has accepted the call yet.
    reason: Option<FailureReason>,
    /// Whether the runner that was asked last lets the call wait for room.
    waiting: Waiting,
}

impl Asked {
    /// A runner is being asked; it sets `waiting` if the call has to wait for room.
    pub(super) fn begin(&self, waiting: &Waiting) {
        self.0.lock().waiting = waiting.clone();
    }

    /// Records why the last runner that was asked did not accept the call.
    pub(super) fn refused(&self, reason: &FailureReason) {
        self.0.lock().reason = Some(reason.clone());
    }

    /// Why no runner has accepted the call, if that is known.
    fn why_untaken(&self) -> Option<FailureReason> {
        let untaken = self.0.lock();
        let is_waiting = untaken.waiting.is_told();
        let reason = untaken.reason.clone();
        reason.or(is_waiting.then_some(FailureReason::Busy))
    }
}

impl RunState {
    pub(super) fn new(chain: Arc<Chain>) -> RunState {
        RunState {
            links: chain.links.iter().map(|_| LinkState::default()).collect(),
            chain,
            input_cut: None,
            drained: false,
            patience_over: false,
            overdue: false,
        }
    }

    /// The shared state that the attempt at this link's call writes to.
    pub(super) fn asked(&self, index: usize) -> Asked {
        self.links[index].asked.clone()
    }

    /// Records that a runner has accepted the call of link `index`, with `joined` links
    /// behind it.
    pub(super) fn taken(&mut self, index: usize, joined: usize, runner: Option<&Arc<str>>) {
        for (at, link) in self.links[index..=index + joined].iter_mut().enumerate() {
            link.runner = runner.cloned();
            link.is_joined = at > 0;
            *link.asked.0.lock() = Untaken::default();
        }
    }

    /// The runner that has accepted the call of link `index`, if it has a name.
    pub(super) fn runner(&self, index: usize) -> Option<&Arc<str>> {
        self.links[index].runner.as_ref()
    }

    /// Records that no runner accepts the call of link `index`.
    pub(super) fn refused(&mut self, index: usize, reason: FailureReason) {
        self.links[index].end = Some(LinkEnd::Refused(reason));
    }

    /// Records how the call of link `index`, with `joined` links behind it, has ended.
    pub(super) fn ended(&mut self, index: usize, joined: usize, outcome: Outcome) {
        // If the outcome has no endings of joined links, they ended like the first link.
        let unknown = Outcome::new(outcome.ending.clone());
        let mut outcomes = outcome.into_links();
        for link in &mut self.links[index..=index + joined] {
            let outcome = outcomes.next().unwrap_or_else(|| unknown.clone());
            link.end = Some(LinkEnd::Ended(outcome));
        }
    }

    /// Records that the caller's input has broken off.
    pub(super) fn input_broke(&mut self, cut: Cut) {
        self.input_cut = Some(cut.reason);
    }

    /// Records that the output of link `index` has broken off.
    pub(super) fn output_broke(&mut self, index: usize, cut: Cut) {
        self.links[index].output_cut = Some(cut.reason);
    }

    /// Whether any link is known to have failed.
    pub(super) fn has_failure(&self) -> bool {
        self.first_failure().is_some()
    }

    /// How the run ended, once that is certain.
    pub(super) fn verdict(&self) -> Option<Result<Report, ChainError>> {
        let last = self.links.len() - 1;
        if let Some((index, reason)) = self.first_failure() {
            let certain =
                self.patience_over || self.links[..index].iter().all(|link| link.end.is_some());
            // The caller may still read the output of a failed last link, but only until
            // the deadline.
            let refused = matches!(self.links[index].end, Some(LinkEnd::Refused(_)) | None);
            let late = self.overdue || reason == FailureReason::DeadlinePassed;
            let read = index < last || refused || self.drained || late;
            return (certain && read).then(|| Err(self.error(index, reason)));
        }
        if self.links.iter().any(|link| link.end.is_none()) {
            return None;
        }
        if let Some(index) = self.links.iter().position(is_cut) {
            // The link was stopped because of a cut input, but nobody has cut its input.
            let reason = FailureReason::Lost("its input was cut off".into());
            return Some(Err(self.error(index, reason)));
        }
        match (self.drained, self.overdue) {
            (true, _) => Some(Ok(self.report())),
            (false, true) => Some(Err(self.error(last, FailureReason::DeadlinePassed))),
            (false, false) => None,
        }
    }

    fn first_failure(&self) -> Option<(usize, FailureReason)> {
        let mut links = 0..self.links.len();
        let (index, reason) = links.find_map(|index| Some((index, self.failure_of(index)?)))?;
        if reason != FailureReason::DeadlinePassed {
            return Some((index, reason));
        }
        // If a link's deadline passes while no runner accepts a link behind it, the first
        // link was only waiting for the second to read its output.
        let mut links = index..self.links.len();
        let untaken = links.find_map(|at| Some((at, self.links[at].asked.why_untaken()?)));
        Some(untaken.unwrap_or((index, reason)))
    }

    fn failure_of(&self, index: usize) -> Option<FailureReason> {
        let link = &self.links[index];
        let outcome = match link.end.as_ref()? {
            LinkEnd::Refused(reason) => return Some(reason.clone()),
            LinkEnd::Ended(outcome) => outcome,
        };
        let broken = || link.output_cut.clone().map(FailureReason::Lost);
        match &outcome.ending {
            Ending::Exited(code) if self.chain.links[index].accepts(*code) => {
                no_output(&self.chain.links[index].link, outcome.output).or_else(broken)
            }
            Ending::Exited(code) => Some(FailureReason::Exited(*code)),
            Ending::Signalled(signal) => Some(FailureReason::Signalled(*signal)),
            Ending::DeadlinePassed => Some(FailureReason::DeadlinePassed),
            Ending::Lost(reason) => Some(FailureReason::Lost(Arc::clone(reason))),
            Ending::CannotStart(reason) => Some(FailureReason::CannotStart(Arc::clone(reason))),
            Ending::Unread => broken(),
            // The link before caused it; for the first link, the caller did.
            Ending::Cut if index == 0 => self.input_cut.clone().map(FailureReason::InputCut),
            Ending::Cut => None,
        }
    }

    /// The error of a run that has failed with link `index`, for this reason.
    pub(super) fn error(&self, index: usize, reason: FailureReason) -> ChainError {
        let said = match &self.links[index].end {
            Some(LinkEnd::Ended(outcome)) => LastWords {
                stderr: outcome.stderr.clone(),
                hint: outcome.hint.clone(),
            },
            _ => LastWords::default(),
        };
        ChainError::new(&self.chain, index, reason, said, self.report())
    }

    fn report(&self) -> Report {
        let links = self.chain.links.iter().zip(&self.links);
        let links = links.map(|(link, state)| {
            let outcome = match &state.end {
                Some(LinkEnd::Ended(outcome)) => Some(outcome),
                _ => None,
            };
            LinkReport {
                name: link.name.clone(),
                ending: outcome.map(|outcome| outcome.ending.clone()),
                elapsed: outcome.map_or(Duration::ZERO, |outcome| outcome.elapsed),
                runner: state.runner.clone(),
                is_joined: state.is_joined,
                usage: outcome.map_or_else(Usage::default, |outcome| outcome.usage),
                limit: outcome.and_then(|outcome| outcome.limit),
            }
        });
        Report {
            links: links.collect(),
        }
    }
}

/// The failure of a link that has exited as it should, and has not left its output.
fn no_output(link: &Link, left: OutputLeft) -> Option<FailureReason> {
    let path = || link.output.as_deref().unwrap_or("its Output").into();
    match left {
        OutputLeft::Given => None,
        OutputLeft::Missing => Some(FailureReason::NoOutput(path())),
        OutputLeft::Odd => Some(FailureReason::OddOutput(path())),
    }
}

fn is_cut(link: &LinkState) -> bool {
    matches!(&link.end, Some(LinkEnd::Ended(outcome)) if outcome.ending == Ending::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::{ChainLink, Deadline, Link};
    use proptest::prelude::*;

    fn state(links: usize) -> RunState {
        let links = (0..links).map(|_| ChainLink::new(Link::default()));
        RunState::new(Arc::new(Chain {
            deadline: Deadline::None,
            ..Chain::new("test", links)
        }))
    }

    fn endings() -> impl Strategy<Value = Vec<Ending>> {
        let ending = prop_oneof![
            3 => Just(Ending::Exited(0)),
            1 => (1..4_u8).prop_map(Ending::Exited),
            1 => Just(Ending::Signalled(9)),
            1 => Just(Ending::Unread),
            1 => Just(Ending::DeadlinePassed),
            1 => Just(Ending::Lost("it was killed".into())),
        ];
        prop::collection::vec(ending, 1..6)
    }

    fn is_failure(ending: &Ending) -> bool {
        !matches!(ending, Ending::Exited(0) | Ending::Unread)
    }

    proptest! {
        /// In whatever order links end, the first that failed in chain order is named, and
        /// not before that is certain.
        #[test]
        fn the_first_failure_in_chain_order_is_the_run_s(
            endings in endings(),
            order in any::<[u8; 6]>(),
        ) {
            let mut state = state(endings.len());
            state.drained = true;
            let mut order: Vec<_> = order[..endings.len()].iter().zip(0..).collect();
            order.sort();
            let first = endings.iter().position(is_failure);
            let mut ended = vec![false; endings.len()];
            for (_, at) in order {
                prop_assert!(state.verdict().is_none() || first.is_some_and(|first| ended[first]));
                state.ended(at, 0, Outcome::new(endings[at].clone()));
                ended[at] = true;
                let is_certain = match first {
                    Some(first) => ended[..=first].iter().all(|ended| *ended),
                    None => ended.iter().all(|ended| *ended),
                };
                prop_assert_eq!(state.verdict().is_some(), is_certain);
            }
            match (state.verdict().unwrap(), first) {
                (Ok(report), None) => prop_assert_eq!(report.links.len(), endings.len()),
                (Err(error), Some(first)) => prop_assert_eq!(error.index, first),
                (verdict, first) => prop_assert!(false, "{:?} {:?}", verdict, first),
            }
        }
    }

    #[test]
    fn what_the_last_link_wrote_is_still_the_caller_s_to_read() {
        for ending in [Ending::Exited(0), Ending::Exited(1)] {
            let mut state = state(1);
            state.ended(0, 0, Outcome::new(ending));
            assert!(state.verdict().is_none());
            state.drained = true;
            assert!(state.verdict().is_some());
            state.drained = false;
            state.overdue = true;
            assert!(state.verdict().unwrap().is_err());
        }
    }
}
