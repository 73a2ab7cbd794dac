//! Answers the calls of one link, each with a fresh process.
//!
//! A call is refused as busy where it would have run elsewhere, or later: also where
//! this runner is starved, or the link's zygote is gone.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chain::LinkId;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join, join_all, maybe_done};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::metrics::{LinkMetrics, Metrics};
use super::neighbours::{Follower, Neighbours};
use super::pipeline::{Bounds, IdlePipeline, Stage, StartError, StartFailure, Work};
use super::pool::{Idle, Pool, SpoiledBy, Starter, TakeError, Taken};
use super::reaper::{Reaped, Reaper};
use super::starvation::{Kind, Starvation};
use super::worker::Held;
use crate::trace::CallId;
use crate::transport::{
    Body, Cut, Ending, Following, Judge, Outcome, PendingOutcome, Refusal, RefusalReason, Reply,
    Request, Service, Waiting, gate,
};

/// A process that waits for its request, and is counted.
pub(super) struct Warm {
    process: Reaped<IdlePipeline>,
    metrics: Arc<LinkMetrics>,
}

impl Idle for Warm {
    async fn spoiled(&self) {
        self.process.until_spoiled().await;
        self.metrics.spoiled.inc();
    }

    async fn spoiled_by(&mut self) -> SpoiledBy {
        self.process.spoiled_by().await
    }
}

/// How long a start keeps others waiting; one takes about a millisecond. It may
/// wait for a slow disk itself.
const TURN_MAX: Duration = Duration::from_millis(20);

/// How long a start waits for processes that are being ended, whose room it needs:
/// as a rule they are gone at once.
const REAPED_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long to wait to see whether it is its zygote with which a process was killed.
const GONE_WAIT_MAX: Duration = Duration::from_millis(100);

/// How long a starved runner takes to refuse a call, as long as few calls take: it must
/// not get more of them than others do since it is faster.
const STARVED_PAUSE: Duration = Duration::from_millis(20);

/// Starts processes of one link.
pub(super) struct ZygoteStarter {
    pub(super) held: Arc<Held>,
    /// Turns, of which each start takes one.
    pub(super) starts: Arc<Semaphore>,
    pub(super) of_runner: Arc<Metrics>,
    pub(super) of_link: Arc<LinkMetrics>,
    pub(super) starvation: Arc<Starvation>,
    pub(super) reaper: Reaper,
}

impl ZygoteStarter {
    /// What to tell whoever waits for a process that could not be started.
    async fn failed(&self, error: &StartError) -> TakeError {
        self.of_link.start_failures.inc();
        let reason = format!("failed to {error}");
        let kind = match &error.cause {
            // A zygote is gone a moment after all that it has started.
            StartFailure::Killed
                if timeout(GONE_WAIT_MAX, self.held.until_gone()).await.is_ok() =>
            {
                Kind::ZygoteGone
            }
            cause => Kind::of(cause),
        };
        match kind {
            Kind::Starved(advice) => {
                let reason = format!("{reason} ({advice})").into();
                self.starvation.failed(&reason);
                TakeError::Starved(reason)
            }
            // Nothing that it starts would run, and the link will be served again.
            Kind::ZygoteGone => TakeError::Busy,
            Kind::OfLink => TakeError::CannotStart(reason.into()),
        }
    }
}

impl Starter for ZygoteStarter {
    type Process = Warm;

    async fn start(&self) -> Result<Warm, TakeError> {
        // Else a runner might have more processes than it may have.
        let _ = timeout(REAPED_WAIT_MAX, self.reaper.until_caught_up()).await;
        let turn = self.starts.acquire().await;
        let began = Instant::now();
        let stage = Stage {
            zygote: self.held.zygote(),
            accepted: &[],
        };
        let mut start = pin!(IdlePipeline::start(std::slice::from_ref(&stage)));
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
                self.starvation.succeeded();
                Ok(Warm {
                    process: Reaped::new(process, &self.reaper),
                    metrics: Arc::clone(&self.of_link),
                })
            }
            Err(error) => Err(self.failed(&error).await),
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
    pub(super) starvation: Arc<Starvation>,
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
                    if self.starvation.is_on() {
                        sleep(STARVED_PAUSE).await;
                    }
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
        process
            .into_inner()
            .serve(work, self.bounds, permit, move |outcome| {
                metrics.end(outcome);
                log_end(id, &call_id, outcome);
            })
    }

    fn refuse(&self, call_id: &CallId, error: TakeError) -> RefusalReason {
        tracing::debug!(%call_id, link_id = %self.id, "a call was refused: {error}");
        match error {
            TakeError::Busy => {
                self.metrics.busy.inc();
                RefusalReason::Busy
            }
            TakeError::Starved(_) => {
                self.metrics.starved.inc();
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
            tracing::warn!(%call_id, link_id = %id, ?elapsed, "a call was lost: {reason}");
        }
        ending => tracing::debug!(%call_id, link_id = %id, ?elapsed, ?ending, "a call ended"),
    }
}
