//! Answers the calls of one link, each with a fresh process.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chain::LinkId;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join, join_all, maybe_done};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::metrics::{LinkMetrics, Metrics};
use super::neighbours::{Follower, Neighbours};
use super::pool::{Idle, Pool, Starter, TakeError, Taken};
use super::process::{Bounds, IdleProcess, Work};
use super::worker::Held;
use crate::trace::CallId;
use crate::transport::{
    Body, Cut, Ending, Following, Judge, Outcome, PendingOutcome, Refusal, RefusalReason, Reply,
    Request, Service, Waiting, gate,
};

/// A process that waits for its request, and is counted.
pub(super) struct Warm {
    process: IdleProcess,
    metrics: Arc<LinkMetrics>,
}

impl Idle for Warm {
    async fn spoiled(&self) {
        self.process.until_spoiled().await;
        self.metrics.spoiled.inc();
    }
}

/// How long a start keeps others waiting; one takes about a millisecond. It may
/// wait for a slow disk itself.
const TURN_MAX: Duration = Duration::from_millis(20);

/// Starts processes of one link.
pub(super) struct ZygoteStarter {
    pub(super) held: Arc<Held>,
    /// Turns, of which each start takes one.
    pub(super) starts: Arc<Semaphore>,
    pub(super) of_runner: Arc<Metrics>,
    pub(super) of_link: Arc<LinkMetrics>,
}

impl Starter for ZygoteStarter {
    type Process = Warm;

    async fn start(&self) -> Result<Warm, Arc<str>> {
        let turn = self.starts.acquire().await;
        let began = Instant::now();
        let mut start = pin!(IdleProcess::start(self.held.zygote()));
        let started = match timeout(TURN_MAX, &mut start).await {
            Ok(started) => started,
            Err(_) => {
                drop(turn);
                start.await
            }
        };
        match started {
            Ok(process) => {
                let took = began.elapsed();
                self.of_runner.starts.observe(took.as_secs_f64());
                let metrics = Arc::clone(&self.of_link);
                Ok(Warm { process, metrics })
            }
            Err(error) => {
                self.of_link.start_failures.inc();
                Err(format!("failed to {error}").into())
            }
        }
    }

    fn rest(&self) {
        self.held.zygote().rest();
    }
}

/// Answers calls with the processes of a pool.
pub(super) struct PoolService {
    pub(super) id: LinkId,
    pub(super) pool: Arc<Pool<Warm>>,
    pub(super) bounds: Bounds,
    pub(super) metrics: Arc<LinkMetrics>,
    pub(super) neighbours: Neighbours,
}

impl Service for PoolService {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move {
            let Request {
                following,
                deadline,
                waiting,
                ..
            } = &request;
            match self.take_by(*deadline, waiting, following).await {
                Ok((taken, following)) => Ok(self.serve_all(request, taken, following)),
                Err(error) => {
                    let reason = self.refuse(&request.trace.call_id, error);
                    Err(Refusal { request, reason })
                }
            }
        }
        .boxed()
    }
}

impl PoolService {
    /// As [`PoolService::take`], and not later than at the call's deadline: what
    /// has found no room by then has not been run, and is told so.
    async fn take_by(
        &self,
        deadline: Option<Instant>,
        waiting: &Waiting,
        following: &[Following],
    ) -> Result<(Taken<Warm>, Vec<Follower>), TakeError> {
        let mut taking = pin!(self.take(following));
        if let Some(taken) = taking.as_mut().now_or_never() {
            return taken;
        }
        waiting.tell();
        match deadline {
            Some(deadline) => timeout_at(deadline, taking).await,
            None => Ok(taking.await),
        }
        .unwrap_or(Err(TakeError::Busy))
    }

    /// Takes a process for a call, and of the links that follow as many as there
    /// are.
    async fn take(
        &self,
        following: &[Following],
    ) -> Result<(Taken<Warm>, Vec<Follower>), TakeError> {
        let mut first = pin!(maybe_done(self.pool.take()));
        let _ = first.as_mut().now_or_never();
        if !self.pool.has_started_for_all() {
            // It may wait for room, and must hold nothing meanwhile.
            first.as_mut().await;
        }
        if let Some(Err(error)) = first.as_mut().output_mut() {
            return Err(error.clone());
        }
        let ((), following) = join(first.as_mut(), self.neighbours.take(following)).await;
        let taken = first.take_output().unwrap_or(Err(TakeError::Busy));
        Ok((taken?, following))
    }

    /// Gives a call to processes of this link and of those that follow, each of
    /// which reads what the one before it writes.
    fn serve_all(&self, request: Request, taken: Taken<Warm>, following: Vec<Follower>) -> Reply {
        let Request {
            body,
            trace,
            deadline,
            stderr,
            ..
        } = request;
        let work = |input| Work {
            input,
            deadline,
            stderr: stderr.clone(),
        };
        let (mut output, outcome) = self.serve(work(body), taken, &trace.call_id);
        let joined = following.len();
        let mut outcomes = vec![outcome];
        for follower in following {
            let Follower {
                service,
                taken,
                accepted,
            } = follower;
            let before = outcomes[outcomes.len() - 1].clone();
            let input = gate(output, before, Accepted(accepted));
            let (next, outcome) = service.serve(work(input), taken, &trace.call_id);
            output = next;
            outcomes.push(outcome);
        }
        Reply {
            joined,
            ..Reply::new(output, all(outcomes))
        }
    }

    fn serve(&self, work: Work, taken: Taken<Warm>, call_id: &CallId) -> (Body, PendingOutcome) {
        let Taken {
            process: Warm { process, metrics },
            permit,
            was_idle,
        } = taken;
        if was_idle {
            metrics.hits.inc();
        } else {
            metrics.misses.inc();
        }
        let (id, call_id) = (self.id, call_id.clone());
        process.serve(work, self.bounds, permit, move |outcome| {
            metrics.end(outcome);
            log_end(id, &call_id, outcome);
        })
    }

    fn refuse(&self, call_id: &CallId, error: TakeError) -> RefusalReason {
        tracing::debug!(%call_id, link = %self.id, "a call was refused: {error}");
        match error {
            TakeError::Busy => {
                self.metrics.busy.inc();
                RefusalReason::Busy
            }
            TakeError::CannotStart(reason) => {
                self.metrics.cannot_start.inc();
                RefusalReason::CannotStart(reason)
            }
        }
    }
}

/// The codes with which a link succeeds, so that what it has written is complete.
struct Accepted(Vec<u8>);

impl Judge for Accepted {
    fn judge(&self, outcome: &Outcome) -> Result<(), Cut> {
        match outcome.ending {
            Ending::Exited(code) if self.0.contains(&code) => Ok(()),
            _ => Err(Cut::new("the link before it failed")),
        }
    }

    /// Whoever reads it is stopped, and that is what is told.
    fn broke(&self, _: &Cut) {}
}

/// How all links of a call ended, once all have.
fn all(mut outcomes: Vec<PendingOutcome>) -> PendingOutcome {
    match outcomes.len() {
        1 => outcomes.remove(0),
        _ => PendingOutcome::new(async {
            let outcomes = join_all(outcomes).await;
            // There is one at least.
            Outcome::of_links(outcomes).unwrap_or_else(|| Outcome::lost("nothing was run"))
        }),
    }
}

fn log_end(id: LinkId, call_id: &CallId, outcome: &Outcome) {
    let Outcome {
        ending, elapsed, ..
    } = outcome;
    match ending {
        // That is a fault of ours; all others are the link's or the caller's.
        Ending::Lost(reason) => {
            tracing::warn!(%call_id, link = %id, ?elapsed, "a call was lost: failed to {reason}");
        }
        ending => tracing::debug!(%call_id, link = %id, ?elapsed, ?ending, "a call ended"),
    }
}
