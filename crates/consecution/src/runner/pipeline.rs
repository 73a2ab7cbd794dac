//! A pipeline: one process for each of several consecutive links. This module starts
//! them, feeds the first, reads the last, enforces deadlines and stops them.
//!
//! A kernel pipe connects each process with the next. The pool decides when pipelines are
//! started, and the portal what counts as a failure; this module decides neither.

use std::future::poll_fn;
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use sandbox::{Alarm, Event, Failure, InFlight, Stdio, Successor, WaitStatus, Zygote};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::pool::SpoiledBy;
use crate::pipe::{Reader, Writer};
use crate::transport::{Body, LAST_WORDS_WAIT_MAX, Outcome, PendingOutcome};
use allowance::Allowance;
use call::Call;
use ending::SIGKILL;
use link::{Joint, Link, Links};
use output::Output;

mod allowance;
mod call;
mod ending;
mod link;
mod output;
mod stderr;
#[cfg(test)]
mod tests;

pub(super) use allowance::Bounds;

/// How long it may take until all programs of a pipeline have been executed.
const START_WAIT_MAX: Duration = Duration::from_secs(10);

/// One link of a pipeline to start.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    pub(super) zygote: &'a Zygote,
    /// The exit codes of this link after which the next link gets the end of its input.
    /// Unused for the last link.
    pub(super) accepted: &'a [u8],
}

/// A pipeline whose processes have started and have got no input yet. Dropping it blocks.
#[derive(Debug)]
pub(super) struct IdlePipeline {
    links: Links,
    /// Wakes the runner when an inner link fails; `None` with a single link.
    alarm: Option<AsyncFd<Alarm>>,
    /// The output of the last link.
    stdout: Reader,
    stderrs: Vec<Reader>,
    kept: Kept,
}

/// Our own copies of the writing ends of the pipes that we read. While we hold these, a
/// process that closes its ends does not wake us. Processes close them all just before
/// init reports how they ended; a wake-up for each would cost more than the rest of the
/// call.
#[derive(Debug, Default)]
struct Kept {
    /// The writing end of the last link's output.
    stdout: Option<PipeWriter>,
    stderrs: Vec<PipeWriter>,
}

/// A pipeline could not be started, because one of its processes could not.
#[derive(Debug)]
pub(super) struct StartError {
    /// The position of that link in the pipeline, from 0.
    pub(super) stage: usize,
    pub(super) cause: StartFailure,
}

/// A process could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartFailure {
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error(transparent)]
    Sandbox(#[from] sandbox::StartError),
    #[error("start a process")]
    Io(#[from] io::Error),
    #[error("start a process: it was killed before it began; is memory short?")]
    Killed,
    #[error("start a process: it did not begin within {} s", START_WAIT_MAX.as_secs())]
    TooSlow,
}

impl IdlePipeline {
    /// Starts all processes at once, and waits until their programs have been executed.
    ///
    /// # Errors
    /// [`StartError`] says which process could not be started, and why. No process is left
    /// behind.
    pub(super) async fn start(stages: &[Stage<'_>]) -> Result<IdlePipeline, StartError> {
        let mut starting = Starting::default();
        match starting.start(stages).await {
            Ok((alarm, stdout)) => Ok(IdlePipeline {
                links: starting.links,
                alarm,
                stdout,
                stderrs: starting.stderrs,
                kept: starting.kept,
            }),
            Err(error) => {
                drop(starting.links.end().await);
                Err(error)
            }
        }
    }

    /// Resolves when the pipeline is no longer as good as new: a process has ended, or the
    /// last process has written output before it got input. Output of inner processes goes
    /// to the next process and cannot be seen here. Standard error does not spoil a
    /// pipeline; it is kept for the pipeline's request.
    pub(super) async fn until_spoiled(&self) {
        let until_one_ends = poll_fn(|context| {
            // One report is enough: the others need not be polled.
            let mut links = self.links.links.iter();
            let ended = links.any(|link| link.poll_report(context).is_ready());
            if ended {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        tokio::select! {
            () = until_one_ends => {}
            () = self.stdout.until_readable() => {}
        }
    }

    /// Why an idle pipeline is spoiled: one of its processes wrote or ended before its call,
    /// or a process, its init or its zygote was killed from outside. To be called once it is
    /// spoiled; waits for what its inits report, for [`LAST_WORDS_WAIT_MAX`] at most.
    pub(super) async fn spoiled_by(&mut self) -> SpoiledBy {
        if self.stdout.holds_bytes() {
            return SpoiledBy::Itself;
        }
        // A process's output is closed a moment before its init reports how it ended.
        let event = poll_fn(|context| {
            // In chain order: the end of one process may have caused the end of the next.
            let mut events = (self.links.links.iter_mut()).map(|link| link.poll_event(context));
            events.find(Poll::is_ready).unwrap_or(Poll::Pending)
        });
        match tokio::time::timeout(LAST_WORDS_WAIT_MAX, event).await {
            Ok(Ok(Event::Exited(WaitStatus::Signalled(SIGKILL)))) => SpoiledBy::Others,
            Ok(Ok(Event::Started | Event::Exited(_))) | Err(_) => SpoiledBy::Itself,
            Ok(Ok(Event::Gone | Event::Failed(..)) | Err(_)) => SpoiledBy::Others,
        }
    }

    /// Gives the pipeline its work. When none of its processes runs any more, `over` is
    /// called with the outcome, to which it may add, the pending outcome resolves, and then `held` is dropped.
    /// The outcome is the first link's, with those of the other links in `joined`.
    pub(super) fn serve(
        self,
        work: Work,
        bounds: Bounds,
        held: impl Send + 'static,
        over: impl FnOnce(&mut Outcome) + Send + 'static,
    ) -> (Body, PendingOutcome) {
        let (allowance, excess) = Allowance::new(bounds.output_bytes_max);
        let (output, end) = Output::body(self.stdout, allowance);
        let (tell, outcome) = PendingOutcome::channel();
        let call = Call {
            links: self.links,
            alarm: self.alarm,
            stderrs: self.stderrs,
            kept: self.kept,
            output: end,
            excess,
            stderr_bytes_max: bounds.stderr_bytes_max,
        };
        tokio::spawn(async move {
            let (outcomes, remains) = call.run(work).await;
            // There is always at least one outcome.
            let outcome = Outcome::of_links(outcomes);
            let mut outcome = outcome.unwrap_or_else(|| Outcome::lost("nothing was run"));
            over(&mut outcome);
            let _ = tell.send(outcome);
            // Closing all files takes longer than sending the answer, so let that go first.
            tokio::task::yield_now().await;
            drop(remains);
            drop(held);
        });
        (output, outcome)
    }
}

/// The parts of a pipeline that have been started so far.
#[derive(Default)]
struct Starting {
    links: Links,
    stderrs: Vec<Reader>,
    kept: Kept,
}

impl Starting {
    /// Starts all processes. Returns the alarm, and the output of the last process.
    async fn start(
        &mut self,
        stages: &[Stage<'_>],
    ) -> Result<(Option<AsyncFd<Alarm>>, Reader), StartError> {
        let at = |stage| move |cause: StartFailure| StartError { stage, cause };
        let (alarm, stdout) = self.ask(stages)?;
        let started = async {
            for (stage, link) in self.links.links.iter_mut().enumerate() {
                let event = poll_fn(|context| link.poll_event(context)).await;
                let zygote = stages[stage].zygote;
                until_started(zygote, event).map_err(at(stage))?;
                link.watch_life().map_err(|error| at(stage)(error.into()))?;
            }
            Ok(())
        };
        match tokio::time::timeout(START_WAIT_MAX, started).await {
            Ok(started) => started?,
            Err(_) => {
                let slow = self.links.links.iter().position(|link| !link.is_started());
                return Err(at(slow.unwrap_or(0))(StartFailure::TooSlow));
            }
        }
        let alarm = alarm.map(watch).transpose();
        let alarm = alarm.map_err(|error| at(0)(error.into()))?;
        Ok((alarm, stdout))
    }

    /// Asks the zygotes for all processes, without waiting for any.
    fn ask(&mut self, stages: &[Stage<'_>]) -> Result<(Option<Alarm>, Reader), StartError> {
        let at = |stage| move |cause: StartFailure| StartError { stage, cause };
        let begun = (|| {
            let (stdin_theirs, stdin) = io::pipe()?;
            self.links.stdin = Some(Writer::new(stdin)?);
            let alarm = if stages.len() > 1 {
                Some(Alarm::new()?)
            } else {
                None
            };
            Ok((OwnedFd::from(stdin_theirs), alarm))
        })();
        let (mut input, alarm) = begun.map_err(|error: io::Error| at(0)(error.into()))?;
        let last = stages.len().saturating_sub(1);
        for (number, stage) in stages.iter().enumerate() {
            let successor = (number < last).then_some(alarm.as_ref()).flatten();
            let output = self.ask_one(stage, input, successor);
            input = output.map_err(at(number))?;
        }
        let stdout = Reader::new(input).map_err(|error| at(last)(error.into()))?;
        Ok((alarm, stdout))
    }

    /// Asks for one process, which reads `input`, and returns its output. `alarm` is given
    /// if another process will read that output.
    fn ask_one(
        &mut self,
        stage: &Stage<'_>,
        input: OwnedFd,
        alarm: Option<&Alarm>,
    ) -> Result<OwnedFd, StartFailure> {
        let (output, output_theirs) = io::pipe()?;
        let (stderr, stderr_theirs) = io::pipe()?;
        self.stderrs.push(Reader::new(stderr)?);
        self.kept.stderrs.push(stderr_theirs.try_clone()?);
        let mut joint = None;
        let process = match alarm {
            None => {
                self.kept.stdout = Some(output_theirs.try_clone()?);
                stage.zygote.start(Stdio {
                    stdin: input,
                    stdout: output_theirs.into(),
                    stderr: stderr_theirs.into(),
                })?
            }
            Some(alarm) => {
                let reading = output.try_clone()?;
                let in_flight = InFlight::send(&output_theirs)?;
                let accepted = stage.accepted.iter().collect();
                let stdio = Stdio {
                    stdin: input,
                    stdout: output_theirs.into(),
                    stderr: stderr_theirs.into(),
                };
                let successor = Successor {
                    accepted,
                    output: &in_flight,
                    alarm,
                };
                let process = stage.zygote.start_before(stdio, successor)?;
                joint = Some(Joint::new(accepted, in_flight, reading.into()));
                process
            }
        };
        self.links.links.push(Link::new(process, joint)?);
        Ok(output.into())
    }
}

/// Whether a process has started, by its first event.
fn until_started(zygote: &Zygote, event: io::Result<Event>) -> Result<(), StartFailure> {
    match event? {
        Event::Started => Ok(()),
        Event::Failed(step, errno) => Err(zygote.explain(step, errno).into()),
        Event::Exited(_) | Event::Gone => Err(StartFailure::Killed),
    }
}

/// The input and parameters of a pipeline's call.
pub(super) struct Work {
    pub(super) input: Body,
    pub(super) deadline: Option<Instant>,
    /// Receives standard error while the pipeline runs.
    pub(super) stderr: Option<mpsc::Sender<Bytes>>,
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types that may swap their descriptor; ours do not"
)]
pub(super) fn watch<T: AsRawFd>(watched: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(watched, Interest::READABLE)
}
