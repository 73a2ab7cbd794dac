//! What is known of one run of a chain, and what follows from it.
//!
//! Plain data: it makes no calls, waits for nothing and reads no clock. The run
//! fails with the first link in chain order that failed, so nothing is decided
//! while a link before a failed one may still turn out to have failed too.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chain::Chain;

use super::failure::{ChainError, FailureReason, LinkReport, Report};
use crate::transport::{Cut, Ending, Outcome, Waiting};

/// What is known of a run.
pub(super) struct Trail {
    chain: Arc<Chain>,
    notes: Arc<Notes>,
    links: Vec<Option<LinkEnd>>,
    /// The reply's body has been read to its end, or is not read any more.
    pub(super) drained: bool,
    /// Links before a failed one have had their time to end.
    pub(super) patience_over: bool,
    /// The chain's deadline is well over.
    pub(super) overdue: bool,
}

/// What became of the call of one link.
enum LinkEnd {
    /// It was taken, and ended like that.
    Ended(Outcome),
    /// It was never taken.
    Refused(FailureReason),
}

/// What the streams and calls of a run note down on their way.
pub(super) struct Notes {
    /// Why the body that the caller gave broke off, if it did.
    pub(super) input_cut: OnceLock<Arc<str>>,
    /// How it is with the call of each link.
    calls: Vec<Mutex<CallNotes>>,
}

/// How it is with the call of a link.
#[derive(Clone, Default)]
pub(super) struct CallNotes {
    /// Why nobody has taken it yet, while it is asked for.
    untaken: Option<FailureReason>,
    /// Whether whoever was asked last has to wait for room.
    waiting: Waiting,
    /// The runner that took it last, if it has a name.
    pub(super) runner: Option<Arc<str>>,
    /// It was taken together with the link before it.
    pub(super) is_joined: bool,
    /// Why what it wrote since then broke off, if it did.
    pub(super) output_cut: Option<Arc<str>>,
}

impl CallNotes {
    /// Why nobody has taken it, if it is asked for and that is known.
    fn untaken(self) -> Option<FailureReason> {
        let is_waiting = self.waiting.is_told();
        self.untaken.or(is_waiting.then_some(FailureReason::Busy))
    }
}

impl Notes {
    /// A runner has taken the call of that link, and so many behind it. What
    /// became of an earlier call of theirs counts no more.
    pub(super) fn taken(&self, index: usize, joined: usize, runner: Option<&Arc<str>>) {
        for at in index..=index + joined {
            *self.call(at) = CallNotes {
                untaken: None,
                waiting: Waiting::default(),
                runner: runner.cloned(),
                is_joined: at > index,
                output_cut: None,
            };
        }
    }

    /// Somebody is asked to take the call of that link, who may tell there that it
    /// has to wait.
    pub(super) fn asked(&self, index: usize, waiting: Waiting) {
        self.call(index).waiting = waiting;
    }

    /// Nobody has taken the call of that link so far, for this reason.
    pub(super) fn untaken(&self, index: usize, reason: FailureReason) {
        self.call(index).untaken = Some(reason);
    }

    /// What that link wrote has broken off. The first break is the one that
    /// counts.
    pub(super) fn broke(&self, index: usize, cut: &Cut) {
        let reason = || Arc::clone(&cut.reason);
        self.call(index).output_cut.get_or_insert_with(reason);
    }

    /// How it is with the call of that link now.
    pub(super) fn of_call(&self, index: usize) -> CallNotes {
        self.call(index).clone()
    }

    fn call(&self, index: usize) -> MutexGuard<'_, CallNotes> {
        // Nothing that runs under the lock can leave it half-changed.
        let call = self.calls[index].lock();
        call.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trail {
    pub(super) fn new(chain: Arc<Chain>) -> Trail {
        let links = chain.links.len();
        Trail {
            notes: Arc::new(Notes {
                input_cut: OnceLock::new(),
                calls: (0..links).map(|_| Mutex::default()).collect(),
            }),
            links: (0..links).map(|_| None).collect(),
            chain,
            drained: false,
            patience_over: false,
            overdue: false,
        }
    }

    pub(super) fn notes(&self) -> Arc<Notes> {
        Arc::clone(&self.notes)
    }

    /// This link was never taken.
    pub(super) fn refused(&mut self, index: usize, reason: FailureReason) {
        self.links[index] = Some(LinkEnd::Refused(reason));
    }

    /// The call of this link, and of so many behind it, has ended like that.
    pub(super) fn ended(&mut self, index: usize, joined: usize, outcome: Outcome) {
        // Where nothing is known of the others, what ended the first did it.
        let unknown = Outcome::new(outcome.ending.clone());
        let mut links = outcome.into_links();
        for at in index..=index + joined {
            let outcome = links.next().unwrap_or_else(|| unknown.clone());
            self.links[at] = Some(LinkEnd::Ended(outcome));
        }
    }

    /// Whether a link is known to have failed, wherever it stands.
    pub(super) fn has_failure(&self) -> bool {
        self.first_failure().is_some()
    }

    /// How the run ended, once that is certain.
    pub(super) fn verdict(&self) -> Option<Result<Report, ChainError>> {
        let last = self.links.len() - 1;
        if let Some((index, reason)) = self.first_failure() {
            let certain = self.patience_over || self.links[..index].iter().all(Option::is_some);
            // What a failed last link has written is still the caller's, unless
            // its time is over, and so the caller's to read it.
            let refused = matches!(self.links[index], Some(LinkEnd::Refused(_)) | None);
            let late = self.overdue || reason == FailureReason::DeadlinePassed;
            let read = index < last || refused || self.drained || late;
            return (certain && read).then(|| Err(self.error(index, reason)));
        }
        if self.links.iter().any(Option::is_none) {
            return None;
        }
        if let Some(index) = self.links.iter().position(is_cut) {
            // It was stopped for a cut that nobody has made.
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
        // A link whose time runs out while one behind it finds nobody to take it
        // has only been waiting for that one.
        let mut calls = index..self.links.len();
        let untaken = calls.find_map(|index| Some((index, self.notes.of_call(index).untaken()?)));
        Some(untaken.unwrap_or((index, reason)))
    }

    fn failure_of(&self, index: usize) -> Option<FailureReason> {
        let outcome = match self.links[index].as_ref()? {
            LinkEnd::Refused(reason) => return Some(reason.clone()),
            LinkEnd::Ended(outcome) => outcome,
        };
        let broken = || {
            let cut = self.notes.call(index).output_cut.clone();
            cut.map(FailureReason::Lost)
        };
        match &outcome.ending {
            Ending::Exited(code) if self.chain.links[index].accepts(*code) => broken(),
            Ending::Exited(code) => Some(FailureReason::Exited(*code)),
            Ending::Signalled(signal) => Some(FailureReason::Signalled(*signal)),
            Ending::DeadlinePassed => Some(FailureReason::DeadlinePassed),
            Ending::Lost(reason) => Some(FailureReason::Lost(Arc::clone(reason))),
            Ending::Unread => broken(),
            // Whoever is before it is to blame; before the first is the caller.
            Ending::Cut if index == 0 => self
                .notes
                .input_cut
                .get()
                .cloned()
                .map(FailureReason::InputCut),
            Ending::Cut => None,
        }
    }

    fn error(&self, index: usize, reason: FailureReason) -> ChainError {
        let stderr = match &self.links[index] {
            Some(LinkEnd::Ended(outcome)) => outcome.stderr.clone(),
            _ => Bytes::new(),
        };
        ChainError::new(&self.chain, index, reason, stderr, self.report())
    }

    fn report(&self) -> Report {
        let links = self.chain.links.iter().zip(&self.links).enumerate();
        let links = links.map(|(index, (link, end))| {
            let outcome = match end {
                Some(LinkEnd::Ended(outcome)) => Some(outcome),
                _ => None,
            };
            let CallNotes {
                runner, is_joined, ..
            } = self.notes.of_call(index);
            LinkReport {
                name: link.name.clone(),
                ending: outcome.map(|outcome| outcome.ending.clone()),
                elapsed: outcome.map_or(Duration::ZERO, |outcome| outcome.elapsed),
                runner,
                is_joined,
            }
        });
        Report {
            links: links.collect(),
        }
    }
}

fn is_cut(end: &Option<LinkEnd>) -> bool {
    matches!(end, Some(LinkEnd::Ended(outcome)) if outcome.ending == Ending::Cut)
}
