//! One run of a chain: the calls, in order, and what becomes of them.
//!
//! Everything that a run waits for is an event in one set, and after each event
//! the [`Trail`] is asked whether the run has ended. A run is a future: it
//! moves when its reply's body or report is polled, and whoever drops both has
//! stopped it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chain::{Chain, LinkId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::failure::{ChainError, FailureReason, Report};
use super::gate::{self, Output};
use super::trail::{LinkEnd, Trail};
use super::{ChainReply, ChainRequest, PendingReport};
use crate::trace::Trace;
use crate::transport::{
    Body, Ending, Outcome, PendingOutcome, Refusal, RefusalReason, Reply, Request, Transport,
};

/// How long the links before a failed one may take to end, so that the first
/// failure in chain order is known.
const EARLIER_LINKS_GRACE: Duration = Duration::from_secs(3);

/// How long after a deadline to wait for the runner's own word on it, which has
/// the end of stderr, before going on without.
const DEADLINE_GRACE: Duration = Duration::from_millis(200);

/// How long to wait before asking busy runners again: at first, and at most.
const BUSY_BACKOFF_MIN: Duration = Duration::from_millis(1);
const BUSY_BACKOFF_MAX: Duration = Duration::from_millis(100);

/// A run under way.
pub(super) struct Walk {
    chain: Arc<Chain>,
    transport: Arc<dyn Transport>,
    trace: Trace,
    stderr: Option<mpsc::Sender<Bytes>>,
    deadline: Option<Instant>,
    trail: Trail,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// Where the last link's output goes.
    output: Option<oneshot::Sender<Body>>,
}

/// What a run waits for.
enum Event {
    /// The call of this link was taken, or never will be.
    Called(usize, Option<Instant>, Result<Reply, FailureReason>),
    /// This link ended.
    Ended(usize, Outcome),
    /// Nothing more of the reply will be read.
    Drained,
    /// The links before a failed one have had their time.
    PatienceOver,
    /// The chain's deadline is well over.
    Overdue,
}

impl Walk {
    /// A run that is made when its reply is read.
    pub(super) fn start(
        chain: Arc<Chain>,
        transport: Arc<dyn Transport>,
        request: ChainRequest,
    ) -> ChainReply {
        let ChainRequest {
            body,
            trace,
            stderr,
        } = request;
        let (output, last) = oneshot::channel();
        let (reading, drained) = oneshot::channel();
        let walk = Walk {
            deadline: chain.deadline.map(|deadline| Instant::now() + deadline),
            trail: Trail::new(Arc::clone(&chain)),
            events: FuturesUnordered::new(),
            output: Some(output),
            chain,
            transport,
            trace,
            stderr,
        };
        let notes = walk.trail.notes();
        let report = PendingReport::new(walk.run(body, drained).boxed());
        let body = Body::new(Output::new(last, report.clone(), reading, notes));
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
                Some(Event::Ended(index, outcome)) => {
                    self.trail.record(index, LinkEnd::Ended(outcome));
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

    fn expect(&mut self, event: impl Future<Output = Event> + Send + 'static) {
        self.events.push(event.boxed());
    }

    /// Calls a link; its deadline counts from now.
    fn call(&mut self, index: usize, body: Body) {
        let link = &self.chain.links[index];
        let own = link.deadline.map(|deadline| Instant::now() + deadline);
        let deadline = [self.deadline, own].into_iter().flatten().min();
        let request = Request {
            body,
            trace: self.trace.clone(),
            deadline,
            stderr: self.stderr.clone(),
        };
        let (transport, id) = (Arc::clone(&self.transport), link.id);
        let notes = self.trail.notes();
        self.expect(async move {
            let busy = &notes.busy[index];
            let result = call_until_taken(transport.as_ref(), id, request, busy).await;
            Event::Called(index, deadline, result)
        });
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
            Err(reason) => return self.trail.record(index, LinkEnd::Refused(reason)),
        };
        let outcome = ended(reply.outcome.clone(), deadline);
        self.expect(outcome.map(move |outcome| Event::Ended(index, outcome)));
        if index + 1 < self.chain.links.len() {
            let chain = Arc::clone(&self.chain);
            let body = gate::between(chain, index, reply, self.trail.notes());
            self.call(index + 1, body);
        } else if let Some(output) = self.output.take() {
            // A caller who does not read it any more drops it, as it should be.
            let _ = output.send(reply.body);
        }
    }
}

/// Calls until somebody takes the call, for as long as there is time.
async fn call_until_taken(
    transport: &dyn Transport,
    id: LinkId,
    mut request: Request,
    busy: &AtomicBool,
) -> Result<Reply, FailureReason> {
    let deadline = request.deadline;
    let mut backoff = BUSY_BACKOFF_MIN;
    loop {
        let refusal = match before(deadline, transport.call(id, request)).await {
            Some(Ok(reply)) => {
                busy.store(false, Ordering::Release);
                return Ok(reply);
            }
            Some(Err(refusal)) => refusal,
            None => return Err(FailureReason::DeadlinePassed),
        };
        let Refusal {
            request: given_back,
            reason,
        } = refusal;
        match reason {
            RefusalReason::NoRunner => return Err(FailureReason::NoRunner),
            RefusalReason::CannotStart(reason) => return Err(FailureReason::CannotStart(reason)),
            RefusalReason::Busy | RefusalReason::Unreachable(_) => {
                busy.store(true, Ordering::Release);
            }
        }
        if before(deadline, sleep(jittered(backoff))).await.is_none() {
            return Err(FailureReason::Busy);
        }
        backoff = (backoff * 2).min(BUSY_BACKOFF_MAX);
        request = given_back;
    }
}

/// Waits for a link to end, and not much longer than it may take.
async fn ended(outcome: PendingOutcome, deadline: Option<Instant>) -> Outcome {
    let taken = Instant::now();
    let outcome = before(deadline.map(|deadline| deadline + DEADLINE_GRACE), outcome).await;
    let mut outcome = outcome.unwrap_or_else(|| Outcome {
        ending: Ending::DeadlinePassed,
        stderr: Bytes::new(),
        elapsed: taken.elapsed(),
    });
    // Whoever reads a link may have been stopped at the deadline before it: the
    // link was still running then, whichever came first.
    let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
    if is_late && outcome.ending == Ending::Unread {
        outcome.ending = Ending::DeadlinePassed;
    }
    outcome
}

/// What `future` gives, unless the deadline comes first.
async fn before<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// Between half of that and all of it, so that those who were refused together
/// do not come back together.
fn jittered(backoff: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) as u32;
    backoff / 2 + backoff.mul_f64(f64::from(random) / f64::from(u32::MAX)) / 2
}
