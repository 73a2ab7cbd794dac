//! The processes of a pipeline and the pipes between them.
//!
//! For each pipe between two links the runner holds two things until the call is over:
//!
//! - the reading end, so that the writer never gets a SIGPIPE;
//! - the message in which the writing end is in flight, so that the reader gets no
//!   end-of-file before its input is complete. The runner drops the message earlier only
//!   if the input is complete.

use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sandbox::{
    Alarm, Archiving, Event, ExitCodes, InFlight, LeftOutput, Observer, Stdio, Step, Strings,
    Successor,
};
use tokio::io::unix::AsyncFd;

use super::ending::{End, Known, ending, not_followed, not_started, out_of_memory};
use super::output::UNREAD_WAIT_MAX;
use super::stored::{Storage, Unfed};
use super::{StartFailure, watch};
use crate::pipe::{Reader, Writer, is_ready};
use crate::transport::{Ending, Limit, Usage};

/// All processes of a pipeline, in chain order. Dropping it kills those that still run and
/// waits for them before it closes anything; so dropping blocks if a process still runs.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) links: Vec<Link>,
    /// The first process's input. `None` once it is complete, or is not read any more.
    pub(super) stdin: Option<Writer>,
}

impl Links {
    /// Kills processes that still run, and waits for them. If none was left, returns
    /// `self`, whose files are still open.
    pub(super) async fn end(mut self) -> Option<Links> {
        if self.links.iter().all(Link::is_gone) {
            return Some(self);
        }
        self.kill();
        // On a blocking thread, because the drop blocks. If the runtime is shutting down,
        // it drops the closure here.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
        None
    }

    fn kill(&mut self) {
        for link in &mut self.links {
            link.process.kill();
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.kill();
        for link in &mut self.links {
            link.process.kill_and_wait();
        }
    }
}

/// One process of a pipeline.
#[derive(Debug)]
pub(super) struct Link {
    // The next two watch descriptors of `process`, so they are declared, and dropped,
    // before it.
    /// Readable when init has reported.
    reports: Option<AsyncFd<RawFd>>,
    /// Readable when init is gone.
    life: Option<AsyncFd<RawFd>>,
    process: sandbox::Process,
    /// The pipe to the next process; `None` for the last process.
    joint: Option<Joint>,
    /// The ends of its pipes, as long as its command is not executed.
    waiting: Option<Ends>,
    /// Its command waits for its input to be stored.
    stores_input: bool,
    /// For its command alone.
    strings: Option<Strings>,
    /// The command has been executed.
    is_started: bool,
    /// How the process has ended, once that is known.
    pub(super) end: Option<End>,
}

/// The pipe between a process and the next one.
#[derive(Debug)]
pub(super) struct Joint {
    /// The exit codes of the writer with which the next process's input is complete.
    accepted: ExitCodes,
    /// The writing end in flight; `None` once the next process's input is complete.
    in_flight: Option<InFlight>,
    /// The reading end. It shares its open file description with the reader's standard
    /// input: do not make it non-blocking, because that would affect the reader.
    reading: OwnedFd,
    /// The runner reads the pipe in place of a reader that is gone.
    is_taken: bool,
}

/// The sandbox's ends of a process's pipes.
#[derive(Debug)]
pub(super) struct Ends {
    /// `None` if its input is stored in a file.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Ends {
    /// With that standard input, if there is no pipe for it.
    pub(super) fn into_stdio(self, stdin: Option<OwnedFd>) -> io::Result<Stdio> {
        let stdin = self.stdin.or(stdin).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Stdio {
            stdin,
            stdout: self.stdout,
            stderr: self.stderr,
        })
    }
}

impl Joint {
    /// What the writer's init is told of the reader.
    pub(super) fn successor<'a>(&'a self, alarm: &'a Alarm) -> Option<Successor<'a>> {
        Some(Successor {
            accepted: self.accepted,
            output: self.in_flight.as_ref()?,
            alarm,
        })
    }

    pub(super) fn new(accepted: ExitCodes, in_flight: InFlight, reading: OwnedFd) -> Joint {
        Joint {
            accepted,
            in_flight: Some(in_flight),
            reading,
            is_taken: false,
        }
    }
}

impl Link {
    /// A process that a zygote was asked to start. Its reports can be waited for.
    pub(super) fn new(
        process: sandbox::Process,
        joint: Option<Joint>,
        waiting: Option<Ends>,
        stores_input: bool,
    ) -> io::Result<Link> {
        Ok(Link {
            waiting,
            stores_input,
            strings: None,
            is_started: false,
            reports: Some(watch(process.as_raw_fd())?),
            life: None,
            process,
            joint,
            end: None,
        })
    }

    /// Whether its command is executed as soon as there is a request.
    pub(super) fn waits_for_its_request(&self) -> bool {
        self.waiting.is_some() && !self.stores_input
    }

    /// Looks whether its process sleeps; `None` if its command is not executed yet.
    pub(super) fn observer(&self) -> Option<Observer> {
        match self.waiting {
            None => self.process.observer(),
            Some(_) => None,
        }
    }

    pub(super) fn set_strings(&mut self, strings: Option<Strings>) {
        self.strings = strings;
    }

    /// Where its input is to be stored, if it is: given once.
    pub(super) fn take_storage(&mut self) -> io::Result<Option<Storage>> {
        if !self.stores_input {
            return Ok(None);
        }
        if let Some(file) = self.process.take_input() {
            return Ok(Some(Storage::File(file)));
        }
        let (source, pipe) = io::pipe()?;
        let unpacking = self.process.unpack(source.into())?;
        Ok(Some(Storage::Folder {
            pipe: Writer::new(pipe)?,
            unpacking: watch(unpacking)?,
        }))
    }

    /// Packs the folder that it has left as its output. Gives the tar, and a writing end of
    /// its pipe, without which it has no end.
    pub(super) fn pack(&self) -> io::Result<(Reader, PipeWriter, AsyncFd<Archiving>)> {
        let (tar, target) = io::pipe()?;
        let kept = target.try_clone()?;
        let packing = self.process.pack(target.into())?;
        Ok((Reader::new(tar)?, kept, watch(packing)?))
    }

    /// Executes its command, which has waited until now, with this standard input if it
    /// has no pipe for that. The next event says whether it has started.
    pub(super) fn execute(
        &mut self,
        stdin: Option<OwnedFd>,
        alarm: Option<&AsyncFd<Alarm>>,
    ) -> io::Result<()> {
        let Some(ends) = self.waiting.take() else {
            return Ok(());
        };
        let stdio = ends.into_stdio(stdin)?;
        let alarm = alarm.map(AsyncFd::get_ref);
        let successor = (self.joint.as_ref()).and_then(|joint| joint.successor(alarm?));
        let strings = self.strings.take();
        (self.process).execute(stdio, strings.as_ref(), successor)
    }

    /// Whether its first event, or the one after [`execute`](Link::execute), is that it has
    /// started. From then on the end of its init is watched too.
    pub(super) fn has_started(&mut self, event: io::Result<Event>) -> Result<(), StartFailure> {
        match event? {
            Event::Prepared => {}
            Event::Started => self.is_started = true,
            Event::Failed(step, errno) => return Err(self.process.explain(step, errno).into()),
            Event::Exited(_) | Event::Gone => return Err(StartFailure::Killed),
        }
        if self.life.is_none() {
            let pidfd = self.process.lifeline().map(|pidfd| pidfd.as_raw_fd());
            self.life = pidfd.map(watch).transpose()?;
        }
        Ok(())
    }

    /// Stops waiting for init's reports, so that they wake nobody: while everything goes
    /// well, they are not needed before the last link has ended. A failure raises the
    /// alarm; if init itself is killed, its end is noticed.
    pub(super) fn ignore_reports(&mut self) {
        if self.joint.is_some() && self.life.is_some() && self.is_started {
            self.reports = None;
        }
    }

    /// Waits for init's reports again.
    pub(super) fn watch_reports(&mut self) {
        if self.end.is_none() && self.reports.is_none() {
            match watch(self.process.as_raw_fd()) {
                Ok(reports) => self.reports = Some(reports),
                Err(error) => self.stop(not_followed(&error).into()),
            }
        }
    }

    /// Ready if init has reported. Call this only after the start was reported: then the
    /// report can only be the end.
    pub(super) fn poll_report(&self, context: &mut Context<'_>) -> Poll<()> {
        let Some(reports) = &self.reports else {
            return Poll::Pending;
        };
        loop {
            let Ok(mut ready) = ready!(reports.poll_read_ready(context)) else {
                return Poll::Ready(());
            };
            // The runtime may still remember the readiness from the report of the start.
            if is_ready(&self.process, PollFlags::IN) {
                return Poll::Ready(());
            }
            ready.clear_ready();
        }
    }

    pub(super) fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Event>> {
        let Some(reports) = &self.reports else {
            return Poll::Pending;
        };
        if self.process.has_early_event() {
            return Poll::Ready(
                self.process
                    .next_event()
                    .transpose()
                    .unwrap_or(Ok(Event::Gone)),
            );
        }
        loop {
            let mut ready = ready!(reports.poll_read_ready(context))?;
            match self.process.next_event()? {
                Some(event) => return Poll::Ready(Ok(event)),
                None => ready.clear_ready(),
            }
        }
    }

    /// Ready when the process has ended. While reports are ignored, only when its init is
    /// gone.
    pub(super) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.end.is_none() && self.reports.is_some() {
            let event = ready!(self.poll_event(context));
            self.take(event);
        }
        if self.end.is_none() {
            // If this init cannot be watched, the end of the last link is noticed instead.
            let Some(life) = &self.life else {
                return Poll::Pending;
            };
            let _ = ready!(life.poll_read_ready(context));
            self.look();
        }
        Poll::Ready(())
    }

    /// Checks, without waiting, whether the process has ended.
    pub(super) fn look(&mut self) {
        while self.end.is_none() {
            match self.process.next_event().transpose() {
                Some(event) => self.take(event),
                None => return,
            }
        }
    }

    fn take(&mut self, event: io::Result<Event>) {
        // Only of one whose input had to be stored first.
        match event {
            Ok(Event::Started) => {
                self.is_started = true;
                return;
            }
            Ok(Event::Failed(step, errno)) => {
                let failure = self.process.explain(step, errno);
                self.end = Some(not_started(failure.into()).into());
                return;
            }
            _ => {}
        }
        let Some(ending) = ending(event) else { return };
        if self.process.has_completed() {
            // Init drops its copy of the message as well, or has already.
            self.let_go();
            self.end = Some(ending.into());
            return;
        }
        let limit = match ending {
            Ending::Lost(_) => None,
            _ => self.process.ran_out_of_memory(),
        };
        if let Some(limit_bytes) = limit {
            self.end = Some(out_of_memory(limit_bytes, &ending));
            return;
        }
        let accepted = self.joint.as_ref().map(|joint| joint.accepted);
        if let (Ending::Exited(code), Some(accepted)) = (&ending, accepted)
            && accepted.contains(*code)
        {
            // Init could not find out whether the kernel has killed a part of the command.
            self.let_go();
        }
        self.end = Some(ending.into());
    }

    fn let_go(&mut self) {
        if let Some(joint) = &mut self.joint {
            joint.in_flight = None;
        }
    }

    /// Whether the process has ended so that the next one's input will never be complete.
    /// False if the next process no longer reads: then no input is missing.
    pub(super) fn has_failed(&self) -> bool {
        let is_incomplete = (self.joint.as_ref()).is_some_and(|joint| joint.in_flight.is_some());
        let end = self.end.as_ref();
        is_incomplete && end.is_some_and(|end| end.ending != Ending::Unread)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// What it has left as its output, if that is a file; known once it has ended.
    pub(super) fn take_left_output(&mut self) -> Option<LeftOutput> {
        self.process.take_output()
    }

    /// Says that its input could not be stored.
    pub(super) fn has_no_input(&mut self, unfed: Unfed) {
        let mut limit = None;
        let reason = match unfed {
            Unfed::Cut => return self.stop(Ending::Cut.into()),
            Unfed::NotUnpacked(reason) => reason,
            Unfed::NotStored(error) => {
                let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
                limit = (errno == Errno::NOSPC.raw_os_error()).then_some(Limit::Scratch);
                self.process.explain(Step::StoreInput, errno).to_string()
            }
        };
        let reason = format!("failed to {reason}");
        self.stop(End {
            limit,
            ..Ending::CannotStart(reason.into()).into()
        });
    }

    /// What it has used, but for the bytes that it was given and has given.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            cpu: self.process.cpu_time(),
            memory: self.process.memory_peak(),
            ..Usage::default()
        }
    }

    /// What is known of its failure, if it has failed by itself.
    pub(super) fn known(&mut self) -> Known {
        match self.end.as_ref().is_some_and(End::is_failure_of_its_own) {
            false => Known::default(),
            true => Known {
                has_filled_its_folders: self.process.has_filled_its_folders(),
                was_refused_a_process: self.process.was_refused_a_process(),
            },
        }
    }

    /// When the command was gone, if init has reported it.
    pub(super) fn ended_at(&self) -> Option<std::time::Instant> {
        self.process.ended_at()
    }

    /// Whether nothing of the process runs any more.
    fn is_gone(&self) -> bool {
        self.process.is_over()
    }

    /// Kills the process, and records `end`, unless init has already reported another end.
    pub(super) fn stop(&mut self, end: End) {
        self.look();
        if self.end.is_none() {
            self.process.look_up_cpu_time();
            self.process.kill();
            self.end = Some(end);
        }
    }

    /// Corrects the end of a process whose reader ended at `reader_ended`. If the process
    /// ran on for longer than it may take to exit by itself, it counts as stopped because
    /// it was unread. Nobody stopped it in time, because the end of an inner link wakes
    /// nobody while everything goes well.
    pub(super) fn was_unread_since(&mut self, reader_ended: std::time::Instant) {
        let late = (self.process.ended_at())
            .and_then(|ended| ended.checked_duration_since(reader_ended))
            .is_some_and(|late| late > UNREAD_WAIT_MAX);
        if late && let Some(end) = &mut self.end {
            *end = Ending::Unread.into();
        }
    }

    /// The pipe behind this process, to be read in place of a reader that is gone; returned
    /// once. It is opened anew, because the reader shares our open file description, and
    /// parts of the reader may still be ending.
    pub(super) fn take_output(&mut self) -> Option<io::Result<Reader>> {
        let joint = self.joint.as_mut()?;
        if std::mem::replace(&mut joint.is_taken, true) {
            return None;
        }
        let path = format!("/proc/self/fd/{}", joint.reading.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        Some(opened.map_err(io::Error::from).and_then(Reader::new))
    }
}
