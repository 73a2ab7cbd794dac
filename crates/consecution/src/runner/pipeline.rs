//! A pipeline: the processes of links that follow one another, from their start to their
//! end: fed, read, timed, and stopped when they must be.
//!
//! What one link writes the next one reads, from one pipe of the kernel's. It does not
//! decide when pipelines are started (the pool does) nor what a failure is (the portal
//! does).

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

/// How long processes that were asked for may take to be executed.
const START_WAIT_MAX: Duration = Duration::from_secs(10);

/// One link of a pipeline that is to be started.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    pub(super) zygote: &'a Zygote,
    /// The exit codes of this link with which the input of the next one is complete; of
    /// the last link they mean nothing.
    pub(super) accepted: &'a [u8],
}

/// A pipeline whose processes were started and that has not been given any input. It
/// blocks where it is dropped.
#[derive(Debug)]
pub(super) struct IdlePipeline {
    links: Links,
    /// Where there is more than one link.
    alarm: Option<AsyncFd<Alarm>>,
    /// Of the last link.
    stdout: Reader,
    stderrs: Vec<Reader>,
    kept: Kept,
}

/// The writing ends of what is read here. As long as we have them, that a process has
/// closed its own says nothing: all of them are closed just before init says how it has
/// ended, and to be woken for each would cost more than the rest of the call.
#[derive(Debug, Default)]
struct Kept {
    /// Of the last link.
    stdout: Option<PipeWriter>,
    stderrs: Vec<PipeWriter>,
}

/// A pipeline could not be started, because of one of its links.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub(super) struct StartError {
    /// Of which link: its place in the pipeline, from 0.
    pub(super) stage: usize,
    #[source]
    pub(super) cause: StartFailure,
}

/// A process could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartFailure {
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error(transparent)]
    Sandbox(#[from] sandbox::StartError),
    #[error("start a process: {0}")]
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
    /// [`StartError`] says which one was kept from starting, and by what; nothing is left
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

    /// Resolves when the pipeline can no longer serve as a fresh one: one of its processes
    /// has ended, or the last one has written output before there was any input. What inner
    /// ones write meanwhile the next one reads, which nobody sees; what any says on standard
    /// error is no result, and is kept for its request.
    pub(super) async fn until_spoiled(&self) {
        let until_one_ends = poll_fn(|context| {
            // Where there is one, nobody needs to hear of the others.
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

    /// What has spoiled it, once it is spoiled: what one did itself, or somebody who has
    /// killed it, or its init, or its zygote.
    pub(super) async fn spoiled_by(&mut self) -> SpoiledBy {
        if self.stdout.holds_bytes() {
            return SpoiledBy::Itself;
        }
        // Its output is closed a moment before it is told how it ended.
        let event = poll_fn(|context| {
            // In chain order: one may have made the next one end.
            let mut events = (self.links.links.iter_mut()).map(|link| link.poll_event(context));
            events.find(Poll::is_ready).unwrap_or(Poll::Pending)
        });
        match tokio::time::timeout(LAST_WORDS_WAIT_MAX, event).await {
            Ok(Ok(Event::Exited(WaitStatus::Signalled(SIGKILL)))) => SpoiledBy::Others,
            Ok(Ok(Event::Started | Event::Exited(_))) | Err(_) => SpoiledBy::Itself,
            Ok(Ok(Event::Gone | Event::Failed(..)) | Err(_)) => SpoiledBy::Others,
        }
    }

    /// Gives the pipeline its work. When nothing of it runs any more, `over` is told how it
    /// ended, the outcome resolves, and then `held` is dropped. The outcome is that
    /// of the first link, with those of the others in `joined`.
    pub(super) fn serve(
        self,
        work: Work,
        bounds: Bounds,
        held: impl Send + 'static,
        over: impl FnOnce(&Outcome) + Send + 'static,
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
            // There is one at least.
            let outcome = Outcome::of_links(outcomes);
            let outcome = outcome.unwrap_or_else(|| Outcome::lost("nothing was run"));
            over(&outcome);
            let _ = tell.send(outcome);
            // To close all that takes longer than to answer, which goes first.
            tokio::task::yield_now().await;
            drop(remains);
            drop(held);
        });
        (output, outcome)
    }
}

/// A pipeline that is being started: what of it there is already.
#[derive(Default)]
struct Starting {
    links: Links,
    stderrs: Vec<Reader>,
    kept: Kept,
}

impl Starting {
    /// Starts all of it. Gives what wakes the runner, and the last output.
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

    /// Asks for all processes, and waits for none.
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

    /// Asks for one process, which reads `input`; with an alarm if another one is to read
    /// what it writes. Gives that.
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

/// What a pipeline is to work on.
pub(super) struct Work {
    pub(super) input: Body,
    pub(super) deadline: Option<Instant>,
    /// Where what is written to standard error goes while it runs.
    pub(super) stderr: Option<mpsc::Sender<Bytes>>,
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types that may swap their descriptor; ours do not"
)]
pub(super) fn watch<T: AsRawFd>(watched: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(watched, Interest::READABLE)
}
