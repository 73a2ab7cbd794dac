//! Answers the calls of one link, each with a fresh process.

use std::sync::Arc;

use chain::LinkId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::metrics::{LinkMetrics, Metrics};
use super::pool::{Idle, Pool, Starter, TakeError, Taken};
use super::process::IdleProcess;
use super::worker::Held;
use crate::trace::CallId;
use crate::transport::{Ending, Outcome, Refusal, RefusalReason, Reply, Request, Service};

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

/// Starts processes of one link.
pub(super) struct ZygoteStarter {
    pub(super) held: Held,
    pub(super) of_runner: Arc<Metrics>,
    pub(super) of_link: Arc<LinkMetrics>,
}

impl Starter for ZygoteStarter {
    type Process = Warm;

    async fn start(&self) -> Result<Warm, Arc<str>> {
        let began = Instant::now();
        match IdleProcess::start(&self.held.zygote).await {
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
}

/// Answers calls with the processes of a pool.
pub(super) struct PoolService {
    pub(super) id: LinkId,
    pub(super) pool: Arc<Pool<Warm>>,
    pub(super) metrics: Arc<LinkMetrics>,
}

impl Service for PoolService {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move {
            match self.pool.take().await {
                Ok(taken) => Ok(self.serve(request, taken)),
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
    fn serve(&self, request: Request, taken: Taken<Warm>) -> Reply {
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
        let (id, call_id) = (self.id, request.trace.call_id.clone());
        process.serve(request, permit, move |outcome| {
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
