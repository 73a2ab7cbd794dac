//! One run of a chain: the calls, in order, and what becomes of them.
//!
//! Everything that a run waits for is an event in one set, and after each event
//! the [`Trail`] is asked whether the run has ended. A run is a future: it
//! moves when its reply's body or report is polled, and whoever drops both has
//! stopped it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::failure::{ChainError, FailureReason, Report};
use super::gate::{self, Output};
use super::replay::Input;
use super::retry::{self, Call, before};
use super::trail::Trail;
use super::{ChainReply, ChainRequest, PendingReport, Portal};
use crate::trace::Trace;
use crate::transport::{Body, Ending, Outcome, PendingOutcome, Reply};

/// How long the links before a failed one may take to end, so that the first
/// failure in chain order is known.
const EARLIER_LINKS_GRACE: Duration = Duration::from_secs(3);

/// How long after a deadline to wait for the runner's own word on it, which has
/// the end of stderr, before going on without.
pub(super) const DEADLINE_GRACE: Duration = Duration::from_millis(200);

/// A run under way.
pub(super) struct Walk {
    portal: Portal,
    trace: Trace,
    stderr: Option<mpsc::Sender<Bytes>>,
    deadline: Option<Instant>,
    trail: Trail,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// What the calls read that were made, each from this link on.
    inputs: BTreeMap<usize, Input>,
    /// Where the last link's output goes.
    output: Option<oneshot::Sender<Body>>,
}

/// What a run waits for.
enum Event {
    /// The call of this link was taken, or never will be.
    Called(usize, Option<Instant>, Result<Reply, FailureReason>),
    /// The call of this link, and of so many behind it, has ended.
    Ended(usize, usize, Outcome),
    /// Nothing more of the reply will be read.
    Drained,
    /// The links before a failed one have had their time.
    PatienceOver,
    /// The chain's deadline is well over.
    Overdue,
}

impl Walk {
    /// A run that is made when its reply is read.
    pub(super) fn start(portal: Portal, request: ChainRequest) -> ChainReply {
        let ChainRequest {
            body,
            trace,
            stderr,
        } = request;
        let (output, last) = oneshot::channel();
        let (reading, drained) = oneshot::channel();
        let chain = &portal.chain;
        let walk = Walk {
            deadline: chain.deadline.map(|deadline| Instant::now() + deadline),
            trail: Trail::new(Arc::clone(chain)),
            events: FuturesUnordered::new(),
            inputs: BTreeMap::new(),
            output: Some(output),
            portal,
            trace,
            stderr,
        };
        let (index, notes) = (walk.portal.chain.links.len() - 1, walk.trail.notes());
        let report = PendingReport::new(walk.run(body, drained).boxed());
        let body = Body::of(Output::new(last, report.clone(), reading, index, notes));
        ChainReply { body, report }
    }

    async fn run(
        mut self,
        body: Body,
        drained: oneshot::Receiver<()>,
    ) -> Result<Report, ChainError> {
        self.expect(drained.map(|_| Event::Drained));
        if let Some(deadline) = self.deadline {
            self.expect(sleep_until(deadline + DEADLINE_GRACE).map(|()| Event::Overdue));
        }
        self.call(0, gate::input(body, self.trail.notes()));
        let mut is_patient = false;
        loop {
            match self.events.next().await {
                Some(Event::Called(index, deadline, result)) => {
                    self.called(index, deadline, result)
                }
                Some(Event::Ended(index, joined, outcome)) => {
                    self.close_input(index);
                    self.trail.ended(index, joined, outcome);
                }
                Some(Event::Drained) => self.trail.drained = true,
                Some(Event::Overdue) => self.trail.overdue = true,
                Some(Event::PatienceOver) | None => self.trail.patience_over = true,
            }
            if let Some(verdict) = self.trail.verdict() {
                return verdict;
            }
            if !is_patient && self.trail.has_failure() {
                is_patient = true;
                self.expect(sleep(EARLIER_LINKS_GRACE).map(|()| Event::PatienceOver));
            }
        }
    }

    /// A call that has ended needs its input no more, whatever its runner still
    /// does with it.
    fn close_input(&mut self, index: usize) {
        if let Some(input) = self.inputs.get(&index) {
            input.close();
        }
    }

    fn expect(&mut self, event: impl Future<Output = Event> + Send + 'static) {
        self.events.push(event.boxed());
    }

    /// Calls a link; its deadline counts from now.
    fn call(&mut self, index: usize, body: Body) {
        let link = &self.portal.chain.links[index];
        let own = link.deadline.map(|deadline| Instant::now() + deadline);
        let deadline = [self.deadline, own].into_iter().flatten().min();
        let input = Input::new(body, retry::retries_max(link) > 0);
        self.inputs.insert(index, input.clone());
        let call = Call {
            portal: self.portal.clone(),
            index,
            joined: 0,
            input,
            trace: self.trace.clone(),
            deadline,
            stderr: self.stderr.clone(),
            notes: self.trail.notes(),
        };
        let called = call.make();
        self.expect(called.map(move |result| Event::Called(index, deadline, result)));
    }

    /// Takes note of a call that was taken or refused, and makes the next one.
    fn called(
        &mut self,
        index: usize,
        deadline: Option<Instant>,
        result: Result<Reply, FailureReason>,
    ) {
        let reply = match result {
            Ok(reply) => reply,
            Err(reason) => {
                self.close_input(index);
                return self.trail.refused(index, reason);
            }
        };
        let Reply {
            joined,
            body,
            outcome,
            ..
        } = reply;
        let ended = ended(outcome.clone(), deadline);
        self.expect(ended.map(move |outcome| Event::Ended(index, joined, outcome)));
        let (chain, last) = (&self.portal.chain, index + joined);
        if last + 1 < chain.links.len() {
            let (chain, notes) = (Arc::clone(chain), self.trail.notes());
            let body = gate::between(chain, last, body, outcome, notes);
            self.call(last + 1, body);
        } else if let Some(output) = self.output.take() {
            // A caller who does not read it any more drops it, as it should be.
            let _ = output.send(body);
        }
    }
}

impl Drop for Walk {
    /// Nothing of a run that is over goes on, even where a runner does not stop:
    /// a link whose reply nobody holds any more is told so.
    fn drop(&mut self) {
        for input in self.inputs.values() {
            input.close();
        }
    }
}

/// Waits for a link to end, and not much longer than it may take.
async fn ended(outcome: PendingOutcome, deadline: Option<Instant>) -> Outcome {
    let taken = Instant::now();
    let outcome = before(deadline.map(|deadline| deadline + DEADLINE_GRACE), outcome).await;
    let mut outcome = outcome.unwrap_or_else(|| Outcome {
        elapsed: taken.elapsed(),
        ..Outcome::new(Ending::DeadlinePassed)
    });
    // Whoever reads a link may have been stopped at the deadline before it: the
    // link was still running then, whichever came first.
    let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let unread = |ending: &&mut Ending| is_late && **ending == Ending::Unread;
    for ending in outcome.endings_mut().filter(unread) {
        *ending = Ending::DeadlinePassed;
    }
    outcome
}
