//! Answers the calls of one link, each with a fresh process, and with one more for each
//! following link that runs here too.
//!
//! A call is refused as busy if it may succeed on another runner, or later: also if this
//! runner is starved, or the link's zygote is gone.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chain::{Filled, LinkId, ParameterError};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::activity::ActivityProbe;
use super::arguments::{fill, strings};
use super::eof_barrier::eof_barrier;
use super::hints::hint;
use super::local_links::{LocalLink, LocalLinks, Plan, Segment, Served};
use super::metrics::Metrics;
use super::pipeline::{Bounds, IdlePipeline, Stage, StartError, StartFailure, Work};
use super::pool::{Idle, Probe, SpoiledBy, Starter, TakeError, Taken};
use super::pool_state::Warmth;
use super::reaper::{Reaped, Reaper};
use super::starvation::{Kind, Starvation};
use super::stderr_log::LoggedCall;
use super::traced::{self, ProcessSpans};
use crate::error::with_causes;
use crate::spans::Span;
use crate::trace::{CallId, Trace};
use crate::transport::{
    Body, Ending, Outcome, PendingOutcome, Refusal, RefusalReason, Reply, Request, Service, Waiting,
};

/// A pipeline without a request, and its links.
pub(super) struct WarmPipeline {
    pipeline: Reaped<IdlePipeline>,
    links: Arc<[Arc<LocalLink>]>,
}

impl Idle for WarmPipeline {
    async fn spoiled(&self) {
        self.pipeline.until_spoiled().await;
        for link in &*self.links {
            link.metrics.spoiled.inc();
        }
    }

    fn probe(&self) -> Option<Box<dyn Probe>> {
        let probe = ActivityProbe::new(self.pipeline.observers())?;
        Some(Box::new(probe))
    }

    async fn spoiled_by(&mut self) -> SpoiledBy {
        self.pipeline.spoiled_by().await
    }
}

/// How long a start keeps its turn. A start takes about a millisecond; one that takes much
/// longer waits for a slow disk, and must not make others wait.
const TURN_MAX: Duration = Duration::from_millis(20);

/// How long a start waits for processes that are being reaped, so that there are not more
/// processes than allowed. Usually they are gone at once.
const REAPED_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long to wait to find out whether a process was killed together with its zygote: the
/// kernel ends both at the same time, but reports them one after the other.
const GONE_WAIT_MAX: Duration = Duration::from_millis(100);

/// How long a starved runner waits before it refuses a call, about as long as a short call
/// takes. Otherwise it would be free sooner than other runners, and get more calls than
/// they.
const STARVED_PAUSE: Duration = Duration::from_millis(20);

/// The state that all starts of a runner share. Clones share it.
#[derive(Clone)]
pub(super) struct Starts {
    /// Limits how many starts run at a time.
    pub(super) turns: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) starvation: Arc<Starvation>,
    /// Drops pipelines that are not used.
    pub(super) reaper: Reaper,
}

/// Starts pipelines of consecutive links.
pub(super) struct PipelineStarter {
    pub(super) links: Arc<[Arc<LocalLink>]>,
    /// The exit codes of each link that complete the input of the next one.
    pub(super) accepted: Vec<Vec<u8>>,
    pub(super) starts: Starts,
}

/// The refusal of calls that wait for a pipeline of these links, if it could not be started.
async fn failed(
    links: &[Arc<LocalLink>],
    starvation: &Starvation,
    error: &StartError,
) -> TakeError {
    let reason = format!("failed to {}", with_causes(&error.cause));
    let Some(link) = links.get(error.stage) else {
        return TakeError::CannotStart(reason.into());
    };
    link.metrics.start_failures.inc();
    let kind = match &error.cause {
        // A zygote is gone a moment after all that it has started.
        StartFailure::Killed
            if timeout(GONE_WAIT_MAX, link.zygote.until_gone())
                .await
                .is_ok() =>
        {
            Kind::ZygoteGone
        }
        cause => Kind::of(cause),
    };
    match kind {
        Kind::Starved(advice) => {
            let reason = format!("{reason} ({advice})").into();
            starvation.failed(&reason);
            TakeError::Starved(reason)
        }
        // Nothing that it starts would run, and the link will be served again.
        Kind::ZygoteGone => TakeError::Busy,
        Kind::OfLink => TakeError::CannotStart(reason.into()),
    }
}

impl Starter for PipelineStarter {
    type Pipeline = WarmPipeline;

    async fn start(&self) -> Result<WarmPipeline, TakeError> {
        // Otherwise there could be more processes than allowed.
        let reaped = self.starts.reaper.until_caught_up();
        let _ = timeout(REAPED_WAIT_MAX, reaped).await;
        let turn = self.starts.turns.acquire().await;
        let began = Instant::now();
        let stages = self.links.iter().zip(&self.accepted);
        let stages: Vec<_> = stages
            .map(|(link, accepted)| Stage {
                zygote: link.zygote.get(),
                accepted,
                mode: link.mode,
            })
            .collect();
        let mut start = pin!(IdlePipeline::start(&stages));
        let started = match timeout(TURN_MAX, &mut start).await {
            Ok(started) => started,
            Err(_) => {
                drop(turn);
                start.await
            }
        };
        match started {
            Ok(pipeline) => {
                let took = began.elapsed();
                self.starts.metrics.starts.observe(took.as_secs_f64());
                self.starts.starvation.succeeded();
                Ok(WarmPipeline {
                    pipeline: Reaped::new(pipeline, &self.starts.reaper),
                    links: Arc::clone(&self.links),
                })
            }
            Err(error) => Err(failed(&self.links, &self.starts.starvation, &error).await),
        }
    }

    fn rest(&self) {
        for link in &*self.links {
            link.zygote.get().rest();
        }
    }
}

/// Answers the calls of a link with pipelines that begin with it.
pub(super) struct LinkService {
    pub(super) served: Served,
    pub(super) links: LocalLinks,
    pub(super) bounds: Bounds,
    pub(super) starvation: Arc<Starvation>,
}

impl Service for LinkService {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move {
            let mut trace = request.trace.clone();
            let span = traced::begin(&mut trace, &self.served.link);
            let plan = self.links.plan(&self.served, &request.following);
            let is_all = plan.links().count() == 1 + request.following.len();
            let filled = match fill(plan.links(), is_all, &request.parameters) {
                Ok(filled) => filled,
                Err(error) => {
                    span.note(|notes| notes.fail(&error));
                    return Err(self.malformed(request, &trace, &error));
                }
            };
            let taken = take_by(&plan, request.deadline, &request.waiting).await;
            let taken = match taken {
                Ok(segments) => self.execute(segments, filled).await,
                refused => refused,
            };
            match taken {
                Ok(segments) => Ok(self.serve_all(request, segments, (&trace, span))),
                Err(error) => {
                    span.note(|notes| notes.fail(&error));
                    drop(span);
                    let reason = self.refuse(&trace, error);
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

impl LinkService {
    fn malformed(&self, request: Request, trace: &Trace, error: &ParameterError) -> Refusal {
        let LocalLink { id, metrics, .. } = &*self.served.link;
        tracing::debug!(
            call_id = %trace.call_id,
            trace_id = trace.trace_id(),
            span_id = trace.span_id(),
            link_id = %id,
            "a call was refused: failed to {error}"
        );
        metrics.malformed.inc();
        let reason = RefusalReason::Malformed(format!("failed to {error}").into());
        Refusal { request, reason }
    }

    /// Executes the commands that have waited for their request, each with what was filled
    /// in for its link. If one cannot be executed, its pipeline and those behind it are left
    /// out: the portal calls their links again by themselves, and gets the reason then.
    ///
    /// # Errors
    /// A command of the first pipeline cannot be executed.
    async fn execute(
        &self,
        segments: Vec<Segment>,
        filled: Vec<Option<Filled>>,
    ) -> Result<Vec<Segment>, TakeError> {
        let mut filled = filled.into_iter();
        let mut executed = Vec::with_capacity(segments.len());
        for mut segment in segments {
            let WarmPipeline { pipeline, links } = &mut segment.taken.pipeline;
            let filled = filled.by_ref().take(links.len());
            let strings = strings(links, filled);
            let is_late = links.iter().any(|link| link.mode.is_late);
            let result = match strings {
                Ok(strings) if is_late => pipeline.execute(strings).await,
                Ok(_) => Ok(()),
                Err((stage, cause)) => Err(StartError { stage, cause }),
            };
            if let Err(error) = result {
                if executed.is_empty() {
                    return Err(failed(links, &self.starvation, &error).await);
                }
                break;
            }
            executed.push(segment);
        }
        Ok(executed)
    }

    /// Gives a call to pipelines, each of which reads what the one before it writes.
    fn serve_all(
        &self,
        request: Request,
        segments: Vec<Segment>,
        (trace, span): (&Trace, Span),
    ) -> Reply {
        let Request {
            body,
            deadline,
            stderr,
            following,
            ..
        } = request;
        let links = segments
            .iter()
            .map(|segment| segment.taken.pipeline.links.len());
        let joined = links.sum::<usize>().saturating_sub(1);
        span.note(|notes| notes.set("consecution.joined", joined));
        let mut first = 0;
        let mut output = body;
        let mut outcomes: Vec<PendingOutcome> = Vec::new();
        for Segment { taken, accepted } in segments {
            let input = match outcomes.last() {
                Some(before) => eof_barrier(output, before.clone(), accepted),
                None => output,
            };
            let work = Work {
                input,
                deadline,
                stderr: stderr.clone(),
                stderr_logs: stderr_logs(&taken, &trace.call_id),
            };
            let links = &taken.pipeline.links;
            let spans = ProcessSpans::begin(&span, links, (&following, first));
            first += links.len();
            let (next, outcome) = self.serve(work, taken, trace, spans);
            output = next;
            outcomes.push(outcome);
        }
        Reply {
            joined,
            ..Reply::new(output, all(outcomes))
        }
    }

    fn serve(
        &self,
        work: Work,
        taken: Taken<WarmPipeline>,
        trace: &Trace,
        spans: ProcessSpans,
    ) -> (Body, PendingOutcome) {
        let Taken {
            pipeline: WarmPipeline { pipeline, links },
            permit,
            warmth,
        } = taken;
        for link in &*links {
            match warmth {
                Warmth::Ready => link.metrics.hits.inc(),
                Warmth::Starting => link.metrics.starting.inc(),
                Warmth::Cold => link.metrics.misses.inc(),
            };
        }
        // The closure must not hold the links: dropping the runner must drop their zygotes,
        // which ends the call.
        let links = links
            .iter()
            .map(|link| (link.id, Arc::clone(&link.metrics), Arc::clone(&link.means)));
        let links: Vec<_> = links.collect();
        let trace = trace.clone();
        let pipeline = pipeline.into_inner();
        pipeline.serve(work, self.bounds, permit, move |outcome| {
            outcome.change_links(|at, outcome| {
                let Some((id, metrics, means)) = links.get(at) else {
                    return;
                };
                outcome.hint = hint(outcome, means);
                metrics.end(outcome);
                spans.ended(at, outcome);
                log_end(*id, &trace, outcome);
            });
        })
    }

    fn refuse(&self, trace: &Trace, error: TakeError) -> RefusalReason {
        let LocalLink { id, metrics, .. } = &*self.served.link;
        tracing::debug!(
            call_id = %trace.call_id,
            trace_id = trace.trace_id(),
            span_id = trace.span_id(),
            link_id = %id,
            "a call was refused: {error}"
        );
        match error {
            TakeError::Busy => {
                metrics.busy.inc();
                RefusalReason::Busy
            }
            TakeError::Starved(_) => {
                metrics.starved.inc();
                RefusalReason::Busy
            }
            TakeError::CannotStart(reason) => {
                metrics.cannot_start.inc();
                RefusalReason::CannotStart(reason)
            }
        }
    }
}

/// What logs the standard error of a pipeline's links, in chain order; empty if nothing is to
/// be logged.
fn stderr_logs(taken: &Taken<WarmPipeline>, call_id: &CallId) -> Vec<LoggedCall> {
    let links = taken.pipeline.links.iter();
    links
        .filter_map(|link| Some(link.stderr_log.as_ref()?.of_call(call_id)))
        .collect()
}

/// Like [`Plan::take`], but refuses the call as busy at its deadline: then it was not run.
async fn take_by(
    plan: &Plan,
    deadline: Option<Instant>,
    waiting: &Waiting,
) -> Result<Vec<Segment>, TakeError> {
    let mut taking = pin!(plan.take());
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

/// How all links of a call ended, once all have.
fn all(mut outcomes: Vec<PendingOutcome>) -> PendingOutcome {
    match outcomes.len() {
        1 => outcomes.remove(0),
        _ => PendingOutcome::new(async {
            let outcomes = join_all(outcomes).await;
            let outcomes = outcomes.into_iter().flat_map(Outcome::into_links);
            // There is one at least.
            Outcome::of_links(outcomes).unwrap_or_else(|| Outcome::lost("nothing was run"))
        }),
    }
}

fn log_end(id: LinkId, trace: &Trace, outcome: &Outcome) {
    let Outcome {
        ending, elapsed, ..
    } = outcome;
    match ending {
        // That is a fault of ours; all others are the link's or the caller's.
        Ending::Lost(reason) => tracing::warn!(
            call_id = %trace.call_id,
            trace_id = trace.trace_id(),
            span_id = trace.span_id(),
            link_id = %id,
            ?elapsed,
            "a call was lost: {reason}"
        ),
        ending => tracing::debug!(
            call_id = %trace.call_id,
            trace_id = trace.trace_id(),
            span_id = trace.span_id(),
            link_id = %id,
            ?elapsed,
            ?ending,
            "a call ended"
        ),
    }
}
