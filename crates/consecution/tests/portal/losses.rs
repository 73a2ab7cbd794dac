//! Whatever is lost on the way, a chain's output is right or the call fails.
//!
//! Random chains on random input lose runners at random points; what comes out
//! is compared with what the links make of the input when nothing is lost.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::portal::{LossKind, chunks, open};
use bytes::Bytes;
use consecution::portal::{ChainError, ChainReply, ChainRequest, FailureReason};
use consecution::transport::conformance::fake;
use consecution::transport::{Cut, Ending, PendingOutcome, Reply, Request, Service};
use futures_util::StreamExt;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// How much the portal keeps of each stream, so that a call can be made again.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// What a link does.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// Writes each chunk with its bits turned over, as it reads it.
    Invert,
    /// Writes all of it backwards, in two chunks, once it has read it.
    Reverse,
}

/// When and how a runner is lost.
#[derive(Debug, Clone)]
struct Loss {
    /// After that many chunks were read, or the end was.
    reads: usize,
    /// After that many chunks were written, if that is earlier.
    writes: usize,
    kind: LossKind,
    /// So long after that.
    late: Duration,
}

/// A link, and how its runners are lost, one after the other.
#[derive(Debug, Clone)]
struct Plan {
    work: Work,
    losses: VecDeque<Loss>,
}

/// One call on a runner that is lost, or is not.
struct Running {
    request: Request,
    stdout: mpsc::Sender<Result<Bytes, Cut>>,
    loss: Option<Loss>,
    reads: usize,
    writes: usize,
}

/// The call cannot go on.
enum Stop {
    Ended(Ending),
    Lost(Loss),
}

impl Running {
    fn check(&self) -> Result<(), Stop> {
        match &self.loss {
            Some(loss) if self.reads >= loss.reads || self.writes >= loss.writes => {
                Err(Stop::Lost(loss.clone()))
            }
            _ => Ok(()),
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Stop> {
        self.check()?;
        let chunk = self.request.body.next().await.transpose();
        self.reads += 1;
        chunk.map_err(|_| Stop::Ended(Ending::Cut))
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Stop> {
        self.check()?;
        self.writes += 1;
        let sent = self.stdout.send(Ok(bytes)).await;
        sent.map_err(|_| Stop::Ended(Ending::Unread))
    }

    async fn work(&mut self, work: Work) -> Result<(), Stop> {
        let mut read = Vec::new();
        while let Some(chunk) = self.read().await? {
            match work {
                Work::Invert => self.write(invert(&chunk)).await?,
                Work::Reverse => read.extend_from_slice(&chunk),
            }
        }
        read.reverse();
        let rest = read.split_off(read.len() / 2);
        for half in [read, rest].into_iter().filter(|half| !half.is_empty()) {
            self.write(half.into()).await?;
        }
        // It may be lost when all is done but for saying so.
        self.check()
    }
}

fn invert(bytes: &[u8]) -> Bytes {
    bytes.iter().map(|byte| !byte).collect()
}

fn service(plan: Plan) -> Arc<dyn Service> {
    let losses = Mutex::new(plan.losses);
    fake::service(move |request| {
        let (stdout, output) = mpsc::channel(1);
        let (sender, outcome) = PendingOutcome::channel();
        let mut running = Running {
            request,
            stdout,
            loss: losses.lock().unwrap().pop_front(),
            reads: 0,
            writes: 0,
        };
        tokio::spawn(async move {
            let stopped = running.work(plan.work).await;
            let ending = match stopped {
                Ok(()) => Ending::Exited(0),
                Err(Stop::Ended(ending)) => ending,
                Err(Stop::Lost(loss)) => {
                    sleep(loss.late).await;
                    match loss.kind {
                        LossKind::Cut => {
                            let _ = running.stdout.send(Err(Cut::new("the wire broke"))).await;
                            return;
                        }
                        LossKind::Silent => return,
                        LossKind::Told => Ending::Lost("it was killed".into()),
                    }
                }
            };
            let _ = sender.send(fake::ended(ending));
        });
        std::future::ready(Ok(Reply::new(fake::receiving(output), outcome)))
    })
}

/// All that comes out, and how the run ended.
async fn run(plans: Vec<Plan>, input: Vec<Bytes>) -> (Vec<u8>, Result<(), ChainError>) {
    let chain = open(plans.into_iter().map(service)).await;
    let ChainReply { mut body, report } = chain.portal.stream(ChainRequest::new(chunks(input)));
    let mut received = Vec::new();
    let is_cut = loop {
        match body.next().await {
            Some(Ok(chunk)) => received.extend_from_slice(&chunk),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    let report = report.await.map(|_| ());
    assert_eq!(is_cut, report.is_err());
    (received, report)
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let kind = prop_oneof![
        Just(LossKind::Cut),
        Just(LossKind::Silent),
        Just(LossKind::Told)
    ];
    let writes = prop_oneof![3 => Just(usize::MAX), 1 => 1..8usize];
    let loss = (0..12usize, writes, kind, 0..20u64);
    let loss = loss.prop_map(|(reads, writes, kind, late)| Loss {
        reads,
        writes,
        kind,
        late: Duration::from_millis(late),
    });
    let work = prop_oneof![Just(Work::Invert), Just(Work::Reverse)];
    let plan = (work, prop::collection::vec(loss, 0..4));
    let plan = plan.prop_map(|(work, losses)| Plan {
        work,
        losses: losses.into(),
    });
    prop::collection::vec(plan, 1..4)
}

/// Chunks that are short, and now and then so long that their sum may be more than the
/// portal keeps.
fn input() -> impl Strategy<Value = Vec<Bytes>> {
    let chunk = prop::collection::vec(any::<u8>(), 1..20);
    let repeated = prop_oneof![9 => Just(1), 1 => Just(15_000_usize)];
    let chunks = (prop::collection::vec(chunk, 0..10), repeated);
    chunks.prop_map(|(chunks, times)| {
        let chunks = chunks.into_iter();
        chunks
            .map(|chunk| Bytes::from(chunk.repeat(times)))
            .collect()
    })
}

proptest! {
    #[test]
    fn a_chain_that_loses_runners_is_right_or_fails_for_want_of_what_it_kept(
        plans in plans(), input in input()
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let mut wanted = input.concat();
        for plan in &plans {
            match plan.work {
                Work::Invert => wanted = invert(&wanted).into(),
                Work::Reverse => wanted.reverse(),
            }
        }
        let (received, result) = runtime.block_on(run(plans.clone(), input));
        match result {
            Ok(()) => prop_assert!(received == wanted),
            Err(error) => {
                // Each stream is as long as the input: where that is kept whole, every
                // call can be made again.
                prop_assert!(wanted.len() > KEPT_BYTES_MAX, "{}", error);
                prop_assert!(wanted.starts_with(&received));
                let FailureReason::Lost(reason) = &error.reason else {
                    return Err(TestCaseError::fail(error.to_string()));
                };
                let is_too_large = reason.contains("too large to be kept")
                    || reason.contains("too much of its output was already passed on");
                prop_assert!(is_too_large, "{}", error);
            }
        }
    }
}
