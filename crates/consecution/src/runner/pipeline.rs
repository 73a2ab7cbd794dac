//! A pipeline: the processes of links that follow one another, from their start to their
//! end: fed, read, timed, and stopped when they must be.
//!
//! It does not decide when pipelines are started (the pool does) nor what a failure is
//! (the portal does).

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use rustix::event::PollFlags;
use sandbox::{Event, Failure, Stdio, WaitStatus, Zygote};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::pool::SpoiledBy;
use crate::pipe::{Reader, Writer, is_ready};
use crate::transport::{Body, Cut, Ending, Next, Outcome, PendingOutcome, STDERR_TAIL_BYTES_MAX};
use allowance::{Allowance, Exceeded, Excess};
use output::{Output, Unread};

mod allowance;
mod output;

pub(super) use allowance::Bounds;

/// How long a process that was asked for may take to be executed.
const START_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long to wait for a killed process's last words.
const LAST_WORDS_WAIT_MAX: Duration = Duration::from_secs(1);

/// One link of a pipeline that is to be started.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    pub(super) zygote: &'a Zygote,
    /// The exit codes of this link with which the input of the next one is complete; of
    /// the last link they mean nothing.
    pub(super) accepted: &'a [u8],
}

/// A pipeline whose processes were started and that has not been given any input.
#[derive(Debug)]
pub(super) struct IdlePipeline {
    fed: Fed,
    stdout: Reader,
    stderr: Reader,
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
        let first = stages.first().map(|stage| stage.zygote);
        let started = match first {
            Some(zygote) if stages.len() == 1 => IdlePipeline::start_one(zygote).await,
            _ => Err(io::Error::from(io::ErrorKind::Unsupported).into()),
        };
        started.map_err(|cause| StartError { stage: 0, cause })
    }

    async fn start_one(zygote: &Zygote) -> Result<IdlePipeline, StartFailure> {
        let (stdin_theirs, stdin) = io::pipe()?;
        let (stdout, stdout_theirs) = io::pipe()?;
        let (stderr, stderr_theirs) = io::pipe()?;
        let process = zygote.start(Stdio {
            stdin: stdin_theirs.into(),
            stdout: stdout_theirs.into(),
            stderr: stderr_theirs.into(),
        })?;
        let mut process = watch(process)?;
        let started = tokio::time::timeout(START_WAIT_MAX, next_event(&mut process));
        match started.await.map_err(|_| StartFailure::TooSlow)?? {
            Event::Started => {}
            Event::Failed(step, errno) => return Err(zygote.explain(step, errno).into()),
            Event::Exited(_) | Event::Gone => return Err(StartFailure::Killed),
        }
        Ok(IdlePipeline {
            fed: Fed {
                process,
                stdin: Some(Writer::new(stdin)?),
                unread: Unread::default(),
                is_gone: false,
            },
            stdout: Reader::new(stdout)?,
            stderr: Reader::new(stderr)?,
        })
    }

    /// Resolves when the process can no longer serve as a fresh one: it has
    /// ended, or has written output or closed it before it had any input. What it says on
    /// standard error meanwhile is no result, and is kept for its request.
    pub(super) async fn until_spoiled(&self) {
        tokio::select! {
            () = self.until_it_reports() => {}
            () = self.stdout.until_readable() => {}
        }
    }

    /// What has spoiled it, once it is spoiled: what it did itself, or somebody who has
    /// killed it, or its init, or its zygote.
    pub(super) async fn spoiled_by(&mut self) -> SpoiledBy {
        if self.stdout.holds_bytes() {
            return SpoiledBy::Itself;
        }
        // Its output is closed a moment before it is told how it ended.
        let event = next_event(&mut self.fed.process);
        match tokio::time::timeout(LAST_WORDS_WAIT_MAX, event).await {
            Ok(Ok(Event::Exited(WaitStatus::Signalled(SIGKILL)))) => SpoiledBy::Others,
            Ok(Ok(Event::Started | Event::Exited(_))) | Err(_) => SpoiledBy::Itself,
            Ok(Ok(Event::Gone | Event::Failed(..)) | Err(_)) => SpoiledBy::Others,
        }
    }

    /// Resolves when there is an event, which can only be its end.
    async fn until_it_reports(&self) {
        loop {
            let Ok(mut ready) = self.fed.process.readable().await else {
                return;
            };
            // The runtime may still remember the event that said it has started.
            if is_ready(ready.get_inner(), PollFlags::IN) {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Gives the process its work. When it is gone, `over` is told how it ended,
    /// then whoever waits for the outcome, and then `held` is dropped.
    pub(super) fn serve(
        mut self,
        work: Work,
        bounds: Bounds,
        held: impl Send + 'static,
        over: impl FnOnce(&Outcome) + Send + 'static,
    ) -> (Body, PendingOutcome) {
        let (allowance, excess) = Allowance::new(bounds.output_bytes_max);
        let output = Output::body(self.stdout, &mut self.fed.unread, allowance);
        let (tell, outcome) = PendingOutcome::channel();
        let call = Call {
            fed: self.fed,
            stderr: self.stderr,
            stderr_bytes_max: bounds.stderr_bytes_max,
            excess,
        };
        tokio::spawn(async move {
            let started = Instant::now();
            let (ending, stderr) = call.run(work).await;
            let outcome = Outcome {
                stderr,
                elapsed: started.elapsed(),
                ..Outcome::new(ending)
            };
            over(&outcome);
            let _ = tell.send(outcome);
            drop(held);
        });
        (output, outcome)
    }
}

/// What a process is to work on.
pub(super) struct Work {
    pub(super) input: Body,
    pub(super) deadline: Option<Instant>,
    /// Where what it writes to standard error goes while it runs.
    pub(super) stderr: Option<mpsc::Sender<Bytes>>,
}

/// A process, and our ends of its pipes. None is closed as long as something of
/// the process runs: it would take that for an end of its input, or for a reader
/// that is gone, and go on to what it does then. It sees an end of its input only
/// where that is complete.
#[derive(Debug)]
struct Fed {
    process: AsyncFd<sandbox::Process>,
    /// `None` once the input is complete, or nobody reads it any more.
    stdin: Option<Writer>,
    unread: Unread,
    /// The command has ended by itself; what it has started may still run.
    is_gone: bool,
}

impl Fed {
    /// Kills what is left of the process, and waits for it where that matters.
    async fn end(mut self) {
        if self.may_see_an_end() {
            self.process.get_mut().kill();
            // Elsewhere, since it blocks; if there is no elsewhere any more, the
            // runtime drops it here.
            let _ = tokio::task::spawn_blocking(move || drop(self)).await;
        }
    }

    fn may_see_an_end(&self) -> bool {
        let is_over = self.process.get_ref().is_over();
        !is_over && (!self.is_gone || self.stdin.is_some())
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        if self.may_see_an_end() {
            self.process.get_mut().kill_and_wait();
        }
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types that may swap their descriptor; ours do not"
)]
pub(super) fn watch<T: AsRawFd>(watched: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(watched, Interest::READABLE)
}

async fn next_event(process: &mut AsyncFd<sandbox::Process>) -> io::Result<Event> {
    loop {
        let mut ready = process.readable_mut().await?;
        match ready.get_inner_mut().next_event()? {
            Some(event) => return Ok(event),
            None => ready.clear_ready(),
        }
    }
}

/// A process at work.
struct Call {
    fed: Fed,
    stderr: Reader,
    stderr_bytes_max: Option<u64>,
    /// Told when the output is more than is allowed.
    excess: Excess,
}

impl Call {
    /// Sees the process through to its end, whichever that is, and leaves none
    /// of it behind.
    async fn run(self, work: Work) -> (Ending, Bytes) {
        let mut tail = Tail::default();
        let Call {
            mut fed,
            mut stderr,
            stderr_bytes_max,
            excess,
        } = self;
        let Work {
            input,
            deadline,
            stderr: listener,
        } = work;
        let last_words = listener.clone();
        let (allowance, _) = Allowance::new(stderr_bytes_max);
        let listening = listen(&mut stderr, allowance, &mut tail, listener);
        let (ending, remark) = {
            let mut listening = pin!(listening.fuse());
            // Also why it was stopped for what it wrote, if it was.
            let (mut ending, mut remark) = {
                let Fed {
                    process,
                    stdin,
                    unread,
                    is_gone: _,
                } = &mut fed;
                // Dropped as soon as the process is gone: that tells upstream.
                let mut feeding = pin!(feed(input, stdin).fuse());
                let mut unread = pin!(unread.over());
                let mut excess = pin!(excess.fuse());
                let mut deadline = pin!(until(deadline));
                loop {
                    tokio::select! {
                        biased;
                        event = next_event(process) => {
                            if let Some(ending) = ending(event) { break (ending, None) }
                        }
                        () = &mut deadline => break (Ending::DeadlinePassed, None),
                        Ok(()) = &mut excess => break too_much("its output"),
                        () = &mut unread => break (Ending::Unread, None),
                        fed = &mut feeding => if fed.is_err() { break (Ending::Cut, None) },
                        within = &mut listening => if within.is_err() {
                            break too_much("standard error");
                        }
                    }
                }
            };
            let by_itself = matches!(ending, Ending::Exited(_) | Ending::Signalled(_));
            fed.is_gone = by_itself && remark.is_none();
            if fed.is_gone
                && let Some(limit_bytes) = fed.process.get_ref().ran_out_of_memory()
            {
                remark = Some(out_of_memory(limit_bytes, &ending));
                ending = Ending::Signalled(SIGKILL);
            }
            fed.end().await;
            if !listening.is_terminated() {
                // All writers are gone or being killed, so this ends.
                let _ = tokio::time::timeout(LAST_WORDS_WAIT_MAX, listening).await;
            }
            (ending, remark)
        };
        if let Some(remark) = remark {
            let line = Bytes::from(tail.line(&format!("consecution: {remark}\n")));
            if let Some(listener) = last_words {
                // Whoever does not keep up finds it in the outcome.
                let _ = tokio::time::timeout(LAST_WORDS_WAIT_MAX, listener.send(line)).await;
            }
        }
        (ending, tail.into_bytes())
    }
}

/// The ending that an event of the process means, if it means one.
fn ending(event: io::Result<Event>) -> Option<Ending> {
    match event {
        Ok(Event::Started) => None,
        Ok(Event::Exited(WaitStatus::Exited(code))) => Some(Ending::Exited(code)),
        Ok(Event::Exited(WaitStatus::Signalled(signal))) => Some(Ending::Signalled(signal)),
        // Of what a command can do, nothing ends its init: that is what happens to it
        // where its zygote is killed, or memory runs out.
        Ok(Event::Gone | Event::Failed(..)) => Some(Ending::Lost(KILLED_WITH_INIT.into())),
        Err(error) => Some(Ending::Lost(
            format!("its process could not be followed: {error}").into(),
        )),
    }
}

/// How a call is lost whose process did not end by itself.
const KILLED_WITH_INIT: &str =
    "its process was killed with its zygote, or by somebody else (has the host run out of memory?)";

const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();

/// What the kernel sends to who makes a file larger than it may be.
const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();

/// How it ends, and with which remark, where that is more than is allowed.
fn too_much(what: &str) -> (Ending, Option<String>) {
    let remark = format!("it wrote more to {what} than the runner allows");
    (Ending::Signalled(SIGXFSZ), Some(remark))
}

/// What to say of a process of which the kernel has killed a part, however the rest
/// of it has ended: what that has written lacks what was killed.
fn out_of_memory(limit_bytes: u64, ending: &Ending) -> String {
    let limit = chain::units::format_memory(limit_bytes);
    let rest = match ending {
        Ending::Exited(code) => {
            format!("; the kernel killed a part of it, and the rest exited with code {code}")
        }
        _ => String::new(),
    };
    format!("it ran out of memory: its limit is {limit}, raise Memory{rest}")
}

/// Resolves at the deadline, if there is one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Gives a process its input, and then the end of it, which only a complete one
/// has.
async fn feed(mut input: Body, stdin: &mut Option<Writer>) -> Result<(), Cut> {
    while let Some(pipe) = stdin {
        let next = tokio::select! {
            biased;
            next = input.next_for(pipe) => next?,
            // The process has closed its input without waiting for more.
            () = pipe.until_unread() => Next::Unread,
        };
        let is_read = match next {
            Next::Moved => true,
            Next::Chunk(chunk) => pipe.write_all(&chunk).await.is_ok(),
            Next::Unread | Next::End => false,
        };
        if !is_read {
            // The end; or it reads no more, which is its business, and its exit
            // code says whether that is right. Dropping the body tells upstream.
            *stdin = None;
        }
    }
    Ok(())
}

/// Reads what the process writes to standard error until that is closed: keeps
/// the end of it, and passes it on to `listener`. Stops where it is too much.
async fn listen(
    stderr: &mut Reader,
    mut allowance: Allowance,
    tail: &mut Tail,
    mut listener: Option<mpsc::Sender<Bytes>>,
) -> Result<(), Exceeded> {
    while let Ok(Some(chunk)) = stderr.chunk().await {
        allowance.take(chunk.len())?;
        tail.push(&chunk);
        if let Some(open) = &listener
            && open.send(chunk).await.is_err()
        {
            listener = None;
        }
    }
    Ok(())
}

/// The last [`STDERR_TAIL_BYTES_MAX`] bytes of what was pushed.
#[derive(Debug, Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(STDERR_TAIL_BYTES_MAX)..];
        let surplus = (self.0.len() + bytes.len()).saturating_sub(STDERR_TAIL_BYTES_MAX);
        self.0.drain(..surplus.min(self.0.len()));
        self.0.extend(bytes);
    }

    /// Adds a line of ours, behind a line break if there is none; gives what was
    /// added.
    fn line(&mut self, line: &str) -> String {
        let breaks = self.0.back().is_some_and(|last| *last != b'\n');
        let added = format!("{}{line}", if breaks { "\n" } else { "" });
        self.push(added.as_bytes());
        added
    }

    fn into_bytes(self) -> Bytes {
        Vec::from(self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_end_and_no_more() {
        let mut tail = Tail::default();
        tail.push(b"abc");
        tail.push(&vec![b'x'; STDERR_TAIL_BYTES_MAX - 2]);
        assert_eq!(tail.0.len(), STDERR_TAIL_BYTES_MAX);
        assert_eq!(tail.0[0], b'b');
        tail.push(&vec![b'y'; 3 * STDERR_TAIL_BYTES_MAX]);
        tail.push(b"z");
        let bytes = tail.into_bytes();
        assert_eq!(bytes.len(), STDERR_TAIL_BYTES_MAX);
        assert!(bytes.ends_with(b"yz"));
    }

    #[test]
    fn a_line_of_ours_stands_by_itself() {
        let mut tail = Tail::default();
        assert_eq!(tail.line("ours\n"), "ours\n");
        tail.push(b"theirs");
        assert_eq!(tail.line("ours\n"), "\nours\n");
        assert_eq!(&tail.into_bytes()[..], b"ours\ntheirs\nours\n");
    }
}
