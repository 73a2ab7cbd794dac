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
use sandbox::{
    Alarm, Event, Failure, InFlight, Observer, Strings, StringsError, WaitStatus, Zygote,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::pool::SpoiledBy;
use super::stderr_log::LoggedCall;
use crate::pipe::{Reader, Writer};
use crate::transport::{Body, LAST_WORDS_WAIT_MAX, Outcome, PendingOutcome};
use allowance::{Allowance, OutputMax};
use call::{Call, Out};
use ending::SIGKILL;
use link::{Ends, Joint, Link, Links};
use output::Output;
use stored::FileOutput;

mod allowance;
mod call;
mod cpu_time;
mod ending;
mod link;
mod output;
mod stderr;
mod stored;
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
    pub(super) mode: Mode,
}

/// When a link's command is executed, and how it gets its input and gives its output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mode {
    /// It is executed when its request is there; before that, its place is prepared.
    pub(super) is_late: bool,
    /// Its input is stored in a file before it is executed. Only for the first link of a
    /// pipeline, which is late.
    pub(super) stores_input: bool,
    /// It leaves its output in a file, and what it writes to standard output is kept with
    /// standard error. Only for the last link of a pipeline.
    pub(super) leaves_file: bool,
    /// The most processor time that it may take for a call. Enforced where it is counted.
    pub(super) cpu_time_max: Option<Duration>,
    /// The most bytes of its output. Only for the last link of a pipeline.
    pub(super) output_bytes_max: Option<u64>,
}

/// A pipeline whose processes have started, or whose places are prepared, and that has got
/// no input yet. Dropping it blocks.
#[derive(Debug)]
pub(super) struct IdlePipeline {
    links: Links,
    /// Wakes the runner when an inner link fails; `None` with a single link.
    alarm: Option<AsyncFd<Alarm>>,
    /// The output of the last link, unless it leaves that in a file.
    stdout: Option<Reader>,
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
    #[error(transparent)]
    Strings(#[from] StringsError),
    #[error("start a process: it was killed before it began; is memory short?")]
    Killed,
    #[error("start a process: it did not begin within {} s", START_WAIT_MAX.as_secs())]
    TooSlow,
}

impl IdlePipeline {
    /// Starts all processes at once, and waits until their programs have been executed, or
    /// their places are prepared.
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

    /// Executes the commands that wait for their request, each with its strings, if it has
    /// some: all but one whose input has to be stored first. Waits until they have been.
    ///
    /// # Errors
    /// As those of [`start`](IdlePipeline::start), but the pipeline is still there.
    pub(super) async fn execute(
        &mut self,
        strings: Vec<Option<Strings>>,
    ) -> Result<(), StartError> {
        let links = &mut self.links.links;
        for (link, strings) in links.iter_mut().zip(strings) {
            link.set_strings(strings);
        }
        let waits = |link: &Link| link.waits_for_its_request();
        if !links.iter().any(waits) {
            return Ok(());
        }
        let alarm = self.alarm.as_ref();
        let mut executed = Vec::new();
        for (stage, link) in links.iter_mut().enumerate().filter(|(_, link)| waits(link)) {
            let asked = link.execute(None, alarm);
            asked.map_err(|cause| StartError {
                stage,
                cause: cause.into(),
            })?;
            executed.push((stage, link));
        }
        until_all_started(executed.into_iter()).await
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
            () = until_readable(self.stdout.as_ref()) => {}
        }
    }

    /// Looks whether its processes sleep: those whose commands have been executed. Use it
    /// only while the pipeline is there.
    pub(super) fn observers(&self) -> Vec<Observer> {
        self.links.links.iter().filter_map(Link::observer).collect()
    }

    /// Why an idle pipeline is spoiled: one of its processes wrote or ended before its call,
    /// or a process, its init or its zygote was killed from outside. To be called once it is
    /// spoiled; waits for what its inits report, for [`LAST_WORDS_WAIT_MAX`] at most.
    pub(super) async fn spoiled_by(&mut self) -> SpoiledBy {
        if self.stdout.as_ref().is_some_and(Reader::holds_bytes) {
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
            Ok(Ok(Event::Prepared | Event::Started | Event::Exited(_))) | Err(_) => {
                SpoiledBy::Itself
            }
            Ok(Ok(Event::Gone | Event::Failed(..)) | Err(_)) => SpoiledBy::Others,
        }
    }

    /// Gives the pipeline its work. When none of its processes runs any more, `over` is
    /// called with the outcome, to which it may add; the pending outcome resolves, and then
    /// `held` is dropped. The outcome is the first link's, with those of the other links in
    /// `joined`.
    pub(super) fn serve(
        self,
        work: Work,
        bounds: Bounds,
        held: impl Send + 'static,
        over: impl FnOnce(&mut Outcome) + Send + 'static,
    ) -> (Body, PendingOutcome) {
        let of_last = self.links.links.last();
        let of_last = of_last.and_then(|last| last.mode.output_bytes_max);
        let output_max = OutputMax::least(bounds.output_bytes_max, of_last);
        let (allowance, excess) = Allowance::new(output_max.bytes());
        let (output, end) = match self.stdout {
            Some(stdout) => {
                let (output, end) = Output::body(stdout, allowance);
                (output, Out::Pipe(end))
            }
            None => {
                let (output, end) = FileOutput::body(allowance);
                (output, Out::File(end))
            }
        };
        let (tell, outcome) = PendingOutcome::channel();
        let call = Call {
            links: self.links,
            alarm: self.alarm,
            stderrs: self.stderrs,
            kept: self.kept,
            output: end,
            excess,
            output_max,
            stderr_bytes_max: bounds.stderr_bytes_max,
        };
        let deadline = work.deadline;
        tokio::spawn(async move {
            let began = Instant::now();
            let (outcomes, remains) = call.run(work, began).await;
            // There is always at least one outcome.
            let outcome = Outcome::of_links(outcomes);
            let mut outcome = outcome.unwrap_or_else(|| Outcome::lost("nothing was run"));
            over(&mut outcome);
            let _ = tell.send(outcome);
            // Closing all files takes longer than sending the answer, so let that go first.
            tokio::task::yield_now().await;
            // A file that is still read takes memory.
            if let Some(file) = remains.close() {
                file.until_given_back(deadline).await;
            }
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
    ) -> Result<(Option<AsyncFd<Alarm>>, Option<Reader>), StartError> {
        let at = |stage| move |cause: StartFailure| StartError { stage, cause };
        let (alarm, stdout) = self.ask(stages)?;
        until_all_started(self.links.links.iter_mut().enumerate()).await?;
        let alarm = alarm.map(watch).transpose();
        let alarm = alarm.map_err(|error| at(0)(error.into()))?;
        Ok((alarm, stdout))
    }

    /// Asks the zygotes for all processes, without waiting for any.
    fn ask(&mut self, stages: &[Stage<'_>]) -> Result<(Option<Alarm>, Option<Reader>), StartError> {
        let at = |stage| move |cause: StartFailure| StartError { stage, cause };
        let stores_input = stages.first().is_some_and(|first| first.mode.stores_input);
        let begun = (|| {
            let mut input = None;
            if !stores_input {
                let (stdin_theirs, stdin) = io::pipe()?;
                self.links.stdin = Some(Writer::new(stdin)?);
                input = Some(OwnedFd::from(stdin_theirs));
            }
            let alarm = if stages.len() > 1 {
                Some(Alarm::new()?)
            } else {
                None
            };
            Ok((input, alarm))
        })();
        let (mut input, alarm) = begun.map_err(|error: io::Error| at(0)(error.into()))?;
        let last = stages.len().saturating_sub(1);
        for (number, stage) in stages.iter().enumerate() {
            let successor = (number < last).then_some(alarm.as_ref()).flatten();
            let output = self.ask_one(stage, input, successor);
            input = output.map_err(at(number))?;
        }
        let stdout = input.map(Reader::new).transpose();
        let stdout = stdout.map_err(|error| at(last)(error.into()))?;
        Ok((alarm, stdout))
    }

    /// Asks for one process, which reads `input`, and returns its output, if that is a pipe.
    /// `alarm` is given if another process will read it.
    fn ask_one(
        &mut self,
        stage: &Stage<'_>,
        input: Option<OwnedFd>,
        alarm: Option<&Alarm>,
    ) -> Result<Option<OwnedFd>, StartFailure> {
        let (stderr, stderr_theirs) = io::pipe()?;
        self.stderrs.push(Reader::new(stderr)?);
        self.kept.stderrs.push(stderr_theirs.try_clone()?);
        let (mut output, mut joint) = (None, None);
        let stdout_theirs = if stage.mode.leaves_file {
            OwnedFd::from(stderr_theirs.try_clone()?)
        } else {
            let (reading, writing) = io::pipe()?;
            if alarm.is_some() {
                let in_flight = InFlight::send(&writing)?;
                let accepted = stage.accepted.iter().collect();
                joint = Some(Joint::new(accepted, in_flight, reading.try_clone()?.into()));
            } else {
                self.kept.stdout = Some(writing.try_clone()?);
            }
            output = Some(reading.into());
            writing.into()
        };
        let ends = Ends {
            stdin: input,
            stdout: stdout_theirs,
            stderr: stderr_theirs.into(),
        };
        let successor = joint.as_ref().and_then(|joint| joint.successor(alarm?));
        let (process, waiting) = if stage.mode.is_late {
            (stage.zygote.prepare()?, Some(ends))
        } else {
            let stdio = ends.into_stdio(None)?;
            let process = match successor {
                Some(successor) => stage.zygote.start_before(stdio, successor)?,
                None => stage.zygote.start(stdio)?,
            };
            (process, None)
        };
        (self.links.links).push(Link::new(process, joint, waiting, stage.mode)?);
        Ok(output)
    }
}

/// Waits until all of these have started, or are prepared.
async fn until_all_started<'a>(
    links: impl Iterator<Item = (usize, &'a mut Link)>,
) -> Result<(), StartError> {
    let deadline = Instant::now() + START_WAIT_MAX;
    for (stage, link) in links {
        let event = poll_fn(|context| link.poll_event(context));
        let started = match tokio::time::timeout_at(deadline, event).await {
            Ok(event) => link.has_started(event),
            Err(_) => Err(StartFailure::TooSlow),
        };
        started.map_err(|cause| StartError { stage, cause })?;
    }
    Ok(())
}

/// Resolves when there is something to read; never without a pipe.
async fn until_readable(pipe: Option<&Reader>) {
    match pipe {
        Some(pipe) => pipe.until_readable().await,
        None => std::future::pending().await,
    }
}

/// The input and parameters of a pipeline's call.
pub(super) struct Work {
    pub(super) input: Body,
    pub(super) deadline: Option<Instant>,
    /// Receives standard error while the pipeline runs.
    pub(super) stderr: Option<mpsc::Sender<Bytes>>,
    /// What logs the standard error of each link; empty if nothing is to be logged.
    pub(super) stderr_logs: Vec<LoggedCall>,
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types that may swap their descriptor; ours do not"
)]
pub(super) fn watch<T: AsRawFd>(watched: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(watched, Interest::READABLE)
}
